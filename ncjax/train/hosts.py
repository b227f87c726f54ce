"""Several processes of one run: process 0 writes the logs, and all make the same decisions."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType

from ncjax.errors import InputError


def is_lead_process() -> bool:
    """Whether this process writes the run's files; all processes write checkpoints, through orbax."""
    return jax.process_index() == 0


def max_over_processes(*values: int) -> tuple[int, ...]:
    """Returns the largest of each value over all processes, so that a signal to one process reaches all."""
    if jax.process_count() == 1:
        return values
    gathered = multihost_utils.process_allgather(np.asarray(values, np.int32))
    return tuple(int(value) for value in gathered.max(0))


@contextmanager
def raise_together() -> Iterator[None]:
    """Raises on all processes if the body raises on one, so that no process waits for a stopped one.

    The body must not wait for other processes.

    Raises:
      InputError: if another process raised.
    """
    failure = None
    try:
        yield
    except Exception as error:
        failure = error
    (failed,) = max_over_processes(failure is not None)
    if failure is not None:
        raise failure
    if failed:
        raise InputError("another process of this run stopped, and its own message says why; start all processes again")


def local_mesh() -> AbstractContextManager[object]:
    """Sets a mesh of this process's own devices, for small work that every process repeats."""
    if jax.process_count() == 1:
        return nullcontext()
    local = jax.local_devices()
    return jax.set_mesh(jax.make_mesh((len(local),), ("data",), axis_types=(AxisType.Auto,), devices=local))
