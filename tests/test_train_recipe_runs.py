"""Runs with recipes: averaged weights, a rotation head, mixing and a teacher; what is saved, resumed and refused."""

import dataclasses
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import tiny
from conftest import make_mesh

from ncjax import logits, models, restore
from ncjax.data import Benchmark
from ncjax.errors import InputError
from ncjax.models import Network
from ncjax.train import Config, Interrupted, loop, pretrain, read_config, read_records, resolve
from ncjax.train.checkpoint import read_checkpoint
from ncjax.train.checksums import weights_checksum
from ncjax.train.config import fill, identity
from ncjax.train.measurement import plan
from ncjax.train.run import Run
from ncjax.train.trainer import Trainer

pytestmark = [pytest.mark.cheap_compilation, pytest.mark.usefixtures("tiny_network", "signals_are_heard")]

RECIPE: dict[str, Any] = {
    "rotation_head": True, "manifold_mixup": 2.0, "ema_decay": 0.9, "classifier": "cosine", "measurements": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, finished: Path) -> Path:
    """An undisturbed run with all recipes, taught by `finished`; it may be read, not changed."""
    workdir = tmp_path_factory.mktemp("recipes") / "whole"
    with pytest.MonkeyPatch.context() as patch, jax.set_mesh(make_mesh(1)):
        patch.setattr(models, "create", tiny.create)
        tiny.run(workdir, distill_from=str(finished), **RECIPE)
    return workdir


def interrupted_at(step: int, monkeypatch: pytest.MonkeyPatch, workdir: Path, **settings: Any) -> None:
    original = loop.advance

    def advance(run: Run, trainer: Trainer, states: Any, at: int, chunk: int) -> loop.StepsTaken:
        taken = original(run, trainer, states, at, 1)
        if taken.step == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return taken

    with monkeypatch.context() as patch:
        patch.setattr(loop, "advance", advance)
        with pytest.raises(Interrupted):
            tiny.run(workdir, **settings)


def test_an_interrupted_run_ends_as_one_never_interrupted(
    whole: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = RECIPE | {"distill_from": str(finished)}
    interrupted_at(13, monkeypatch, tmp_path / "run", **settings)
    tiny.run(tmp_path / "run", **settings)
    tiny.assert_same_end(tmp_path / "run", whole)


def test_the_average_is_measured_and_restored_and_both_are_saved(whole: Path) -> None:
    params = restore(whole)
    assert isinstance(params.network, Network)
    assert (params.network.classifier, params.network.rotation_head) == ("cosine", True)
    described = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), params.variables)
    arrays = read_checkpoint(whole / "checkpoints", tiny.STEPS, {"variables": described, "trained": described}).arrays
    jax.tree.map(np.testing.assert_array_equal, params.variables, arrays["variables"])
    average, trained = (np.asarray(arrays[part]["params"]["head"]["kernel"]) for part in ("variables", "trained"))
    assert 0 < np.linalg.norm(average - trained) < 0.5 * np.linalg.norm(trained)
    record = read_records(whole)[-1]
    source = tiny.benchmark().source_train
    rows = plan(tiny.benchmark(), resolve(tiny.config(whole))).sets["source_train"].rows
    correct = logits(params, source.images[rows]).argmax(-1) == source.labels[rows]
    assert record["source_train/accuracy"] == np.mean(correct)


def test_the_teachers_weights_are_the_identity_and_its_folder_is_not(whole: Path, finished: Path) -> None:
    settings = read_config(whole)
    checksum = weights_checksum(restore(finished).variables)
    assert settings["identity"]["teacher_weights"] == checksum
    assert "distill_from" not in settings["identity"]
    by_hand = tiny.config(whole, distill_from="/gone", teacher_weights=checksum, **RECIPE)
    assert identity(fill(by_hand)) == settings["identity"]


def test_recipes_at_their_defaults_are_not_of_the_identity(tmp_path: Path) -> None:
    """So that runs of older versions, which had no recipes, stay the same runs."""
    plain = Config(rotation_head=False, color_jitter=0.0, ema_decay=0.0, distill_temperature=4.0)
    assert identity(fill(plain)) == identity(fill(Config()))
    assert not {"rotation_head", "color_jitter", "ema_decay", "distill_from"} & identity(fill(Config())).keys()
    assert resolve(Config(preset="strong", dataset="cifar_fs")).rotation_head is True
    assert resolve(Config(preset="strong")).rotation_head is False  # glyphs


@pytest.mark.slow
def test_seeds_resume_exactly(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = RECIPE | {"distill_from": str(finished), "seeds": 2}
    tiny.run(tmp_path / "whole", **settings)
    interrupted_at(9, monkeypatch, tmp_path / "run", **settings)
    tiny.run(tmp_path / "run", **settings)
    for seed in ("seed_0", "seed_1"):
        tiny.assert_same_end(tmp_path / "run" / seed, tmp_path / "whole" / seed)


def test_a_teacher_that_is_gone_or_another_is_named(
    whole: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, run = tmp_path / "teacher", tmp_path / "run"
    shutil.copytree(finished, teacher)
    settings = RECIPE | {"distill_from": str(teacher)}
    interrupted_at(8, monkeypatch, run, **settings)
    with pytest.raises(InputError, match=r"the teacher's weights are \w{8}, this run is of the teacher 01234567"):
        tiny.run(tmp_path / "other", teacher_weights="01234567", **settings)
    shutil.rmtree(teacher)
    gone = f"distill_from={teacher}: .* holds no run: .*; a run needs its teacher until it is finished"
    with pytest.raises(InputError, match=gone):
        tiny.run(run, **settings)
    with pytest.raises(InputError, match=gone):
        resolve(tiny.config(tmp_path / "new", **settings))
    # a finished run is read back without its teacher
    shutil.copytree(whole, tmp_path / "done")
    description = (tmp_path / "done" / "config.json").read_text().replace(str(finished), str(teacher))
    (tmp_path / "done" / "config.json").write_text(description)
    tiny.run(tmp_path / "done", **settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_classes": 5}, "the teacher was trained on 6 classes instead of 5; give a teacher of the same classes"),
        ({"side": 8}, "the teacher was trained on images of 12x12x1 instead of 8x8x1"),
        ({"name": "others"}, "the teacher was trained on data 'tiny' instead of 'others'"),
    ],
)
def test_a_teacher_of_other_data_is_refused(
    change: dict[str, Any], message: str, finished: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        pretrain(tiny.config(tmp_path / "run", distill_from=finished), benchmark=other_benchmark(**change))
    assert not (tmp_path / "run").exists()


def other_benchmark(num_classes: int = 6, side: int = 12, name: str = "tiny") -> Benchmark:
    splits = [tiny.split(k, n, seed=3) for k, n in ((num_classes, 21), (num_classes, 8), (5, 22))]
    cut = [dataclasses.replace(split, images=np.asarray(split.images)[:, :side, :side]) for split in splits]
    return Benchmark(name, cut[0], cut[1], None, cut[2], augmentation="shift")


def test_a_teacher_that_is_not_finished_is_refused(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "teacher")
    shutil.rmtree(tmp_path / "teacher" / "checkpoints" / str(tiny.STEPS))
    with pytest.raises(InputError, match=r"the teacher is not finished \(step 16 of 24\); finish it first"):
        tiny.run(tmp_path / "run", distill_from=tmp_path / "teacher")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"color_jitter": 0.4}, "color_jitter=0.4, but the images are grey and have no colours; set color_jitter=0"),
        ({"color_jitter": 1.5}, r"color_jitter=1\.5: it must be at most 1"),
        ({"ema_decay": 1.0}, r"ema_decay=1\.0: it must be below 1"),
        ({"mixup": 0.2, "manifold_mixup": 2.0}, "mixup and manifold_mixup exclude each other"),
        ({"manifold_mixup": 2.0, "cdnv_penalty": 0.1}, "manifold_mixup and cdnv_penalty exclude each other"),
        ({"distill_weight": 0.1}, "distill_weight is of distill_from: give the folder of a run too"),
        ({"teacher_weights": "0"}, "teacher_weights is of distill_from"),
        ({"classifier": "euclidean"}, "classifier='euclidean': choose one of linear, cosine"),
        ({"distill_from": "nowhere"}, "distill_from=.*nowhere: .* holds no run"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused_in_one_line(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message) as refused:
        tiny.run(tmp_path / "run", **changes)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["glyphs", "emnist", "omniglot"])
def test_characters_are_not_turned(name: str, tmp_path: Path) -> None:
    message = f"rotation_head on {name}: turned characters become others"
    with pytest.raises(InputError, match=message):
        pretrain(tiny.config(tmp_path / "run", rotation_head=True), benchmark=other_benchmark(name=name))


def test_only_squares_are_turned(tmp_path: Path) -> None:
    square = tiny.benchmark()
    parts = ("source_train", "source_test", "target")
    cut = {
        part: dataclasses.replace(getattr(square, part), images=getattr(square, part).images[:, :10]) for part in parts
    }
    with pytest.raises(InputError, match="rotation_head on images of 10 x 12: a quarter turn needs squares"):
        pretrain(tiny.config(tmp_path / "run", rotation_head=True), benchmark=dataclasses.replace(square, **cut))
