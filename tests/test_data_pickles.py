"""Pickles of few-shot repositories: every layout, and none that could run code."""

import os
import pickle
from pathlib import Path
from typing import Any

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
    parts,
    png,
    split_file,
    write_folder,
    write_pickles,
)

from ncjax import data
from ncjax.data import pickles
from ncjax.data.safe_pickle import safe_load
from ncjax.errors import InputError

pytestmark = pytest.mark.usefixtures("cache")


def test_pickles_divide_their_classes(tmp_path: Path) -> None:
    loaded = data.load(write_pickles(tmp_path), data_dir=tmp_path)
    assert loaded.source_train.class_names == NAMES[:3]
    assert loaded.validation is not None
    assert loaded.validation.class_names == (NAMES[3],)
    assert loaded.target.images.shape == (8, SIZE, SIZE, 3)
    assert_same(loaded, load(write_folder, tmp_path / "folder", class_split=split_file(tmp_path)))


def _cached(root: Path, part: str, rows: np.ndarray) -> None:
    of_class = {NAMES[c]: np.flatnonzero(LABELS[rows] == c).tolist() for c in np.unique(LABELS[rows])}
    content = {"image_data": IMAGES[rows], "class_dict": of_class}
    (root / f"mini-imagenet-cache-{part}.pkl").write_bytes(pickle.dumps(content, protocol=2))


def _bytes_keys(root: Path, part: str, rows: np.ndarray) -> None:
    content = {b"data": IMAGES[rows], b"labels": LABELS[rows].tolist()}
    (root / f"FC100_{part}.pickle").write_bytes(pickle.dumps(content, protocol=4))


def _tiered(root: Path, part: str, rows: np.ndarray) -> None:
    present, numbers = np.unique(LABELS[rows], return_inverse=True)
    encoded = [np.frombuffer(png(pixels), np.uint8) for pixels in IMAGES[rows]]
    labels = {
        "label_specific": numbers, "label_specific_str": [NAMES[c] for c in present],
        "label_general": numbers // 2, "label_general_str": [f"above {part} {i}" for i in range(2)],
    }  # fmt: skip
    (root / f"{part}_images_png.pkl").write_bytes(pickle.dumps(encoded))
    (root / f"{part}_labels.pkl").write_bytes(pickle.dumps(labels))


def _tiered_arrays(root: Path, part: str, rows: np.ndarray) -> None:
    np.savez(root / f"{part}_images.npz", images=IMAGES[rows])
    (root / f"{part}_labels.pkl").write_bytes(pickle.dumps({"labels": LABELS[rows].tolist()}))


def _few_shot(root: Path, part: str, rows: np.ndarray) -> None:
    numbers = np.unique(LABELS[rows], return_inverse=True)[1]
    np.savez(root / f"few-shot-{part}.npz", features=IMAGES[rows].astype(np.float32), targets=numbers)


@pytest.mark.parametrize(
    ("write", "names"),
    [
        (_cached, NAMES[4:]),
        (_bytes_keys, ("4", "5")),
        (_tiered, NAMES[4:]),
        (_tiered_arrays, ("4", "5")),
        (_few_shot, ("target/0", "target/1")),
    ],
)
def test_every_known_layout(write: Any, names: tuple[str, ...], tmp_path: Path) -> None:
    for part, rows in parts().items():
        write(tmp_path, part, rows)
    loaded = data.load("pickles", data_dir=tmp_path, image_size=SIZE)
    assert loaded.target.class_names == names
    order = np.argsort(LABELS, kind="stable")
    np.testing.assert_array_equal(
        loaded.target.images[np.argsort(loaded.target.labels, kind="stable")], IMAGES[order][LABELS[order] >= 4]
    )
    if write is _tiered:
        assert loaded.target.superclasses == ("above test 0", "above test 0")
        assert loaded.source_train.superclasses == ("above train 0", "above train 0", "above train 1")


def test_a_pickle_of_python_2_is_latin_1(tmp_path: Path) -> None:
    """Written as Python 2 does: strings of bytes, and NumPy's arrays through `_codecs` or raw."""
    raw = b"\x80\x02}q\x00(U\x04dataq\x01U\x03\xe4\xf6\xfcq\x02U\x06labelsq\x03]q\x04(K\x01K\x02eu."
    (tmp_path / "two.pickle").write_bytes(raw)
    assert safe_load(tmp_path / "two.pickle") == {"data": "äöü", "labels": [1, 2]}
    for protocol in range(6):
        values = {
            "a": np.arange(6).reshape(2, 3).T,
            "b": np.float32(2),
            "c": {1, 2},
            "d": b"\xe4",
            "e": np.array(["x", None]),
        }
        (tmp_path / "own.pickle").write_bytes(pickle.dumps(values, protocol=protocol))
        found = safe_load(tmp_path / "own.pickle")
        for key, value in values.items():
            np.testing.assert_array_equal(found[key], value)


class _Hostile:
    """An object whose function `pickle.load` calls."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> Any:
        return self.function, self.arguments


@pytest.mark.parametrize(
    ("function", "arguments", "named"),
    [
        (os.system, ("touch HERE",), "posix.system"),
        (eval, ("open('HERE', 'w')",), "builtins.eval"),
        (getattr, ([], "append"), "builtins.getattr"),
        (np.load, ("HERE",), "numpy.load"),
        (np.ndarray, ((1,),), ""),
        (pickle.loads, (b"N.",), "_pickle.loads"),
    ],
)
def test_a_hostile_pickle_is_not_opened(
    function: Any, arguments: Any, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for part, rows in parts().items():
        _bytes_keys(tmp_path, part, rows)
    content = {"data": IMAGES, "labels": LABELS.tolist(), "more": _Hostile(function, *arguments)}
    (tmp_path / "FC100_test.pickle").write_bytes(pickle.dumps(content))
    said = f"FC100_test.pickle names {named}, which is neither an array" if named else "cannot be read as a pickle"
    with pytest.raises(InputError, match=said) as raised:
        data.load("pickles", data_dir=tmp_path)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "HERE").exists()
    nothing_is_left(cache)


def test_pickles_that_are_prepared_are_not_opened_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part, rows in parts().items():
        _bytes_keys(tmp_path, part, rows)
    first = data.load("pickles", data_dir=tmp_path)
    monkeypatch.setattr(pickles, "safe_load", lambda path: pytest.fail(f"opened {path}"))
    second = data.load("pickles", data_dir=tmp_path)
    assert second.target.class_names == first.target.class_names
    np.testing.assert_array_equal(second.target.images, first.target.images)


def test_mistakes_of_pickles_are_one_line(tmp_path: Path) -> None:
    def load(message: str) -> None:
        with pytest.raises(InputError, match=message) as raised:
            data.load("pickles", data_dir=tmp_path)
        assert "\n" not in str(raised.value)

    load(r"holds no file such as CIFAR_FS_train\.pickle")
    for part, rows in parts().items():
        _bytes_keys(tmp_path, part, rows)
    place = tmp_path / "FC100_train.pickle"
    whole = place.read_bytes()
    place.write_bytes(whole[:-30])
    load(r"FC100_train\.pickle cannot be read as a pickle .*cut off")
    place.write_bytes(pickle.dumps({"data": IMAGES}))
    load(r"FC100_train\.pickle holds no labels")
    place.write_bytes(pickle.dumps({"data": IMAGES / 255, "labels": LABELS.tolist()}))
    load(r"FC100_train\.pickle holds no images, but float64 \[24, 8, 8, 3\]")
    place.write_bytes(pickle.dumps({"data": IMAGES[:5], "labels": LABELS[parts()["train"]].tolist()}))
    load(r"FC100_train\.pickle has 5 images, .* 12 labels")
    place.write_bytes(whole)
    (tmp_path / "CIFAR_FS_train.pickle").write_bytes(whole)
    load("holds several data sets: CIFAR-FS, FC100; give each its own folder")
