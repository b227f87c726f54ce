"""What the gradient of CDNV and the theory hold at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ncjax.collapse import ClassGeometry, cdnv
from ncjax.collapse.class_geometry import _of_samples


def temporary_bytes(function, *shapes):
    return jax.jit(function).lower(*shapes).compile().memory_analysis().temp_size_in_bytes


def test_the_gradient_of_cdnv_does_not_keep_all_differences():
    """k·k·d numbers, 2.6 GB for 1,000 classes in 640 dimensions."""
    k, d = 500, 640
    x, y = jax.ShapeDtypeStruct((2 * k, d), jnp.float32), jax.ShapeDtypeStruct((2 * k,), jnp.int32)
    assert temporary_bytes(jax.grad(lambda x, y: cdnv(x, y, k)), x, y) < 4 * k * k * d / 10


@pytest.mark.slow
def test_theory_neither_fills_classes_up_nor_keeps_triples():
    """[k, m, d] samples, m the largest class's, and [k, k, k] products: here 1,280 and 256 MB; the samples are 10."""
    k, d, n = 400, 64, 40_000
    vector = jax.ShapeDtypeStruct((k,), jnp.int32)
    shapes = jax.ShapeDtypeStruct((n, d), jnp.float32), jax.ShapeDtypeStruct((n,), jnp.int32), vector, vector
    held = temporary_bytes(lambda *args: _of_samples(*args, n // k), *shapes)
    assert held < 8 * 4 * n * d + 3 * 2**26


@pytest.mark.slow
def test_unbalanced_classes_have_the_moments_of_each_by_itself():
    rng = np.random.default_rng(0)
    counts = [4, 5, 700, 33]
    y = np.repeat(np.arange(4), counts)
    x = rng.normal(size=(len(y), 5)).astype(np.float32) + y[:, None]
    together = ClassGeometry.of_features(x, y)
    for pair in ([0, 2], [1, 3]):
        rows = np.isin(y, pair)
        apart = ClassGeometry.of_features(x[rows], y[rows])
        for name in ("variance", "fourth", "leading"):
            np.testing.assert_allclose(getattr(together, name)[jnp.array(pair)], getattr(apart, name), rtol=1e-4)
        for name in ("squared_distance", "product", "along_pair"):
            found = np.asarray(getattr(together, name))[np.ix_(pair, pair)]
            np.testing.assert_allclose(found, getattr(apart, name), rtol=1e-4, atol=1e-5)
