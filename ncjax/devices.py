"""The device mesh that every front door shares, and what scripts set before the backend starts."""

import os
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ncjax.errors import InputError


def data_mesh() -> Mesh:
    """The one-dimensional ``("data",)`` mesh to run on.

    The mesh set by the caller (``with jax.set_mesh(mesh): ...``) if it has an axis named ``"data"``, else all
    devices of all processes. Setting a mesh is how a caller keeps ncjax to some of the devices.

    Raises:
        InputError: The mesh that was set has axes whose types are not Auto.
    """
    current = jax.sharding.get_mesh()
    if "data" in current.axis_names:
        if set(current.axis_types) != {AxisType.Auto}:
            raise InputError(
                'the mesh has axes of another type than Auto; make it with jax.make_mesh((n,), ("data",), '
                "axis_types=(jax.sharding.AxisType.Auto,))"
            )
        return current
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device of `mesh` holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def sharded(mesh: Mesh) -> NamedSharding:
    """The array's first axis is divided over the devices of `mesh`."""
    return NamedSharding(mesh, PartitionSpec("data"))


def let_few_wait(i: int, values: Any) -> None:
    """Waits for the devices at every 16th call of a compiled program, the i-th of which gave these values.

    Programs that exchange values between CPU devices hang for good once more than 32 of them wait (jaxlib 0.10); where
    batches are handed over, those that wait hold memory.
    """
    if i % 16 == 15:
        jax.block_until_ready(values)


def use_all_cores() -> None:
    """Makes CPU devices of the cores; for scripts, before anything touches the JAX backend.

    XLA's small operations hardly parallelise within one CPU device, so that training steps and episodes run up to
    twice as fast on two. The number is a power of two, so that common batch sizes divide over it, and 8 at most.
    Changes nothing where the backend is a GPU or TPU, or where the number of CPU devices was already chosen
    (`JAX_NUM_CPU_DEVICES` or `XLA_FLAGS`).
    """
    chosen = "JAX_NUM_CPU_DEVICES" in os.environ or "host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not chosen:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        jax.config.update("jax_num_cpu_devices", min(8, 2 ** (cores.bit_length() - 1)))
