"""The folder of a run: conflicts with other runs and processes, and free space."""

import dataclasses
import errno
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny

from ncjax import cli, restore
from ncjax.errors import InputError
from ncjax.train import loop, pretrain, read_records
from ncjax.train.description import read_description
from ncjax.train.records import append_timing
from ncjax.train.workdir import claim

pytestmark = [pytest.mark.cheap_compilation, pytest.mark.usefixtures("tiny_network")]


def test_two_processes_do_not_share_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Reached(Exception):
        pass

    def resume(*arguments: Any) -> Any:
        with pytest.raises(InputError, match="another process is at work in"):
            tiny.run(tmp_path / "run")
        raise Reached

    monkeypatch.setattr(loop, "resume", resume)
    with pytest.raises(Reached):
        tiny.run(tmp_path / "run")


def test_a_run_that_another_process_began_in_the_meantime_is_not_continued(finished: Path, tmp_path: Path) -> None:
    """Also if it has ended before the folder is locked."""
    shutil.copytree(finished, tmp_path / "run")
    description = read_description(finished)
    description = dataclasses.replace(description, identity={**description.identity, "learning_rate": 0.2})
    with (
        pytest.raises(InputError, match=r"holds another run \(learning_rate 0\.1 there, 0\.2 here"),
        claim(tmp_path / "run", description),
    ):
        pass


def test_where_there_are_no_locks_the_run_goes_on_and_says_so(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: Any) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with pytest.warns(UserWarning, match="cannot be locked .Operation not supported.: let only one"):
        tiny.run(tmp_path / "run")
    tiny.assert_same_end(tmp_path / "run", finished)


def test_another_run_in_the_folder_is_refused_with_what_differs(finished: Path) -> None:
    before = (finished / "config.json").read_bytes()
    with pytest.raises(InputError, match=r"holds another run \(learning_rate 0.1 there, 0.25 here\)"):
        tiny.run(finished, learning_rate=0.25)
    other = dataclasses.replace(tiny.benchmark(), target=tiny.split(5, 22, seed=3))
    with pytest.raises(InputError, match="other images or labels"):
        pretrain(tiny.config(finished), benchmark=other)
    with pytest.raises(InputError, match=r"holds another run \(augmentation 'shift' there, 'none' here\)"):
        pretrain(tiny.config(finished), benchmark=dataclasses.replace(tiny.benchmark(), augmentation="none"))
    assert (finished / "config.json").read_bytes() == before


def test_folders_that_cannot_be_the_runs(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write to"):
        tiny.run(tmp_path / "file" / "run")
    with pytest.raises(InputError, match="is not empty and holds no run"):
        tiny.run(tmp_path)
    with pytest.raises(InputError, match="holds no run"):
        restore(tmp_path)
    with pytest.raises(InputError, match="holds no run"):
        read_records(tmp_path)
    for content in (b'{"step": 0, \xff}', b"[1]", b"5"):
        (tmp_path / "metrics.jsonl").write_bytes(content)
        with pytest.raises(InputError, match=r"metrics\.jsonl cannot be read"):
            read_records(tmp_path)


def test_a_disk_without_room_is_refused_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**20))
    with pytest.raises(InputError, match="has 1 MiB free, its checkpoints need 16 MiB"):
        tiny.run(tmp_path / "run")


@pytest.mark.slow
def test_a_resumed_run_needs_room_for_one_checkpoint_more_and_all_that_are_kept(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr("ncjax.train.workdir.check_space", lambda workdir, size, count: asked.append(count))
    shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / str(tiny.STEPS))
    tiny.run(tmp_path / "run")
    tiny.run(tmp_path / "new")
    tiny.run(tmp_path / "kept", keep_checkpoints=True)
    assert asked == [2, 4, 8]


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "timing.jsonl").symlink_to("/dev/full")  # can be opened but not written: the error names no file
    with pytest.raises(SystemExit, match="2"), cli.one_line_errors():
        append_timing(tmp_path, {})
    assert f"error: {tmp_path / 'timing.jsonl'} could not be written" in capsys.readouterr().err
