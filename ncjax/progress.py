"""Progress bars for loops longer than two seconds, and messages printed above them."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")

_IS_QUIET: ContextVar[bool] = ContextVar("is_quiet", default=False)


@contextmanager
def quietly(quiet: bool = True) -> Iterator[None]:
    """Leaves out bars and remarks in the body, if `quiet`; errors and warnings are shown."""
    token = _IS_QUIET.set(quiet or _IS_QUIET.get())
    try:
        yield
    finally:
        _IS_QUIET.reset(token)


def has_bars() -> bool:
    """Whether progress is shown by bars: not in a log, which would keep every state of a bar."""
    return sys.stderr.isatty() and not _IS_QUIET.get()


def progress(values: Sequence[T], what: str, unit: str = "it") -> Iterable[T]:
    """Iterates over `values`; after two seconds, process 0 shows a bar on a terminal, which vanishes at the end."""
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
        disable=not has_bars() or not _is_lead_process(),
        **options,
    )


def remark(text: str) -> None:
    """Writes a line to stderr above the bar, on process 0."""
    if _is_lead_process() and not _IS_QUIET.get():
        tqdm.write(text, file=sys.stderr)


def _is_lead_process() -> bool:
    import jax  # takes a second, and commands answer --help without it

    # `process_index` starts the backend, after which devices cannot be chosen any more; data is often loaded earlier.
    # Several processes have called jax.distributed.initialize, which does not start it.
    return not jax.distributed.is_initialized() or jax.process_index() == 0
