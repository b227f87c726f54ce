"""Paths as users type them, atomic writing, and JSON."""

import errno
import json
import math
import os
import secrets
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from ncjax.errors import InputError


def expand(path: str | os.PathLike[str]) -> Path:
    """Replaces a leading `~` or `~user` by that user's home folder.

    Raises:
      InputError: if it is no path, or there is no such home folder.
    """
    try:
        return Path(path).expanduser()
    except TypeError:
        raise InputError(f"{path!r} is no path: give a string or a pathlib.Path") from None
    except RuntimeError:
        raise InputError(f"{path}: its ~ stands for no folder here; give the whole path, or set HOME") from None


def check_place(path: Path) -> None:
    """Checks that a file can be written at `path`, without leaving anything behind.

    Raises:
      OSError: if it cannot; `filename` is the obstacle.
    """
    with named(path):
        old = _stat(path)
    if old is not None:
        _check_old(path, old)
    if old is None or stat.S_ISREG(old.st_mode):
        target = Path(os.path.realpath(path))
        above = next(folder for folder in target.parents if _stat(folder) is not None)
        with named(above), tempfile.TemporaryFile(dir=above):
            pass


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file atomically: readers see either the old or the new content, also after a crash; text is UTF-8.

    Links are followed. Devices and pipes are written into, not replaced. The new file has the owner and permissions of
    the old file, whose other hard links keep the old content.

    Raises:
      OSError: if it cannot be written; `filename` is the path.
    """
    data = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
    with named(path):
        old = _stat(path)
        if old is not None:
            _check_old(path, old)
            if not stat.S_ISREG(old.st_mode) or _is_output(old):
                _write_into(path, old, data)
                return
        target = Path(os.path.realpath(path))
        partial = target.with_name(f".{secrets.token_hex(4)}.partial")  # two processes may write the same file
        try:
            with partial.open("xb") as file:
                if old is not None:
                    with suppress(OSError):
                        os.fchown(file.fileno(), old.st_uid, old.st_gid)
                    with suppress(OSError):
                        os.fchmod(file.fileno(), stat.S_IMODE(old.st_mode))
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(target)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def make_parent(path: Path) -> None:
    """Makes the folder that `write_atomically` needs, after following the path's links."""
    Path(os.path.realpath(path)).parent.mkdir(parents=True, exist_ok=True)


def is_replaceable(path: Path) -> bool:
    """Whether `path` is a regular file or does not exist; false for devices and pipes."""
    old = _stat(path)
    return old is None or (stat.S_ISREG(old.st_mode) and not _is_output(old))


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Adds the file's name to OSErrors in the body, since errors of writing to an open file lack it."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _stat(path: Path) -> os.stat_result | None:
    """Returns the status of the file that the path's links lead to; None if it does not exist."""
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _check_old(path: Path, old: os.stat_result) -> None:
    """Raises OSError for a folder or a file without write permission, which a new file could replace nevertheless."""
    if stat.S_ISDIR(old.st_mode):
        raise IsADirectoryError(errno.EISDIR, "Is a directory", str(path))
    if not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))


def _is_output(old: os.stat_result) -> bool:
    """Whether standard output or error go to this file, as to /dev/stdout under a redirection."""
    return _output(old) is not None


def _output(old: os.stat_result) -> int | None:
    for descriptor in (1, 2):
        with suppress(OSError):
            if os.path.samestat(os.fstat(descriptor), old):
                return descriptor
    return None


def _write_into(path: Path, old: os.stat_result, data: bytes) -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()  # keeps the order of the output
    descriptor = _output(old)
    with open(path if descriptor is None else descriptor, "wb", closefd=descriptor is None) as file:
        file.write(data)


def json_text(value: Any, *, indent: int | None = 2) -> str:
    """Writes a value as JSON, which has neither infinity nor NaN: both become null.

    Args:
      value: dictionaries, sequences, arrays and numbers; anything else is written as `str` shows it.
      indent: spaces at each level; None writes a single line.

    Returns:
      The text, which ends with a newline.
    """
    return json.dumps(_without_infinity(value), indent=indent, allow_nan=False, default=str) + "\n"


def _without_infinity(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, dict):
        return {key: _without_infinity(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_infinity(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
