"""Batches of images that stay in their files, read ahead by grain."""

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


class _Batches:
    """Item s is this process's share of the batch of step s: the position of a stream is the number of the step."""

    def __init__(self, split: Split, seed: int, batch_size: int, share: np.ndarray) -> None:
        self._split = split
        self._size = batch_size
        self._share = share
        order = jax.jit(partial(epoch_order, n=len(split), batch_size=batch_size))
        here = jax.local_devices()[0]

        @lru_cache(maxsize=2)
        def rows_of(epoch: int) -> np.ndarray:
            with jax.default_device(here):
                return np.asarray(order(np.uint32(seed), np.int32(epoch)))

        self._rows_of = rows_of

    def __len__(self) -> int:
        return 2**31

    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        epoch, offset = divmod(int(step) * self._size, len(self._split))
        rows = self._rows_of(epoch)[offset : offset + self._size][self._share]
        return self._split.images[rows], self._split.labels[rows]


def check_installed() -> None:
    """Raises InputError where images cannot be streamed."""
    if importlib.util.find_spec("grain") is None:
        raise InputError(
            'images are streamed from their files by grain: pip install -e ".[stream]", or set stream=False'
        )


def batches(
    split: Split, seed: int, batch_size: int, share: np.ndarray
) -> Callable[[int], Iterator[tuple[np.ndarray, np.ndarray]]]:
    """`batches(step)`: from that step on, this process's share of every batch, in the order of `epoch_order`.

    `share` says which rows of a batch those are (`trainer.local_rows`).
    """
    import grain

    source = _Batches(split, seed, batch_size, share)
    reading = grain.ReadOptions(num_threads=_READERS, prefetch_buffer_size=_BATCHES_AHEAD)

    def from_step(step: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return iter(grain.MapDataset.source(source)[step:].to_iter_dataset(reading))

    return from_step
