"""The device mesh that all public functions share, and settings for scripts before the backend starts."""

import os
from collections.abc import Callable
from functools import partial, wraps
from typing import Any, ParamSpec, TypeVar

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ncjax.errors import InputError, first_line

P = ParamSpec("P")
R = TypeVar("R")


def data_mesh() -> Mesh:
    """Returns the ``("data",)`` mesh to run on.

    This is the caller's mesh (``with jax.set_mesh(mesh): ...``), which restricts ncjax to some devices; by default a
    mesh of all devices of all processes. Axes of other types become Auto; a mesh without an axis ``"data"`` becomes the
    one-dimensional mesh of its devices.

    Raises:
      InputError: if JAX's backend cannot be started.
    """
    check_backend()
    current = jax.sharding.get_mesh()
    if current.empty:
        return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
    if "data" not in current.axis_names:
        return Mesh(current.devices.ravel(), ("data",), axis_types=(AxisType.Auto,))
    return current if _is_auto(current) else _auto(current)


def on_data_mesh(function: Callable[P, R]) -> Callable[P, R]:
    """Wraps a function so that it can be called under any mesh; in its body, `data_mesh()` is the mesh that is set.

    JAX computes with arrays of Explicit axes only under their own mesh: such arguments get Auto axes, and results are
    placed on the caller's mesh again.

    Raises:
        InputError: If the function is called inside jit, grad or vmap.
    """

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            current = jax.sharding.get_mesh()
        except ValueError as error:
            if "jax.jit" not in str(error):
                raise
            raise InputError(
                f"{function.__name__} reads its arguments on the host, and so not inside jit, grad or vmap: call it "
                "outside. Inside, ncjax.collapse.cdnv, ncjax.collapse.ClassMoments, ncjax.eval.heads and "
                "ncjax.classifier.extract are pure"
            ) from None
        if current.empty or ("data" in current.axis_names and _is_auto(current)):
            return function(*args, **kwargs)
        with jax.set_mesh(data_mesh()):
            args, kwargs = jax.tree.map(_on_auto_axes, (args, kwargs))
            result = function(*args, **kwargs)
        returned: R = jax.tree.map(partial(_on_callers_mesh, current), result)
        return returned

    return run


def _on_auto_axes(leaf: Any) -> Any:
    mesh = _mesh_of(leaf)
    return leaf if mesh is None else jax.device_put(leaf, NamedSharding(_auto(mesh), leaf.sharding.spec))


def _on_callers_mesh(mesh: Mesh, leaf: Any) -> Any:
    inside = _mesh_of(leaf)
    if inside is None:
        return leaf
    same = inside.axis_names == mesh.axis_names
    return jax.device_put(leaf, NamedSharding(mesh, leaf.sharding.spec if same else PartitionSpec()))


def _mesh_of(leaf: Any) -> Mesh | None:
    """Returns the mesh of an array; None for anything else."""
    sharding = leaf.sharding if isinstance(leaf, jax.Array) else None
    return sharding.mesh if isinstance(sharding, NamedSharding) and isinstance(sharding.mesh, Mesh) else None


def _auto(mesh: Mesh) -> Mesh:
    return Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * len(mesh.axis_names))


def _is_auto(mesh: Mesh) -> bool:
    return set(mesh.axis_types) <= {AxisType.Auto}


def check_backend() -> None:
    """Starts JAX's backend if it is not running.

    Raises:
      InputError: if it cannot be started, for example because JAX_PLATFORMS names absent devices.
    """
    try:
        jax.device_count()
    except (RuntimeError, AssertionError) as error:  # jax 0.10 asserts where JAX_PLATFORMS=cuda lacks its plugin
        chosen = jax.config.values["jax_platforms"]
        if not chosen:
            raise InputError(f"JAX finds no device to run on: {first_line(error)}") from None
        reason = str(error) and f" ({first_line(error)})"
        raise InputError(
            f"JAX_PLATFORMS={chosen} asks for devices that JAX does not find here{reason}; unset it to run on what is "
            'here, or install JAX for them, for example pip install -e ".[cuda]"'
        ) from None


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding under which every device of `mesh` holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def sharded(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that divides an array's first axis over the devices of `mesh`."""
    return NamedSharding(mesh, PartitionSpec("data"))


def limit_in_flight(i: int, values: Any) -> None:
    """Blocks on every 16th call of a compiled program, until `values`, the results of call i, are ready.

    More than 32 pending programs that exchange values between CPU devices hang forever (jaxlib 0.10), and pending
    programs keep their batches in memory.
    """
    if i % 16 == 15:
        jax.block_until_ready(values)


def use_all_cores() -> None:
    """Makes a CPU device of each core; for scripts, before anything touches the JAX backend.

    XLA's small operations hardly parallelise within one CPU device; with two, training steps and episodes run up to
    twice as fast. The number is a power of two, so that it divides common batch sizes, and at most 8. Changes nothing
    if the backend is a GPU or TPU, or if `JAX_NUM_CPU_DEVICES` or `XLA_FLAGS` set the number.
    """
    chosen = "JAX_NUM_CPU_DEVICES" in os.environ or "host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not chosen:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        jax.config.update("jax_num_cpu_devices", min(8, 2 ** (cores.bit_length() - 1)))
