"""Sums over many samples of a class, which float32 does not hold when they are added one after the other."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles_collapse as oracles
import pytest

from ncjax.collapse import ClassMoments, cdnv, measure, measure_stream
from ncjax.collapse.moments import class_sums
from ncjax.devices import sharded

CDNV, UPDATE = jax.jit(cdnv, static_argnums=2), jax.jit(ClassMoments.update)


def two_classes(n, offset, sd, d=2, *, seed=0):
    """n samples a class of two classes whose means are 2·sd apart, on a common offset."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.repeat(np.arange(2, dtype=np.int32), n))
    x = offset + sd * (2.0 * y[:, None] * np.eye(d)[0] + rng.standard_normal((2 * n, d), np.float32))
    return x.astype(np.float32), y


def expected(x, y):
    means, variances = oracles.means_and_variances(x, y)
    return variances.sum() / (2 * np.sum((means[0] - means[1]) ** 2))


@pytest.mark.parametrize(("offset", "sd"), [(1e4, 1.0), (100.0, 1e-3), (0.0, 1.0)])
def test_moments_of_many_samples_are_the_oracle(offset, sd):
    x, y = two_classes(200_000, offset, sd)
    value = expected(x, y)
    moments = UPDATE(ClassMoments.empty(2, 2), x, y)
    np.testing.assert_allclose(moments.variance, oracles.means_and_variances(x, y)[1], rtol=1e-5)
    assert float(CDNV(x, y, 2)) == pytest.approx(value, rel=1e-5)


@pytest.mark.slow
def test_every_measure_of_many_samples_is_the_oracle():
    x, y = two_classes(200_000, 1e4, 1.0)
    v = oracles.directional_pairs(x, y)
    nc1, _ = oracles.nc1(x, y)
    for found in (measure(x, y), measure_stream([(x, y)])):
        assert found.cdnv == pytest.approx(expected(x, y), rel=1e-5)
        assert found.directional_cdnv == pytest.approx(oracles.mean_of_ordered_pairs(v), rel=1e-4)
        assert found.nc1 == pytest.approx(nc1, rel=1e-4)


def test_sums_are_those_of_each_block_together(on_devices):
    """A sum of ones that float32 does not hold one by one; the rows of a large class need not be spread."""
    n = 2**18
    segment = jnp.asarray(np.random.default_rng(0).integers(0, 4, n), jnp.int32)
    values = np.random.default_rng(1).normal(size=(n, 2)).astype(np.float32) + 1.0
    sums = jax.jit(class_sums, static_argnums=2)
    exact = np.stack([values[np.asarray(segment) == c].sum(0, dtype=np.float64) for c in range(3)])
    np.testing.assert_allclose(sums(values, segment, 3), exact, rtol=1e-6)  # rows of class 3 do not count
    counts = sums(jnp.ones(n, jnp.int32), segment, 3)
    assert counts.dtype == jnp.int32
    np.testing.assert_array_equal(counts, np.bincount(segment, minlength=4)[:3])
    mesh = on_devices(8)
    with jax.set_mesh(mesh):
        placed = jax.device_put((values, np.asarray(segment)), sharded(mesh))
        np.testing.assert_allclose(sums(*placed, 3), exact, rtol=1e-6)


def test_the_gradient_of_cdnv_of_many_samples_is_that_of_few():
    """Every sample many times over: the same CDNV, and the gradient divided among the copies."""
    x, y = two_classes(50, 3.0, 1.0)
    times = 2**18 // len(x)
    gradient = jax.jit(jax.grad(cdnv), static_argnums=2)
    many = gradient(jnp.tile(x, (times, 1)), jnp.tile(y, times), 2).reshape(times, *x.shape)
    few = np.asarray(gradient(x, y, 2))
    np.testing.assert_allclose(times * np.asarray(many)[[0, times // 2, -1]], np.stack([few] * 3), rtol=1e-3, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("offset", "sd"), [(1e4, 1.0), (0.0, 1.0)])
def test_cdnv_of_ten_million_samples_a_class(offset, sd):
    rng = np.random.default_rng(0)
    y = np.tile(np.arange(2, dtype=np.int32), 10**7)
    x = (offset + sd * (2.0 * y[:, None] + rng.standard_normal((2 * 10**7, 1), np.float32))).astype(np.float32)
    mean = [x[y == c].mean(dtype=np.float64) for c in (0, 1)]
    variance = [np.mean((x[y == c] - np.float64(mean[c])) ** 2) for c in (0, 1)]
    value = sum(variance) / (2 * (mean[0] - mean[1]) ** 2)
    assert measure(x, y).cdnv == pytest.approx(value, rel=1e-4)
    assert float(CDNV(x, y, 2)) == pytest.approx(value, rel=1e-4)
