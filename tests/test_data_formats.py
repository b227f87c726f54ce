"""The same images in every format give equal pixels and splits; mistakes of class splits are one line."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from image_formats import (
    IMAGES,
    LABELS,
    NAMES,
    SIZE,
    assert_same,
    load,
    nothing_is_left,
    split_file,
    write_csv,
    write_folder,
    write_parquet,
    write_pickles,
    write_tfds,
    write_tfds_of_tfrecords,
)

from ncjax import data
from ncjax.errors import InputError

pytestmark = pytest.mark.usefixtures("cache")


@pytest.mark.parametrize("write", [write_csv, write_parquet, write_tfds, write_tfds_of_tfrecords, write_pickles])
def test_every_format_gives_the_same_images_and_split(write: Callable[[Path], str], tmp_path: Path) -> None:
    split = split_file(tmp_path)
    expected = load(write_folder, tmp_path / "folder", class_split=split)
    assert_same(expected, load(write, tmp_path / "other", class_split=split))
    assert expected.target.class_names == NAMES[4:]
    np.testing.assert_array_equal(
        expected.target.images, IMAGES[LABELS >= 4][np.argsort(LABELS[LABELS >= 4], kind="stable")]
    )


@pytest.mark.parametrize("write", [write_csv, write_parquet, write_tfds])
def test_without_a_split_all_draw_the_same(write: Callable[[Path], str], tmp_path: Path) -> None:
    assert_same(load(write_folder, tmp_path / "folder", split_seed=3), load(write, tmp_path / "other", split_seed=3))
    again = data.load(
        write(tmp_path / "more"), data_dir=tmp_path / "more", image_size=SIZE, split_seed=3, stream_above=0
    )
    assert not isinstance(again.source_train.images, np.ndarray)
    np.testing.assert_array_equal(
        again.source_train.images[:], load(write_folder, tmp_path / "f", split_seed=3).source_train.images
    )


# Class splits


def test_a_split_tells_what_is_missing_and_left_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    split = split_file(tmp_path, source=["apple", "bear", "dragon"], validation=[])
    loaded = load(write_folder, tmp_path / "own", class_split=split)
    assert loaded.source_train.class_names == ("apple", "bear")
    said = capsys.readouterr().err
    assert "split.json: 1 of its classes are not in the data: dragon" in said
    assert "split.json: 2 classes of the data are in none of its lists: cloud, fox" in said


def test_mistakes_of_class_splits_are_one_line(tmp_path: Path, cache: Path) -> None:
    write_folder(tmp_path / "own")

    def load(split: str, message: str) -> None:
        with pytest.raises(InputError, match=message) as raised:
            data.load("folder", data_dir=tmp_path / "own", image_size=SIZE, class_split=split)
        assert "\n" not in str(raised.value)

    load("cub", "class split cub names no class of the data, whose classes are apple, bear, cloud, fox, lamp …; choose")
    load("tiered", "unknown class split 'tiered'; choose one of cifar_fs, fc100")
    load(split_file(tmp_path, target=["apple"]), "lists class 'apple' twice")
    load(split_file(tmp_path, target=["lamp"]), "there are 1 target classes; at least 2 are needed")
    load(split_file(tmp_path, target="lamp"), "must hold lists of class names")
    load(split_file(tmp_path, target=[1.5, "lamp"]), "target must be a list of class names")
    (tmp_path / "split.json").write_text("{")
    load(str(tmp_path / "split.json"), r"split\.json cannot be read as JSON")
    load(str(tmp_path / "none.json"), r"none\.json cannot be read as JSON \(No such file")
    nothing_is_left(cache)
