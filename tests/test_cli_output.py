"""What becomes of the work where standard output is no help: other encodings, closed pipes, full disks."""

import io
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ncjax import cli, standard_streams

TEXT = "81.2 ± 0.1 – ∞ ≥ α …"


@pytest.fixture
def stdout(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, str], None]]:
    """Makes standard output go to a descriptor, in an encoding, as `standard_streams.prepare` finds it in a script."""
    made = []

    def set_to(descriptor: int, encoding: str = "utf-8") -> None:
        stream = io.TextIOWrapper(io.BufferedWriter(io.FileIO(descriptor, "w", closefd=False)), encoding=encoding)
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(sys, "__stdout__", stream)
        standard_streams.prepare()
        made.extend([stream, sys.stdout])

    yield set_to
    for stream in made:
        stream.close()


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("utf-8", TEXT),
        ("latin-1", "81.2 ± 0.1 - inf >= \\u03b1 ..."),
        ("ascii", "81.2 +- 0.1 - inf >= \\u03b1 ..."),
    ],
)
def test_every_encoding_takes_what_is_printed(
    encoding: str, expected: str, stdout: Callable[[int, str], None], tmp_path: Path
) -> None:
    with (tmp_path / "out").open("wb") as file:
        stdout(file.fileno(), encoding)
        print(TEXT)
        print("caf\udce9")  # a path that is no text
        assert standard_streams.failure() is None
    assert (tmp_path / "out").read_text(encoding) == f"{expected}\ncaf\\udce9\n"


def test_a_closed_pipe_takes_the_rest(stdout: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    """As after `| head`."""
    reading, writing = os.pipe()
    os.close(reading)
    stdout(writing)
    with cli.one_line_errors():
        for _ in range(3):
            print("a" * 100_000)
    assert standard_streams.failure() is None
    os.close(writing)
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_said_when_the_work_is_done(
    stdout: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    with open("/dev/full", "wb") as full:
        stdout(full.fileno())
        with pytest.raises(SystemExit, match="2"), cli.one_line_errors():
            assert [print("a" * 100_000) for _ in range(2)] == [None, None]  # it goes on
    message = capsys.readouterr().err
    assert message.startswith("error: what was printed is lost: standard output cannot be written (No space left")


def test_a_process_without_standard_output_prints_to_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    standard_streams.prepare()
    print("nowhere")
    print("nowhere", file=sys.stderr)
    assert standard_streams.failure() is None
    for stream in (sys.stdout, sys.stderr):
        stream.close()
