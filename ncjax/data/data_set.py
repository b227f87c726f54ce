"""Data sets before their images are read, and how they become a Benchmark."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ncjax.data.benchmark import Benchmark, Split
from ncjax.data.class_splits import ClassSplit
from ncjax.errors import InputError
from ncjax.progress import remark


@dataclass(frozen=True)
class Request:
    """The arguments of `load` that a data set needs to open itself."""

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


@dataclass(frozen=True, eq=False)
class ClassImages:
    """Images of some classes of a data set.

    Attributes:
      images: uint8 [n, h, w, c], an array or `FileImages`.
      labels: class numbers [n].
      official_test: bool [n], whether an image is one of the makers' test images; None where they have none.
    """

    images: Any
    labels: np.ndarray
    official_test: np.ndarray | None = None


@dataclass(frozen=True)
class DataSet:
    """A data set before its images are read.

    Attributes:
      class_names: the names of all classes.
      split: the numbers of the source, validation and target classes.
      open: returns the images of some classes, given by number.
      made_with: as in `Benchmark`.
      superclasses: the superclass of each class, by name; empty where there are none.
      by_class: whether a split's images are ordered by class, so that their order in the files does not matter;
        otherwise they keep the order of the files.
      is_own: whether the images are the user's own.
    """

    class_names: tuple[str, ...]
    split: ClassSplit
    open: Callable[[Sequence[int]], ClassImages]
    made_with: Mapping[str, str] = field(default_factory=dict)
    superclasses: Mapping[str, str] = field(default_factory=dict)
    by_class: bool = False
    is_own: bool = False


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
    """Chooses classes, divides the images of source classes into source_train and source_test, and reads the images.

    Args:
      name: of the benchmark.
      data_set: the data set.
      augmentation: None for "shift" on grey images and "crop_flip" on colour images.
      num_source_classes: as in `load`; so are the remaining arguments.
      source_test_per_class: likewise.
      samples_per_class: likewise.
      seed: `load`'s split_seed.
      stream_above: likewise.

    Raises:
      InputError: if there are fewer source classes or images than asked for, or images cannot be read.
    """
    split = data_set.split
    wanted = split.default_sources if num_source_classes is None else num_source_classes
    check_source_classes(name, wanted, len(split.source))
    source, validation, target = (sorted(c) for c in (split.source[:wanted], split.validation, split.target))
    pool = data_set.open([*source, *validation, *target])
    if stream_above == 0 and isinstance(pool.images, np.ndarray):
        raise InputError(f"{name} has no prepared files that images could be streamed from; leave stream out")

    train, test = [], []
    for c in source:
        # drawn for each class by itself, so that it has the same images whatever the other classes
        rng = np.random.default_rng([seed, 1, *data_set.class_names[c].encode(errors="surrogatepass")])
        rows = np.flatnonzero(pool.labels == c)
        official = None if pool.official_test is None else pool.official_test[rows]
        if not len(rows):
            raise InputError(f"class {data_set.class_names[c]!r} of {name} has no images")
        held = _held_out(len(rows), official, source_test_per_class, is_own=data_set.is_own)
        if held >= len(rows):
            raise InputError(
                f"class {data_set.class_names[c]!r} of {name} has {len(rows)} images, too few to hold out {held} and "
                "train on the rest; choose a smaller source_test_per_class, or add images"
            )
        # The last images are held out: the makers' test images first, then others at random.
        drawn = rng.permutation(len(rows))
        order = drawn if official is None else drawn[np.argsort(official[drawn], kind="stable")]
        keep = len(rows) - held
        train.append(rows[order[: keep if samples_per_class is None else min(keep, samples_per_class)]])
        test.append(rows[order[keep:]])

    def make_split(rows: np.ndarray, classes: Sequence[int], in_files: bool = False) -> Split:
        rows = np.sort(rows)
        if data_set.by_class:
            rows = rows[np.argsort(pool.labels[rows], kind="stable")]
        labels = np.searchsorted(classes, pool.labels[rows]).astype(np.int32)
        images = pool.images.subset(rows) if in_files else pool.images[rows]
        names = tuple(data_set.class_names[c] for c in classes)
        above = data_set.superclasses
        return Split(images, labels, names, tuple(above[n] for n in names) if all(n in above for n in names) else None)

    held_out = np.concatenate(test)
    trained_on = np.concatenate(train)
    if data_set.is_own and source_test_per_class is None:
        counts = sorted({len(rows) for rows in test})
        number = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        remark(
            f"{name}: {number} images of each source class are held out as source-test; --source_test_per_class "
            "holds out another number"
        )
    size = len(trained_on) * math.prod(pool.images.shape[1:])
    in_files = stream_above is not None and size > stream_above and not isinstance(pool.images, np.ndarray)
    return Benchmark(
        name=name,
        source_train=make_split(trained_on, source, in_files),
        source_test=make_split(held_out, source) if len(held_out) else None,
        validation=make_split(np.flatnonzero(np.isin(pool.labels, validation)), validation) if validation else None,
        target=make_split(np.flatnonzero(np.isin(pool.labels, target)), target),
        augmentation=augmentation or ("shift" if pool.images.shape[-1] == 1 else "crop_flip"),
        made_with=data_set.made_with,
    )


def check_source_classes(name: str, wanted: int, available: int) -> None:
    """Raises InputError if there are fewer source classes than wanted."""
    if wanted > available:
        raise InputError(f"{name} has {available} source classes, not {wanted}; choose num_source_classes up to that")


def _held_out(count: int, official: np.ndarray | None, asked: int | None, *, is_own: bool) -> int:
    """Returns how many images of a class are held out.

    Of the user's own images more than a sixth where there are few: collapse is measured on as many images in all sets,
    and on six a class it is mostly noise.
    """
    if asked is not None:
        return asked
    if official is not None:
        return int(official.sum())
    return max(1, count // 6, min(20, count // 3) if is_own else 0)
