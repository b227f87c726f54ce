"""Divides the images of target classes into those to train on and those held out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ncjax.data import Split

MOST_HELD_OUT, SHARE_HELD_OUT = 100, 3


def divide(split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Divides the images; returns the rows to train on, in random order, and the rows that are held out.

    A third of each class, at most 100 images, is held out.
    """
    rng = np.random.default_rng(0)
    train, held = [], []
    for label in range(len(split.class_names)):
        rows = rng.permutation(np.flatnonzero(split.labels == label))
        out = min(MOST_HELD_OUT, len(rows) // SHARE_HELD_OUT)
        held.append(rows[:out])
        train.append(rows[out:])
    return rng.permutation(np.concatenate(train)), np.concatenate(held)
