"""SIGINT, SIGTERM and SIGHUP as a request to save and stop."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(KeyboardInterrupt):
    """A signal (Ctrl-C, SIGTERM, SIGHUP) stopped the run; its state is saved, and the same call continues it.

    Like KeyboardInterrupt it is no Exception, so that handlers of errors do not catch it.

    Attributes:
      signal: the number of the signal.
    """

    def __init__(self, number: int, when: str) -> None:
        super().__init__(f"interrupted {when}: the same command continues from there")
        self.signal = number


class Stop:
    """A request to stop, made by a signal.

    Attributes:
      signal: the number of the first signal; 0 before any.
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
    """Notes SIGINT, SIGTERM and SIGHUP instead of ending the process; a second signal of a kind does end it.

    Does nothing outside the main thread, where handlers cannot be set. Signals that the process was started to ignore
    stay ignored, as SIGINT in a shell's background jobs and SIGHUP under nohup.

    Python runs a handler once the compiled call that the main thread waits for has returned, and training saves between
    steps only. About half a second of steps is taken between two looks; a step, a measurement or a compilation that
    takes longer delays the answer to a signal by as much. Polling `jax.Array.is_ready` would not stop such a step.
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
