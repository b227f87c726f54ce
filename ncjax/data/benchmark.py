"""What every data set becomes: images of source, validation and target classes."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ncjax.data.augment import KINDS
from ncjax.errors import InputError, first_line

PARTS = ("source", "validation", "target")
_PART_NAMES = {
    "source": "source", "train": "source", "meta-train": "source",
    "validation": "validation", "val": "validation", "valid": "validation", "meta-val": "validation",
    "meta-valid": "validation", "meta-validation": "validation",
    "target": "target", "test": "target", "meta-test": "target",
}  # fmt: skip
PARTS_HELP = "source, validation and target, also named train, val and test or meta-train, meta-val and meta-test"


def part_named(name: str) -> str | None:
    """Which of PARTS is called so in the field; None for another name."""
    return _PART_NAMES.get(name.lower().replace("_", "-"))


@dataclass(frozen=True, eq=False)
class Split:
    """Labelled images of k classes; checks itself when it is made.

    images: uint8 [n, h, w, c], NumPy; other arrays are converted. Images left in their files (`load`'s stream_above)
    are a `RecordImages`, which reads them when they are indexed.
    labels: int32 [n] in 0..k-1, NumPy; whole numbers of other types are converted.
    class_names: k different names, that of class i at i.
    superclasses: k names, that of the superclass of class i at i; None where there are none.
    Raises InputError for arrays or names that are not so, and for no images.
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
        """k."""
        return len(self.class_names)


def _array(values: Any, what: str) -> Any:
    """An array in memory as NumPy; images that are left in their files as they are."""
    if not hasattr(values, "__array__") and hasattr(values, "shape") and hasattr(values, "dtype"):
        return values
    try:
        return np.asarray(values)
    except Exception as error:  # of a ragged list, of a tensor on another device, …
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
        raise InputError(f"class_names has {twice!r} more than once; give every class a name of its own")
    return tuple(str(name) for name in names)  # NumPy's strings are strings of their own


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
    """One data set as few-shot transfer needs it; no class is in two of source, validation and target.

    source_train and source_test hold different images of the same classes, under the same labels; source_test is
    None when no images were held out. validation is None where the data set has no validation classes.
    augmentation is the kind (see `ncjax.data.augment`) that fits the images: "crop_flip", "shift" or "none".
    made_with: the programs that made the images and may change them from version to version, and these versions.
    Checks itself when it is made. Raises InputError for what is no `Split`, images of several shapes, source parts of
    other class names, less than 2 source or target classes, a class of too few images (2 of validation and target, 1
    of source), an unknown augmentation.
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


@dataclass(frozen=True)
class Request:
    """What a data set is opened with: `load`'s arguments that the data set itself has to know."""

    name: str
    data_dir: Path | None = None
    split_seed: int = 0
    image_size: int | None = None
    rotations: bool = False
    skip_corrupt: bool = False
    class_split: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    nested: bool = False


@dataclass(frozen=True)
class ClassSplit:
    """Class numbers of each part; `source` in the order in which classes join when more are asked for."""

    source: tuple[int, ...]
    validation: tuple[int, ...]
    target: tuple[int, ...]
    default_sources: int

    def __post_init__(self) -> None:
        """Raises InputError for less than 2 source or target classes."""
        for part, classes in (("source", self.source), ("target", self.target)):
            if len(classes) < 2:
                raise InputError(f"there are {len(classes)} {part} classes; at least 2 are needed, with images in each")


@dataclass(frozen=True, eq=False)
class ClassImages:
    """Images of some classes of a data set.

    images: uint8 [n, h, w, c]. labels: class numbers [n]. official_test: bool [n], the images that the data set's
    makers set aside for tests; None where they set none aside.
    """

    images: Any
    labels: np.ndarray
    official_test: np.ndarray | None = None


@dataclass(frozen=True)
class DataSet:
    """A data set before its images are read: the names of all classes, their split, and a reader of some classes.

    leave_in_files does as read, with images that stay in their files; None where there are no such files.
    decoded_bytes: the size of all images in such files, as arrays. made_with: as of Benchmark. superclasses: the
    superclass of each class, by name; of all classes or of none. by_class: whether the images of a split are put in the
    order of classes, so that it does not matter in which order they lie in their files; else they stay in that.
    """

    class_names: tuple[str, ...]
    split: ClassSplit
    read: Callable[[Sequence[int]], ClassImages]
    leave_in_files: Callable[[Sequence[int]], ClassImages] | None = None
    decoded_bytes: int = 0
    made_with: Mapping[str, str] = field(default_factory=dict)
    superclasses: Mapping[str, str] = field(default_factory=dict)
    by_class: bool = False


def random_class_split(
    num_classes: int, *, target: int, validation: int = 0, default_sources: int | None = None, seed: int
) -> ClassSplit:
    """Draws target and validation classes, and an order of the others, uniformly from one population.

    The same seed gives the same target classes however many source classes are used.
    """
    order = tuple(int(c) for c in np.random.default_rng([seed, 0]).permutation(num_classes))
    source = order[target + validation :]
    return ClassSplit(
        source=source,
        validation=order[target : target + validation],
        target=order[:target],
        default_sources=len(source) if default_sources is None else default_sources,
    )


def own_class_split(num_classes: int, seed: int) -> ClassSplit:
    """For classes that came without a split.

    Target is a fifth of them, but at least 5 or, of less than 10, half of them rounded down. Validation is 0.16 of them
    where there are 20 or more, else none. Source is the rest. Fifth and 0.16 are rounded to the nearest number.
    Raises InputError for less than 4 classes.
    """
    if num_classes < 4:
        raise InputError(f"there are {num_classes} classes; at least 4 are needed, 2 source and 2 target")
    target = max(min(5, num_classes // 2), round(0.2 * num_classes))
    validation = round(0.16 * num_classes) if num_classes >= 20 else 0
    return random_class_split(num_classes, target=target, validation=validation, seed=seed)


def given_class_split(
    class_names: Sequence[str], source: Sequence[str], validation: Sequence[str], target: Sequence[str], seed: int
) -> ClassSplit:
    """A split by class names, such as a benchmark's makers published; only the order of source classes is drawn."""
    number = {name: i for i, name in enumerate(class_names)}
    order = np.random.default_rng([seed, 0]).permutation(len(source))
    return ClassSplit(
        source=tuple(number[source[i]] for i in order),
        validation=tuple(number[name] for name in validation),
        target=tuple(number[name] for name in target),
        default_sources=len(source),
    )


def build(
    name: str,
    data_set: DataSet,
    *,
    augmentation: str | None,
    num_source_classes: int | None,
    source_test_per_class: int | None,
    samples_per_class: int | None,
    seed: int,
    stream_above: int | None = None,
) -> Benchmark:
    """Reads the chosen classes and divides the images of source classes; the arguments are those of `load`.

    augmentation None is "shift" for grey images, "crop_flip" for colour.
    """
    split = data_set.split
    wanted = split.default_sources if num_source_classes is None else num_source_classes
    if wanted > len(split.source):
        raise InputError(
            f"{name} has {len(split.source)} source classes, not {wanted}; choose num_source_classes up to that"
        )
    source, validation, target = (sorted(c) for c in (split.source[:wanted], split.validation, split.target))
    pool = _pool(name, data_set, [*source, *validation, *target], stream_above)

    train, test = [], []
    for c in source:
        # of the class alone, so that runs with other classes, or with more of them, have the same images of this one
        rng = np.random.default_rng([seed, 1, *data_set.class_names[c].encode(errors="surrogatepass")])
        ours = np.flatnonzero(pool.labels == c)
        official = None if pool.official_test is None else pool.official_test[ours]
        if not len(ours):
            raise InputError(f"class {data_set.class_names[c]!r} of {name} has no images")
        held = _held_out(len(ours), official, source_test_per_class)
        if held >= len(ours):
            raise InputError(
                f"class {data_set.class_names[c]!r} of {name} has {len(ours)} images, too few to hold out {held} and "
                "train on the rest; choose a smaller source_test_per_class, or add images"
            )
        # Held-out images come from the end: the makers' test images first, others at random.
        drawn = rng.permutation(len(ours))
        order = drawn if official is None else drawn[np.argsort(official[drawn], kind="stable")]
        keep = len(ours) - held
        train.append(ours[order[: keep if samples_per_class is None else min(keep, samples_per_class)]])
        test.append(ours[order[keep:]])

    def select(index: np.ndarray, classes: Sequence[int], in_files: bool = False) -> Split:
        index = np.sort(index)
        if data_set.by_class:
            index = index[np.argsort(pool.labels[index], kind="stable")]
        labels = np.searchsorted(classes, pool.labels[index]).astype(np.int32)
        images = pool.images.subset(index) if in_files else pool.images[index]
        names = tuple(data_set.class_names[c] for c in classes)
        above = data_set.superclasses
        return Split(images, labels, names, tuple(above[n] for n in names) if all(n in above for n in names) else None)

    held_out = np.concatenate(test)
    trained_on = np.concatenate(train)
    size = len(trained_on) * math.prod(pool.images.shape[1:])
    in_files = stream_above is not None and size > stream_above and not isinstance(pool.images, np.ndarray)
    return Benchmark(
        name=name,
        source_train=select(trained_on, source, in_files),
        source_test=select(held_out, source) if len(held_out) else None,
        validation=select(np.flatnonzero(np.isin(pool.labels, validation)), validation) if validation else None,
        target=select(np.flatnonzero(np.isin(pool.labels, target)), target),
        augmentation=augmentation or ("shift" if pool.images.shape[-1] == 1 else "crop_flip"),
        made_with=data_set.made_with,
    )


def _pool(name: str, data_set: DataSet, classes: list[int], stream_above: int | None) -> ClassImages:
    """The images of the classes; left in their files where source_train might have more bytes than `stream_above`."""
    if stream_above == 0 and data_set.leave_in_files is None:
        raise InputError(f"{name} has no prepared files that images could be streamed from; leave stream out")
    if stream_above is None or data_set.leave_in_files is None or data_set.decoded_bytes <= stream_above:
        return data_set.read(classes)
    return data_set.leave_in_files(classes)


def _held_out(count: int, official: np.ndarray | None, asked: int | None) -> int:
    if asked is not None:
        return asked
    return max(1, count // 6) if official is None else int(official.sum())
