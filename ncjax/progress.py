"""A bar over what takes longer than two seconds."""

import sys
from collections.abc import Iterable, Sequence
from typing import TypeVar

import jax
from tqdm import tqdm

T = TypeVar("T")


def progress(values: Sequence[T], what: str, unit: str = "it") -> Iterable[T]:
    """The values, with a bar on stderr after two seconds, which goes when they end; process 0 alone shows it."""
    bar: Iterable[T] = tqdm(
        values,
        desc=what,
        unit=unit,
        delay=2,
        leave=False,
        mininterval=0.1 if sys.stderr.isatty() else 5,  # a job's log keeps every line
        disable=jax.process_index() > 0,
    )
    return bar
