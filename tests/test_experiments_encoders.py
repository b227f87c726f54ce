"""evaluate.py with encoders from elsewhere, as users type it."""

import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
from commands import Done, inside
from flax import nnx

import ncjax
from common import imagenet_lite0, sweep
from experiments import frozen_encoder
from ncjax import encoders, models, runs

pytestmark = pytest.mark.cheap_compilation

OWN = """
import jax.numpy as jnp
from flax import nnx
from ncjax import encoders


class Rows(nnx.Module):
    def __init__(self, scale):
        self.scale = nnx.Param(jnp.full((12,), scale))
        self.inner = Scale()

    def __call__(self, images):
        return self.inner(images * self.scale[...][:, None]).mean(1).reshape(len(images), -1)


class Scale(nnx.Module):
    def __call__(self, images):
        return 2 * images


def rows():
    return Rows(1.0)


def function():
    return encoders.from_function(lambda images: images[:, ::3, ::3].reshape(len(images), -1), image_size=12)


def constant():
    return encoders.from_function(lambda images: 0 * images.mean((1, 2)) / 0)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images.npz and a module of encoders."""
    path = tmp_path_factory.mktemp("user")
    parts = {name: tiny.split(5, 21, seed=i) for i, name in enumerate(("source", "validation", "target"))}
    np.savez(
        path / "images.npz",
        images=np.concatenate([part.images for part in parts.values()]),
        labels=np.concatenate([part.labels + 10 * i for i, part in enumerate(parts.values())]),
        split=np.concatenate([np.full(len(part.labels), name) for name, part in parts.items()]),
    )
    (path / "own_models.py").write_text(OWN)
    return path


DATA = ("--dataset=npz", "--data_dir=images.npz", "--episodes=60", "--queries=5", "--shots", "2")


@pytest.fixture(autouse=True)
def _own_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undoes what the script adds to sys.path, and imports from there."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "own_models", raising=False)


def evaluate(*arguments: str, cwd: Path) -> Done:
    done = inside("evaluate.py", *arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done


def test_an_encoder_is_evaluated_and_its_features_kept(folder: Path) -> None:
    done = evaluate(
        "--encoder=own_models:rows", *DATA, "--heads", "ncc", "--layers", "--stages", "inner",
        "--save_features=kept.npz", "--support_augmentations=2", cwd=folder,
    )  # fmt: skip
    assert "own_models:rows: images as they are; mean 0.0, std 1.0; 12 features" in done.stdout
    written = json.loads((folder / "runs/encoders/npz.own_models-rows.evaluation.json").read_text())
    assert [stage["width"] for stage in written["layers"]] == [1, 12]
    assert written["episodes"][0]["support_augmentations"] == 2
    with np.load(folder / "kept.npz") as kept:
        benchmark = ncjax.data.load("npz", data_dir=folder / "images.npz")
        target = benchmark.target
        expected = 2 * target.images.astype(np.float64).mean(1).reshape(len(target), -1) / 255
        np.testing.assert_allclose(kept["features"], expected, rtol=1e-5)
        assert str(kept["encoder"]) == "own_models:rows"
        assert str(kept["dataset"]) == "npz, target"
        assert json.loads(str(kept["preprocessing"]))["mean"] == 0.0
        assert len(str(kept["fingerprint"]).split("-")) == 6
        features, labels = kept["features"], kept["labels"]
    done = evaluate("--features=kept.npz", *DATA[2:], "--heads", "ncc", cwd=folder)
    assert "kept.npz (own_models:rows on npz, target)" in done.stdout
    again = json.loads((folder / "kept.evaluation.json").read_text())["episodes"][0]
    report = ncjax.eval.feature_episodes(features, labels, shots=2, queries=5, episodes=60)
    assert again["accuracy"] == report.accuracy


def test_several_encoders_in_one_table(folder: Path) -> None:
    done = evaluate("--encoder=own_models:rows", "--encoder=own_models:function", *DATA, "--heads", "ncc", cwd=folder)
    written = json.loads((folder / "runs/encoders/npz.own_models-rows+own_models-function.evaluation.json").read_text())
    target = ncjax.data.load("npz", data_dir=folder / "images.npz").target
    grid = encoders.from_function(lambda images: images[:, ::3, ::3].reshape(len(images), -1))
    rows = encoders.from_function(lambda images: 2 * images.mean(1).reshape(len(images), -1))
    first, second = (ncjax.eval.episodes(p, target, shots=2, queries=5, episodes=60) for p in (rows, grid))
    pair = second.compare(first)
    (difference,) = written["less own_models:rows"]["own_models:function"]
    assert difference["difference"] == pytest.approx(pair.difference, abs=1e-6)
    assert difference["ci95"] == pytest.approx(pair.ci95, abs=1e-6)
    assert [numbers["episodes"][0]["accuracy"] for numbers in written["encoders"]] == pytest.approx(
        [first.accuracy, second.accuracy], abs=1e-6
    )
    table = done.stdout[done.stdout.index("directional") :]
    assert f"{100 * second.accuracy:.2f} ± {100 * second.ci95:.2f}" in table
    assert f"{100 * pair.difference:+.2f} ± {100 * pair.ci95:.2f}" in table


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--encoder=own_models:rows"], "--encoder needs images: give --dataset=NAME"),
        (["--encoder=own_models:rows", "--run=run"], "give either --run=PATH of a run, or --features=FILE.npz, or"),
        (["--features=a.npz", "--random_weights"], "--save_features and --random_weights are of --encoder"),
        (["--encoder=nothing", *DATA], "encoder 'nothing': give timm:NAME, hf:NAME_OR_FOLDER"),
        (["--encoder=own_models:rows", *DATA, "--layers"], "--layers of an encoder needs --stages"),
        (
            ["--encoder=own_models:rows", *DATA, "--layers", "--stages", "outer"],
            "no inner module 'outer'; it has inner",
        ),
        (["--encoder=own_models:rows", *DATA, "--random_weights"], "takes no random_weights"),
        (["--encoder=own_models:rows", *DATA, "--transform=centered_l2"], "need a run of pretrain.py"),
        (["--encoder=own_models:constant", *DATA], "output for image 0 is not finite"),
        (
            ["--encoder=own_models:rows", "--encoder=own_models:function", *DATA, "--save_features=a.npz"],
            "--save_features keeps the features of one --encoder",
        ),
        (["--encoder=own_models:rows", *DATA, "--split=source_test", "--save_features=."], "is a folder"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_mistakes_get_one_line(arguments: list[str], words: str, folder: Path) -> None:
    done = inside("evaluate.py", *arguments, cwd=folder)
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert words in last


class Layers(nnx.Module):
    """Two convolutions, named as stages of the real encoder."""

    def __init__(self, seed: int):
        self.first = nnx.Conv(3, 6, (3, 3), (2, 2), rngs=nnx.Rngs(seed))
        self.second = nnx.Conv(6, 9, (3, 3), (2, 2), rngs=nnx.Rngs(seed))

    def __call__(self, images):
        return jax.nn.relu(self.second(jax.nn.relu(self.first(images))))


@pytest.mark.slow
def test_the_figure_of_a_frozen_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a tiny encoder and tiny data: every number in the file is that of the library."""

    def encoder(random_weights: bool = False, stages: tuple = ()) -> ncjax.Classifier:
        return encoders.from_nnx(Layers(int(random_weights)), channels=3, stages=("first",))

    data = {"cifar_fs": tiny.benchmark(), "emnist": tiny.benchmark()}
    monkeypatch.setattr(imagenet_lite0, "encoder", encoder)
    monkeypatch.setattr(frozen_encoder, "benchmarks", lambda options: data)
    monkeypatch.setattr(frozen_encoder, "IN_IMAGENET", {"cifar_fs": {}})
    monkeypatch.setattr(models, "create", tiny.create)
    tiny.run(tmp_path / "run")
    options = frozen_encoder.Options(data_dir="PATH", out=tmp_path)
    outcome = sweep.Outcome(sweep.Point("CIFAR-FS", tiny.config(tmp_path / "run")), [runs.read(tmp_path / "run")])
    figures = sweep.Figures("frozen_encoder", options, [outcome])
    frozen_encoder.draw(figures)
    results = json.loads(figures.files[0].read_text())["numbers"]["found"]
    assert list(results["cifar_fs"]) == ["ImageNet", "random", "CIFAR-FS, by ncjax"]
    assert list(results["emnist"]) == ["ImageNet", "random"]
    target = data["emnist"].target
    last = results["emnist"]["random"]["stages"][-1]
    features = ncjax.features(encoder(True), target)
    measured = ncjax.collapse.measure(features, target.labels)
    assert last["cdnv"] == pytest.approx(measured.cdnv, rel=1e-5)
    assert last["nc1"] == pytest.approx(measured.nc1, rel=1e-4)
    report = ncjax.eval.feature_episodes(features, target.labels, shots=5, queries=15, episodes=2000)
    assert last["measured"][1] == pytest.approx(1 - report.accuracy)
    assert [stage["d"] for stage in results["emnist"]["random"]["stages"]] == [6, 9]
    assert figures.files[1].stat().st_size > 10_000


def test_a_sample_of_each_class_and_its_images() -> None:
    split = tiny.split(5, 20, seed=1)
    some = frozen_encoder.some_of(split, 7)
    assert np.bincount(some.labels).tolist() == [7] * 5
    rows = [next(i for i in range(100) if np.array_equal(split.images[i], image)) for image in some.images]
    assert len(set(rows)) == 35
    np.testing.assert_array_equal(split.labels[rows], some.labels)
