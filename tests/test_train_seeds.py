"""Runs of several seeds: each seed is a complete run, and none disturbs the others."""

import dataclasses
import os
import signal
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import scipy.stats
import tiny
from conftest import make_mesh

from ncjax import models
from ncjax.errors import InputError
from ncjax.train import Diverged, Interrupted, loop, measurement as measuring, read_records, seeds_table
from ncjax.train.checkpoint import Checkpoints
from ncjax.train.run import Run
from ncjax.train.trainer import Trainer

pytestmark = [pytest.mark.cheap_compilation, pytest.mark.usefixtures("tiny_network")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run of two seeds; it may be read, not changed."""
    workdir = tmp_path_factory.mktemp("seeds") / "whole"
    with pytest.MonkeyPatch.context() as patch, jax.set_mesh(make_mesh(1)):
        patch.setattr(models, "create", tiny.create)
        tiny.run(workdir, seeds=2)
    return workdir


def test_many_seeds_are_complete_runs(finished: Path, whole: Path) -> None:
    records = [read_records(whole / f"seed_{i}") for i in (0, 1)]
    assert records[0][-1]["loss"] != records[1][-1]["loss"]
    found = np.asarray([one[-1]["target/cdnv"] for one in records])
    half = scipy.stats.t.ppf(0.975, 1) * found.std(ddof=1) / np.sqrt(2)
    (row,) = (line for line in seeds_table([one[-1] for one in records]).splitlines() if "CDNV, target ↓" in line)
    assert row.endswith(f"{found.mean():.4g} ± {half:.2g}")
    for alone, together in zip(read_records(finished), records[0], strict=True):
        assert alone["step"] == together["step"]
        assert alone["loss"] == pytest.approx(together["loss"], rel=1e-3)
    with pytest.raises(InputError, match="holds the runs of 2 seeds, 3 were asked for; choose another --workdir"):
        tiny.run(whole, seeds=3)
    with pytest.raises(InputError, match="holds the runs of 2 seeds, not of one"):
        tiny.run(whole)
    with pytest.raises(InputError, match="holds a run of one seed, 3 were asked for; choose another --workdir"):
        tiny.run(finished, seeds=3)


def test_many_seeds_resume_exactly(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if only one seed's checkpoint was written, and if one is damaged."""
    original = Checkpoints.save

    def save(self: Checkpoints, state: Any, history: dict[str, Any], *, wait: bool = False) -> None:
        if int(state.step) == 16 and "seed_1" in str(self.folder):
            raise KeyboardInterrupt
        original(self, state, history, wait=True)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", save)
        with pytest.raises(KeyboardInterrupt):
            tiny.run(tmp_path / "again", seeds=2)
    assert (tmp_path / "again" / "seed_0" / "checkpoints" / "16").exists()
    assert not (tmp_path / "again" / "seed_1" / "checkpoints" / "16").exists()
    tiny.run(tmp_path / "again", seeds=2)
    for seed in ("seed_0", "seed_1"):
        tiny.assert_same_end(tmp_path / "again" / seed, whole / seed)

    tiny.damage(tmp_path / "again" / "seed_1" / "checkpoints" / str(tiny.STEPS))
    with pytest.warns(UserWarning, match=f"checkpoint of step {tiny.STEPS} in .*seed_1.* cannot be read"):
        tiny.run(tmp_path / "again", seeds=2)
    for seed in ("seed_0", "seed_1"):
        tiny.assert_same_end(tmp_path / "again" / seed, whole / seed)


def test_a_seed_that_diverges_leaves_the_others(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others end as usual, also after an interruption, and the error says what happened."""
    original = loop.advance
    stop_at = 20

    def advance(run: Run, trainer: Trainer, states: Any, step: int, chunk: int) -> loop.StepsTaken:
        taken = original(run, trainer, states, step, 1)
        if taken.step == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        if taken.step <= 10:
            return taken
        return taken._replace(totals=dataclasses.replace(taken.totals, first_bad_step=np.asarray([-1, 10])))

    monkeypatch.setattr(loop, "advance", advance)
    with pytest.raises(Interrupted, match=f"after step {stop_at}"):
        tiny.run(tmp_path / "run", seeds=2)
    stop_at = 0
    # the second time, only the end is left
    for _ in range(2):
        with pytest.raises(
            Diverged, match=r"not finite at step 10 of 24 \(seed=1, .*seed_1; the other 1 seeds are finished"
        ):
            tiny.run(tmp_path / "run", seeds=2)
    tiny.assert_same_end(tmp_path / "run" / "seed_0", whole / "seed_0")
    assert [record["step"] for record in read_records(tmp_path / "run" / "seed_1")] == [0, 8]


@pytest.mark.slow
def test_many_seeds_are_interrupted_between_their_measurements(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty seeds take minutes to measure, longer than a scheduler waits."""
    original = measuring.measure
    measured: list[int] = []

    def measure(*args: Any, step: int, epoch: float) -> Any:
        measured.append(step)
        if measured == [0, 0, 8]:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*args, step=step, epoch=epoch)

    monkeypatch.setattr(measuring, "measure", measure)
    with pytest.raises(Interrupted, match="after step 8; saved"):
        tiny.run(tmp_path / "run", seeds=2)
    assert measured == [0, 0, 8]
    tiny.run(tmp_path / "run", seeds=2)
    assert measured[3] == 8
    for seed in ("seed_0", "seed_1"):
        tiny.assert_same_end(tmp_path / "run" / seed, whole / seed)


@pytest.mark.slow
@pytest.mark.parametrize("value", [np.inf, 1e25])
def test_a_seed_whose_features_are_not_finite_leaves_the_others(
    value: float, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finite weights may give infinite features: such a seed ends at its measurement, without that record."""
    original = measuring.outputs
    calls = 0

    def overflows(params: Any, images: Any, fields: Any) -> Any:
        nonlocal calls
        calls += 1
        found = original(params, images, fields)
        # three sets a record: both seeds at step 0, then the first seed at step 8, then the second
        return tuple(np.full_like(one, value) for one in found) if calls == 10 else found

    monkeypatch.setattr(measuring, "outputs", overflows)
    message = r"features could not be measured \(.*\) at step 8 of 24 \(seed=1, .*the other 1 seeds are"
    with pytest.raises(Diverged, match=message):
        tiny.run(tmp_path / "run", seeds=2)
    tiny.assert_same_end(tmp_path / "run" / "seed_0", whole / "seed_0")
    assert [record["step"] for record in read_records(tmp_path / "run" / "seed_1")] == [0]
