"""Standard output and error of scripts: whatever becomes of them, the work goes on to its files."""

import codecs
import io
import os
import sys

_IN_ASCII = {"±": "+-", "–": "-", "…": "...", "∞": "inf", "≥": ">="}
_ERRORS = "ncjax.standard_streams"


class _Output(io.FileIO):
    """A descriptor that takes whatever is written; what comes after the first failure is dropped.

    Attributes:
      failure: the first failure; None while there was none.
    """

    failure: OSError | None = None

    def write(self, data: "bytes | bytearray | memoryview", /) -> int | None:  # type: ignore[override]
        if self.failure is None:
            try:
                return super().write(data)
            except OSError as error:
                self.failure = error
        return memoryview(data).nbytes


def prepare() -> None:
    """Lets this process print any text into any standard output or error: of another encoding, closed, or full.

    Characters that the encoding lacks are written in ASCII. Changes nothing where something else than Python's own
    stream is in place, as in a notebook.
    """
    codecs.register_error(_ERRORS, _in_ascii)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed before Python started
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        elif stream is getattr(sys, f"__{name}__"):
            stream.flush()
            raw = _Output(stream.fileno(), "w", closefd=False)
            lines = stream.line_buffering or stream.write_through
            setattr(
                sys,
                name,
                io.TextIOWrapper(io.BufferedWriter(raw), stream.encoding, errors=_ERRORS, line_buffering=lines),
            )


def failure() -> OSError | None:
    """Why some output was lost; None where all was written, or its reader had seen enough (a closed pipe)."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        raw = getattr(getattr(stream, "buffer", None), "raw", None)
        if isinstance(raw, _Output) and raw.failure is not None and not isinstance(raw.failure, BrokenPipeError):
            return raw.failure
    return None


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lost = error.object[error.start : error.end]
    return "".join(_IN_ASCII.get(c) or c.encode("ascii", "backslashreplace").decode() for c in lost), error.end
