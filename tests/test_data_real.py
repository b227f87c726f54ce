"""CIFAR-100 exported to users' formats: the same pixels and numbers; and the documentation's commands."""

import os
import pickle
import re
import shlex
from pathlib import Path

import image_formats as formats
import jax
import numpy as np
import pytest
from commands import ROOT, inside
from PIL import Image

import ncjax
from ncjax import data
from ncjax.data.__main__ import main as preview
from ncjax.train import fingerprint

pytestmark = [pytest.mark.slow, pytest.mark.cheap_compilation, pytest.mark.usefixtures("cache")]

_PAGE = (ROOT / "docs" / "your_data.md").read_text(encoding="utf-8")


@pytest.fixture
def cifar() -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """CIFAR-100's first images of each class, in their official order: uint8 [1200, 32, 32, 3], classes, names."""
    folder = Path(os.environ.get("NCJAX_DATA_DIR", "nowhere")) / "cifar-100-python"
    if not folder.is_dir():
        pytest.skip("CIFAR-100 is not at hand: NCJAX_DATA_DIR names its folder")
    with (folder / "test").open("rb") as file:
        content = pickle.load(file, encoding="latin1")
    with (folder / "meta").open("rb") as file:
        names = tuple(pickle.load(file, encoding="latin1")["fine_label_names"])
    images = content["data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    labels = np.array(content["fine_labels"])
    kept = np.sort(np.concatenate([np.flatnonzero(labels == c)[:12] for c in range(100)]))
    return np.ascontiguousarray(images[kept]), labels[kept], names


def test_four_formats_give_the_same_numbers(
    cifar: tuple[np.ndarray, np.ndarray, tuple[str, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyarrow")
    images, labels, names = cifar
    for name, value in (("IMAGES", images), ("LABELS", labels), ("NAMES", names), ("SIZE", 32)):
        monkeypatch.setattr(formats, name, value)
    lists = data.class_splits.read("cifar_fs").parts
    rows = {
        part: np.flatnonzero([names[label] in lists[key] for label in labels])
        for part, key in (("train", "source"), ("val", "validation"), ("test", "target"))
    }
    monkeypatch.setattr(formats, "parts", lambda: rows)
    params = ncjax.Classifier.from_callable(
        lambda w, x: jax.nn.relu(x.reshape(len(x), -1) @ w),
        jax.random.normal(jax.random.key(0), (3072, 64)) / 55,
        mean=0.5,
    )
    found = {}
    for write in (
        formats.write_folder,
        lambda r: formats.write_parquet(r, names=names),
        formats.write_tfds,
        formats.write_pickles,
    ):
        root = tmp_path / f"{len(found)}"
        loaded = data.load(write(root), data_dir=root, image_size=32, class_split="cifar_fs")
        report = ncjax.eval.episodes(params, loaded.target, shots=2, queries=5, episodes=200)
        collapse = ncjax.collapse.measure(ncjax.features(params, loaded.source_train), loaded.source_train.labels)
        predicted = ncjax.eval.fit(params, loaded.target).scores(loaded.source_train)
        found[loaded.name] = (fingerprint(loaded), report.accuracy, collapse.cdnv, predicted.tobytes())
        assert loaded.target.superclasses is not None
        assert [s.num_classes for s in (loaded.source_train, loaded.target)] == [64, 20]
    assert list(found) == ["folder", "parquet", "tfds:tiny_set", "pickles"]
    assert len(set(found.values())) == 1


@pytest.mark.usefixtures("tiny_network")
def test_the_pages_commands_end_with_a_prediction(
    cifar: tuple[np.ndarray, np.ndarray, tuple[str, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands as they are, but with short training."""
    images, labels, names = cifar
    monkeypatch.chdir(tmp_path)
    for i, (pixels, label) in enumerate(zip(images, labels, strict=True)):
        if label < 12:
            place = Path("photos") / names[label]
        elif label < 15 and len(list((Path("labelled") / names[label]).glob("*"))) < 5:
            place = Path("labelled") / names[label]
        elif label < 15:
            place = Path("new")
        else:
            continue
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{i:04}.jpg")
    commands = [
        shlex.split(line) for block in re.findall(r"```sh\n(.*?)```", _PAGE, re.S) for line in block.splitlines()
    ]
    assert len(commands) == 4
    for python, script, *arguments in commands:
        assert python == "python"
        if script == "-m":
            assert arguments[0] == "ncjax.data"
            assert preview(arguments[1:]) == 0
            continue
        short = (
            ["--preset=smoke", "--batch_size=32", "--measurements=0", "--measure_episodes=50"]
            if "pretrain" in script
            else []
        )
        done = inside(Path(script).name, *arguments, *(short if "pretrain" in script else ()), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    table = Path("predictions.csv").read_text().splitlines()
    assert len(table) == 1 + len(list(Path("new").iterdir())) == 22
    assert {line.split(",")[1] for line in table[1:]} <= set(names[12:15])
    assert Path("again.csv").read_text() == Path("predictions.csv").read_text()
