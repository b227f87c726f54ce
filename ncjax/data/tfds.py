"""`tfds:NAME`: image data sets that tensorflow-datasets has prepared, in ArrayRecord or TFRecord files.

TensorFlow is not needed, and is not imported.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets
from array_record.python.array_record_module import ArrayRecordReader
from tensorflow_datasets.proto import tf_example_pb2

from ncjax.data import images, own_images, tfrecord
from ncjax.data.columns import pick
from ncjax.data.data_set import DataSet, Request
from ncjax.errors import InputError, first_line
from ncjax.files import expand
from ncjax.progress import remark

_DEFAULT_DIR = "~/tensorflow_datasets"
_ROWS_AT_ONCE = 256


def open_data_set(request: Request) -> DataSet:
    """Opens all parts of a prepared data set: tfds:NAME or tfds:NAME/CONFIG, by default the newest, or :VERSION.

    data_dir is the folder of prepared data sets, or of this version. The image and the label are features of the types
    Image and ClassLabel; if there are several, image_column and label_column name them.

    Raises:
      InputError: if the data set is not prepared, features have other types, or files are truncated or altered.
    """
    folder = _find(request.name.partition(":")[2], request.data_dir)
    info = _info(folder)
    features = (
        dict(info.features.items()) if isinstance(info.features, tensorflow_datasets.features.FeaturesDict) else {}
    )
    image, label = (
        pick(
            str(folder), option, asked, list(features),
            [name for name, feature in features.items() if isinstance(feature, kind)],
            wanted=f"type {kind.__name__}", usual=(option.removesuffix("_column"),),
        )
        for option, asked, kind in (
            ("image_column", request.image_column, tensorflow_datasets.features.Image),
            ("label_column", request.label_column, tensorflow_datasets.features.ClassLabel),
        )
    )  # fmt: skip
    if features[label].names is None:
        raise InputError(f"{folder}: the classes of {label} have neither names nor a number; prepare it with either")
    names = tuple(features[label].names)
    files = [(part, Path(path)) for part, split in info.splits.items() for path in split.filepaths]
    missing = next((path for _, path in files if not path.is_file()), None)
    if missing is not None:
        raise InputError(f"{missing} does not exist: the data set is incomplete; prepare or download it again")

    def read() -> Iterator[images.Encoded]:
        unlabelled = 0
        for part, split in info.splits.items():
            for path, expected in zip(split.filepaths, split.shard_lengths, strict=True):
                row = -1
                for row, record in enumerate(_records(Path(path))):
                    where = f"{path}, record {row}"
                    content, number = _parse(record, image, label, where)
                    if number >= len(names):
                        raise InputError(f"{where} has label {number}, there are {len(names)} classes; it is altered")
                    if number < 0:
                        unlabelled += 1
                    else:
                        yield images.Encoded(number, where, content)
                if row + 1 != expected:
                    raise InputError(
                        f"{path} has {row + 1} of {expected} records of {part}: prepare or download it again"
                    )
        if unlabelled:
            remark(f"tfds: skipped {unlabelled} images without a label")

    height, width, channels = features[image].shape
    eight_bits = str(features[image].np_dtype) == "uint8"
    return own_images.open_labelled(
        "tfds",
        request,
        own_images.Labelled(
            root=folder,
            class_names=names,
            read=read,
            count=sum(split.num_examples for split in info.splits.values()),
            facts=images.stamps([path for _, path in files], folder) | {"features": (image, label), "names": names},
            size=height if height is not None and height == width else own_images.DEFAULT_SIZE,
            channels=channels if channels in (1, 3) and eight_bits else None,
        ),
    )


def _find(which: str, data_dir: Path | None) -> Path:
    """Finds the folder of the version asked for, or of the newest."""
    name, _, version = which.partition(":")
    if not re.fullmatch(r"[a-z0-9_]+(/[^/:]+)?", name):
        raise InputError(f"tfds:{which}: give the name of a data set, as tfds:cifar100 or tfds:cifar100:3.0.2")
    base = expand(_DEFAULT_DIR) if data_dir is None else data_dir
    versions = [base] if _is_prepared(base) else _versions(base / name)
    if version:
        versions = [folder for folder in versions if folder.name == version]
    if not versions:
        code = f"import tensorflow_datasets as tfds; tfds.builder({which!r}, data_dir={str(base)!r})"
        raise InputError(
            f"tfds:{which} is not prepared in {base}; prepare it once: "
            f'python -c "{code}.download_and_prepare()" (some need TensorFlow for that), or name its folder by data_dir'
        )
    configs = {folder.parent for folder in versions}
    if len(configs) > 1:
        known = ", ".join(sorted(f"tfds:{name}/{folder.name}" for folder in configs))
        raise InputError(f"tfds:{which} is prepared in several configurations: choose one of {known}")
    return max(versions, key=lambda folder: [int(part) for part in re.findall(r"\d+", folder.name)])


def _is_prepared(folder: Path) -> bool:
    return (folder / "features.json").is_file() and (folder / "dataset_info.json").is_file()


def _versions(folder: Path) -> Sequence[Path]:
    """Lists the prepared versions of a data set, of all its configurations."""
    return [path for pattern in ("*", "*/*") for path in sorted(folder.glob(pattern)) if _is_prepared(path)]


def _info(folder: Path) -> Any:
    try:
        return tensorflow_datasets.builder_from_directory(folder).info
    except Exception as error:  # tensorflow-datasets raises many kinds of error
        raise InputError(
            f"{folder} cannot be read as a data set of tensorflow-datasets ({first_line(error)}); prepare it again"
        ) from error


def _records(path: Path) -> Iterator[bytes]:
    """Yields the records of a file in order; its name tells the format."""
    if ".tfrecord" in path.name:
        yield from tfrecord.read_records(path)
        return
    if ".array_record" not in path.name:
        raise InputError(f"{path} is neither an ArrayRecord nor a TFRecord file: prepare the data set in one of these")
    start = 0
    try:
        reader = ArrayRecordReader(str(path))
        for start in range(0, reader.num_records(), _ROWS_AT_ONCE):
            yield from reader.read(start, min(start + _ROWS_AT_ONCE, reader.num_records()))
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path} cannot be read from record {start} on ({first_line(error)}); it is damaged, download it again"
        ) from error


def _parse(record: bytes, image: str, label: str, where: str) -> tuple[bytes, int]:
    """Returns the encoded image and the class number of a record."""
    try:
        fields = tf_example_pb2.Example.FromString(record).features.feature
        return fields[image].bytes_list.value[0], int(fields[label].int64_list.value[0])
    except Exception as error:  # protobuf has its own errors
        raise InputError(
            f"{where} is no image with a label ({first_line(error)}); prepare or download it again"
        ) from error
