"""A bar over what takes longer than two seconds."""

import sys
from collections.abc import Iterable, Sequence
from typing import TypeVar

import jax
from tqdm import tqdm

T = TypeVar("T")


def seconds_between_updates() -> float:
    """Of a bar: a job's log keeps every line."""
    return 0.1 if sys.stderr.isatty() else 5.0


def progress(values: Sequence[T], what: str, unit: str = "it") -> Iterable[T]:
    """The values, with a bar on stderr after two seconds, which goes when they end; process 0 alone shows it."""
    bar: Iterable[T] = tqdm(
        values,
        desc=what,
        unit=unit,
        delay=2,
        leave=False,
        mininterval=seconds_between_updates(),
        disable=jax.process_index() > 0,
    )
    return bar
