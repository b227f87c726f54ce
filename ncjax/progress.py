"""Progress bars for loops longer than two seconds, and lines printed above them."""

import sys
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import jax
from tqdm import tqdm

T = TypeVar("T")


def seconds_between_updates() -> float:
    """Refresh interval of progress bars; longer when stderr is a log, which keeps every line."""
    return 0.1 if sys.stderr.isatty() else 5.0


def progress(values: Sequence[T], what: str, unit: str = "it") -> Iterable[T]:
    """Iterates over `values`; after two seconds, process 0 shows a bar on stderr, and removes it at the end."""
    bar: Iterable[T] = progress_bar(what, unit, iterable=values)
    return bar


def progress_bar(what: str, unit: str, **options: Any) -> tqdm:
    """A bar as `progress` shows it, for a loop that calls `update` itself; `options` go to tqdm, such as `total`."""
    return tqdm(
        desc=what,
        unit=unit,
        delay=2,
        leave=False,
        file=sys.stderr,
        mininterval=seconds_between_updates(),
        disable=not _is_lead_process(),
        **options,
    )


def remark(text: str) -> None:
    """Writes a line to stderr, above any bar, on process 0."""
    if _is_lead_process():
        tqdm.write(text, file=sys.stderr)


def _is_lead_process() -> bool:
    # A process that is one of several has said so. Others are not asked for their index: that would start the backend,
    # after which devices cannot be chosen any more, and data are often loaded first.
    return not jax.distributed.is_initialized() or jax.process_index() == 0
