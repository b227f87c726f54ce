"""`csv`: lists of image files and their classes, beside a folder of images."""

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ncjax.data import archives, own_images
from ncjax.data.class_splits import PARTS, part_named
from ncjax.data.data_set import DataSet, Request
from ncjax.errors import InputError

FILES = ("filename", "file_name", "file", "image", "path")
LABELS = ("label", "class", "class_name", "category")


class Line(NamedTuple):
    """A line of a list: the list, the image's file below the folder of images, its class."""

    list: Path
    image: str
    label: str


def open_data_set(request: Request) -> DataSet:
    """Opens a list, data_dir=FILE.csv, or all lists in a folder; images lie in images/ beside the list, or beside it.

    The first line names the columns: filename and label, or the names given by image_column and label_column. Lists
    called train.csv, val.csv and test.csv (or source.csv …) divide the classes, unless a `class_split` is given.

    Raises:
      InputError: if a list cannot be read, an image is listed twice or missing, or a class is in two parts.
    """
    place = request.data_dir
    if place is None:
        raise InputError("csv needs data_dir=PATH, a .csv file of lines filename,label, or a folder of such files")
    lists = [place] if place.is_file() else sorted(p for p in place.glob("*.csv") if not p.name.startswith("."))
    if not lists:
        raise InputError(f"{place} holds no .csv file; put files of lines filename,label there")
    root = place.parent if place.is_file() else place
    lines = [line for path in lists for line in read(path, request.image_column, request.label_column)]
    names = sorted({line.label for line in lines})
    number = {name: i for i, name in enumerate(names)}
    files = [(number[line.label], find_image(root, line)) for line in lines]
    check_listed_once(files, root)
    parts = _parts(lines) if request.class_split is None else {}
    facts = {"labels": [(line.image, line.label) for line in lines]}
    return own_images.open_labelled("csv", request, own_images.of_files(root, names, files, facts=facts, parts=parts))


def read(path: Path, image_column: str | None = None, label_column: str | None = None) -> Iterator[Line]:
    """Yields the lines of a list.

    Raises:
      InputError: if a column or a value is missing, or a path leads out of the folder.
    """
    try:
        rows = list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines(), strict=True))
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no text of lines filename,label ({error})") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    header = [name.strip() for name in rows[0]] if rows else []
    image = _column(path, header, image_column, FILES, "image_column")
    label = _column(path, header, label_column, LABELS, "label_column")
    for number, row in enumerate(rows[1:], 2):
        if not row:
            continue
        if len(row) <= max(image, label) or not row[image].strip() or not row[label].strip():
            raise InputError(f"{path}, line {number}: {','.join(row)!r} lacks {header[image]} or {header[label]}")
        archives.check_member_names(path, [row[image].strip()])
        yield Line(path, row[image].strip(), row[label].strip())


def _column(path: Path, header: list[str], named: str | None, known: tuple[str, ...], option: str) -> int:
    for name in known if named is None else (named,):
        if name in header:
            return header.index(name)
    wanted = f"a column {known[0]}" if named is None else f"the column {named}"
    raise InputError(f"{path} lacks {wanted}: its first line is {','.join(header)!r}; name a column of it by {option}")


def find_image(root: Path, line: Line) -> Path:
    """Returns the file of an image.

    Raises:
      InputError: if it does not exist.
    """
    for path in (root / "images" / line.image, root / line.image):
        if path.is_file():
            return path
    raise InputError(f"{root / 'images' / line.image} is listed in {line.list} but does not exist")


def check_listed_once(files: list[tuple[int, Path]], root: Path) -> None:
    """Raises InputError if an image is listed twice."""
    twice = [path for path, times in Counter(path for _, path in files).items() if times > 1]
    if twice:
        raise InputError(f"{twice[0]} is listed more than once in the csv files of {root}; list each image once")


def _parts(lines: list[Line]) -> dict[str, list[str]]:
    """Returns the classes of each part if every list has the name of a part; otherwise an empty dictionary."""
    parts: dict[str, dict[str, Path]] = {}
    for line in lines:
        part = part_named(line.list.stem)
        if part is None:
            return {}
        parts.setdefault(part, {})[line.label] = line.list
    if not {"source", "target"} <= parts.keys():
        return {}
    place: dict[str, Path] = {}
    for classes in parts.values():
        for name, path in classes.items():
            if name in place:
                raise InputError(
                    f"class {name!r} is in {place[name]} and {path.name}; a class must be in one: move its images, or "
                    "divide the classes by class_split"
                )
            place[name] = path
    return {part: sorted(parts[part]) for part in PARTS if part in parts}
