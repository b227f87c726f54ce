"""Prepared files: the images of a data set as a tensorflow-datasets folder, read without TensorFlow."""

import dataclasses
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

from ncjax.data.archives import cache_dir
from ncjax.data.class_splits import ClassSplit
from ncjax.data.data_set import ClassImages, DataSet
from ncjax.errors import InputError, first_line
from ncjax.progress import progress

_READ_AT_ONCE = 1024


@dataclass(frozen=True)
class PreparedFiles:
    """Prepared files of a data set.

    Any program can open them with `tfds.builder_from_directory(folder)` or, by name and version, with
    `tfds.data_source("cifar100:1.0.0", data_dir=…)`.

    Attributes:
      folder: the folder of the files.
      class_names: the names of all classes.
      counts: the number of images of each part ("train", "test", …).
      image_shape: (h, w, c).
      num_bytes: the size of the files.
      description: of the data set.
      left_out: the names of images that could not be read.
      source: the folder or file of the user's images that they were made from.
      settings: the settings that they were made with.
      made_with: the programs that made them, with their versions.
    """

    folder: Path
    class_names: tuple[str, ...]
    counts: Mapping[str, int]
    image_shape: tuple[int, int, int]
    num_bytes: int
    description: str = ""
    left_out: tuple[str, ...] = ()
    source: Path | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    made_with: Mapping[str, str] = field(default_factory=dict)

    def data_set(self, split: ClassSplit, superclasses: Mapping[str, str] | None = None) -> DataSet:
        """Returns these images as a data set, with a split of its classes and, by name, their superclasses."""
        return DataSet(self.class_names, split, self.open, made_with=self.made_with, superclasses=superclasses or {})

    def read(self, classes: Sequence[int]) -> ClassImages:
        """Reads the images of some classes into memory, in the order of the files."""
        opened = self.open(classes)
        return dataclasses.replace(opened, images=opened.images[:])

    def open(self, classes: Sequence[int]) -> ClassImages:
        """Finds the images of some classes, in the order of the files.

        Returns:
          `FileImages`, which read each image when it is indexed; official_test marks images of the part "test".
        """
        parts = tuple(self.counts)
        wanted = np.zeros(len(self.class_names), bool)
        wanted[list(classes)] = True
        labels: list[int] = []
        places: list[tuple[int, int]] = []
        try:
            for number, part in enumerate(parts):
                source = _open(self.folder, part)
                for start in range(0, len(source), _READ_AT_ONCE):
                    records = source.__getitems__(range(start, min(start + _READ_AT_ONCE, len(source))))
                    for row, record in enumerate(records, start):
                        _, label = _parse(record)
                        if wanted[label]:
                            labels.append(label)
                            places.append((number, row))
        except (OSError, RuntimeError, ValueError) as error:
            raise _unreadable(self.folder, error) from error
        where = np.asarray(places, np.int64).reshape(-1, 2)
        is_test = where[:, 0] == parts.index("test") if "test" in parts else None
        return ClassImages(FileImages(self, where), np.asarray(labels, np.int32), is_test)


class FileImages:
    """Images in prepared files: like a uint8 array [n, h, w, c], but images are read when they are indexed.

    The index is a slice or an array of rows. Several threads may use it at once.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(self, prepared: PreparedFiles, places: np.ndarray) -> None:
        self._prepared = prepared
        self._places = places  # [n, 2]: number of the part, row in it
        self._sources: dict[int, Any] = {}

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, h, w, c)."""
        return (len(self._places), *self._prepared.image_shape)

    @property
    def nbytes(self) -> int:
        """The size of an array of these images, in bytes."""
        return math.prod(self.shape)

    def __len__(self) -> int:
        return len(self._places)

    def subset(self, rows: np.ndarray) -> "FileImages":
        """Returns some of the images without reading them."""
        return FileImages(self._prepared, self._places[rows])

    def __getitem__(self, rows: Any) -> np.ndarray:
        places = self._places[rows]
        images = np.empty((len(places), *self._prepared.image_shape), np.uint8)
        try:
            for part in np.unique(places[:, 0]):
                of_part = np.flatnonzero(places[:, 0] == part)
                of_part = of_part[np.argsort(places[of_part, 1], kind="stable")]  # in the order of the file
                starts = range(0, len(of_part), _READ_AT_ONCE)  # few records are in memory beside the images
                for start in progress(starts, "reading", "thousand images") if len(starts) > 1 else starts:
                    chunk = of_part[start : start + _READ_AT_ONCE]
                    records = self._source(int(part)).__getitems__(places[chunk, 1].tolist())
                    for row, record in zip(chunk, records, strict=True):
                        images[row] = _decode(_parse(record)[0], self._prepared.image_shape)
        except (OSError, RuntimeError, ValueError) as error:
            raise _unreadable(self._prepared.folder, error) from error
        return images

    def _source(self, part: int) -> Any:
        if part not in self._sources:
            self._sources[part] = _open(self._prepared.folder, tuple(self._prepared.counts)[part])
        return self._sources[part]


def folder_of(name: str, version: str, made_from: str | None) -> Path:
    """Returns the folder of prepared files: <cache>/<name>/<version> for a data set's official archive.

    Files made from anything else lie under a digest of their origin, `made_from`, so that they are never confused.
    """
    root = cache_dir() if made_from is None else cache_dir() / "local" / made_from
    return root / name / version


def open_prepared(folder: Path) -> PreparedFiles | None:
    """Opens the prepared files in a folder, without reading images; returns None if there are none.

    Raises:
      InputError: if a file is missing or damaged.
    """
    # a folder gets its name only when all its files are written
    if not folder.is_dir() or not any(folder.iterdir()):
        return None
    try:
        info = tfds.builder_from_directory(folder).info
        # without the file of names, tensorflow-datasets would number the classes
        records = [Path(path) for split in info.splits.values() for path in split.filepaths]
        for path in (folder / "label.labels.txt", *records):
            if not path.exists() or path.stat().st_size == 0:
                raise FileNotFoundError(f"{path.name} is missing or empty")
        names = tuple(info.features["label"].names)
        if list(names) != info.metadata.get("class_names", list(names)):
            raise ValueError("label.labels.txt is not as it was written")
        return PreparedFiles(
            folder=folder,
            class_names=names,
            counts={part: split.num_examples for part, split in info.splits.items()},
            image_shape=tuple(info.features["image"].shape),
            num_bytes=sum(file.stat().st_size for file in folder.iterdir()),
            description=info.description,
            left_out=tuple(info.metadata.get("left_out", ())),
            source=Path(info.metadata["source"]) if info.metadata.get("source") else None,
            settings=info.metadata.get("settings", {}),
            made_with=info.metadata.get("made_with", {}),
        )
    except Exception as error:  # tensorflow-datasets and protobuf raise many kinds of error
        raise _unreadable(folder, error) from error


def _open(folder: Path, part: str) -> Any:
    """Opens the records of a part, as bytes."""
    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    return tfds.builder_from_directory(folder).as_data_source(part, deserialize_method=raw)


def _parse(record: bytes) -> tuple[bytes, int]:
    """Returns the PNG bytes and the class number of a record, four times as fast as tensorflow-datasets' decoder."""
    try:
        fields = tf_example_pb2.Example.FromString(record).features.feature
        return fields["image"].bytes_list.value[0], fields["label"].int64_list.value[0]
    except Exception as error:  # protobuf has its own errors
        raise ValueError("a record is no image with a label") from error


def _decode(png: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    # tobytes is a fifth faster than the array interface
    return np.frombuffer(Image.open(io.BytesIO(png), formats=("PNG",)).tobytes(), np.uint8).reshape(shape)


def _unreadable(folder: Path, error: Exception) -> InputError:
    return InputError(
        f"prepared files are damaged ({first_line(error)}); delete {folder}, they are then prepared again"
    )
