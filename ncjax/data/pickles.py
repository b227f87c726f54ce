"""`pickles`: files of few-shot repositories with miniImageNet, CIFAR-FS, FC100 and tieredImageNet.

Known files, with train, val or test for *:

    miniImageNet_category_split_*.pickle (for train …_train_phase_train), CIFAR_FS_*.pickle, FC100_*.pickle:
        {"data": images [n, h, w, c], "labels": [n]}, some with "catname2label"
    mini-imagenet-cache-*.pkl: {"image_data": images, "class_dict": {name: rows}}
    *_images_png.pkl, a list of encoded images, or *_images.npz with `images`, beside *_labels.pkl:
        {"labels": [n]} or {"label_specific": [n], "label_specific_str": names, "label_general": …}
    few-shot-*.npz: arrays `features`, the images, and `targets`

They are opened by `safe_pickle`, since a pickle can run any code.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ncjax.data import archives, images, own_images
from ncjax.data.class_splits import PARTS, part_named
from ncjax.data.data_set import DataSet, Request
from ncjax.data.safe_pickle import safe_load
from ncjax.errors import UNREADABLE_NPZ, InputError, first_line
from ncjax.files import write_atomically
from ncjax.progress import remark

_IMAGES = ("data", "image_data", "images", "features")
_LABELS = ("labels", "label_specific", "targets")


@dataclass(frozen=True)
class _Part:
    """The files of a part: images and labels, which may be one file."""

    part: str
    images: Path
    labels: Path


@dataclass(frozen=True)
class _Classes:
    """The classes of a part.

    Attributes:
      numbers: the class of each image, 0..k-1.
      names: of the k classes.
      superclasses: the superclass of each class by name, where the file has them.
      named: whether the file has names; otherwise the labels as text are the names.
    """

    numbers: np.ndarray
    names: tuple[str, ...]
    superclasses: Mapping[str, str]
    named: bool


def open_data_set(request: Request) -> DataSet:
    """Opens the files of a data set in a folder; train, val and test in their names mean source, validation, target.

    Raises:
      InputError: if the folder has no such files or files of several data sets, or a file cannot be read, holds
        anything but arrays and containers, or lacks images or labels.
    """
    root = request.data_dir
    if root is None or not root.is_dir():
        raise InputError("pickles needs data_dir=PATH, a folder of files such as CIFAR_FS_train.pickle")
    files = _find(root)
    stamps = images.stamps(sorted({path for part in files for path in (part.images, part.labels)}), root)
    index = _cached_index(root, files, stamps)
    return own_images.open_labelled(
        "pickles",
        request,
        own_images.Labelled(
            root=root,
            class_names=index.class_names,
            read=partial(_read, files),
            count=index.count,
            facts=stamps | {"names": index.class_names},
            parts=index.parts,
            size=index.size,
            channels=index.channels,
            superclasses=index.superclasses,
        ),
    )


@dataclass(frozen=True)
class _Index:
    """What `Labelled` says of the images of all parts; kept as JSON, since pickles are slow to open."""

    class_names: list[str]
    count: int
    parts: dict[str, list[str]]
    size: int
    channels: int | None
    superclasses: dict[str, str]


def _cached_index(root: Path, files: Sequence[_Part], stamps: Mapping[str, object]) -> _Index:
    """Reads the index from the cache folder, or makes it if the files have changed."""
    cached = archives.cache_dir() / "pickles" / f"{archives.digest(stamps)}.json"
    with suppress(OSError, TypeError, ValueError):  # missing, or of another version
        return _Index(**json.loads(cached.read_text(encoding="utf-8")))
    index = _make_index(root, files)
    with suppress(OSError):  # only slower without
        cached.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(cached, json.dumps(vars(index)))
    return index


def _make_index(root: Path, files: Sequence[_Part]) -> _Index:
    classes = [_classes(part) for part in files]
    # labels that count from 0 in each part do not number one list of classes
    local = not all(of_part.named for of_part in classes) and _overlap(classes)
    names = [[f"{p.part}/{n}" if local else n for n in c.names] for p, c in zip(files, classes, strict=True)]
    all_names = [name for of_part in names for name in of_part]
    if len(set(all_names)) < len(all_names):
        twice = next(name for name in all_names if all_names.count(name) > 1)
        raise InputError(f"class {twice!r} is in two of the files of {root}; a class must be in one")
    if local:
        remark(f"pickles: the labels of {root} start at 0 in each part: classes are called {all_names[0]}, …")
    parts = {part.part: of_part for part, of_part in zip(files, names, strict=True)}
    shape = _shape(files[0])
    return _Index(
        class_names=all_names,
        count=sum(len(of_part.numbers) for of_part in classes),
        parts=parts if {"source", "target"} <= parts.keys() else {},
        size=shape[0] if len(shape) == 3 and shape[0] == shape[1] else own_images.DEFAULT_SIZE,
        channels=shape[2] if len(shape) == 3 else None,
        superclasses={k: v for of_part in classes for k, v in of_part.superclasses.items()} if not local else {},
    )


def _read(files: Sequence[_Part]) -> Iterator[images.Encoded]:
    start = 0
    for part in files:
        content, classes = _images(part), _classes(part)
        if len(content) != len(classes.numbers):
            raise InputError(f"{part.images} has {len(content)} images, {part.labels} {len(classes.numbers)} labels")
        for i, image in enumerate(content):
            yield images.Encoded(int(start + classes.numbers[i]), f"{part.images}, image {i}", image)
        start += len(classes.names)


def _find(root: Path) -> list[_Part]:
    """Finds the files of each part, in the order of PARTS."""
    sets: dict[str, dict[str, dict[str, Path]]] = {}
    for path in sorted(root.iterdir()):
        if path.suffix not in (".pickle", ".pkl", ".npz") or path.name.startswith("."):
            continue
        name = path.stem
        phase = re.search(r"_train_phase_(\w+)$", name)
        if phase is not None and phase[1] != "train":
            remark(f"pickles: skipped {path.name}, further images of the training classes")
            continue
        words = re.split(r"[-_.]", name.replace("_train_phase_train", "_train"))
        parts = {part_named(word) for word in words} - {None}
        if len(parts) != 1:
            remark(f"pickles: skipped {path.name}, whose name says neither train, val nor test")
            continue
        kind = next((word for word in words if word in ("images", "labels")), "both")
        kept = [word for word in words if part_named(word) is None and word not in ("images", "labels", "png")]
        places = sets.setdefault("-".join(kept), {}).setdefault(str(parts.pop()), {})
        if kind in places:
            raise InputError(f"{path.name} and {places[kind].name} of {root} are both of one part; move one away")
        places[kind] = path
    if not sets:
        raise InputError(f"{root} holds no file such as CIFAR_FS_train.pickle; see the documentation for known names")
    if len(sets) > 1:
        raise InputError(f"{root} holds several data sets: {', '.join(sorted(sets))}; give each its own folder")
    (of_set,) = sets.values()
    result = []
    for part in PARTS:
        places = of_set.get(part, {})
        if places and "both" not in places and set(places) != {"images", "labels"}:
            lone = next(iter(places.values()))
            raise InputError(f"{lone} lacks its partner: images and labels are two files with the same name")
        if places:
            both = places.get("both")
            result.append(_Part(part, both or places["images"], both or places["labels"]))
    return result


def _overlap(classes: Sequence[_Classes]) -> bool:
    names = [name for of_part in classes for name in of_part.names]
    return len(set(names)) < len(names)


def _classes(part: _Part) -> _Classes:
    content = _content(part.labels)
    if isinstance(content, dict) and isinstance(content.get("class_dict"), dict):
        return _by_rows(part.labels, content["class_dict"])
    given = next((content[key] for key in _LABELS if key in content), None) if isinstance(content, dict) else content
    labels = _array(given)
    if labels is None or labels.ndim != 1 or labels.dtype.kind not in "iu" or not len(labels):
        raise InputError(f"{part.labels} holds no labels: one whole number an image, under {', '.join(_LABELS)}")
    values, numbers = np.unique(labels, return_inverse=True)
    names = _names(content, values) if isinstance(content, dict) else None
    if names is None:
        return _Classes(numbers, tuple(str(value) for value in values), {}, named=False)
    return _Classes(numbers, names, _superclasses(content, numbers, names), named=True)


def _by_rows(path: Path, rows: Mapping[Any, Any]) -> _Classes:
    """Reads classes from {name: rows of its images}, as in mini-imagenet-cache."""
    names = tuple(sorted(map(str, rows)))
    indices = {str(name): np.asarray(value) for name, value in rows.items()}
    count = sum(len(value) for value in indices.values())
    numbers = np.full(count, -1)
    for number, name in enumerate(names):
        index = indices[name]
        if (
            index.dtype.kind not in "iu"
            or index.ndim != 1
            or (len(index) and not 0 <= index.min() <= index.max() < count)
        ):
            raise InputError(f"{path}: class_dict gives rows of class {name!r} that do not exist")
        numbers[index] = number
    if count == 0 or (numbers < 0).any():
        raise InputError(f"{path}: class_dict gives some images two classes and some none")
    return _Classes(numbers, names, {}, named=True)


def _names(content: Mapping[str, Any], values: np.ndarray) -> tuple[str, ...] | None:
    """Returns the names of the classes of these labels; None if the file does not name them."""
    known: dict[int, str] = {}
    if isinstance(content.get("catname2label"), dict):
        known = {int(label): str(name) for name, label in content["catname2label"].items()}
    elif isinstance(content.get("label2catname"), dict):
        known = {int(label): str(name) for label, name in content["label2catname"].items()}
    elif content.get("label_specific_str") is not None:
        known = {label: str(name) for label, name in enumerate(content["label_specific_str"])}
    names = tuple(known.get(int(value), "") for value in values)
    return names if all(names) and len(set(names)) == len(names) else None


def _superclasses(content: Mapping[str, Any], numbers: np.ndarray, names: Sequence[str]) -> dict[str, str]:
    """Returns the superclass of each class; empty unless the file has all."""
    above, superclass_names = _array(content.get("label_general")), content.get("label_general_str")
    if above is None or superclass_names is None or above.shape != numbers.shape:
        return {}
    of_class = {name: int(above[np.argmax(numbers == number)]) for number, name in enumerate(names)}
    if not all(0 <= number < len(superclass_names) for number in of_class.values()):
        return {}
    return {name: str(superclass_names[number]) for name, number in of_class.items()}


def _shape(part: _Part) -> tuple[int, ...]:
    """Returns the shape of an image; () for encoded images."""
    content = _images(part)
    return tuple(content.shape[1:]) if isinstance(content, np.ndarray) else ()


def _images(part: _Part) -> "np.ndarray | list[bytes]":
    """Reads pixels uint8 [n, h, w, c], or encoded images."""
    content = _content(part.images)
    if isinstance(content, dict):
        content = next((content[key] for key in _IMAGES if key in content), None)
    if isinstance(content, list) and content and all(_is_encoded(image) for image in content):
        return [bytes(image) for image in content]
    array = _array(content)
    if array is not None and array.ndim == 4 and array.dtype.kind == "f" and len(array):
        whole = array.astype(np.uint8)
        array = whole if np.array_equal(whole, array) else array
    if array is None or array.dtype != np.uint8 or array.ndim != 4 or array.shape[-1] not in (1, 3) or not len(array):
        kind = f"{array.dtype} {list(array.shape)}" if array is not None else type(content).__name__
        raise InputError(
            f"{part.images} holds no images, but {kind}; they must be uint8 [n, h, w, c], c 1 or 3, or encoded, under "
            f"{', '.join(_IMAGES)}"
        )
    return array


def _is_encoded(image: Any) -> bool:
    if isinstance(image, np.ndarray):
        return image.dtype == np.uint8 and (image.ndim == 1 or (image.ndim == 2 and image.shape[1] == 1))
    return isinstance(image, bytes)


def _array(values: Any) -> np.ndarray | None:
    try:
        return None if values is None else np.asarray(values)
    except ValueError:  # ragged
        return None


def _content(path: Path) -> Any:
    """Reads a file; keys of a dictionary become strings."""
    content = _arrays(path) if path.suffix == ".npz" else safe_load(path)
    if isinstance(content, dict):
        content = {key.decode("latin-1") if isinstance(key, bytes) else key: value for key, value in content.items()}
    return content


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as opened:
            return {name: opened[name] for name in opened.files}
    except UNREADABLE_NPZ as error:
        raise InputError(f"{path} cannot be read as an .npz file of arrays ({first_line(error)})") from None
