"""What differs between the processes of one run: process 0 writes the logs, and all must decide alike."""

import jax
import numpy as np
from jax.experimental import multihost_utils


def leads() -> bool:
    """Whether this is the process that writes the run's files; checkpoints are written by all, through orbax."""
    return jax.process_index() == 0


def agree(*values: int) -> tuple[int, ...]:
    """What all processes go by: the largest of each value, so that a signal to one of them reaches all."""
    if jax.process_count() == 1:
        return values
    everywhere = multihost_utils.process_allgather(np.asarray(values, np.int32))
    return tuple(int(value) for value in everywhere.max(0))
