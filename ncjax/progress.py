"""Progress bars for loops longer than two seconds, and messages printed above them."""

import sys
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")


def seconds_between_updates() -> float:
    """Refresh interval of progress bars; longer when stderr is a log, which keeps every line."""
    return 0.1 if sys.stderr.isatty() else 5.0


def progress(values: Sequence[T], what: str, unit: str = "it") -> Iterable[T]:
    """Iterates over `values`; after two seconds, process 0 shows a bar on stderr, which vanishes at the end."""
    bar: Iterable[T] = progress_bar(what, unit, iterable=values)
    return bar


def progress_bar(what: str, unit: str, **options: Any) -> tqdm:
    """Returns a bar like that of `progress` for a loop that calls `update`; `options`, such as `total`, go to tqdm."""
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
    """Writes a line to stderr above the bar, on process 0."""
    if _is_lead_process():
        tqdm.write(text, file=sys.stderr)


def _is_lead_process() -> bool:
    import jax  # takes a second, and commands answer --help without it

    # `process_index` starts the backend, after which devices cannot be chosen any more; data is often loaded earlier.
    # Several processes have called jax.distributed.initialize, which does not start it.
    return not jax.distributed.is_initialized() or jax.process_index() == 0
