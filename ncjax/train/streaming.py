"""Batches of images that stay in their files; grain reads them ahead."""

import importlib.util
from collections.abc import Callable, Iterator
from functools import lru_cache, partial

import jax
import numpy as np

from ncjax.data import Split
from ncjax.errors import InputError
from ncjax.train.step import epoch_order

_READERS = 8
_BATCHES_AHEAD = 16


class _StreamedBatches:
    """A sequence whose item s is this process's rows of the batch of step s."""

    def __init__(self, split: Split, seed: int, batch_size: int, rows: np.ndarray) -> None:
        self._split = split
        self._size = batch_size
        self._rows = rows
        order = jax.jit(partial(epoch_order, n=len(split), batch_size=batch_size))
        device = jax.local_devices()[0]

        @lru_cache(maxsize=2)
        def order_of(epoch: int) -> np.ndarray:
            with jax.default_device(device):
                return np.asarray(order(np.uint32(seed), np.int32(epoch)))

        self._order_of = order_of

    def __len__(self) -> int:
        return 2**31

    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        epoch, offset = divmod(int(step) * self._size, len(self._split))
        chosen = self._order_of(epoch)[offset : offset + self._size][self._rows]
        return self._split.images[chosen], self._split.labels[chosen]


def check_installed() -> None:
    """Raises InputError if grain is not installed."""
    if importlib.util.find_spec("grain") is None:
        raise InputError(
            'images are streamed from their files by grain: pip install -e ".[stream]", or set stream=False'
        )


def batches(
    split: Split, seed: int, batch_size: int, rows: np.ndarray
) -> Callable[[int], Iterator[tuple[np.ndarray, np.ndarray]]]:
    """Returns `batches(step)`, which yields this process's images and labels of every batch from a step on.

    Args:
      split: the training images.
      seed: of the order (`epoch_order`).
      batch_size: images a batch, over all processes.
      rows: this process's rows of a batch (`trainer.local_rows`).
    """
    import grain

    source = _StreamedBatches(split, seed, batch_size, rows)
    reading = grain.ReadOptions(num_threads=_READERS, prefetch_buffer_size=_BATCHES_AHEAD)

    def from_step(step: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return iter(grain.MapDataset.source(source)[step:].to_iter_dataset(reading))

    return from_step
