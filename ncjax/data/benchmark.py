"""Benchmark and Split: images of source, validation and target classes."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ncjax.errors import InputError, first_line


@dataclass(frozen=True, eq=False)
class Split:
    """Labelled images of k classes.

    Attributes:
      images: uint8 [n, h, w, c], NumPy; other arrays are converted. Streamed images (`load`'s stream_above) are
        `FileImages`, which are read when they are indexed.
      labels: int32 [n] in 0..k-1, NumPy; whole numbers of other types are converted.
      class_names: k different names; class i has the name at i.
      superclasses: the name of each class's superclass, [k]; None where there are none.

    Raises:
      InputError: if an array or a name is not as above, or there are no images.
    """

    images: Any
    labels: np.ndarray
    class_names: tuple[str, ...]
    superclasses: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        images = _array(self.images, "images")
        if images.dtype != np.uint8 or images.ndim != 4 or 0 in images.shape:
            raise InputError(
                f"images is {images.dtype} {list(images.shape)}; it must be uint8 [n, h, w, c], values 0 to 255, of "
                "one image or more"
            )
        names = _names(self.class_names)
        object.__setattr__(self, "images", images)
        object.__setattr__(self, "labels", _labels(self.labels, len(images), names))
        object.__setattr__(self, "class_names", names)
        if self.superclasses is not None:
            object.__setattr__(self, "superclasses", _superclasses(self.superclasses, len(names)))

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        """The number of classes k."""
        return len(self.class_names)


def _array(values: Any, what: str) -> Any:
    """Converts to a NumPy array; returns `FileImages` as they are."""
    if not hasattr(values, "__array__") and hasattr(values, "shape") and hasattr(values, "dtype"):
        return values
    try:
        return np.asarray(values)
    except Exception as error:  # for example a ragged list, or a tensor on another device
        raise InputError(f"{what} cannot be read as an array ({first_line(error)})") from error


def _names(names: Any) -> tuple[str, ...]:
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise InputError(f"class_names is {names!r}; it must be a tuple of the classes' names")
    names = tuple(names)
    for number, name in enumerate(names):
        if not isinstance(name, str):
            raise InputError(f"class_names has {name!r} at {number}, a {type(name).__name__}; names must be strings")
    if len(set(names)) < len(names):
        twice = next(name for name, times in Counter(names).items() if times > 1)
        raise InputError(f"class_names has {twice!r} more than once; give every class its own name")
    return tuple(str(name) for name in names)  # NumPy's strings are a type of their own


def _superclasses(given: Any, count: int) -> tuple[str, ...]:
    several = not isinstance(given, str) and isinstance(given, Iterable)
    names = tuple(given) if several else ()
    if len(names) != count or not all(isinstance(name, str) for name in names):
        raise InputError(f"superclasses is {given!r}; it must be {count} names, one a class, or None")
    return tuple(str(name) for name in names)


def _labels(values: Any, count: int, names: tuple[str, ...]) -> np.ndarray:
    labels = np.asarray(_array(values, "labels"))
    if labels.shape != (count,):
        raise InputError(f"labels is {labels.dtype} {list(labels.shape)}; it must be [{count}], one for each image")
    whole = labels.dtype.kind in "iu" or (labels.dtype.kind == "f" and bool((labels == np.rint(labels)).all()))
    if not whole:
        raise InputError(f"labels is {labels.dtype} {list(labels.shape)}; it must be whole numbers, 0 for class 0")
    outside = np.flatnonzero((labels < 0) | (labels >= len(names)))
    if len(outside):
        raise InputError(
            f"label {labels[outside[0]]} of image {outside[0]} is none of 0 to {len(names) - 1}, as class_names has "
            f"{len(names)} names; number the classes from 0, and name each"
        )
    return labels.astype(np.int32, copy=False)


@dataclass(frozen=True, eq=False)
class Benchmark:
    """A data set for few-shot transfer; source, validation and target have no class in common.

    Attributes:
      name: of the data set.
      source_train: training images of the source classes.
      source_test: other images of the same classes, under the same labels; None if no images are held out.
      validation: images of the validation classes; None where the data set has none.
      target: images of the target classes.
      augmentation: the kind that suits the images (`ncjax.data.augment`): "crop_flip", "shift" or "none".
      made_with: versions of programs that made the images, which other versions may make differently.

    Raises:
      InputError: if a split is no `Split`, image shapes differ, source_test has other class names than source_train,
        there are fewer than 2 source or target classes, a class has too few images (2 in validation and target, 1 in
        source), or the augmentation is unknown.
    """

    name: str
    source_train: Split
    source_test: Split | None
    validation: Split | None
    target: Split
    augmentation: str = "none"
    made_with: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise InputError(f"a Benchmark's name is {self.name!r}; it must be a string")
        for part in ("source_train", "source_test", "validation", "target"):
            split = getattr(self, part)
            if split is not None or part in ("source_train", "target"):
                self._check(part, split)
        for part, split in (("source", self.source_train), ("target", self.target)):
            if split.num_classes < 2:
                raise InputError(f"there are {split.num_classes} {part} classes in {self.name}; at least 2 are needed")
        if self.source_test is not None and self.source_test.class_names != self.source_train.class_names:
            raise InputError(
                f"source_test of {self.name} has other class_names than source_train; both must be of the same "
                "classes, in the same order"
            )
        from ncjax.data.augment import KINDS  # imports JAX, and commands answer --help without it

        if self.augmentation not in KINDS:
            raise InputError(f"unknown augmentation {self.augmentation!r}; choose one of {', '.join(KINDS)}")

    def _check(self, part: str, split: Any) -> None:
        if not isinstance(split, Split):
            raise InputError(f"{part} of {self.name} is a {type(split).__name__}; it must be an ncjax.data.Split")
        shape, first = (list(s.images.shape[1:]) for s in (split, self.source_train))
        if shape != first:
            raise InputError(
                f"images of {self.name} are {first} in source_train and {shape} in {part}; all must have one height, "
                "width and number of channels"
            )
        counts = np.bincount(split.labels, minlength=split.num_classes)
        least = 1 if part.startswith("source") else 2
        if counts.min() < least:
            rare = int(counts.argmin())
            raise InputError(
                f"class {split.class_names[rare]!r} of {self.name} has {counts[rare]} images in {part}; a class needs "
                f"at least {least}"
            )
