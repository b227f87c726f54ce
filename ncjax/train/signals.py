"""SIGINT, SIGTERM and SIGHUP as a request to save and stop."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop (Ctrl-C, SIGTERM, SIGHUP); what it did is saved, and the same call continues it.

    Not an Exception, as KeyboardInterrupt is not, so that no handler of errors on its way takes it for one.

    Attributes:
      signal: which signal asked.
    """

    def __init__(self, number: int, when: str) -> None:
        super().__init__(f"interrupted {when}: the same command continues from there")
        self.signal = number


class Stop:
    """Whether a signal has asked the run to stop.

    Attributes:
      signal: the first that came; 0 while there was none.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._deferred = False

    def note(self, number: int) -> None:
        """Records a signal; raises Interrupted at once, unless signals are `deferred`."""
        self.signal = self.signal or number
        if not self._deferred:
            raise Interrupted(number, "outside of training, with nothing to save")

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """The body polls `signal`; a signal it did not handle is raised on exit."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        if self.signal:
            raise Interrupted(self.signal, "at the end of training, which is saved")


@contextmanager
def signals() -> Iterator[Stop]:
    """Collects SIGINT, SIGTERM and SIGHUP, instead of dying of them; a second one of a kind does kill.

    Only the main thread may do so; elsewhere nothing is collected. A signal that the process was started to ignore, as
    a shell's background jobs ignore SIGINT and those of nohup SIGHUP, stays ignored.

    Python runs a handler when the compiled call that the main thread waits for has returned, and training saves between
    steps only. Steps are taken for about half a second between looks; a step, a measurement or a compilation that takes
    longer delays the answer to the first signal, and to the second, by as much. To poll `jax.Array.is_ready` instead of
    waiting would answer the second sooner, not the first: XLA does not stop a step that has begun.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    previous = {number: signal.getsignal(number) for number in numbers if signal.getsignal(number) != signal.SIG_IGN}

    def note(number: int, frame: FrameType | None) -> None:
        signal.signal(number, previous[signal.Signals(number)])
        stop.note(number)

    for number in previous:
        signal.signal(number, note)
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
