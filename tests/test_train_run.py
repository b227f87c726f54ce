"""A run from start to end: its files, interruption and resumption, and what it refuses."""

import dataclasses
import errno
import importlib.util
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
import scipy.stats
import tiny
from conftest import make_mesh
from jax.sharding import Mesh

from ncjax import cli, features, logits, models, restore
from ncjax.errors import InputError
from ncjax.train import Config, Diverged, Interrupted, pretrain, read_records, resolve, seeds_table, streaming, table
from ncjax.train import measurement as measuring
from ncjax.train.checkpoint import Checkpoints
from ncjax.train.folder import claim
from ncjax.train.loop import _Run
from ncjax.train.measurement import plan, steps_to_measure
from ncjax.train.records import append_timing, read_config
from ncjax.train.signals import Stop
from ncjax.train.speed import check_precision, peak
from ncjax.train.step import initial_state, optimizer
from ncjax.train.trainer import Trainer

STEPS = 24


@pytest.fixture(autouse=True)
def _tiny_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def create(name: str, num_classes: int, dtype: Any = np.float32) -> models.Network:
        return tiny.network(num_classes, dtype)

    monkeypatch.setattr(models, "create", create)


@pytest.fixture(autouse=True)
def _ctrl_c_is_heard() -> Iterator[None]:
    """Also where the tests run as a background job, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def config(workdir: Path, **changes: Any) -> Config:
    settings: dict[str, Any] = {
        "network": "tiny",
        "epochs": 3,
        "min_steps": STEPS,
        "batch_size": 16,
        "learning_rate": 0.1,
        "schedule": "cosine",
        "measurements": 3,
        "measure_episodes": 50,
        "workdir": workdir,
    }
    return Config(**(settings | changes))


def run(workdir: Path, **changes: Any) -> Any:
    return pretrain(config(workdir, **changes), benchmark=tiny.benchmark())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted."""
    workdir = tmp_path_factory.mktemp("run") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "create", lambda name, k, dtype=np.float32: tiny.network(k, dtype))
        with jax.set_mesh(make_mesh(1)):
            run(workdir)
    return workdir


def assert_same_end(workdir: Path, finished: Path) -> None:
    assert (workdir / "metrics.jsonl").read_bytes() == (finished / "metrics.jsonl").read_bytes()
    a, b = restore(workdir), restore(finished)
    jax.tree.map(np.testing.assert_array_equal, a.variables, b.variables)
    np.testing.assert_array_equal(a.feature_mean, b.feature_mean)


def test_the_record(finished: Path) -> None:
    lines = (finished / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert records == read_records(finished)
    assert [r["step"] for r in records] == [0, 8, 16, STEPS]
    assert records[-1]["epoch"] == STEPS * 16 / 126
    assert len({tuple(r) for r in records}) == 1  # every record has every key
    for key in (
        "loss", "source_train/cdnv", "source_test/cdnv", "target/cdnv", "source_train/accuracy",
        "source_test/accuracy", "target/ncc/5w1s", "target/ncc/5w5s", "target/ridge/5w1s", "target/ridge/5w5s/ci95",
    ):  # fmt: skip
        assert key in records[0]
    assert not any("second" in key for key in records[0])  # times would make two executions differ
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
    rows = plan(tiny.benchmark(), resolve(config(finished))).sets["source_train"].rows
    accuracy = np.mean(logits(params, source.images[rows]).argmax(-1) == source.labels[rows])
    assert accuracy == read_records(finished)[-1]["source_train/accuracy"]
    earlier = restore(finished, step=8)
    assert earlier.feature_mean is None
    assert not np.allclose(features(earlier, source), found)
    with pytest.raises(InputError, match="no checkpoint of step 7; there are those of 8, 16, 24"):
        restore(finished, step=7)


def test_a_finished_run_is_read_back(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Run, "train", lambda self, stop: pytest.fail("trained again"))
    again = run(finished)
    jax.tree.map(np.testing.assert_array_equal, again.variables, restore(finished).variables)


@pytest.mark.parametrize(("at", "number"), [(1, signal.SIGTERM), (8, signal.SIGINT), (13, signal.SIGTERM)])
def test_an_interrupted_run_ends_as_one_never_interrupted(
    at: int, number: signal.Signals, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = _Run._advance

    def advance(self: _Run, trainer: Trainer, state: Any, step: int, chunk: int, bar: Any) -> Any:
        result = original(self, trainer, state, step, 1, bar)
        if result[1] == at:
            os.kill(os.getpid(), number)
        return result

    with monkeypatch.context() as patch:
        patch.setattr(_Run, "_advance", advance)
        with pytest.raises(Interrupted, match=f"after step {at}") as stopped:
            run(tmp_path / "run")
    assert stopped.value.signal == number
    run(tmp_path / "run")
    assert_same_end(tmp_path / "run", finished)


def test_a_damaged_checkpoint_is_named_and_the_one_before_continues(finished: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    # as if killed after the checkpoint of step 16, which then was damaged
    shutil.rmtree(workdir / "checkpoints" / str(STEPS))
    damage(workdir / "checkpoints" / "16")
    with pytest.warns(UserWarning, match="checkpoint of step 16 in .* cannot be read"):
        run(workdir)
    assert_same_end(workdir, finished)


def damage(checkpoint: Path) -> None:
    for file in (checkpoint / "variables").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:10])


def flip(checkpoint: Path) -> None:
    """Changes one byte of the largest file of the weights."""
    file = max((checkpoint / "variables").rglob("d/*"), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def garble(checkpoint: Path) -> None:
    """Leaves out the end of the text of the records, in what is JSON still."""
    (file,) = (path for path in (checkpoint / "progress").rglob("*") if path.is_file() and b"loss" in path.read_bytes())
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"json": content["json"][:-7]}))


@pytest.mark.parametrize("damage", [flip, garble])
def test_a_checkpoint_of_which_little_is_wrong_is_not_taken_for_whole(
    damage: Callable[[Path], None], finished: Path, tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    shutil.rmtree(workdir / "checkpoints" / str(STEPS))
    damage(workdir / "checkpoints" / "16")
    with pytest.raises(InputError, match=r"checkpoint of step 16 .* cannot be read"):
        restore(workdir)
    with pytest.warns(UserWarning, match="checkpoint of step 16 in .* cannot be read"):
        run(workdir)
    assert_same_end(workdir, finished)


def test_a_checkpoint_of_another_network_is_told_from_a_damaged_one(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / str(STEPS))
    monkeypatch.setattr(models, "create", lambda name, k, dtype=np.float32: tiny.network(7, dtype))
    with pytest.raises(InputError, match=r"variables/params/head/bias is \[6\] there, \[7\] here .*choose another"):
        restore(tmp_path / "run")
    with pytest.raises(InputError, match=r"variables/params/head/bias is \[6\] there, \[7\] here .*choose another"):
        run(tmp_path / "run")


def test_a_damaged_last_checkpoint_is_written_again(finished: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    damage(workdir / "checkpoints" / str(STEPS))
    with pytest.raises(InputError, match=f"checkpoint of step {STEPS} .* cannot be read"):
        restore(workdir)
    with pytest.warns(UserWarning, match=f"checkpoint of step {STEPS} in .* cannot be read"):
        run(workdir)
    assert_same_end(workdir, finished)


def test_when_no_checkpoint_can_be_read_nothing_is_lost(finished: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    for checkpoint in (workdir / "checkpoints").iterdir():
        damage(checkpoint)
    before = (workdir / "metrics.jsonl").read_bytes()
    with (
        pytest.warns(UserWarning, match="cannot be read"),
        pytest.raises(InputError, match=r"no checkpoint in .* can be read; delete"),
    ):
        run(workdir)
    assert (workdir / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("stopped", [signal.SIGINT, signal.SIGTERM, None])
def test_the_last_checkpoint_is_whole_whatever_comes_with_it(
    stopped: signal.Signals | None, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal in the last step, and a checkpoint due at it."""
    original = _Run._advance

    def advance(self: _Run, *arguments: Any) -> Any:
        result = original(self, *arguments)
        if stopped and result[1] == STEPS:
            os.kill(os.getpid(), stopped)
        return result

    monkeypatch.setattr(_Run, "_advance", advance)
    monkeypatch.setattr("ncjax.train.loop._SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    if stopped:
        # the run is done, but whoever called it must hear of the signal
        with pytest.raises(Interrupted, match="at the end of training, which is saved") as late:
            run(tmp_path / "run")
        assert late.value.signal == stopped
    else:
        run(tmp_path / "run")
    assert_same_end(tmp_path / "run", finished)


def test_a_signal_before_training_stops_the_run_too(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(config: Config) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return tiny.benchmark()

    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr("ncjax.train.loop.load_benchmark", load)
        with pytest.raises(Interrupted, match="outside of training") as stopped:
            pretrain(config(tmp_path / "run"))
    assert stopped.value.signal == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before
    assert not isinstance(stopped.value, Exception)
    run(tmp_path / "run")
    assert_same_end(tmp_path / "run", finished)


def test_two_processes_do_not_share_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(self: _Run, stop: Stop) -> list[Any]:
        with pytest.raises(InputError, match="another process is at work in"):
            run(tmp_path / "run")
        return ["trained"]

    monkeypatch.setattr(_Run, "_train", train)
    run(tmp_path / "run")


def test_a_run_that_another_process_began_in_the_meantime_is_not_continued(finished: Path, tmp_path: Path) -> None:
    """Also where it has ended by the time that the folder is locked."""
    shutil.copytree(finished, tmp_path / "run")
    described = read_config(finished)
    described["identity"]["learning_rate"] = 0.2
    with (
        pytest.raises(InputError, match=r"holds another run \(learning_rate 0\.1 there, 0\.2 here"),
        claim(tmp_path / "run", described),
    ):
        pass


def test_where_there_are_no_locks_the_run_goes_on_and_says_so(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: Any) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with pytest.warns(UserWarning, match="cannot be locked .Operation not supported.: see to it"):
        run(tmp_path / "run")
    assert_same_end(tmp_path / "run", finished)


def test_what_a_kill_at_the_start_leaves_is_no_obstacle(finished: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    workdir.mkdir()
    (workdir / "config.json.partial").write_text("{")
    (workdir / ".lock").write_text("")
    run(workdir)
    assert_same_end(workdir, finished)


def test_presets_and_what_a_user_says() -> None:
    assert resolve(Config()).min_steps == 1500
    assert resolve(Config(epochs=1)).min_steps == 0
    assert resolve(Config(epochs=1, min_steps=7)).min_steps == 7
    assert resolve(Config(preset="paper", dataset="cifar_fs")).network == "wrn-28-4"
    spelled_out = resolve(Config())
    assert resolve(dataclasses.replace(spelled_out, preset="paper", workdir=None)).workdir == spelled_out.workdir
    assert resolve(Config(data_dir="here")).data_dir == str(Path.cwd() / "here")
    assert resolve(Config(seed=1)).workdir != resolve(Config()).workdir


@pytest.mark.parametrize("network", ["vit-2-64-4", "mlp-3-256", "resnet12", "resnet12-dropblock"])
def test_presets_choose_the_optimizer_by_the_network(network: str):
    assert resolve(Config(network=network)).optimizer == "adamw"
    assert resolve(Config(network=network, optimizer="sgd", learning_rate=0.05)).optimizer == "sgd"
    assert resolve(Config()).optimizer == "sgd"
    assert resolve(Config(network="resnet12", batch_size=64)).batch_size == 64


@pytest.mark.parametrize(("dataset", "counts"), [("emnist", True), ("mini_imagenet", True), ("cifar_fs", False)])
def test_the_folder_of_the_data_counts_where_no_checksum_fixes_them(dataset: str, counts: bool) -> None:
    one, other = (resolve(Config(dataset=dataset, data_dir=folder)).workdir for folder in ("/one", "/other"))
    assert (one != other) == counts


def test_another_run_in_the_folder_is_refused_with_what_differs(finished: Path) -> None:
    before = (finished / "config.json").read_bytes()
    with pytest.raises(InputError, match=r"holds another run \(learning_rate 0.1 there, 0.25 here\)"):
        run(finished, learning_rate=0.25)
    other = dataclasses.replace(tiny.benchmark(), target=tiny.split(5, 22, seed=3))
    with pytest.raises(InputError, match="other images or labels"):
        pretrain(config(finished), benchmark=other)
    with pytest.raises(InputError, match=r"holds another run \(augmentation 'shift' there, 'none' here\)"):
        pretrain(config(finished), benchmark=dataclasses.replace(tiny.benchmark(), augmentation="none"))
    assert (finished / "config.json").read_bytes() == before


def test_folders_that_cannot_be_the_runs(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write to"):
        run(tmp_path / "file" / "run")
    with pytest.raises(InputError, match="is not empty and holds no run"):
        run(tmp_path)
    with pytest.raises(InputError, match="holds no run"):
        restore(tmp_path)
    with pytest.raises(InputError, match="holds no run"):
        read_records(tmp_path)
    for content in (b'{"step": 0, \xff}', b"[1]", b"5"):
        (tmp_path / "metrics.jsonl").write_bytes(content)
        with pytest.raises(InputError, match=r"metrics\.jsonl cannot be read"):
            read_records(tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(Diverged, match=r"not finite at step \d+ of 24"):
        run(tmp_path / "run", learning_rate=1e30)
    kept = restore(tmp_path / "run")
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(kept.variables))


def test_a_seed_that_diverges_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others end as if it had not, also after an interruption, and the end says what happened."""
    run(tmp_path / "whole", seeds=3)
    original = _Run._advance
    stop_at = 20

    def advance(self: _Run, trainer: Trainer, states: Any, step: int, chunk: int, bar: Any) -> Any:
        *result, bad = original(self, trainer, states, step, 1, bar)
        if result[1] > 10:
            bad = np.where(np.arange(3) == 1, 10, bad)
        if result[1] == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return *result, bad

    monkeypatch.setattr(_Run, "_advance", advance)
    with pytest.raises(Interrupted, match=f"after step {stop_at}"):
        run(tmp_path / "run", seeds=3)
    stop_at = 0
    # at the second time the end is all that is left to do
    for _ in range(2):
        with pytest.raises(
            Diverged, match=r"not finite at step 10 of 24 \(seed=1, .*seed_1; the other 2 seeds are finished"
        ):
            run(tmp_path / "run", seeds=3)
    for seed in ("seed_0", "seed_2"):
        assert_same_end(tmp_path / "run" / seed, tmp_path / "whole" / seed)
    assert [record["step"] for record in read_records(tmp_path / "run" / "seed_1")] == [0, 8]


def test_many_seeds_are_interrupted_between_their_measurements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty seeds take minutes to measure, and a scheduler does not wait for so long."""
    run(tmp_path / "whole", seeds=2)
    original = measuring.measure
    measured: list[int] = []

    def measure(*args: Any, step: int, epoch: float) -> Any:
        measured.append(step)
        if measured == [0, 0, 8]:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*args, step=step, epoch=epoch)

    monkeypatch.setattr(measuring, "measure", measure)
    with pytest.raises(Interrupted, match="after step 8; saved"):
        run(tmp_path / "run", seeds=2)
    assert measured == [0, 0, 8]
    run(tmp_path / "run", seeds=2)
    assert measured[3] == 8
    for seed in ("seed_0", "seed_1"):
        assert_same_end(tmp_path / "run" / seed, tmp_path / "whole" / seed)


@pytest.mark.parametrize("value", [np.inf, 1e25])
def test_a_seed_whose_features_are_not_finite_leaves_the_others(
    value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finite weights may give features that are not: that seed ends at its measurement, without a record of it."""
    run(tmp_path / "whole", seeds=2)
    original = measuring.outputs
    calls = 0

    def overflows(params: Any, images: Any, fields: Any) -> Any:
        nonlocal calls
        calls += 1
        found = original(params, images, fields)
        # three sets a record: those of step 0 for both seeds, then the first seed's at step 8, then the second's
        return tuple(np.full_like(one, value) for one in found) if calls == 10 else found

    monkeypatch.setattr(measuring, "outputs", overflows)
    message = r"features could not be measured \(.*\) at step 8 of 24 \(seed=1, .*the other 1 seeds are"
    with pytest.raises(Diverged, match=message):
        run(tmp_path / "run", seeds=2)
    assert_same_end(tmp_path / "run" / "seed_0", tmp_path / "whole" / "seed_0")
    assert [record["step"] for record in read_records(tmp_path / "run" / "seed_1")] == [0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distributed": True}, "distributed=True, but this process has not joined others"),
        ({"learning_rate": -0.1}, "learning_rate=-0.1: it must be positive"),
        ({"learning_rate": float("nan")}, "learning_rate=nan"),
        ({"momentum": 1.0}, "momentum=1.0: it must be below 1"),
        ({"label_smoothing": 1.0}, "label_smoothing=1.0: it must be below 1"),
        ({"mixup": 0.2, "cdnv_penalty": 0.1}, "mixup and cdnv_penalty exclude each other"),
        ({"epochs": 0}, "epochs=0: it must be at least 1"),
        ({"weight_decay": -1.0}, "weight_decay=-1.0: it must be at least 0"),
        ({"seed": 2**32}, "seed=4294967296: it must be at most 4294967295"),
        ({"schedule": "linear"}, "schedule='linear': choose one of cosine, step, constant"),
        ({"batch_size": 127}, "batch_size=127 is more than the 126 training images"),
        ({"batch_size": 127, "seeds": 3}, "batch_size=127 is more than the 126 training images"),
        ({"epochs": 2.5}, r"epochs=2\.5: give a whole number"),
        ({"batch_size": "16"}, "batch_size='16': give a whole number"),
        ({"learning_rate": "0.1"}, "learning_rate='0.1': give a Python number"),
        ({"weight_decay": True}, "weight_decay=True: give a Python number"),
        ({"network": 5}, "network=5: give a string"),
        ({"stream": "yes"}, "stream='yes': give True or False"),
    ],
)
def test_settings_that_cannot_be(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        run(tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def test_what_is_no_config_is_refused() -> None:
    with pytest.raises(InputError, match="config is a str: give a Config, for example Config"):
        pretrain("glyphs")  # type: ignore[arg-type]


def test_images_that_are_no_pixels_and_classes_without_images_are_refused(tmp_path: Path) -> None:
    good = tiny.benchmark()
    floats = dataclasses.replace(good.target, images=good.target.images / 255)
    with pytest.raises(InputError, match=r"target has images of float64 .* give pixels 0\.\.255 as uint8"):
        pretrain(config(tmp_path / "run"), benchmark=dataclasses.replace(good, target=floats))
    test = good.source_test
    kept = test.labels != 0
    lacking = dataclasses.replace(test, images=test.images[kept], labels=test.labels[kept])
    with pytest.raises(InputError, match="source_test has a class with 0 images"):
        pretrain(config(tmp_path / "run"), benchmark=dataclasses.replace(good, source_test=lacking))


def test_a_batch_that_does_not_divide_is_refused_with_the_numbers(tmp_path: Path, on_devices: Any) -> None:
    with (
        jax.set_mesh(on_devices(8)),
        pytest.raises(InputError, match="batch_size=20 does not divide over 8 devices; set it to 16"),
    ):
        run(tmp_path / "run", batch_size=20)


def test_many_seeds_are_complete_runs_and_resume_exactly(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where one seed's checkpoint was written and the next one's was not."""
    run(tmp_path / "seeds", seeds=2)
    whole = [tmp_path / "seeds" / f"seed_{i}" for i in (0, 1)]
    records = [read_records(folder) for folder in whole]
    assert records[0][-1]["loss"] != records[1][-1]["loss"]
    found = np.asarray([one[-1]["target/cdnv"] for one in records])
    half = scipy.stats.t.ppf(0.975, 1) * found.std(ddof=1) / np.sqrt(2)
    assert f"target/cdnv              {found.mean():.4g} ± {half:.2g}" in seeds_table([one[-1] for one in records])
    for alone, together in zip(read_records(finished), records[0], strict=True):
        assert alone["step"] == together["step"]
        assert alone["loss"] == pytest.approx(together["loss"], rel=1e-3)

    original = Checkpoints.save

    def save(self: Checkpoints, state: Any, progress: dict[str, Any], *, wait: bool = False) -> None:
        if int(state.step) == 16 and "seed_1" in str(self.folder):
            raise KeyboardInterrupt
        original(self, state, progress, wait=True)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", save)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "again", seeds=2)
    assert (tmp_path / "again" / "seed_0" / "checkpoints" / "16").exists()
    assert not (tmp_path / "again" / "seed_1" / "checkpoints" / "16").exists()
    run(tmp_path / "again", seeds=2)
    for folder in whole:
        assert_same_end(tmp_path / "again" / folder.name, folder)

    damage(tmp_path / "again" / "seed_1" / "checkpoints" / str(STEPS))
    with pytest.warns(UserWarning, match=f"checkpoint of step {STEPS} in .*seed_1.* cannot be read"):
        run(tmp_path / "again", seeds=2)
    for folder in whole:
        assert_same_end(tmp_path / "again" / folder.name, folder)

    with pytest.raises(InputError, match="holds the runs of 2 seeds, 3 were asked for; choose another --workdir"):
        run(tmp_path / "seeds", seeds=3)
    with pytest.raises(InputError, match="holds the runs of 2 seeds, not of one"):
        run(tmp_path / "seeds")
    with pytest.raises(InputError, match="holds a run of one seed, 3 were asked for; choose another --workdir"):
        run(finished, seeds=3)


# orbax's own threads outlive the event loop of a write that failed, and complain where nobody can catch it
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_disk_that_is_full_leaves_the_older_checkpoints_whole(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Checkpoints.save
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def save(self: Checkpoints, state: Any, progress: dict[str, Any], *, wait: bool = False) -> None:
        if int(state.step) == 16:  # no file can grow, as if there were no room left
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
                run(tmp_path / "run")
        finally:
            signal.signal(signal.SIGXFSZ, ignored)
    assert restore(tmp_path / "run").feature_mean is None
    run(tmp_path / "run")
    assert_same_end(tmp_path / "run", finished)


def test_a_disk_without_room_is_refused_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**20))
    with pytest.raises(InputError, match="has 1 MiB free, its checkpoints need 16 MiB"):
        run(tmp_path / "run")


def test_a_resumed_run_needs_room_for_one_checkpoint_more_and_all_that_are_kept(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr("ncjax.train.folder.check_space", lambda workdir, size, count: asked.append(count))
    shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / str(STEPS))
    run(tmp_path / "run")
    run(tmp_path / "new")
    run(tmp_path / "kept", keep_checkpoints=True)
    assert asked == [2, 4, 8]


def test_checkpoints_of_measurements_are_kept_beside_the_newest(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    state = initial_state(tiny.network(), optimizer(config(tmp_path), STEPS), 0, (12, 12, 1))
    with Checkpoints(folder, kept=(2, 3)) as checkpoints:
        for step in range(1, 8):
            checkpoints.save(state.replace(step=np.asarray(step, state.step.dtype)), {"records": []}, wait=True)
        assert checkpoints.steps == [2, 3, 5, 6, 7]


def test_events_stop_at_a_full_disk() -> None:
    """A limit on the size of files stands for it; tensorboardX's own writer waits for ever."""
    program = (
        "import contextlib, pathlib, resource, signal, tempfile; from ncjax.train.events import Events; "
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))\n"
        "records = [{'step': i} | {f'name {j}': 0.5 for j in range(45)} for i in range(8)]\n"
        "try:\n"
        "    with tempfile.TemporaryDirectory() as folder:\n"
        "        with contextlib.closing(Events(pathlib.Path(folder) / 'to')) as events: events.update(records)\n"
        "except OSError as error: print(error.filename[-2:], error.strerror)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.PIPE, text=True, timeout=120)
    assert done.stdout == "to File too large\n"


def test_a_finished_run_has_nothing_to_profile(finished: Path, tmp_path: Path, capsys) -> None:
    shutil.copytree(finished, tmp_path / "run")
    run(tmp_path / "run", profile=True)
    assert "no steps are left to profile" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("said", "starts", "advises"),
    [
        (
            "RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.",
            "error: a device ran out of memory (RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.);",
            "--batch_size",
        ),
        *(
            (said, "error: the steps do not run as a CUDA graph here (", "XLA_FLAGS=--xla_gpu_enable_command_buffer= ")
            for said in (
                "INTERNAL: CUDA error: Failed to instantiate CUDA graph: CUDA_ERROR_NOT_SUPPORTED",
                "INTERNAL: CUDA error: Failed to begin stream capture to graph: CUDA_ERROR_NOT_SUPPORTED",
                "INTERNAL: CUDA error: CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
                "RESOURCE_EXHAUSTED: Underlying backend ran out of memory trying to instantiate graph with 9 nodes",
            )
        ),
    ],
)
def test_what_a_device_cannot_do_is_one_line(
    said: str, starts: str, advises: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"), cli.one_line_errors():
        raise jax.errors.JaxRuntimeError(f"{said}\nmore")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(starts)
    assert advises in line


@pytest.mark.parametrize(
    ("known", "several"),
    [
        ({}, False),
        ({"SLURM_STEP_NUM_TASKS": "4"}, True),
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "4"}, False),  # in a batch script, outside srun
        ({"JAX_NUM_PROCESSES": "2"}, True),
    ],
)
def test_a_process_knows_that_it_is_one_of_several(
    known: dict[str, str], several: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("JAX_NUM_PROCESSES", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in known.items():
        monkeypatch.setenv(name, value)
    assert cli.one_of_several() == several


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "timing.jsonl").symlink_to("/dev/full")  # can be opened, but takes nothing: the error names no file
    with pytest.raises(SystemExit, match="2"), cli.one_line_errors():
        append_timing(tmp_path, {})
    assert f"error: {tmp_path / 'timing.jsonl'} could not be written" in capsys.readouterr().err


def test_compiled_programs_are_kept_in_a_folder_private_to_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "ncjax" / "compiled"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "8")
    kept, owner = jax.config.values["jax_compilation_cache_dir"], folder.stat().st_uid
    changed: dict[str, Any] = {}
    jax.config.update("jax_compilation_cache_dir", None)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(jax.config, "update", changed.__setitem__)
            patch.setattr(os, "getuid", lambda: owner + 1)
            cli.prepare_backend()
            assert not changed  # another user's
            patch.setattr(os, "getuid", lambda: owner)
            cli.prepare_backend()
    finally:
        jax.config.update("jax_compilation_cache_dir", kept)
    assert changed["jax_compilation_cache_dir"] == str(folder)
    assert folder.stat().st_mode & 0o777 == 0o700


def test_the_peak_is_measured_under_any_mesh(on_devices: Callable[[int], Mesh]) -> None:
    for count in (1, 8):
        mesh = on_devices(count)
        with jax.set_mesh(mesh):
            assert 1e8 < peak(mesh, "float32").flops < 1e15


def test_bfloat16_is_refused_where_the_device_lacks_it() -> None:
    def mesh_of(capability: str) -> Any:
        device = SimpleNamespace(platform="gpu", compute_capability=capability, device_kind="Tesla V100")
        return SimpleNamespace(devices=np.asarray([device]))

    with pytest.raises(InputError, match=r"Tesla V100 .* has no bfloat16; set float32"):
        check_precision(mesh_of("7.0"), "bfloat16")
    check_precision(mesh_of("7.0"), "float32")
    check_precision(mesh_of("9.0"), "bfloat16")
    check_precision(mesh_of("gfx942"), "bfloat16")


def test_what_is_not_installed_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="needs tensorboardX: pip install"):
        run(tmp_path / "run", tensorboard=True)
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match="streamed from their files by grain: pip install"):
        streaming.check_installed()


def test_tensorboard_and_timing_hold_what_they_should(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path / "run", tensorboard=True, profile=True)
    assert re.search(r"images/s, [\d.]+ ms a step, \d+ % of peak, compiled in [\d.]+ s", capsys.readouterr().err)
    assert_same_end(tmp_path / "run", finished)
    shutil.rmtree(tmp_path / "run" / "tensorboard")
    run(tmp_path / "run", tensorboard=True)  # of a finished run too
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
    assert sum(entry["steps"] for entry in steps) == STEPS
    for entry in steps:
        assert entry["images_per_second"] == pytest.approx(16 * entry["steps"] / entry["seconds"])
        rate = counted["flops_per_step"] * entry["steps"] / entry["seconds"]
        assert entry["share_of_peak"] == pytest.approx(rate / counted["peak_flops"])


def test_without_source_test_its_keys_are_absent(tmp_path: Path) -> None:
    pretrain(config(tmp_path / "run"), benchmark=dataclasses.replace(tiny.benchmark(), source_test=None))
    records = read_records(tmp_path / "run")
    assert not any(key.startswith("source_test") for key in records[0])
    assert "target/cdnv" in records[0]
    assert "source_test" not in table(records)


def test_of_one_source_test_image_a_class_only_accuracy_is_measured(tmp_path: Path) -> None:
    one_each = tiny.split(6, 1, seed=1, draw=1)
    pretrain(config(tmp_path / "run"), benchmark=dataclasses.replace(tiny.benchmark(), source_test=one_each))
    record = read_records(tmp_path / "run")[-1]
    assert {key for key in record if key.startswith("source_test")} == {"source_test/accuracy"}
    found = logits(restore(tmp_path / "run"), one_each).argmax(-1)
    assert record["source_test/accuracy"] == np.mean(found == one_each.labels)
    assert "acc source_test" in table([record])


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
