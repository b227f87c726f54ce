"""The pairs of classes that are hardest to tell apart, and images of them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ncjax.collapse import Collapse
from ncjax.errors import InputError
from ncjax.eval import EpisodeReport, confusion_rates


class HardPair(NamedTuple):
    """Two classes, and how hard they are to tell apart.

    Attributes:
      first: a class, as a row of `Split.class_names`.
      second: the other class.
      text: its CDNV, or its confusion.
    """

    first: int
    second: int
    text: str


def hardest_pairs(measured: Collapse | EpisodeReport, class_names: Sequence[str], count: int) -> list[HardPair]:
    """Returns the pairs with the largest CDNV, or with the most confusion in episodes.

    Args:
      measured: of classes numbered or named as `class_names`.
      class_names: the names of all classes.
      count: the number of pairs.

    Raises:
      InputError: if a class of `measured` is not among the names.
    """
    if isinstance(measured, Collapse):
        labels: Sequence[Any] = measured.classes.tolist()
        values = np.asarray(measured.cdnv_pairs, np.float64)
    elif isinstance(measured, EpisodeReport):
        labels = measured.class_names
        rates = confusion_rates(measured)
        values = (rates + rates.T) / 2
    else:
        raise InputError(f"a {type(measured).__name__} has no pairs of classes: give what measure or episodes return")
    position = {name: number for number, name in enumerate(class_names)}
    classes = [position.get(label, label) if isinstance(label, str) else int(label) for label in labels]
    unknown = [c for c in classes if isinstance(c, str) or not 0 <= c < len(class_names)]
    if unknown:
        raise InputError(f"class {unknown[0]!r} is not one of the {len(class_names)} classes of these images")
    rows, columns = np.triu_indices(len(classes), 1)
    order = np.argsort(-np.nan_to_num(values[rows, columns], nan=-1.0, posinf=np.inf), kind="stable")[:count]
    unit = "CDNV {:.3g}" if isinstance(measured, Collapse) else "{:.1f} % confused"
    return [HardPair(classes[rows[i]], classes[columns[i]], unit.format(values[rows[i], columns[i]])) for i in order]


def example_rows(labels: np.ndarray, label: int, count: int) -> np.ndarray:
    """Returns up to `count` rows of a class, evenly spaced among its images."""
    rows = np.flatnonzero(labels == label)
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int))]


def as_rgb(image: np.ndarray) -> np.ndarray:
    """Returns an image uint8 [h, w, 1 or 3] as [h, w, 3]."""
    return np.broadcast_to(image, (*image.shape[:2], 3))
