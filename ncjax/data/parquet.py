"""`parquet`: images and labels in Parquet files in the layout of the Hugging Face hub; needs pyarrow."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ncjax.data import images, own_images
from ncjax.data.columns import class_names_of_numbers, pick
from ncjax.data.data_set import DataSet, Request
from ncjax.errors import InputError, first_line

_ROWS_AT_ONCE = 64


@dataclass(frozen=True)
class _Columns:
    """The columns of images and labels, and the class names by number where the schema has them."""

    image: str
    label: str
    names: tuple[str, ...] | None


def open_data_set(request: Request) -> DataSet:
    """Opens the rows of a Parquet file, or of all Parquet files below a folder, in the order of their paths.

    The image column is a struct of `bytes` and `path`, or bytes; the label column has integers or strings. Each is
    chosen by its type, or named by image_column and label_column. Integer labels have the names in the schema, or their
    numbers as names.

    Raises:
      InputError: if a file cannot be read, a column is missing, ambiguous or of another type, or a row has no label.
    """
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise InputError('parquet needs pyarrow: pip install "ncjax[parquet]"') from None
    root = request.data_dir
    if root is None:
        raise InputError("parquet needs data_dir=PATH, a Parquet file or a folder of Parquet files")
    folder = root if root.is_dir() else root.parent
    below = (
        (path.relative_to(folder) for path in folder.rglob("*.parquet")) if root.is_dir() else iter([Path(root.name)])
    )
    paths = [folder / path for path in sorted(below) if not any(part.startswith(".") for part in path.parts)]
    if not paths:
        raise InputError(f"{root} holds no file *.parquet; name a folder of Parquet files")
    columns = _columns(paths, request)
    values = [_labels(path, columns) for path in paths]
    names, numbers = _classes(paths, values, columns)

    def read() -> Iterator[images.Encoded]:
        for path, of_file in zip(paths, numbers, strict=True):
            row = 0
            for batch in _batches(path, columns.image):
                for value in batch:
                    yield images.Encoded(int(of_file[row]), f"{path}, row {row}", _content(value, path))
                    row += 1

    return own_images.open_labelled(
        "parquet",
        request,
        own_images.Labelled(
            root=root,
            class_names=names,
            read=read,
            count=sum(map(len, values)),
            facts=images.stamps(paths, folder) | {"columns": (columns.image, columns.label), "names": names},
        ),
    )


def _columns(paths: Sequence[Path], request: Request) -> _Columns:
    """Chooses the columns in the first file, and checks that the other files have them."""
    schemas = [_open(path).schema_arrow for path in paths]
    schema = schemas[0]
    image = pick(
        str(paths[0]), "image_column", request.image_column, list(schema.names),
        [field.name for field in schema if _holds_images(field.type)],
        wanted="a struct of bytes and path, or bytes", usual=("image", "img"),
    )  # fmt: skip
    label = pick(
        str(paths[0]), "label_column", request.label_column, list(schema.names),
        [field.name for field in schema if _holds_labels(field.type)],
        wanted="integers or strings", usual=("label", "labels"),
    )  # fmt: skip
    for path, other in zip(paths[1:], schemas[1:], strict=True):
        for name in (image, label):
            if name not in other.names or other.field(name).type != schema.field(name).type:
                kind = str(other.field(name).type) if name in other.names else "missing"
                raise InputError(
                    f"{path}: column {name} is {kind}, and {schema.field(name).type} in {paths[0].name}; give a "
                    "folder whose files are of one data set"
                )
    return _Columns(image, label, _names(schema, label))


def _holds_images(kind: Any) -> bool:
    import pyarrow.types as types

    if types.is_struct(kind):
        return any(field.name == "bytes" and _is_bytes(field.type) for field in kind)
    return _is_bytes(kind)


def _is_bytes(kind: Any) -> bool:
    import pyarrow.types as types

    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _holds_labels(kind: Any) -> bool:
    import pyarrow.types as types

    kind = kind.value_type if types.is_dictionary(kind) else kind
    return bool(types.is_integer(kind) or types.is_string(kind) or types.is_large_string(kind))


def _names(schema: Any, label: str) -> tuple[str, ...] | None:
    """Reads the hub's class names from the schema: {"info": {"features": {"label": {"names": […]}}}}."""
    try:
        names = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][label]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    if isinstance(names, Mapping):  # {"0": "apple", …} in some versions
        names = [names[str(i)] for i in range(len(names))]
    return tuple(str(name) for name in names)


def _open(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path, buffer_size=1 << 20, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{path} cannot be read as Parquet ({first_line(error)}); it is cut off or altered, download it again"
        ) from None


def _batches(path: Path, column: str) -> Iterator[Sequence[Any]]:
    """Yields the values of a column, some rows at a time, to save memory."""
    import pyarrow as pa

    row = 0
    try:
        for batch in _open(path).iter_batches(batch_size=_ROWS_AT_ONCE, columns=[column]):
            yield batch.column(0).to_pylist()
            row += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{path} cannot be read from row {row} on ({first_line(error)}); it is altered, download it again"
        ) from None


def _labels(path: Path, columns: _Columns) -> list[Any]:
    values = [value for batch in _batches(path, columns.label) for value in batch]
    if None in values:
        raise InputError(f"{path}, row {values.index(None)}: column {columns.label} has no label; leave such rows out")
    return values


def _classes(
    paths: Sequence[Path], values: Sequence[list[Any]], columns: _Columns
) -> tuple[tuple[str, ...], list[np.ndarray]]:
    """Returns the names of the classes that occur, and the class number of each row of each file."""
    present = sorted({value for of_file in values for value in of_file})
    if present and isinstance(present[0], int):
        where = f"column {columns.label} of {paths[0].parent}"
        names = class_names_of_numbers(where, present, columns.names)
    else:
        names = tuple(present)
    number = {value: i for i, value in enumerate(present)}
    return names, [np.array([number[value] for value in of_file], np.int32) for of_file in values]


def _content(value: Any, path: Path) -> images.Content:
    """Returns the bytes of an image, or its path; empty bytes for a missing image, which fail to decode."""
    if isinstance(value, dict):
        if value["bytes"] is None and value.get("path"):
            return path.parent / value["path"]
        value = value["bytes"]
    return b"" if value is None else value
