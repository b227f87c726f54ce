"""Eight CPU devices for the sharding tests; every test runs on one of them unless it sets a larger mesh."""

import tempfile
from collections.abc import Callable, Iterator

import jax
import pytest
from jax.sharding import AxisType, Mesh

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
# Tests build the same programs over and over: a training step for each run, for example.
_compiled = tempfile.TemporaryDirectory()
jax.config.update("jax_compilation_cache_dir", _compiled.name)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def make_mesh(count: int) -> Mesh:
    """The ("data",) mesh over the first `count` devices."""
    return jax.make_mesh((count,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:count])


@pytest.fixture(autouse=True)
def _one_device() -> Iterator[None]:
    with jax.set_mesh(make_mesh(1)):
        yield


@pytest.fixture
def on_devices() -> Callable[[int], Mesh]:
    """`with jax.set_mesh(on_devices(8)): ...`"""
    return make_mesh
