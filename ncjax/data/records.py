"""Prepared data sets: tensorflow-datasets folders of ArrayRecord files, written and read without TensorFlow."""

import contextlib
import dataclasses
import io
import logging
import math
import os
import shutil
import tempfile
import threading
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core import shuffle as tfds_shuffle
from tensorflow_datasets.proto import tf_example_pb2
from tqdm import tqdm

from ncjax.data.archives import cache_dir, remove_abandoned
from ncjax.data.benchmark import ClassImages, ClassSplit, DataSet
from ncjax.errors import InputError, first_line
from ncjax.progress import progress_bar

_READ_AT_ONCE = 1024
SCRATCH = ".incomplete-"


@dataclass(frozen=True)
class Contents:
    """What goes into the prepared files.

    parts: for each part ("train", "test", …) a function that yields (image uint8 [h, w, c], class number); all
    images have image_shape. count: about how many images there are in all, for the progress bar. left_out: names of
    images that the parts do not yield because they cannot be read; filled in while the parts are gone through.
    source: the folder or file that the user's own images come from, and settings: what they are prepared with; prepared
    files of one source and the same settings replace one another when the images change.
    """

    description: str
    homepage: str
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    parts: Mapping[str, Callable[[], Iterator[tuple[np.ndarray, int]]]]
    count: int | None = None
    left_out: Sequence[str] = ()
    source: Path | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Prepared:
    """Prepared files in `folder`; any program can open them with `tfds.builder_from_directory(folder)`, or,
    as in `tfds.data_source("cifar100:1.0.0", data_dir=…)`, by name and version."""

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
        """These images, with a split of their classes and, by name, their superclasses."""
        size = sum(self.counts.values()) * math.prod(self.image_shape)
        above = superclasses or {}
        return DataSet(self.class_names, split, self.read, self.leave_in_files, size, self.made_with, above)

    def read(self, classes: Sequence[int]) -> ClassImages:
        """The images of some classes, in prepared order; official_test says which are of the part "test"."""
        # as many as there may be: memory that nothing is written to is not taken
        images = np.empty((sum(self.counts.values()), *self.image_shape), np.uint8)
        chosen = self._scan(classes, images)
        return dataclasses.replace(chosen, images=images[: len(chosen.labels)])

    def leave_in_files(self, classes: Sequence[int]) -> ClassImages:
        """As `read`, but the images are a `RecordImages`: each is read when it is asked for."""
        return self._scan(classes)

    def _scan(self, classes: Sequence[int], images: np.ndarray | None = None) -> ClassImages:
        """Where the images of some classes are, and their labels; with `images`, the images too, written into it."""
        parts = tuple(self.counts)
        wanted = np.zeros(len(self.class_names), bool)
        wanted[list(classes)] = True
        labels: list[int] = []
        places: list[tuple[int, int]] = []
        try:
            with progress_bar("reading", "image", total=sum(self.counts[p] for p in parts)) as bar:
                for number, part in enumerate(parts):
                    source = _open(self.folder, part)
                    for start in range(0, len(source), _READ_AT_ONCE):
                        records = source.__getitems__(range(start, min(start + _READ_AT_ONCE, len(source))))
                        for row, record in enumerate(records, start):
                            png, label = _parse(record)
                            if wanted[label]:
                                if images is not None:
                                    images[len(labels)] = _decode(png, self.image_shape)
                                labels.append(label)
                                places.append((number, row))
                        bar.update(len(records))
        except (OSError, RuntimeError, ValueError) as error:
            raise _unreadable(self.folder, error) from error
        where = np.asarray(places, np.int64).reshape(-1, 2)
        is_test = where[:, 0] == parts.index("test") if "test" in parts else None
        return ClassImages(RecordImages(self, where), np.asarray(labels, np.int32), is_test)


class RecordImages:
    """Images that stay in their files: like a uint8 array [n, h, w, c], but each is read when it is asked for.

    Indexed by a slice or an array of rows; safe to use from several threads.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(self, prepared: Prepared, places: np.ndarray) -> None:
        self._prepared = prepared
        self._places = places  # [n, 2]: number of the part, row in it
        self._sources: dict[int, Any] = {}

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, h, w, c)."""
        return (len(self._places), *self._prepared.image_shape)

    @property
    def nbytes(self) -> int:
        """The size that an array of these images would have."""
        return math.prod(self.shape)

    def __len__(self) -> int:
        return len(self._places)

    def subset(self, rows: np.ndarray) -> "RecordImages":
        """Some of the images, left in their files."""
        return RecordImages(self._prepared, self._places[rows])

    def __getitem__(self, rows: Any) -> np.ndarray:
        places = self._places[rows]
        images = np.empty((len(places), *self._prepared.image_shape), np.uint8)
        try:
            for part in np.unique(places[:, 0]):
                here = np.flatnonzero(places[:, 0] == part)
                for start in range(0, len(here), _READ_AT_ONCE):  # so that few records are in memory beside the images
                    at_once = here[start : start + _READ_AT_ONCE]
                    found = self._source(int(part)).__getitems__(places[at_once, 1].tolist())
                    for row, record in zip(at_once, found, strict=True):
                        images[row] = _decode(_parse(record)[0], self._prepared.image_shape)
        except (OSError, RuntimeError, ValueError) as error:
            raise _unreadable(self._prepared.folder, error) from error
        return images

    def _source(self, part: int) -> Any:
        if part not in self._sources:
            self._sources[part] = _open(self._prepared.folder, tuple(self._prepared.counts)[part])
        return self._sources[part]


def folder_of(name: str, version: str, made_from: str | None) -> Path:
    """Where prepared files belong: <cache>/<name>/<version> for a data set's official archive.

    Files made from anything else are kept apart, under a digest of what they were made from, so that the one is
    never read for the other.
    """
    root = cache_dir() if made_from is None else cache_dir() / "local" / made_from
    return root / name / version


def open_prepared(folder: Path) -> Prepared | None:
    """The prepared files in a folder; None where there are none.

    Raises InputError if any of them is missing or cannot be made sense of. Images are not looked at.
    """
    # The folder gets its name when all files are in it: one without some of them has lost them.
    if not folder.is_dir() or not any(folder.iterdir()):
        return None
    try:
        info = tfds.builder_from_directory(folder).info
        # Without its names, tensorflow-datasets would number the classes.
        records = [Path(path) for split in info.splits.values() for path in split.filepaths]
        for path in (folder / "label.labels.txt", *records):
            if not path.exists() or path.stat().st_size == 0:
                raise FileNotFoundError(f"{path.name} is missing or empty")
        names = tuple(info.features["label"].names)
        if list(names) != info.metadata.get("class_names", list(names)):
            raise ValueError("label.labels.txt is not as it was written")
        return Prepared(
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
    except Exception as error:  # tensorflow-datasets raises errors of every kind, protobuf's own among them
        raise _unreadable(folder, error) from error


def prepare(name: str, version: str, made_from: str | None, contents: Callable[[], Contents]) -> Prepared:
    """The prepared files of a data set, written first if they are not there.

    They are written to a folder of this process alone and renamed at the end: a killed process leaves nothing that
    looks finished, and of two at once the first to end wins.
    """
    folder = folder_of(name, version, made_from)
    ready = open_prepared(folder)
    if ready is not None:
        return ready
    what = contents()
    _check_names(what.class_names)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        for place in ("*", "local/*/*"):
            remove_abandoned(cache_dir(), f"{place}/{SCRATCH}*")
        scratch = Path(tempfile.mkdtemp(prefix=SCRATCH, dir=folder.parent))
    except OSError as error:
        raise InputError(
            f"cannot write to the cache folder {folder.parent}: {error.strerror}; name another with NCJAX_CACHE_DIR"
        ) from error
    try:
        _write(name, version, what, scratch)
        # Fails where another process was first; then its files are as good as ours.
        with contextlib.suppress(OSError):
            os.rename(scratch / name / version, folder)
    except (OSError, RuntimeError) as error:  # the writer of records raises RuntimeErrors, on a full disk for example
        raise InputError(
            f"cannot prepare {name} in {folder.parent} ({getattr(error, 'strerror', None) or first_line(error)}); free "
            "some space, or name another cache folder with NCJAX_CACHE_DIR"
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    ready = open_prepared(folder)
    if ready is None:
        raise InputError(f"cannot move prepared files to {folder}; name another cache folder with NCJAX_CACHE_DIR")
    return ready


def _check_names(names: Sequence[str]) -> None:
    """Raises InputError for names that a file of one name a line, in UTF-8, would not give back."""
    for name in names:
        if (
            name != name.strip()
            or len(name.splitlines()) != 1
            or any("\ud800" <= letter <= "\udfff" for letter in name)
        ):
            raise InputError(
                f"class {name!r} has a name with blanks at an end, of more than one line, or not in UTF-8; rename it"
            )


def _write(name: str, version: str, what: Contents, root: Path) -> None:
    bar = progress_bar(f"preparing {name}", "image", total=what.count)
    builder_class = types.new_class(
        "".join(word.capitalize() for word in name.split("_")),
        (_ImageBuilder,),
        {"skip_registration": True},
        lambda body: body.update(name=name, VERSION=tfds.core.Version(version), what=what, bar=bar),
    )
    level = logging.getLogger("absl").level
    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        # The bar above says it all: tensorflow-datasets' own bars and messages are caught.
        with bar, _spooled(root), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            builder_class(data_dir=root, file_format="array_record").download_and_prepare(
                download_dir=root / "downloads", download_config=tfds.download.DownloadConfig(try_download_gcs=False)
            )
    finally:
        logging.getLogger("absl").setLevel(level)


class _Spool:
    """Records on their way to the files that hold them, in a temporary file, in their order.

    In the place of tensorflow-datasets' shuffler, which keeps a gigabyte in memory, and needs TensorFlow for more.
    """

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self._lengths: list[int] = []
        self.size = 0

    @property
    def num_examples(self) -> int:
        """How many records there are."""
        return len(self._lengths)

    @property
    def bucket_lengths(self) -> list[int]:
        """All are in one."""
        return [len(self._lengths)]

    def add(self, key: int, data: bytes) -> bool:
        """Takes the next record."""
        self._file.write(data)
        self._lengths.append(len(data))
        self.size += len(data)
        return True

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        self._file.seek(0)
        for key, length in enumerate(self._lengths):
            yield key, self._file.read(length)

    def close(self) -> None:
        """Removes the file."""
        self._file.close()


_ONE_AT_A_TIME = threading.Lock()


@contextlib.contextmanager
def _spooled(folder: Path) -> Iterator[None]:
    """Lets tensorflow-datasets keep records in a `_Spool` each part, in this folder."""
    spools: list[_Spool] = []

    def make(**_: Any) -> _Spool:
        spools.append(_Spool(folder))
        return spools[-1]

    with _ONE_AT_A_TIME:
        theirs = tfds_shuffle.Shuffler
        tfds_shuffle.Shuffler = make
        try:
            yield
        finally:
            tfds_shuffle.Shuffler = theirs
            for spool in spools:
                with contextlib.suppress(OSError):  # a full disk has been told already
                    spool.close()


class _ImageBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Labelled PNG images; subclasses made by `_write` say which."""

    VERSION = tfds.core.Version("1.0.0")
    what: Contents
    bar: tqdm

    def _info(self) -> Any:
        features = {
            "image": tfds.features.Image(shape=self.what.image_shape, encoding_format="png"),
            "label": tfds.features.ClassLabel(names=list(self.what.class_names)),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.what.description,
            homepage=self.what.homepage,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
            disable_shuffling=True,
            # written last, when the list of what is left out is full
            metadata=tfds.core.MetadataDict(
                class_names=list(self.what.class_names),
                left_out=self.what.left_out,
                source=None if self.what.source is None else str(self.what.source),
                settings=dict(self.what.settings),
                made_with={"pillow": PIL.__version__, "numpy": np.__version__},
            ),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        return {part: self._generate_examples(images) for part, images in self.what.parts.items()}

    def _generate_examples(self, images: Callable[[], Iterator[tuple[np.ndarray, int]]]) -> Any:
        for key, (image, label) in enumerate(images()):
            # Encoded here, because tensorflow-datasets would call TensorFlow to encode an array.
            yield key, {"image": _encode(image), "label": int(label)}
            self.bar.update()


def _encode(image: np.ndarray) -> io.BytesIO:
    # Not compressed: that reads back twice as fast, and record files are compressed anyway.
    buffer = io.BytesIO()
    Image.fromarray(image if image.shape[-1] == 3 else image[..., 0]).save(buffer, "PNG", compress_level=0)
    buffer.seek(0)
    return buffer


def _open(folder: Path, part: str) -> Any:
    """The records of a part, as bytes."""
    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    return tfds.builder_from_directory(folder).as_data_source(part, deserialize_method=raw)


def _parse(record: bytes) -> tuple[bytes, int]:
    """The PNG bytes and the class number of a record, four times as fast as the general way of tensorflow-datasets."""
    try:
        fields = tf_example_pb2.Example.FromString(record).features.feature
        return fields["image"].bytes_list.value[0], fields["label"].int64_list.value[0]
    except Exception as error:  # protobuf has errors of its own
        raise ValueError("a record is no image with a label") from error


def _decode(png: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    # through bytes, which is a fifth faster than through the array interface
    return np.frombuffer(Image.open(io.BytesIO(png), formats=("PNG",)).tobytes(), np.uint8).reshape(shape)


def _unreadable(folder: Path, error: Exception) -> InputError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return InputError(f"prepared files are damaged ({reason}); delete {folder}, they are then prepared anew")
