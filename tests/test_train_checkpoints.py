"""Checkpoints: open files, folders that are refused, and runs whose checkpoints are gone."""

import errno
import json
import os
import shutil
import threading
from pathlib import Path

import jax.numpy as jnp
import pytest
import tiny
from commands import inside

from ncjax.errors import InputError
from ncjax.train import CheckpointsGone, checkpoint, pretrain, pretraining, read_config
from ncjax.train.checkpoint import Checkpoints, load_newest, not_written
from ncjax.train.step import TrainState
from ncjax.train.workdir import check_path

pytestmark = [pytest.mark.cheap_compilation, pytest.mark.usefixtures("tiny_network")]


def state(step: int) -> TrainState:
    """A state of three small arrays."""
    return TrainState(jnp.int32(step), {"params": {"w": jnp.ones(3)}}, {"trace": jnp.zeros(3)})


def save(folder: Path, steps: int) -> None:
    with Checkpoints(folder) as checkpoints:
        for step in range(steps):
            checkpoints.save(state(step), {"records": []})


def held() -> tuple[int, int]:
    """Counts the open files and threads of this process."""
    return len(os.listdir("/proc/self/fd")), threading.active_count()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts the open files in /proc")
def test_checkpoints_leave_no_open_files_and_no_threads(tmp_path: Path) -> None:
    save(tmp_path / "first", 1)  # orbax keeps some for good
    files, threads = held()
    save(tmp_path / "more", 5)
    assert held() <= (files + 2, threads + 1)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts the open files in /proc")
def test_a_hundred_checkpoints_and_thirty_runs_hold_no_more_than_a_few(tmp_path: Path) -> None:
    held_in_run = []
    with Checkpoints(tmp_path / "hundred") as checkpoints:
        for step in range(100):
            checkpoints.save(state(step), {"records": []})
            held_in_run.append(held())
    assert max(held_in_run[50:])[0] < max(held_in_run[:50])[0] + 50
    after = held()
    for run in range(30):
        save(tmp_path / f"run {run}", 2)
    assert held() <= (after[0] + 2, after[1] + 1)


def test_the_first_checkpoint_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: object) -> None:
        raise checkpoint.CheckpointAltered("variables is not what was written")

    monkeypatch.setattr(checkpoint, "read_checkpoint", lost)
    with pytest.raises(InputError, match=r"cannot be read back \(variables is not what was written\); choose"):
        save(tmp_path, 1)


@pytest.mark.parametrize("name", ["a[b]", "a\\b", "a*", "wh?t", "gs:", "s3:", "[1] first", "\udce9"])
def test_folders_in_which_orbax_could_write_but_not_read_are_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretraining, "train", lambda run, stop: pytest.fail("trained"))
    for workdir in (tmp_path / name, tmp_path / name / "run"):
        with pytest.raises(InputError, match=r"checkpoints cannot be kept in .* choose another --workdir"):
            tiny.run(workdir)
    assert not list(tmp_path.iterdir())


def test_other_folders_are_not_refused(tmp_path: Path) -> None:
    for name in ("a[b", "a]b", "[]", "{a}", "a b", "é", "12:30", "C:", "#%41", "a'b", "$HOME"):
        check_path(tmp_path / name)


def test_a_bucket_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for url in ("gs://bucket/run", Path("gs://bucket/run"), "s3://bucket", "file:///tmp/run"):
        with pytest.raises(InputError, match=r"workdir=.*: a run is written to a folder of this machine"):
            pretrain(tiny.config(url))  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "make room on the disk"),
        (OSError(errno.EMFILE, "Too many open files"), "allow more open files"),
        (
            ValueError("RESOURCE_EXHAUSTED: Failed to open: \"a\": Too many open files [os_error_code='24']"),
            "open files",
        ),
        (ValueError("Error writing [OS error 28: ENOSPC No space left on device]"), "make room on the disk"),
        (PermissionError(errno.EACCES, "Permission denied"), "make the folder writable"),
        (FileExistsError(errno.EEXIST, "File exists"), "move away what has its name"),
        (RuntimeError("something new"), "remove the cause"),
    ],
)
def test_a_failed_save_says_what_to_do_about_its_own_cause(error: Exception, advice: str) -> None:
    said = str(not_written(Path("run"), error))
    assert advice in said
    assert ("make room" in said) == (advice == "make room on the disk")
    wrapped = RuntimeError("background save failed")
    wrapped.__cause__ = error
    assert advice in str(not_written(Path("run"), wrapped))


def contents(workdir: Path) -> dict[Path, tuple[bytes, int]]:
    files = (path for path in workdir.rglob("*") if path.is_file())
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def test_a_finished_run_without_checkpoints_keeps_its_records(finished: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir, ignore=shutil.ignore_patterns("checkpoints"))
    before = contents(workdir)
    for _ in range(2):
        with pytest.raises(
            CheckpointsGone, match="is finished, but its checkpoints are gone: its records stay"
        ) as gone:
            tiny.run(workdir)
        assert gone.value.finished
        (workdir / "checkpoints").mkdir(exist_ok=True)
    assert contents(workdir) == before


def test_a_run_that_cannot_be_continued_is_refused_and_one_of_a_first_record_begins_anew(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir, ignore=shutil.ignore_patterns("checkpoints"))
    lines = (finished / "metrics.jsonl").read_text().splitlines(keepends=True)
    for left in ("".join(lines[:2]), "{garbled"):
        (workdir / "metrics.jsonl").write_text(left)
        with pytest.raises(
            CheckpointsGone, match="has begun, but its checkpoints are gone: it cannot be continued"
        ) as e:
            tiny.run(workdir)
        assert not e.value.finished
        assert (workdir / "metrics.jsonl").read_text() == left
    (workdir / "metrics.jsonl").write_text(lines[0])  # as if killed before the first checkpoint
    monkeypatch.setattr(pretraining, "train", lambda run, stop: ["trained"])
    assert tiny.run(workdir) == "trained"


def two_seeds(finished: Path, workdir: Path) -> list[Path]:
    """Makes two finished seeds from a run."""
    seeds = [workdir / f"seed_{i}" for i in range(2)]
    for i, folder in enumerate(seeds):
        shutil.copytree(finished, folder)
        described = read_config(folder)
        described["config"]["seed"] = i
        (folder / "config.json").write_text(json.dumps(described))
    (workdir / "seeds.json").write_text('{"seeds": 2}')
    return seeds


def test_finished_seeds_stay_as_they_are_whatever_is_deleted_of_another(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds = two_seeds(finished, tmp_path)
    trained = []
    monkeypatch.setattr(pretraining, "train", lambda run, stop: trained.append(run.unfinished) or ["trained"])
    tiny.run(tmp_path, seeds=2)
    assert not trained
    shutil.rmtree(seeds[1] / "checkpoints")
    before = contents(tmp_path)
    with pytest.raises(CheckpointsGone, match="seed_1 is finished, but its checkpoints are gone"):
        tiny.run(tmp_path, seeds=2)
    assert contents(tmp_path) == before
    shutil.rmtree(seeds[1])
    tiny.run(tmp_path, seeds=2)
    assert trained == [[1]]


@pytest.mark.slow
def test_a_seed_that_was_deleted_is_trained_again_beside_the_others(tmp_path: Path) -> None:
    tiny.run(tmp_path / "run", seeds=2)
    seeds = [tmp_path / "run" / f"seed_{i}" for i in range(2)]
    other = contents(seeds[0])
    shutil.move(seeds[1], tmp_path / "before")
    tiny.run(tmp_path / "run", seeds=2)
    assert contents(seeds[0]) == other
    tiny.assert_same_end(seeds[1], tmp_path / "before")


def test_seeds_without_a_common_checkpoint_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "a", 2)
    with Checkpoints(tmp_path / "a") as trained, Checkpoints(tmp_path / "b") as lost:
        with pytest.raises(InputError, match=r"no step has a checkpoint in each of .*a, .*b, and seeds are trained"):
            load_newest({0: trained, 1: lost}, [state(0), state(0)])
        lost.save(state(0), {"records": []}, wait=True)
        found = load_newest({0: trained, 1: lost}, [state(0), state(0)])
        assert found is not None
        assert found[1][0].step == 0


def test_the_command_prints_the_table_of_a_run_without_checkpoints(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    config = tiny.config(Path("run"))
    names = ("network", "epochs", "min_steps", "batch_size", "learning_rate", "schedule", "measurements")
    options = [f"--{name}={getattr(config, name)}" for name in (*names, "measure_episodes", "workdir")]
    # as if the data were glyphs, since the command takes no benchmark
    described = (tmp_path / "run" / "config.json").read_text().replace('"name": "tiny"', '"name": "glyphs"')
    (tmp_path / "run" / "config.json").write_text(described)
    done = inside("pretrain.py", *options, cwd=tmp_path)
    assert done.returncode == 0
    assert "CDNV target" in done.stdout
    assert "note: the run in run is finished, but its checkpoints are gone" in done.stderr
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == (finished / "metrics.jsonl").read_bytes()
