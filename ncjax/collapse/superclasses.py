"""Superclasses of classes: labels one level up."""

from typing import Any

import numpy as np

from ncjax.checks import encode_labels
from ncjax.collapse.inputs import Labels
from ncjax.errors import InputError


def checked_superclasses(superclasses: Any, labels: Labels) -> Labels | None:
    """Returns the superclass of each class present, `position` [k], and the superclasses that are present.

    Args:
        superclasses: As in `measure`; None returns None.
        labels: The classes.

    Raises:
        InputError: There is not one superclass for each class, a superclass is no name or whole number, or all classes
            are of one superclass.
    """
    if superclasses is None:
        return None
    k = len(labels.classes) if labels.num_classes is None else labels.num_classes
    given = np.asarray(superclasses, dtype=object) if isinstance(superclasses, list | tuple) else superclasses
    try:
        names, position, _ = encode_labels(given)
    except InputError as error:
        raise InputError(f"superclasses: {error}") from None
    if len(position) != k:
        raise InputError(f"{len(position)} superclasses for {k} classes: give the name of each class's superclass, [k]")
    group = position if labels.num_classes is None else position[labels.classes]
    present, group = np.unique(group, return_inverse=True)
    if len(present) < 2:
        raise InputError(f"all classes are of superclass {names[present[0]]}: give two superclasses or more")
    counts = np.bincount(group, weights=labels.counts).astype(labels.counts.dtype)
    absent = np.delete(names, present)
    return Labels(group.astype(np.int32), names[present], counts, absent, None)
