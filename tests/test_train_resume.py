"""Runs that were interrupted, or whose checkpoints were damaged, end like an undisturbed run."""

import os
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from ncjax import models, restore
from ncjax.errors import InputError
from ncjax.train import Config, Interrupted, loop, pretrain
from ncjax.train.checkpoint import Checkpoints
from ncjax.train.optimizer import optimizer
from ncjax.train.run import Run
from ncjax.train.step import initial_state
from ncjax.train.trainer import Trainer

pytestmark = [pytest.mark.cheap_compilation, pytest.mark.usefixtures("tiny_network", "signals_are_heard")]


@pytest.mark.parametrize(
    ("at", "number"),
    [
        pytest.param(1, signal.SIGTERM, marks=pytest.mark.slow),
        (8, signal.SIGINT),
        pytest.param(13, signal.SIGTERM, marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_run_ends_as_one_never_interrupted(
    at: int, number: signal.Signals, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = loop.advance

    def advance(run: Run, trainer: Trainer, states: Any, step: int, chunk: int) -> loop.StepsTaken:
        taken = original(run, trainer, states, step, 1)
        if taken.step == at:
            os.kill(os.getpid(), number)
        return taken

    with monkeypatch.context() as patch:
        patch.setattr(loop, "advance", advance)
        with pytest.raises(Interrupted, match=f"after step {at}") as stopped:
            tiny.run(tmp_path / "run")
    assert stopped.value.signal == number
    tiny.run(tmp_path / "run")
    tiny.assert_same_end(tmp_path / "run", finished)


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [signal.SIGTERM, signal.SIGINT, None])
def test_the_last_checkpoint_is_whole_whatever_comes_with_it(
    stopped: signal.Signals | None, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal, or a checkpoint that is due, at the last step."""
    original = loop.advance

    def advance(*arguments: Any) -> loop.StepsTaken:
        taken = original(*arguments)
        if stopped and taken.step == tiny.STEPS:
            os.kill(os.getpid(), stopped)
        return taken

    monkeypatch.setattr(loop, "advance", advance)
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    if stopped:
        # the run is finished, but the caller must hear of the signal
        with pytest.raises(Interrupted, match="at the end of training, which is saved") as late:
            tiny.run(tmp_path / "run")
        assert late.value.signal == stopped
    else:
        tiny.run(tmp_path / "run")
    tiny.assert_same_end(tmp_path / "run", finished)


@pytest.mark.slow
def test_a_signal_before_training_stops_the_run_too(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(config: Config) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return tiny.benchmark()

    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr("ncjax.train.pretraining.load_benchmark", load)
        with pytest.raises(Interrupted, match="outside of training") as stopped:
            pretrain(tiny.config(tmp_path / "run"))
    assert stopped.value.signal == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before
    assert not isinstance(stopped.value, Exception)
    tiny.run(tmp_path / "run")
    tiny.assert_same_end(tmp_path / "run", finished)


@pytest.mark.slow
def test_what_a_kill_at_the_start_leaves_is_no_obstacle(finished: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    workdir.mkdir()
    (workdir / "config.json.partial").write_text("{")
    (workdir / ".lock").write_text("")
    tiny.run(workdir)
    tiny.assert_same_end(workdir, finished)


def test_a_damaged_checkpoint_is_named_and_the_one_before_continues(finished: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    # as if killed after the checkpoint of step 16, which then was damaged
    shutil.rmtree(workdir / "checkpoints" / str(tiny.STEPS))
    tiny.damage(workdir / "checkpoints" / "16")
    with pytest.warns(UserWarning, match="checkpoint of step 16 in .* cannot be read"):
        tiny.run(workdir)
    tiny.assert_same_end(workdir, finished)


@pytest.mark.parametrize("damage", [tiny.garble, pytest.param(tiny.flip, marks=pytest.mark.slow)])
def test_a_checkpoint_of_which_little_is_wrong_is_not_taken_for_whole(
    damage: Callable[[Path], None], finished: Path, tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    shutil.rmtree(workdir / "checkpoints" / str(tiny.STEPS))
    tiny.damage(workdir / "checkpoints" / "16")
    with pytest.raises(InputError, match=r"checkpoint of step 16 .* cannot be read"):
        restore(workdir)
    with pytest.warns(UserWarning, match="checkpoint of step 16 in .* cannot be read"):
        tiny.run(workdir)
    tiny.assert_same_end(workdir, finished)


def test_a_checkpoint_of_another_network_is_told_from_a_damaged_one(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / str(tiny.STEPS))
    monkeypatch.setattr(models, "create", lambda name, k, dtype=np.float32: tiny.network(7, dtype))
    with pytest.raises(InputError, match=r"variables/params/head/bias is \[6\] there, \[7\] here .*choose another"):
        restore(tmp_path / "run")
    with pytest.raises(InputError, match=r"variables/params/head/bias is \[6\] there, \[7\] here .*choose another"):
        tiny.run(tmp_path / "run")


@pytest.mark.slow
def test_a_damaged_last_checkpoint_is_written_again(finished: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    tiny.damage(workdir / "checkpoints" / str(tiny.STEPS))
    with pytest.raises(InputError, match=f"checkpoint of step {tiny.STEPS} .* cannot be read"):
        restore(workdir)
    with pytest.warns(UserWarning, match=f"checkpoint of step {tiny.STEPS} in .* cannot be read"):
        tiny.run(workdir)
    tiny.assert_same_end(workdir, finished)


def test_when_no_checkpoint_can_be_read_nothing_is_lost(finished: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    for checkpoint in (workdir / "checkpoints").iterdir():
        tiny.damage(checkpoint)
    before = (workdir / "metrics.jsonl").read_bytes()
    with (
        pytest.warns(UserWarning, match="cannot be read"),
        pytest.raises(InputError, match=r"no checkpoint in .* can be read; delete"),
    ):
        tiny.run(workdir)
    assert (workdir / "metrics.jsonl").read_bytes() == before


# orbax's threads outlive the event loop of a failed write, and raise where nothing can catch them
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_disk_that_is_full_leaves_the_older_checkpoints_whole(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Checkpoints.save
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def save(self: Checkpoints, state: Any, progress: dict[str, Any], *, wait: bool = False) -> None:
        if int(state.step) == 16:  # files cannot grow, as on a full disk
            resource.setrlimit(resource.RLIMIT_FSIZE, (64, limits[1]))
        try:
            original(self, state, progress, wait=True)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", save)
        try:
            with pytest.raises(InputError, match=r"could not be written .* the same command continues"):
                tiny.run(tmp_path / "run")
        finally:
            signal.signal(signal.SIGXFSZ, ignored)
    assert restore(tmp_path / "run").feature_mean is None
    tiny.run(tmp_path / "run")
    tiny.assert_same_end(tmp_path / "run", finished)


def test_checkpoints_of_measurements_are_kept_beside_the_newest(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    state = initial_state(tiny.network(), optimizer(tiny.config(tmp_path), tiny.STEPS), 0, (12, 12, 1))
    with Checkpoints(folder, kept=(2, 3)) as checkpoints:
        for step in range(1, 8):
            checkpoints.save(state.replace(step=np.asarray(step, state.step.dtype)), {"records": []}, wait=True)
        assert checkpoints.steps == [2, 3, 5, 6, 7]
