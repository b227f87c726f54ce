"""`npz`: the user's own images in a NumPy array file."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ncjax.data import class_splits
from ncjax.data.class_splits import PARTS, part_named
from ncjax.data.data_set import ClassImages, DataSet, Request
from ncjax.errors import UNREADABLE_NPZ, InputError

_ARRAYS = ("images", "labels", "class_names", "split")


def open_data_set(request: Request) -> DataSet:
    """Opens arrays `images` uint8 [n, h, w, c] or [n, h, w] and `labels` [n]; optional `class_names` and `split` [n].

    class_names are in the order of the sorted label values. split is "source", "validation" or "target" (or "train",
    "val" or "test") for each image, equal for all images of a class; without it, classes are split at random. Other
    arrays are not opened, and arrays of Python objects are refused, since pickles can run any code.

    Raises:
      InputError: if the file or an array is not as described.
    """
    path = request.data_dir
    if path is None or not path.is_file():
        raise InputError("npz needs data_dir=FILE.npz, a file of arrays `images` and `labels`")
    arrays = _read(path)
    images, labels = arrays["images"], arrays["labels"]
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise InputError(
            f"`images` of {path} is {images.dtype} {list(images.shape)}; it must be uint8 [n, h, w, c] or [n, h, w], "
            "all images of one size"
        )
    if images.ndim == 3:
        images = images[..., None]
    if images.shape[-1] not in (1, 3):
        raise InputError(f"`images` of {path} has {images.shape[-1]} channels; it must have 1 (grey) or 3 (RGB)")
    if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer):
        raise InputError(
            f"`labels` of {path} is {labels.dtype} {list(labels.shape)}; it must be integers [{len(images)}], "
            "one an image"
        )
    values, numbers = np.unique(labels, return_inverse=True)
    names = _names(path, arrays.get("class_names"), values)
    parts = _parts(path, arrays.get("split"), numbers, names)
    split, superclasses = class_splits.choose(request.class_split, names, parts, request.split_seed)

    def read(classes: Sequence[int]) -> ClassImages:
        chosen = np.isin(numbers, classes)
        return ClassImages(images[chosen], numbers[chosen].astype(np.int32))

    return DataSet(names, split, read, superclasses=superclasses, is_own=True)


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as file:
            opened = np.load(file, allow_pickle=False)
            if not isinstance(opened, np.lib.npyio.NpzFile):
                raise InputError(f"{path} is a single array; save `images` and `labels` together with numpy.savez")
            if not {"images", "labels"} <= set(opened.files):
                names = ", ".join(opened.files) or "(none)"
                raise InputError(f"{path} has the arrays {names}; it needs `images` and `labels`")
            return {name: _array(path, name, opened) for name in _ARRAYS if name in opened.files}
    except InputError:
        raise
    except ValueError as error:  # NumPy takes unknown files for pickles
        raise InputError(f"{path} is no npz file; write it with numpy.savez") from error
    except UNREADABLE_NPZ as error:
        raise InputError(f"{path} cannot be read as an npz file ({error}); write it again with numpy.savez") from error


def _array(path: Path, name: str, opened: np.lib.npyio.NpzFile) -> np.ndarray:
    try:
        array = opened[name]
    except ValueError as error:
        # NumPy writes an array of objects for images of different sizes
        advice = "resize all to one size, uint8" if name == "images" else "save it as integers or strings"
        raise InputError(
            f"`{name}` of {path} holds Python objects, which are not opened, or is damaged; {advice}"
        ) from error
    if not isinstance(array, np.ndarray):
        raise InputError(f"`{name}` of {path} is no array; write the file again with numpy.savez")
    return array


def _text(path: Path, name: str, given: np.ndarray) -> list[str]:
    """Returns the strings of an array [n]; bytes are decoded as UTF-8."""
    if given.ndim != 1 or given.dtype.kind not in "SUTiu":
        raise InputError(f"`{name}` of {path} is {given.dtype} {list(given.shape)}; it must be strings [n]")
    try:
        return [text.decode() if isinstance(text, bytes) else str(text) for text in given.tolist()]
    except UnicodeDecodeError as error:
        raise InputError(f"`{name}` of {path} has bytes that are not UTF-8: {error.object!r}; save strings") from error


def _names(path: Path, given: np.ndarray | None, values: np.ndarray) -> tuple[str, ...]:
    if given is None:
        return tuple(str(value) for value in values)
    names = tuple(_text(path, "class_names", given))
    if len(names) != len(values):
        raise InputError(f"`class_names` of {path} has {len(names)} names for {len(values)} different labels")
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"`class_names` of {path} has {twice!r} more than once; give every class its own name")
    return names


def _parts(path: Path, given: np.ndarray | None, numbers: np.ndarray, names: tuple[str, ...]) -> dict[str, list[str]]:
    """Returns the class names of each part; empty if the file does not divide the classes."""
    if given is None:
        return {}
    of_image = np.array(_text(path, "split", given))
    if of_image.shape != numbers.shape or not all(map(part_named, set(of_image.tolist()))):
        raise InputError(
            f"`split` of {path} must be 'source', 'validation' or 'target' (or 'train', 'val' or 'test') for each of "
            f"the {len(numbers)} images"
        )
    parts: dict[str, list[str]] = {part: [] for part in PARTS}
    for number, name in enumerate(names):
        of_class = {str(part_named(name)) for name in set(of_image[numbers == number].tolist())}
        if len(of_class) > 1:
            raise InputError(f"class {name!r} of {path} is in {' and '.join(sorted(of_class))}; a class must be in one")
        parts[of_class.pop()].append(name)
    return parts
