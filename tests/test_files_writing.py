"""Paths as users type them, and files that are whole or not there at all."""

import errno
import os
import pwd
import stat
import sys
import threading
from pathlib import Path

import pytest

from ncjax import files
from ncjax.errors import InputError
from ncjax.files import write_atomically


def test_a_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.expand("~/x") == tmp_path / "x"
    assert files.expand(Path("~")) == tmp_path
    assert files.expand("a/~/b") == Path("a/~/b")


@pytest.mark.parametrize("path", ["~/x", "~no-such-user/x"])
def test_a_home_folder_that_is_not_there_is_one_line(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs under a number without a name."""
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)
    with pytest.raises(InputError, match="its ~ stands for no folder here; give the whole path, or set HOME"):
        files.expand(path)


def test_what_is_no_path_is_one_line() -> None:
    with pytest.raises(InputError, match="3 is no path: give a string"):
        files.expand(3)  # type: ignore[arg-type]


def test_a_file_is_replaced_whole_and_keeps_its_permissions(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_atomically(path, "±1")
    assert path.read_bytes() == "±1".encode()
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()
    path.chmod(0o640)
    first = path.open()
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o640
    assert first.read() == "±1"  # who has the old one open keeps it whole
    first.close()
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


def _umask() -> int:
    found = os.umask(0o22)
    os.umask(found)
    return found


@pytest.mark.parametrize("exists", [True, False])
def test_links_are_followed(exists: bool, tmp_path: Path) -> None:
    real = tmp_path / "elsewhere" / "real.json"
    if exists:
        real.parent.mkdir()
        real.write_text("old")
    (tmp_path / "first.json").symlink_to(real)
    (tmp_path / "second.json").symlink_to("first.json")
    files.check_place(tmp_path / "second.json")
    files.make_parent(tmp_path / "second.json")
    write_atomically(tmp_path / "second.json", "new")
    assert real.read_text() == "new"
    assert (tmp_path / "first.json").is_symlink()
    assert (tmp_path / "second.json").is_symlink()


def test_a_pipe_is_written_into(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    files.check_place(pipe)  # does not wait for a reader
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()), daemon=True)
    reader.start()
    write_atomically(pipe, "through")
    reader.join(10)
    assert read == ["through"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert not files.is_replaceable(pipe)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices")
@pytest.mark.parametrize("by_link", [True, False])
def test_a_device_stays_one(by_link: bool, tmp_path: Path) -> None:
    """One of our own: of /dev/null nothing would be left where this fails."""
    null = tmp_path / "null"
    try:
        os.mknod(null, stat.S_IFCHR | 0o666, os.stat("/dev/null").st_rdev)
        null.open("wb").close()
    except PermissionError:
        pytest.skip("no devices may be made or used here")
    path = null
    if by_link:
        path = tmp_path / "link"
        path.symlink_to(null)
    files.check_place(path)
    write_atomically(path, "gone")
    assert stat.S_ISCHR(null.stat().st_mode)
    assert not files.is_replaceable(path)


def test_standard_output_under_a_redirection_is_added_to(capfd: pytest.CaptureFixture[str]) -> None:
    """There, /dev/stdout is a regular file: replaced, it would take all that is printed with it."""
    print("before")
    write_atomically(Path("/dev/stdout"), "between\n")
    print("after")
    assert capfd.readouterr().out == "before\nbetween\nafter\n"


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device") as raised:
        write_atomically(path, "new")
    assert raised.value.filename == str(path)
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_names_that_are_as_long_as_can_be(tmp_path: Path) -> None:
    path = tmp_path / ("a" * 255)
    files.check_place(path)
    write_atomically(path, "")
    with pytest.raises(OSError, match="File name too long"):
        files.check_place(tmp_path / ("a" * 256))


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that even root cannot write to")
def test_places_that_cannot_be_written_are_found_by_trying(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (Path("/proc/new.json"), Path("/proc/new/new.json"), tmp_path / "file" / "new.json"):
        with pytest.raises(OSError):  # noqa: PT011 - of several kinds
            files.check_place(path)
    with pytest.raises(IsADirectoryError):
        files.check_place(tmp_path)
    files.check_place(tmp_path / "not" / "yet" / "there.json")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_file_without_permission_to_write_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "kept.json"
    path.write_text("old")
    monkeypatch.setattr(os, "access", lambda *args: False)  # as for anyone but root
    for write in (files.check_place, lambda place: write_atomically(place, "new")):
        with pytest.raises(PermissionError):
            write(path)
    assert path.read_text() == "old"


def test_bytes_of_a_path_that_are_no_text_are_written_as_they_were(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    write_atomically(tmp_path / name, name)
    assert (tmp_path / name).read_bytes() == b"caf\xe9"
    assert sys.getfilesystemencoding() == "utf-8"
