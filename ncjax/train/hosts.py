"""Several processes of one run: process 0 writes the logs, and all must make the same decisions."""

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
    """The largest of each value over all processes, so that a signal to one of them reaches all."""
    if jax.process_count() == 1:
        return values
    everywhere = multihost_utils.process_allgather(np.asarray(values, np.int32))
    return tuple(int(value) for value in everywhere.max(0))


@contextmanager
def raise_together() -> Iterator[None]:
    """Raises on all processes if one raises inside, so that none waits for one that has stopped.

    For work that each process does by itself, or one process alone.

    Raises:
      InputError: another process raised.
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
        raise InputError("another process of this run stopped, and its own message says why; start all of them again")


def local_mesh() -> AbstractContextManager[object]:
    """Sets the mesh of this process's own devices, for small work that every process repeats by itself."""
    if jax.process_count() == 1:
        return nullcontext()
    mine = jax.local_devices()
    return jax.set_mesh(jax.make_mesh((len(mine),), ("data",), axis_types=(AxisType.Auto,), devices=mine))
