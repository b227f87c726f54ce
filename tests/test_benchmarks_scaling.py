"""benchmarks/scaling.py reads the bytes of collectives from compiled programs."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from ncjax import devices


@pytest.fixture(scope="module")
def scaling() -> Any:
    path = Path(__file__).parent.parent / "benchmarks" / "scaling.py"
    spec = importlib.util.spec_from_file_location("scaling", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_bytes_of_a_sum_over_devices(scaling: Any, on_devices: Callable[[int], Mesh]) -> None:
    mesh = on_devices(2)

    def found(function: Callable[[Any], Any], placement: Any = None) -> list[tuple[str, int]]:
        with jax.set_mesh(mesh):
            rows = jax.device_put(np.ones((6, 5), np.float32), devices.sharded(mesh))
            return scaling.collectives(jax.jit(function, out_shardings=placement).lower(rows).compile().as_text())

    everywhere = devices.replicated(mesh)
    assert found(lambda x: jnp.sum(x, axis=0), everywhere) == [("all-reduce", 4 * 5)]
    assert found(lambda x: 2 * x, everywhere) == [("all-gather", 4 * 6 * 5)]
    assert found(lambda x: 2 * x) == []


def test_results_of_several_arrays_and_of_other_types(scaling: Any) -> None:
    text = "%r = (f32[3,4]{1,0}, s32[]{:T(128)}) all-reduce(%a, %b), channel_id=1\n%s = bf16[7]{0} all-gather-start(%c)"
    assert scaling.collectives(text) == [("all-reduce", 4 * 12 + 4), ("all-gather", 14)]


def test_the_estimate_is_a_ring(scaling: Any) -> None:
    link = scaling.Link(devices=4, bandwidth=1e9, latency=1e-3, step=1.0, source="")
    assert scaling.estimate([("all-reduce", 10**6), ("all-reduce", 0)], link) == pytest.approx(2e-3 + 1.5e-3)
