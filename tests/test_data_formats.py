"""The same images in every format: equal pixels and splits, and one-line errors."""

import io
import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

from ncjax import data
from ncjax.data import Benchmark, pickles, tfrecord
from ncjax.errors import InputError
from ncjax.train.run_data import fingerprint

NAMES = ("apple", "bear", "cloud", "fox", "lamp", "mouse")
EACH = 4
SIZE = 8
IMAGES = np.random.default_rng(0).integers(0, 256, (len(NAMES) * EACH, SIZE, SIZE, 3), np.uint8)
LABELS = np.arange(len(IMAGES)) % len(NAMES)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NCJAX_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _folder(root: Path) -> str:
    for i, (pixels, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
        place = root / NAMES[label] / f"{i:05}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(_png(pixels))
    return "folder"


def _csv(root: Path) -> str:
    (root / "images").mkdir(parents=True)
    for i, pixels in enumerate(IMAGES):
        (root / "images" / f"{i:05}.png").write_bytes(_png(pixels))
    lines = [f"{i:05}.png,{NAMES[label]}" for i, label in enumerate(LABELS)]
    (root / "all.csv").write_text("\n".join(["filename,label", *lines]) + "\n")
    return "csv"


def _parquet(root: Path, *, names: tuple[str, ...] | None = NAMES, plain: bool = False, **columns: Any) -> str:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    root.mkdir(parents=True, exist_ok=True)
    pngs = [_png(pixels) for pixels in IMAGES]
    if plain:
        table = pa.table({"image": pa.array(pngs, pa.binary()), "label": [NAMES[label] for label in LABELS]})
    else:
        image = pa.array([{"bytes": png, "path": f"{i}.png"} for i, png in enumerate(pngs)])
        table = pa.table({"image": image, "label": pa.array(LABELS, pa.int64())} | columns)
    if names is not None:
        features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    half = len(IMAGES) // 2
    for i in range(2):
        part = table.slice(i * half, half)
        pq.write_table(part, root / f"train-0000{i}-of-00002.parquet", row_group_size=5, write_page_checksum=True)
    return "parquet"


class _Records:
    """Writes records as TFRecord or ArrayRecord files."""

    def __init__(self, path: Path, framing: str) -> None:
        self.framing, self.path = framing, path
        self.file = path.open("wb") if framing == "tfrecord" else ArrayRecordWriter(str(path), "group_size:1")

    def __enter__(self) -> "_Records":
        return self

    def write(self, record: bytes) -> None:
        if self.framing == "tfrecord":
            head = struct.pack("<Q", len(record))
            self.file.write(head + struct.pack("<I", tfrecord.masked_crc32c(head)))
            record += struct.pack("<I", tfrecord.masked_crc32c(record))
        self.file.write(record)

    def __exit__(self, *_: object) -> None:
        self.file.close()


def _tfds(root: Path, framing: str = "array_record", version: str = "1.0.0") -> str:
    """A data set as tensorflow-datasets writes it: two parts of the same classes, two files each."""
    folder = root / "tiny_set" / version
    folder.mkdir(parents=True)
    features = tfds.features.FeaturesDict(
        {
            "id": tfds.features.Text(),
            "image": tfds.features.Image(shape=(SIZE, SIZE, 3), encoding_format="png"),
            "label": tfds.features.ClassLabel(names=list(NAMES)),
        }
    )
    splits = []
    for number, part in enumerate(("test", "train")):
        rows = np.array_split(np.array_split(np.arange(len(IMAGES)), 2)[number], 2)
        for shard, of_shard in enumerate(rows):
            with _Records(folder / f"tiny_set-{part}.{framing}-0000{shard}-of-00002", framing) as file:
                for i in of_shard:
                    example = tf_example_pb2.Example()
                    fields = example.features.feature
                    fields["image"].bytes_list.value.append(_png(IMAGES[i]))
                    fields["label"].int64_list.value.append(int(LABELS[i]))
                    file.write(example.SerializeToString())
        template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
        lengths = [str(len(r)) for r in rows]
        splits.append({"name": part, "shardLengths": lengths, "numBytes": "1", "filepathTemplate": template})
    features.save_config(str(folder))
    (folder / "dataset_info.json").write_text(
        json.dumps(
            {
                "name": "tiny_set",
                "version": version,
                "fileFormat": framing,
                "moduleName": "tiny.tiny_set",
                "splits": splits,
            }
        )
    )
    return "tfds:tiny_set"


def _tfds_of_tfrecords(root: Path) -> str:
    return _tfds(root, "tfrecord")


def _parts() -> dict[str, np.ndarray]:
    """Rows of the parts of a class split: 3 source, 1 validation and 2 target classes."""
    of = {"train": (0, 1, 2), "val": (3,), "test": (4, 5)}
    return {part: np.flatnonzero(np.isin(LABELS, classes)) for part, classes in of.items()}


def _pickles(root: Path) -> str:
    root.mkdir(parents=True, exist_ok=True)
    for part, rows in _parts().items():
        name = f"miniImageNet_category_split_{'train_phase_train' if part == 'train' else part}.pickle"
        numbers = {NAMES[label]: int(label) for label in np.unique(LABELS[rows])}
        content = {"data": IMAGES[rows], "labels": LABELS[rows].tolist(), "catname2label": numbers}
        (root / name).write_bytes(pickle.dumps(content))
    return "pickles"


def _load(write: Callable[[Path], str], root: Path, **options: Any) -> Benchmark:
    return data.load(write(root), data_dir=root, image_size=SIZE, **options)


def _assert_same(one: Benchmark, other: Benchmark) -> None:
    assert fingerprint(one) == fingerprint(other)
    for part in ("source_train", "source_test", "validation", "target"):
        a, b = getattr(one, part), getattr(other, part)
        assert (a is None) == (b is None)
        if a is not None:
            assert a.class_names == b.class_names
            np.testing.assert_array_equal(a.images, b.images)
            np.testing.assert_array_equal(a.labels, b.labels)


def _split_file(tmp_path: Path, **changes: Any) -> str:
    split = {"source": list(NAMES[:3]), "validation": [NAMES[3]], "target": list(NAMES[4:])} | changes
    (tmp_path / "split.json").write_text(json.dumps(split))
    return str(tmp_path / "split.json")


@pytest.mark.parametrize("write", [_csv, _parquet, _tfds, _tfds_of_tfrecords, _pickles])
def test_every_format_gives_the_same_images_and_split(write: Callable[[Path], str], tmp_path: Path) -> None:
    split = _split_file(tmp_path)
    expected = _load(_folder, tmp_path / "folder", class_split=split)
    _assert_same(expected, _load(write, tmp_path / "other", class_split=split))
    assert expected.target.class_names == NAMES[4:]
    np.testing.assert_array_equal(
        expected.target.images, IMAGES[LABELS >= 4][np.argsort(LABELS[LABELS >= 4], kind="stable")]
    )


@pytest.mark.parametrize("write", [_csv, _parquet, _tfds])
def test_without_a_split_all_draw_the_same(write: Callable[[Path], str], tmp_path: Path) -> None:
    _assert_same(_load(_folder, tmp_path / "folder", split_seed=3), _load(write, tmp_path / "other", split_seed=3))
    again = data.load(
        write(tmp_path / "more"), data_dir=tmp_path / "more", image_size=SIZE, split_seed=3, stream_above=0
    )
    assert not isinstance(again.source_train.images, np.ndarray)
    np.testing.assert_array_equal(
        again.source_train.images[:], _load(_folder, tmp_path / "f", split_seed=3).source_train.images
    )


def _spoil(path: Path, at: int = -40) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 0x10
    path.write_bytes(bytes(content))


def _cut(path: Path, by: int = 60) -> None:
    path.write_bytes(path.read_bytes()[:-by])


def _nothing_is_left(cache: Path) -> None:
    assert not [path for path in cache.rglob("*") if path.is_file()]


# Parquet


def test_parquet_without_names_or_with_labels_as_strings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = _load(lambda root: _parquet(root, names=None, plain=True), tmp_path / "plain")
    assert {*named.source_train.class_names, *named.target.class_names} == set(NAMES)
    capsys.readouterr()
    numbered = _load(lambda root: _parquet(root, names=None), tmp_path / "numbers")
    assert {*numbered.source_train.class_names, *numbered.target.class_names} == set("012345")
    assert "the classes have no names; their numbers serve as names" in capsys.readouterr().err


def test_parquet_columns_by_name(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    twice = {"fine": LABELS, "coarse": LABELS // 3, "label": ["x"] * 24}
    _parquet(tmp_path / "own", names=None, **twice)
    common: dict[str, Any] = {"data_dir": tmp_path / "own", "image_size": SIZE}
    loaded = data.load("parquet", label_column="fine", **common)
    assert loaded.target.num_classes == 3
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
            _cut,
            r"train-00001-of-00002\.parquet cannot be read as Parquet \(.*\); it is cut off or altered, down",
        ),
        (lambda path: _spoil(path, 600), r"train-00001-of-00002\.parquet cannot be read from row 0 on \(.*altered"),
    ],
)
def test_damaged_parquet(damage: Callable[[Path], None], message: str, tmp_path: Path, cache: Path) -> None:
    _parquet(tmp_path / "own")
    damage(tmp_path / "own" / "train-00001-of-00002.parquet")
    with pytest.raises(InputError, match=message) as raised:
        data.load("parquet", data_dir=tmp_path / "own", image_size=SIZE)
    assert "\n" not in str(raised.value)
    _nothing_is_left(cache)


def test_parquet_rows_that_lack_something(tmp_path: Path, cache: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    path = tmp_path / "own.parquet"
    image = [{"bytes": _png(pixels), "path": None} for pixels in IMAGES]
    image[5] = {"bytes": None, "path": None}

    def write(image: Any, label: Any) -> None:
        pq.write_table(pa.table({"image": image, "label": pa.array(label, pa.int32())}), path)

    write(image, LABELS)
    with pytest.raises(InputError, match=r"own\.parquet, row 5 is not an image.* --skip_corrupt"):
        data.load("parquet", data_dir=path, image_size=SIZE)
    assert len(data.load("parquet", data_dir=path, image_size=SIZE, skip_corrupt=True).target) >= 11
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


# Records of tensorflow-datasets


def test_the_checksum_is_crc32c() -> None:
    """The examples of RFC 3720, section B.4; and a loop over bits for any length."""
    for content, expected in (
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ):
        assert tfrecord.crc32c(content) == expected
    content = np.random.default_rng(0).bytes(3000)
    state = 0xFFFFFFFF
    found = {}
    for length, byte in enumerate(content):
        found[length] = state ^ 0xFFFFFFFF
        state ^= byte
        for _ in range(8):
            state = state >> 1 ^ (0x82F63B78 if state & 1 else 0)
    for length in (0, 1, 3, 4, 5, 1023, 1024, 1025, 2048, 2999):
        assert tfrecord.crc32c(content[:length]) == found[length]


@pytest.mark.parametrize(
    ("framing", "damage", "message"),
    [
        ("tfrecord", _cut, r"train\.tfrecord-00001-of-00002: record 5 is cut off"),
        ("tfrecord", _spoil, r"train\.tfrecord-00001-of-00002: record 5 has a wrong checksum"),
        ("tfrecord", lambda path: _spoil(path, 0), r"00001-of-00002: record 0 has a length with a wrong checksum"),
        ("tfrecord", lambda path: path.write_bytes(b""), r"00001-of-00002 has 0 of 6 records of train"),
        ("tfrecord", Path.unlink, r"00001-of-00002 does not exist: the data set is incomplete"),
        ("array_record", _cut, r"train\.array_record-00001-of-00002 has 0 of 6 records of train: prepare or download"),
        ("array_record", lambda path: _spoil(path, 70), r"00001-of-00002 (cannot be read from record 0 on|has)"),
    ],
)
def test_damaged_records(framing: str, damage: Any, message: str, tmp_path: Path, cache: Path) -> None:
    _tfds(tmp_path, framing)
    damage(tmp_path / "tiny_set" / "1.0.0" / f"tiny_set-train.{framing}-00001-of-00002")
    with pytest.raises(InputError, match=message) as raised:
        data.load("tfds:tiny_set", data_dir=tmp_path)
    assert "\n" not in str(raised.value)
    _nothing_is_left(cache)


def test_which_version_of_a_prepared_data_set(tmp_path: Path) -> None:
    for version in ("1.9.0", "1.10.0"):
        _tfds(tmp_path, version=version)
    loaded = data.load("tfds:tiny_set", data_dir=tmp_path)
    assert loaded.target.images.shape[1:] == (SIZE, SIZE, 3)
    _assert_same(loaded, data.load("tfds:tiny_set:1.9.0", data_dir=tmp_path))
    _assert_same(loaded, data.load("tfds:tiny_set", data_dir=tmp_path / "tiny_set" / "1.9.0"))
    with pytest.raises(
        InputError, match=r"tfds:other is not prepared in .*prepare it once: python -c .*tfds\.builder\('other'"
    ) as raised:
        data.load("tfds:other", data_dir=tmp_path)
    assert "\n" not in str(raised.value)
    for name in ("tfds:tiny_set:2.0.0", "tfds:"):
        with pytest.raises(InputError):
            data.load(name, data_dir=tmp_path)
    with pytest.raises(InputError, match="unknown data set 'folder:x'"):
        data.load("folder:x", data_dir=tmp_path)


# Pickles


def test_pickles_divide_their_classes(tmp_path: Path) -> None:
    loaded = data.load(_pickles(tmp_path), data_dir=tmp_path)
    assert loaded.source_train.class_names == NAMES[:3]
    assert loaded.validation is not None
    assert loaded.validation.class_names == (NAMES[3],)
    assert loaded.target.images.shape == (8, SIZE, SIZE, 3)
    _assert_same(loaded, _load(_folder, tmp_path / "folder", class_split=_split_file(tmp_path)))


def _cached(root: Path, part: str, rows: np.ndarray) -> None:
    of_class = {NAMES[c]: np.flatnonzero(LABELS[rows] == c).tolist() for c in np.unique(LABELS[rows])}
    content = {"image_data": IMAGES[rows], "class_dict": of_class}
    (root / f"mini-imagenet-cache-{part}.pkl").write_bytes(pickle.dumps(content, protocol=2))


def _bytes_keys(root: Path, part: str, rows: np.ndarray) -> None:
    content = {b"data": IMAGES[rows], b"labels": LABELS[rows].tolist()}
    (root / f"FC100_{part}.pickle").write_bytes(pickle.dumps(content, protocol=4))


def _tiered(root: Path, part: str, rows: np.ndarray) -> None:
    present, numbers = np.unique(LABELS[rows], return_inverse=True)
    encoded = [np.frombuffer(_png(pixels), np.uint8) for pixels in IMAGES[rows]]
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
    for part, rows in _parts().items():
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
    assert pickles.safe_load(tmp_path / "two.pickle") == {"data": "äöü", "labels": [1, 2]}
    for protocol in range(6):
        values = {
            "a": np.arange(6).reshape(2, 3).T,
            "b": np.float32(2),
            "c": {1, 2},
            "d": b"\xe4",
            "e": np.array(["x", None]),
        }
        (tmp_path / "own.pickle").write_bytes(pickle.dumps(values, protocol=protocol))
        found = pickles.safe_load(tmp_path / "own.pickle")
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
    for part, rows in _parts().items():
        _bytes_keys(tmp_path, part, rows)
    content = {"data": IMAGES, "labels": LABELS.tolist(), "more": _Hostile(function, *arguments)}
    (tmp_path / "FC100_test.pickle").write_bytes(pickle.dumps(content))
    said = f"FC100_test.pickle names {named}, which is neither an array" if named else "cannot be read as a pickle"
    with pytest.raises(InputError, match=said) as raised:
        data.load("pickles", data_dir=tmp_path)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "HERE").exists()
    _nothing_is_left(cache)


def test_pickles_that_are_prepared_are_not_opened_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part, rows in _parts().items():
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
    for part, rows in _parts().items():
        _bytes_keys(tmp_path, part, rows)
    place = tmp_path / "FC100_train.pickle"
    whole = place.read_bytes()
    place.write_bytes(whole[:-30])
    load(r"FC100_train\.pickle cannot be read as a pickle .*cut off")
    place.write_bytes(pickle.dumps({"data": IMAGES}))
    load(r"FC100_train\.pickle holds no labels")
    place.write_bytes(pickle.dumps({"data": IMAGES / 255, "labels": LABELS.tolist()}))
    load(r"FC100_train\.pickle holds no images, but float64 \[24, 8, 8, 3\]")
    place.write_bytes(pickle.dumps({"data": IMAGES[:5], "labels": LABELS[_parts()["train"]].tolist()}))
    load(r"FC100_train\.pickle has 5 images, .* 12 labels")
    place.write_bytes(whole)
    (tmp_path / "CIFAR_FS_train.pickle").write_bytes(whole)
    load("holds several data sets: CIFAR-FS, FC100; give each its own folder")


# Class splits


def test_a_split_tells_what_is_missing_and_left_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    split = _split_file(tmp_path, source=["apple", "bear", "dragon"], validation=[])
    loaded = _load(_folder, tmp_path / "own", class_split=split)
    assert loaded.source_train.class_names == ("apple", "bear")
    said = capsys.readouterr().err
    assert "split.json: 1 of its classes are not in the data: dragon" in said
    assert "split.json: 2 classes of the data are in none of its lists: cloud, fox" in said


def test_mistakes_of_class_splits_are_one_line(tmp_path: Path, cache: Path) -> None:
    _folder(tmp_path / "own")

    def load(split: str, message: str) -> None:
        with pytest.raises(InputError, match=message) as raised:
            data.load("folder", data_dir=tmp_path / "own", image_size=SIZE, class_split=split)
        assert "\n" not in str(raised.value)

    load("cub", "class split cub names no class of the data, whose classes are apple, bear, cloud, fox, lamp …; choose")
    load("tiered", "unknown class split 'tiered'; choose one of cifar_fs, fc100")
    load(_split_file(tmp_path, target=["apple"]), "lists class 'apple' twice")
    load(_split_file(tmp_path, target=["lamp"]), "there are 1 target classes; at least 2 are needed")
    load(_split_file(tmp_path, target="lamp"), "must hold lists of class names")
    load(_split_file(tmp_path, target=[1.5, "lamp"]), "target must be a list of class names")
    (tmp_path / "split.json").write_text("{")
    load(str(tmp_path / "split.json"), r"split\.json cannot be read as JSON")
    load(str(tmp_path / "none.json"), r"none\.json cannot be read as JSON \(No such file")
    _nothing_is_left(cache)
