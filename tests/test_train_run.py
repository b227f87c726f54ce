"""A run from start to end: its records, its files, and the classifier it returns."""

import dataclasses
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny

from ncjax import features, logits, restore
from ncjax.errors import InputError
from ncjax.train import Diverged, pretrain, pretraining, read_records, resolve, streaming, table
from ncjax.train.measurement import plan, steps_to_measure
from ncjax.train.records import read_timing, time_spent

pytestmark = [pytest.mark.cheap_compilation, pytest.mark.usefixtures("tiny_network")]


def test_the_record(finished: Path) -> None:
    lines = (finished / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert records == read_records(finished)
    assert [r["step"] for r in records] == [0, 8, 16, tiny.STEPS]
    assert records[-1]["epoch"] == tiny.STEPS * 16 / 126
    assert len({tuple(r) for r in records}) == 1  # every record has every key
    for key in (
        "loss", "source_train/cdnv", "source_test/cdnv", "target/cdnv", "source_train/accuracy",
        "source_test/accuracy", "target/ncc/5w1s", "target/ncc/5w5s", "target/ridge/5w1s", "target/ridge/5w5s/ci95",
    ):  # fmt: skip
        assert key in records[0]
    assert not any("second" in key for key in records[0])  # times differ between executions
    assert records[0]["loss"] == pytest.approx(np.log(6), rel=0.2)
    assert records[-1]["loss"] < 0.8 * records[0]["loss"]
    shown = table(records)
    assert "5w5s" in shown
    assert "does not cover new classes" in shown


def test_restore_gives_the_trained_classifier(finished: Path) -> None:
    params = restore(finished)
    source = tiny.benchmark().source_train
    found = features(params, source)
    np.testing.assert_allclose(found.mean(0), params.feature_mean, rtol=1e-5)
    rows = plan(tiny.benchmark(), resolve(tiny.config(finished))).sets["source_train"].rows
    accuracy = np.mean(logits(params, source.images[rows]).argmax(-1) == source.labels[rows])
    assert accuracy == read_records(finished)[-1]["source_train/accuracy"]
    earlier = restore(finished, step=8)
    assert earlier.feature_mean is None
    assert not np.allclose(features(earlier, source), found)
    with pytest.raises(InputError, match="no checkpoint of step 7; there are checkpoints of 8, 16, 24"):
        restore(finished, step=7)


def test_a_finished_run_is_read_back(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretraining, "train", lambda run, stop: pytest.fail("trained again"))
    again = tiny.run(finished)
    jax.tree.map(np.testing.assert_array_equal, again.variables, restore(finished).variables)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(Diverged, match=r"not finite at step \d+ of 24"):
        tiny.run(tmp_path / "run", learning_rate=1e30)
    kept = restore(tmp_path / "run")
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(kept.variables))


def test_without_source_test_its_keys_are_absent(tmp_path: Path) -> None:
    pretrain(tiny.config(tmp_path / "run"), benchmark=dataclasses.replace(tiny.benchmark(), source_test=None))
    records = read_records(tmp_path / "run")
    assert not any(key.startswith("source_test") for key in records[0])
    assert "target/cdnv" in records[0]
    assert "source_test" not in table(records)


@pytest.mark.slow
def test_of_one_source_test_image_a_class_only_accuracy_is_measured(tmp_path: Path) -> None:
    one_each = tiny.split(6, 1, seed=1, draw=1)
    pretrain(tiny.config(tmp_path / "run"), benchmark=dataclasses.replace(tiny.benchmark(), source_test=one_each))
    record = read_records(tmp_path / "run")[-1]
    assert {key for key in record if key.startswith("source_test")} == {"source_test/accuracy"}
    found = logits(restore(tmp_path / "run"), one_each).argmax(-1)
    assert record["source_test/accuracy"] == np.mean(found == one_each.labels)
    assert "accuracy source-test" in table([record])


def test_tensorboard_and_timing_hold_what_they_should(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.run(tmp_path / "run", tensorboard=True, profile=True)
    assert re.search(r"images/s, [\d.]+ ms a step, \d+ % of peak, compiled in [\d.]+ s", capsys.readouterr().err)
    tiny.assert_same_end(tmp_path / "run", finished)
    shutil.rmtree(tmp_path / "run" / "tensorboard")
    tiny.run(tmp_path / "run", tensorboard=True)  # also for a finished run
    (events,) = (tmp_path / "run" / "tensorboard").iterdir()
    assert b"target/ncc/5w5s" in events.read_bytes()
    assert list((tmp_path / "run" / "profile").rglob("perfetto_trace.json.gz"))
    first, *others = [json.loads(line) for line in (tmp_path / "run" / "timing.jsonl").read_text().splitlines()]
    assert first["compile_seconds"] > 0
    (counted,) = (entry for entry in others if "flops_per_step" in entry)
    # a convolution and a linear layer, forward and backward, of 16 images: between two and three times forward
    forward = 2 * 16 * (6 * 6 * 9 * 8 + 6 * 6 * 8 * 6)
    assert 2 * forward < counted["flops_per_step"] < 4 * forward
    steps = [entry for entry in others if "steps" in entry]
    assert sum(entry["steps"] for entry in steps) == tiny.STEPS
    for entry in steps:
        assert entry["images_per_second"] == pytest.approx(16 * entry["steps"] / entry["seconds"])
        rate = counted["flops_per_step"] * entry["steps"] / entry["seconds"]
        assert entry["share_of_peak"] == pytest.approx(rate / counted["peak_flops"])


def test_the_time_of_a_run_adds_up(finished: Path) -> None:
    entries = read_timing(finished)
    line = time_spent(entries, 100.0)
    steps = sum(entry["seconds"] for entry in entries if "seconds" in entry)
    measuring = sum(entry["measure_seconds"] for entry in entries if "measure_seconds" in entry)
    (compiling,) = (entry["compile_seconds"] for entry in entries if "compile_seconds" in entry)
    assert line.startswith(f"time    100.0 s: steps {steps:.1f}, measuring {measuring:.1f}, ")
    assert f", compiling the step {compiling:.1f}, " in line
    assert line.endswith(f" {100 - steps - measuring - compiling:.1f}")
    assert min(steps, measuring, compiling) > 0


def test_a_finished_run_has_nothing_to_profile(finished: Path, tmp_path: Path, capsys) -> None:
    shutil.copytree(finished, tmp_path / "run")
    tiny.run(tmp_path / "run", profile=True)
    assert "no steps left to profile" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("total", "epoch", "wanted", "expected"),
    [
        (1000, 100.0, 3, [0, 100, 200, 500, 1000]),
        (1000, 100.0, 0, [0, 1000]),
        (40, 100.0, 2, [0, 10, 20, 40]),
        (400, 200.0, 3, [0, 50, 100, 200, 400]),
        (3, 100.0, 6, [0, 1, 2, 3]),
    ],
)
def test_measurements_are_spaced_geometrically(total: int, epoch: float, wanted: int, expected: list[int]) -> None:
    assert steps_to_measure(total, epoch, wanted) == expected


def test_what_is_not_installed_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="needs tensorboardX: pip install"):
        tiny.run(tmp_path / "run", tensorboard=True)
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match="streamed from their files by grain: pip install"):
        streaming.check_installed()


@pytest.mark.slow
def test_events_stop_at_a_full_disk() -> None:
    """Simulated by a limit on file sizes; tensorboardX's own writer would wait forever."""
    program = (
        "import contextlib, pathlib, resource, signal, tempfile; from ncjax.train.tensorboard import Events; "
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))\n"
        "records = [{'step': i} | {f'name {j}': 0.5 for j in range(45)} for i in range(8)]\n"
        "try:\n"
        "    with tempfile.TemporaryDirectory() as folder:\n"
        "        with contextlib.closing(Events(pathlib.Path(folder) / 'to')) as events: events.update(records)\n"
        "except OSError as error: print(error.filename[-2:], error.strerror)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.PIPE, text=True, timeout=120)
    assert done.stdout == "to File too large\n"


def test_each_record_is_handed_over_once(tmp_path: Path) -> None:
    """With its seed; those of the first part of a continued run are not repeated."""
    seen: list[dict[str, object]] = []
    config = tiny.config(tmp_path / "many", seeds=2)
    pretrain(config, benchmark=tiny.benchmark(), on_record=seen.append)
    assert [(record["step"], record["seed"]) for record in seen] == [
        (step, seed) for step in (0, 8, 16, 24) for seed in (0, 1)
    ]
    written = read_records(tmp_path / "many" / "seed_1")
    assert [record for record in seen if record.pop("seed") == 1] == written
    pretrain(config, benchmark=tiny.benchmark(), on_record=seen.append)
    assert len(seen) == 8
