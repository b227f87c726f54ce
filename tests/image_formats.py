"""Writes the same few images in every format that ncjax opens."""

import io
import json
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
from ncjax.data import Benchmark, tfrecord
from ncjax.train.run_data import fingerprint

NAMES = ("apple", "bear", "cloud", "fox", "lamp", "mouse")
EACH = 4
SIZE = 8
IMAGES = np.random.default_rng(0).integers(0, 256, (len(NAMES) * EACH, SIZE, SIZE, 3), np.uint8)
LABELS = np.arange(len(IMAGES)) % len(NAMES)


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_folder(root: Path) -> str:
    for i, (pixels, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
        place = root / NAMES[label] / f"{i:05}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(png(pixels))
    return "folder"


def write_csv(root: Path) -> str:
    (root / "images").mkdir(parents=True)
    for i, pixels in enumerate(IMAGES):
        (root / "images" / f"{i:05}.png").write_bytes(png(pixels))
    lines = [f"{i:05}.png,{NAMES[label]}" for i, label in enumerate(LABELS)]
    (root / "all.csv").write_text("\n".join(["filename,label", *lines]) + "\n")
    return "csv"


def write_parquet(root: Path, *, names: tuple[str, ...] | None = NAMES, plain: bool = False, **columns: Any) -> str:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    root.mkdir(parents=True, exist_ok=True)
    pngs = [png(pixels) for pixels in IMAGES]
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


class Records:
    """Writes records as TFRecord or ArrayRecord files."""

    def __init__(self, path: Path, framing: str) -> None:
        self.framing, self.path = framing, path
        self.file = path.open("wb") if framing == "tfrecord" else ArrayRecordWriter(str(path), "group_size:1")

    def __enter__(self) -> "Records":
        return self

    def write(self, record: bytes) -> None:
        if self.framing == "tfrecord":
            head = struct.pack("<Q", len(record))
            self.file.write(head + struct.pack("<I", tfrecord.masked_crc32c(head)))
            record += struct.pack("<I", tfrecord.masked_crc32c(record))
        self.file.write(record)

    def __exit__(self, *_: object) -> None:
        self.file.close()


def write_tfds(root: Path, framing: str = "array_record", version: str = "1.0.0") -> str:
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
            with Records(folder / f"tiny_set-{part}.{framing}-0000{shard}-of-00002", framing) as file:
                for i in of_shard:
                    example = tf_example_pb2.Example()
                    fields = example.features.feature
                    fields["image"].bytes_list.value.append(png(IMAGES[i]))
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


def write_tfds_of_tfrecords(root: Path) -> str:
    return write_tfds(root, "tfrecord")


def parts() -> dict[str, np.ndarray]:
    """Rows of the parts of a class split: 3 source, 1 validation and 2 target classes."""
    of = {"train": (0, 1, 2), "val": (3,), "test": (4, 5)}
    return {part: np.flatnonzero(np.isin(LABELS, classes)) for part, classes in of.items()}


def write_pickles(root: Path) -> str:
    root.mkdir(parents=True, exist_ok=True)
    for part, rows in parts().items():
        name = f"miniImageNet_category_split_{'train_phase_train' if part == 'train' else part}.pickle"
        numbers = {NAMES[label]: int(label) for label in np.unique(LABELS[rows])}
        content = {"data": IMAGES[rows], "labels": LABELS[rows].tolist(), "catname2label": numbers}
        (root / name).write_bytes(pickle.dumps(content))
    return "pickles"


def load(write: Callable[[Path], str], root: Path, **options: Any) -> Benchmark:
    return data.load(write(root), data_dir=root, image_size=SIZE, **options)


def assert_same(one: Benchmark, other: Benchmark) -> None:
    assert fingerprint(one) == fingerprint(other)
    for part in ("source_train", "source_test", "validation", "target"):
        a, b = getattr(one, part), getattr(other, part)
        assert (a is None) == (b is None)
        if a is not None:
            assert a.class_names == b.class_names
            np.testing.assert_array_equal(a.images, b.images)
            np.testing.assert_array_equal(a.labels, b.labels)


def split_file(tmp_path: Path, **changes: Any) -> str:
    split = {"source": list(NAMES[:3]), "validation": [NAMES[3]], "target": list(NAMES[4:])} | changes
    (tmp_path / "split.json").write_text(json.dumps(split))
    return str(tmp_path / "split.json")


def spoil(path: Path, at: int = -40) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 0x10
    path.write_bytes(bytes(content))


def cut(path: Path, by: int = 60) -> None:
    path.write_bytes(path.read_bytes()[:-by])


def nothing_is_left(cache: Path) -> None:
    assert not [path for path in cache.rglob("*") if path.is_file()]
