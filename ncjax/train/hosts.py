"""What differs between the processes of one run: process 0 writes the logs, and all must decide alike."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType

from ncjax.errors import InputError


def leads() -> bool:
    """Whether this is the process that writes the run's files; checkpoints are written by all, through orbax."""
    return jax.process_index() == 0


def agree(*values: int) -> tuple[int, ...]:
    """What all processes go by: the largest of each value, so that a signal to one of them reaches all."""
    if jax.process_count() == 1:
        return values
    everywhere = multihost_utils.process_allgather(np.asarray(values, np.int32))
    return tuple(int(value) for value in everywhere.max(0))


@contextmanager
def together() -> Iterator[None]:
    """What raises on one process raises on all, so that none waits for one that has stopped.

    For work that the processes do each by itself, where some of it only one does.

    Raises:
      InputError: another process raised.
    """
    failure = None
    try:
        yield
    except Exception as error:
        failure = error
    (failed,) = agree(failure is not None)
    if failure is not None:
        raise failure
    if failed:
        raise InputError("another process of this run stopped, and its own message says why; start all of them again")


def each_by_itself() -> AbstractContextManager[object]:
    """Where there are several processes, what is inside runs on the devices of each: small work, done by all alike."""
    if jax.process_count() == 1:
        return nullcontext()
    mine = jax.local_devices()
    return jax.set_mesh(jax.make_mesh((len(mine),), ("data",), axis_types=(AxisType.Auto,), devices=mine))
