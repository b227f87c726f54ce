"""Features in batches of one size, so that any number of images runs through one compiled program."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float

from ncjax.classifier import Classifier, features

BATCHES_AT_ONCE = 16
"""Batches whose images are in memory together."""


def extract_features(params: Classifier, images: Any, batch_size: int) -> Float[np.ndarray, "n d"]:
    """Computes `ncjax.features`, padding the last batch; `images` uint8 [n, h, w, c]."""
    step = batch_size * BATCHES_AT_ONCE
    return np.concatenate([_extract(params, images[i : i + step], batch_size) for i in range(0, len(images), step)])


def _extract(params: Classifier, images: Any, batch_size: int) -> Float[np.ndarray, "n d"]:
    count = len(images)
    images = np.asarray(images)
    padding = -count % batch_size
    if padding:
        images = np.concatenate([images, np.zeros((padding, *images.shape[1:]), images.dtype)])
    return np.asarray(features(params, images, batch_size=batch_size))[:count]


def padded(rows: np.ndarray, batch_size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Yields batches of rows [n, d], the last one padded with zeros, and the number of real rows in each."""
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        padding = np.zeros((batch_size - len(batch), rows.shape[1]), rows.dtype)
        yield np.concatenate([batch, padding]), len(batch)


def probe(params: Classifier, image_shape: tuple[int, int, int], batch_size: int) -> Float[np.ndarray, "4 d"]:
    """Computes the features of four fixed images, which identify an encoder: two ramps and two of noise.

    The noise does not depend on NumPy's generators.
    """
    height, width, channels = image_shape
    size = height * width * channels
    noise = (np.arange(2 * size, dtype=np.uint64) * np.uint64(2654435761) >> np.uint64(9)) % np.uint64(256)
    down = np.broadcast_to(np.linspace(0, 255, height)[:, None, None], image_shape)
    across = np.broadcast_to(np.linspace(255, 0, width)[None, :, None], image_shape)
    images = np.stack([down, across, *noise.reshape(2, *image_shape)]).astype(np.uint8)
    return extract_features(params, images, batch_size)
