"""Streamed images give the same numbers as images in memory."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import tiny
from jax.sharding import Mesh
from PIL import Image

from ncjax import data
from ncjax.errors import InputError
from ncjax.train import Config, continued_config, pretrain, pretraining
from ncjax.train.run import Run
from ncjax.train.throughput import stream_above

pytestmark = [pytest.mark.cheap_compilation, pytest.mark.usefixtures("tiny_network")]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six source classes of 21 images and five target classes of 22, in files."""
    monkeypatch.setenv("NCJAX_CACHE_DIR", str(tmp_path / "cache"))
    for part, split in (("source", tiny.split(6, 21, seed=5)), ("target", tiny.split(5, 22, seed=2))):
        for i, (image, label) in enumerate(zip(split.images, split.labels, strict=True)):
            path = tmp_path / "own" / part / f"{part} {label}" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[..., 0]).save(path)
    return tmp_path / "own"


def test_images_in_files_are_those_in_memory(folder: Path) -> None:
    here = data.load("folder", data_dir=folder, image_size=12, samples_per_class=10)
    there = data.load("folder", data_dir=folder, image_size=12, samples_per_class=10, stream_above=0)
    assert isinstance(there.target.images, np.ndarray)
    lazy = there.source_train.images
    assert not isinstance(lazy, np.ndarray)
    assert (lazy.shape, lazy.ndim, lazy.dtype) == (here.source_train.images.shape, 4, np.uint8)
    np.testing.assert_array_equal(lazy[:], here.source_train.images)
    rows = np.asarray([7, 3, 3, 20])
    np.testing.assert_array_equal(lazy[rows], here.source_train.images[rows])
    np.testing.assert_array_equal(there.source_train.labels, here.source_train.labels)
    exact = data.load("folder", data_dir=folder, image_size=12, samples_per_class=10, stream_above=lazy.nbytes)
    assert isinstance(exact.source_train.images, np.ndarray)


@pytest.mark.slow
def test_a_streamed_run_is_the_resident_one(folder: Path, tmp_path: Path) -> None:
    for name, stream in (("resident", False), ("streamed", True)):
        pretrain(
            Config(
                dataset="folder", data_dir=str(folder), image_size=12, network="tiny", epochs=3, batch_size=16,
                learning_rate=0.1, schedule="constant", measurements=1, measure_episodes=50, stream=stream,
                workdir=tmp_path / name,
            )
        )  # fmt: skip
    tiny.assert_same_end(tmp_path / "streamed", tmp_path / "resident")
    for name, stream in (("resident", False), ("streamed", True)):
        pretrain(continued_config(tmp_path / name, epochs=1, stream=stream, workdir=tmp_path / f"{name} continued"))
    tiny.assert_same_end(tmp_path / "streamed continued", tmp_path / "resident continued")
    assert '"streamed": true' in (tmp_path / "streamed" / "timing.jsonl").read_text()


def test_what_has_no_files_cannot_be_streamed() -> None:
    with pytest.raises(InputError, match="glyphs has no prepared files that images could be streamed from"):
        data.load("glyphs", stream_above=0)


@pytest.mark.slow
def test_of_many_streamed_seeds_only_those_left_are_trained(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config(
        dataset="folder", data_dir=str(folder), image_size=12, network="tiny", epochs=1, batch_size=16,
        learning_rate=0.1, schedule="constant", measurements=0, measure_episodes=50, stream=True, seeds=2,
        workdir=tmp_path / "run",
    )  # fmt: skip
    pretrain(config)
    shutil.copytree(tmp_path / "run", tmp_path / "whole")
    last = max((tmp_path / "run" / "seed_1" / "checkpoints").glob("[0-9]*"), key=lambda path: int(path.name))
    shutil.rmtree(last)
    trained = []
    original = pretraining.train

    def train(run: Run, stop: Any) -> Any:
        trained.extend(config.workdir.name for config in run.configs)
        return original(run, stop)

    monkeypatch.setattr(pretraining, "train", train)
    pretrain(config)
    assert trained == ["seed_1"]
    tiny.assert_same_end(tmp_path / "run" / "seed_1", tmp_path / "whole" / "seed_1")


def test_streaming_starts_where_memory_would_end(on_devices: Callable[[int], Mesh]) -> None:
    assert stream_above(True) == 0
    assert stream_above(False) is None
    assert stream_above(None) == 8 * 2**30  # a CPU does not report its memory
    with jax.set_mesh(on_devices(8)):
        assert stream_above(None) == 2**30  # each holds a copy in the same memory
