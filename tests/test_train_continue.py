"""Runs that start from the last weights of another run."""

import dataclasses
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest
import tiny
from conftest import make_mesh

from ncjax import models, restore, runs
from ncjax.commands.pretrain import default_settings
from ncjax.errors import InputError
from ncjax.train import Config, Interrupted, continued_config, loop, pretrain, read_config, read_records, resolve
from ncjax.train.checkpoint import abstract_arrays, read_alone
from ncjax.train.config import Resolved, fill, identity
from ncjax.train.optimizer import optimizer
from ncjax.train.run import Run
from ncjax.train.step import initial_state
from ncjax.train.trainer import Trainer

pytestmark = [pytest.mark.cheap_compilation, pytest.mark.usefixtures("tiny_network", "signals_are_heard")]

SHORT: dict[str, Any] = {"epochs": 1, "min_steps": 0, "measurements": 0, "learning_rate": 0.02}
"""A continued run of eight steps."""


def measured(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name not in ("step", "epoch")}


@pytest.fixture(scope="module")
def continued(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that continues `finished`; it may be read and copied, not changed."""
    workdir = tmp_path_factory.mktemp("continued") / "whole"
    with pytest.MonkeyPatch.context() as patch, jax.set_mesh(make_mesh(1)):
        patch.setattr(models, "create", tiny.create)
        tiny.run(workdir, continue_from=str(finished), **SHORT)
    return workdir


def test_the_first_record_is_the_last_of_the_run_it_continues(finished: Path, continued: Path) -> None:
    first, last = read_records(continued)
    assert (first["step"], last["step"], first["epoch"]) == (0, 8, 0)
    assert measured(first) == measured(read_records(finished)[-1])
    assert measured(last) != measured(first)
    assert read_config(continued)["config"]["continue_from"] == str(finished)


def test_an_interrupted_one_ends_alike_and_no_longer_needs_the_run_it_continues(
    finished: Path, continued: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a copy of the other run, which is the same run to it, and is deleted after the interruption."""
    original = loop.advance

    def advance(run: Run, trainer: Trainer, states: Any, step: int, chunk: int) -> loop.StepsTaken:
        taken = original(run, trainer, states, step, 1)
        if taken.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return taken

    shutil.copytree(finished, tmp_path / "source")
    settings = SHORT | {"continue_from": str(tmp_path / "source")}
    with monkeypatch.context() as patch:
        patch.setattr(loop, "advance", advance)
        with pytest.raises(Interrupted, match="after step 3"):
            tiny.run(tmp_path / "run", **settings)
    told = capsys.readouterr().err
    assert f"seed 0 starts from step 24 of {tmp_path / 'source'}; learning rate 0.02, cosine over 8 new steps" in told
    shutil.rmtree(tmp_path / "source")
    tiny.run(tmp_path / "run", **settings)
    tiny.assert_same_end(tmp_path / "run", continued)
    assert "starts from" not in capsys.readouterr().err
    configs = [read_config(folder) for folder in (tmp_path / "run", continued)]
    assert configs[0]["identity"] == configs[1]["identity"]
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    (tmp_path / "run" / "metrics.jsonl").unlink()
    with pytest.raises(InputError, match=r"no checkpoint of its own yet, and the weights .* cannot be read: step 24"):
        tiny.run(tmp_path / "run", **settings)


@pytest.mark.slow
def test_the_folder_of_a_run_that_is_gone_is_found_again(
    finished: Path, continued: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished, "source")
    config = dataclasses.replace(tiny.config(Path("x")), **SHORT | {"continue_from": "source"}, workdir=None)
    pretrain(config, benchmark=tiny.benchmark())
    here = resolve(config).workdir
    assert resolve(dataclasses.replace(config, learning_rate=0.03)).workdir != here
    assert resolve(dataclasses.replace(config, continue_from=str(finished))).workdir == here
    shutil.rmtree("source")
    assert resolve(config).workdir == here
    with pytest.raises(InputError, match="source holds no run"):
        resolve(dataclasses.replace(config, learning_rate=0.03))


@pytest.mark.slow
def test_the_optimizer_is_continued_where_asked(finished: Path, tmp_path: Path) -> None:
    """One step with the stored momentum is further by the learning rate times momentum times what was stored."""
    settings = SHORT | {"continue_from": str(finished), "batch_size": 126}
    fresh = tiny.run(tmp_path / "fresh", **settings)
    kept = tiny.run(tmp_path / "kept", **settings, continue_optimizer=True)
    like = initial_state(tiny.network(), optimizer(fill(tiny.config(finished)), 24), 0, (12, 12, 1))
    stored = read_alone(finished / "checkpoints", 24, abstract_arrays(like)).arrays["optimizer"]
    is_trace = lambda node: isinstance(node, optax.TraceState)  # noqa: E731
    (trace,) = (node.trace for node in jax.tree.leaves(stored, is_leaf=is_trace) if is_trace(node))
    assert max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(trace)) > 0.01

    def check(new: Any, old: Any, stored: Any) -> None:
        np.testing.assert_allclose(new - old, -0.02 * 0.9 * stored, rtol=1e-3, atol=1e-6)

    jax.tree.map(check, kept.variables["params"], fresh.variables["params"], trace)
    identities = [read_config(tmp_path / name)["identity"] for name in ("fresh", "kept")]
    assert identities[0]["start_weights"] + "-" in identities[1]["start_weights"]


@pytest.mark.slow
def test_each_seed_continues_its_own(tmp_path: Path) -> None:
    tiny.run(tmp_path / "source", seeds=2, **SHORT)
    tiny.run(tmp_path / "run", seeds=2, continue_from=str(tmp_path / "source"), **SHORT | {"learning_rate": 0.01})
    firsts = [read_records(tmp_path / "run" / f"seed_{i}")[0] for i in (0, 1)]
    lasts = [read_records(tmp_path / "source" / f"seed_{i}")[-1] for i in (0, 1)]
    assert [measured(record) for record in firsts] == [measured(record) for record in lasts]
    assert firsts[0]["loss"] != firsts[1]["loss"]
    trained = [runs.read(folder) for folder in runs.find(tmp_path)]
    names = [configuration.name for configuration in runs.configurations(trained)]
    assert len(names) == 2  # the two seeds of each are one configuration
    assert any("continue_from=source@" in name for name in names)
    with pytest.raises(InputError, match=r"holds 2 seeds, 1 asked for: set seeds=2, or give one of them, .*seed_0"):
        tiny.run(tmp_path / "other", continue_from=str(tmp_path / "source"))
    # one of them by itself is the same run
    alone = tmp_path / "alone"
    tiny.run(alone, seed=1, continue_from=str(tmp_path / "source" / "seed_1"), **SHORT | {"learning_rate": 0.01})
    assert read_config(alone)["identity"] == read_config(tmp_path / "run" / "seed_1")["identity"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": "mlp-2-8"}, "that run has network=tiny, this one mlp-2-8; set network=tiny"),
        ({"num_source_classes": 5}, "that run has num_source_classes=6, this one 5"),
        ({"image_size": 28}, "that run has image_size=12, this one 28"),
        ({"seeds": 2}, "holds 1 seed, 2 asked for: set seeds=1"),
        ({"optimizer": "adamw", "continue_optimizer": True}, "that run has optimizer=sgd, this one adamw"),
        ({"momentum": 0.0, "continue_optimizer": True}, r"that run has momentum=0\.9, this one 0\.0"),
        ({"start_weights": "0-0-0"}, "not start_weights=0-0-0"),
        ({"continue_from": None, "continue_optimizer": True}, "give the folder of a run"),
        ({"continue_from": "nowhere"}, "nowhere holds no run"),
    ],
)
def test_what_does_not_fit_is_said_before_data_is_read(
    changes: dict[str, Any], message: str, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ncjax.train.pretraining.load_benchmark", lambda config: pytest.fail("the data was read"))
    settings = SHORT | {"continue_from": str(finished)} | changes
    with pytest.raises(InputError, match=message):
        pretrain(tiny.config(tmp_path / "run", **settings))
    assert not (tmp_path / "run").exists()


def test_data_that_does_not_fit_leaves_no_folder(finished: Path, tmp_path: Path) -> None:
    config = tiny.config(tmp_path / "run", continue_from=str(finished), **SHORT)
    fewer = dataclasses.replace(tiny.benchmark(), source_train=tiny.split(4, 21, seed=1), source_test=None)
    with pytest.raises(InputError, match="that run has num_source_classes=6, this one 4"):
        pretrain(config, benchmark=fewer)
    assert not (tmp_path / "run").exists()


def test_a_finished_run_that_is_given_more_epochs_is_pointed_here(finished: Path) -> None:
    with pytest.raises(InputError, match=rf"epochs 3 there, 6 here.*give --continue_from={finished}"):
        tiny.run(finished, epochs=6)
    with pytest.raises(InputError, match=r"choose another --workdir$"):
        tiny.run(finished, epochs=6, learning_rate=0.2)
    with pytest.raises(InputError, match="a continued run has a folder of its own"):
        tiny.run(finished, epochs=6, continue_from=str(finished))


def test_settings_are_those_of_the_run_it_continues(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = continued_config(finished, epochs=2)
    old = runs.read(finished).config
    kept = dataclasses.replace(config, epochs=old.epochs, min_steps=old.min_steps, workdir=old.workdir)
    assert dataclasses.replace(kept, continue_from=None) == old
    assert (config.workdir, config.epochs, config.min_steps) == (None, 2, None)
    for words in ([f"--continue_from={finished}"], ["--epochs=2", "--continue-from", str(finished)]):
        monkeypatch.setattr(sys, "argv", ["pretrain.py", *words])
        assert default_settings() == continued_config(finished)
    for words in (["--epochs=2"], []):
        monkeypatch.setattr(sys, "argv", ["pretrain.py", *words])
        assert default_settings() is None


def described(folder: Path, **settings: Any) -> Config:
    """Writes the config.json of a run that has begun, and returns its settings."""
    config = Resolved.of(fill(tiny.config(folder, **settings)), folder)
    folder.mkdir(parents=True)
    content = {
        "config": dataclasses.asdict(config) | {"workdir": str(folder)},
        "identity": identity(config),
        "total_steps": 24,
        "data": tiny.data_description(),
        "versions": {},
    }
    (folder / "config.json").write_text(json.dumps(content))
    return config


def test_where_the_other_run_is_gone_the_folder_of_the_begun_one_has_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    described(tmp_path / "run", continue_from=str(gone), start_weights="0a-24-1b", learning_rate=0.03)
    for i in range(2):
        of_seed = {"seed": i, "continue_from": str(gone / f"seed_{i}"), "start_weights": f"0a-24-{i}c"}
        described(tmp_path / "seeds" / f"seed_{i}", **of_seed)
    (tmp_path / "seeds" / "seeds.json").write_text('{"seeds": 2}')
    for name, start in (("run", "0a-24-1b"), ("seeds", "0a-24-0c,0a-24-1c")):
        monkeypatch.setattr(sys, "argv", ["pretrain.py", f"--continue_from={gone}", f"--workdir={tmp_path / name}"])
        config = default_settings()
        assert config is not None
        assert resolve(config).start_weights == start
    monkeypatch.setattr(sys, "argv", ["pretrain.py", "--continue_from=elsewhere", f"--workdir={tmp_path / 'run'}"])
    with pytest.raises(InputError, match=r"elsewhere holds no run: .*; if that run is gone, .* --workdir$"):
        default_settings()


def test_with_a_teacher_too_the_run_is_found_where_the_other_one_is_gone(tmp_path: Path) -> None:
    settings = {"continue_from": str(tmp_path / "gone"), "distill_from": str(tmp_path / "teacher")}
    described(tmp_path / "run", **settings, start_weights="0a-24-1b", teacher_weights="0123abcd")
    resolved = resolve(tiny.config(tmp_path / "run", **settings))
    assert (resolved.start_weights, resolved.teacher_weights) == ("0a-24-1b", "0123abcd")
    with pytest.raises(InputError, match="gone holds no run"):
        resolve(tiny.config(tmp_path / "run", **settings, start_weights="0a-24-2b"))


def test_a_teacher_is_taken_over_by_its_folder_so_that_another_may_be_given(tmp_path: Path) -> None:
    described(tmp_path / "run", distill_from=str(tmp_path / "teacher"), teacher_weights="0123abcd")
    config = continued_config(tmp_path / "run")
    assert (config.distill_from, config.teacher_weights) == (str(tmp_path / "teacher"), None)


def test_start_weights_of_too_few_seeds_are_refused(tmp_path: Path) -> None:
    (tmp_path / "seeds").mkdir()
    (tmp_path / "seeds" / "seeds.json").write_text('{"seeds": 2}')
    settings = {"seeds": 2, "continue_from": str(tmp_path / "seeds"), "start_weights": "0a-24-1b"}
    with pytest.raises(InputError, match="seed_0 holds no run"):
        resolve(tiny.config(tmp_path / "run", **settings))


def test_before_training_a_report_shows_the_weights_it_started_from(
    finished: Path, continued: Path, tmp_path: Path
) -> None:
    pytest.importorskip("bokeh")  # ncjax.report imports it
    from ncjax.report import initial

    start = initial(restore(continued), runs.read(continued))
    assert start is not None
    jax.tree.map(np.testing.assert_array_equal, start.variables, restore(finished).variables)
    shutil.copytree(continued, tmp_path / "run")
    text = (tmp_path / "run" / "config.json").read_text()
    (tmp_path / "run" / "config.json").write_text(text.replace(str(finished), str(tmp_path / "gone")))
    assert initial(restore(continued), runs.read(tmp_path / "run")) is None
    assert Config().continue_from is None
