"""Parquet files: columns by name, damage, rows that lack something."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from image_formats import IMAGES, LABELS, NAMES, SIZE, cut, load, nothing_is_left, png, spoil, write_parquet

from ncjax import data
from ncjax.errors import InputError

pytestmark = pytest.mark.usefixtures("cache")


def test_parquet_without_names_or_with_labels_as_strings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = load(lambda root: write_parquet(root, names=None, plain=True), tmp_path / "plain")
    assert {*named.source_train.class_names, *named.target.class_names} == set(NAMES)
    capsys.readouterr()
    numbered = load(lambda root: write_parquet(root, names=None), tmp_path / "numbers")
    assert {*numbered.source_train.class_names, *numbered.target.class_names} == set("012345")
    assert "the classes have no names; their numbers serve as names" in capsys.readouterr().err


def test_parquet_columns_by_name(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    twice = {"fine": LABELS, "coarse": LABELS // 3, "label": ["x"] * 24}
    write_parquet(tmp_path / "own", names=None, **twice)
    common: dict[str, Any] = {"data_dir": tmp_path / "own", "image_size": SIZE}
    loaded = data.load("parquet", label_column="fine", **common)
    assert loaded.target.num_classes == 2
    for columns, message in (
        ({"label_column": "none"}, "has no column none; its columns are image, label, fine, coarse"),
        (
            {"label_column": "image"},
            "column image is not of integers or strings; label_column must name a",
        ),
        ({"image_column": "fine"}, "column fine is not of a struct of bytes and path, or bytes"),
    ):
        with pytest.raises(InputError, match=message):
            data.load("parquet", **columns, **common)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            cut,
            r"train-00001-of-00002\.parquet cannot be read as Parquet \(.*\); it is cut off or altered, down",
        ),
        (lambda path: spoil(path, 600), r"train-00001-of-00002\.parquet cannot be read from row 0 on \(.*altered"),
    ],
)
def test_damaged_parquet(damage: Callable[[Path], None], message: str, tmp_path: Path, cache: Path) -> None:
    write_parquet(tmp_path / "own")
    damage(tmp_path / "own" / "train-00001-of-00002.parquet")
    with pytest.raises(InputError, match=message) as raised:
        data.load("parquet", data_dir=tmp_path / "own", image_size=SIZE)
    assert "\n" not in str(raised.value)
    nothing_is_left(cache)


def test_parquet_rows_that_lack_something(tmp_path: Path, cache: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    path = tmp_path / "own.parquet"
    image = [{"bytes": png(pixels), "path": None} for pixels in IMAGES]
    image[5] = {"bytes": None, "path": None}

    def write(image: Any, label: Any) -> None:
        pq.write_table(pa.table({"image": image, "label": pa.array(label, pa.int32())}), path)

    write(image, LABELS)
    with pytest.raises(InputError, match=r"own\.parquet, row 5 is not an image.* --skip_corrupt"):
        data.load("parquet", data_dir=path, image_size=SIZE)
    assert len(data.load("parquet", data_dir=path, image_size=SIZE, skip_corrupt=True).target) >= 7
    write(image, [*LABELS[:-1].tolist(), None])
    with pytest.raises(InputError, match=r"own\.parquet, row 23: column label has no label"):
        data.load("parquet", data_dir=path, image_size=SIZE)
    write([[one] for one in image], LABELS)
    with pytest.raises(
        InputError, match=r"has no column of a struct of bytes and path, or bytes; its columns are image"
    ):
        data.load("parquet", data_dir=path, image_size=SIZE)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"holds no file \*\.parquet"):
        data.load("parquet", data_dir=tmp_path / "empty")
