"""SIGINT and SIGTERM as a request to save and stop."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(Exception):
    """The run was asked to stop (Ctrl-C, SIGTERM); its state is saved, and the same call continues it.

    Attributes:
      signal: which signal asked.
    """

    def __init__(self, step: int, number: int) -> None:
        super().__init__(f"interrupted after step {step}; saved: the same command continues from there")
        self.signal = number


@contextmanager
def deferred_signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM instead of dying of them, so that the loop can save; a second one does kill.

    Only the main thread may do so; elsewhere nothing is collected. A signal that the process was started to ignore, as
    a shell's background jobs ignore SIGINT, stays ignored.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.getsignal(number) for number in numbers if signal.getsignal(number) != signal.SIG_IGN}

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        signal.signal(number, previous[signal.Signals(number)])

    for number in previous:
        signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if received:  # too late for this run, which is done: what comes after it hears of it
        signal.raise_signal(received[0])
