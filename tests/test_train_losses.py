"""The regularisers against float64 NumPy and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles_collapse as oracle
import pytest

from ncjax import keys
from ncjax.models.mixing import Mixing
from ncjax.train import losses

RNG = np.random.default_rng(0)


def gradient_check(f: object, x: np.ndarray) -> None:
    """Compares the derivative along random directions with central differences."""
    f = jax.jit(f)
    gradient = np.asarray(jax.jit(jax.grad(f))(x), np.float64)
    for seed in range(5):
        direction = np.random.default_rng(seed).normal(size=x.shape)
        direction /= np.linalg.norm(direction)
        h = 1e-2
        numeric = (float(f(np.float32(x + h * direction))) - float(f(np.float32(x - h * direction)))) / (2 * h)
        assert np.sum(gradient * direction) == pytest.approx(numeric, rel=2e-2, abs=2e-3)


def test_smoothed_cross_entropy() -> None:
    logits = RNG.normal(size=(7, 5))
    labels = RNG.integers(0, 5, 7)
    targets = 0.9 * np.eye(5)[labels] + 0.1 / 5
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    found = losses.smoothed_targets(jnp.asarray(labels), 5, 0.1)
    np.testing.assert_allclose(found, targets, rtol=1e-6)
    f32 = jnp.asarray(logits, jnp.float32)
    assert float(losses.cross_entropy(f32, found)) == pytest.approx(-(targets * log_p).sum(-1).mean(), rel=1e-5)
    gradient_check(lambda z: losses.cross_entropy(z, found), logits.astype(np.float32))


def test_mixup_mixes_images_and_targets_alike() -> None:
    images = jnp.asarray(RNG.normal(size=(8, 2, 2, 1)), jnp.float32)
    targets = jnp.eye(8)

    def mix(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        mixing = Mixing.draw(key, 8, 1, 0.4)
        return mixing.mix(images), mixing.mix(targets)

    mixed_by = jax.jit(jax.vmap(lambda i: mix(keys.stream(0, "test", i))))
    all_mixed, all_targets = mixed_by(jnp.arange(4000, dtype=jnp.uint32))
    mixed, mixed_targets = np.asarray(all_mixed[3]), np.asarray(all_targets[3])
    # with the identity for targets, the mixed targets are the weights of the images
    np.testing.assert_allclose(mixed_targets.sum(-1), 1, rtol=1e-6)
    expected = np.asarray(mixed_targets, np.float64) @ np.asarray(images, np.float64).reshape(8, -1)
    np.testing.assert_allclose(np.asarray(mixed).reshape(8, -1), expected, rtol=1e-5, atol=1e-6)
    weights = np.asarray(all_targets).max((1, 2))
    # max(λ, 1 − λ), or 1 for an image mixed with itself; E max(λ, 1 − λ) of Beta(0.4, 0.4) by quadrature
    from scipy import stats

    folded = 2 * stats.beta(0.4, 0.4).expect(lambda x: x, lb=0.5)
    # in 14,833 of the 8! = 40,320 orders no image meets itself; a mixup that mixes nothing would give 1, not 0.93
    none_meets_itself = 14833 / 40320
    assert np.mean(weights) == pytest.approx(1 - none_meets_itself * (1 - folded), abs=0.01)


def test_dropout_keeps_the_mean_and_drops_the_share() -> None:
    features = jnp.ones((400, 50))
    dropped = np.asarray(losses.dropout(keys.root(0), features, 0.3))
    assert set(np.unique(dropped)) == {np.float32(0), np.float32(1 / 0.7)}
    assert np.mean(dropped == 0) == pytest.approx(0.3, abs=0.015)  # five standard deviations of 20,000 draws


def test_the_penalty_is_the_cdnv_of_classes_with_two_images() -> None:
    labels = np.asarray([0, 0, 0, 1, 1, 2, 4, 4])  # class 2 has one image, class 3 none
    features = RNG.normal(size=(8, 6)) + 3 * np.eye(6)[labels]
    several = labels != 2
    expected = oracle.mean_of_pairs(oracle.pairs(features[several], np.searchsorted([0, 1, 4], labels[several])))

    def penalty(x: jax.Array) -> jax.Array:
        return losses.cdnv_penalty(x, jnp.asarray(labels), 5)

    assert float(jax.jit(penalty)(np.float32(features))) == pytest.approx(expected, rel=1e-5)
    gradient_check(penalty, features.astype(np.float32))


penalty_and_gradient = jax.jit(jax.value_and_grad(losses.cdnv_penalty), static_argnums=2)


@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [0, 0, 0, 0], [0, 0, 1, 1]])
def test_the_penalty_and_its_gradient_are_zero_where_there_is_nothing_to_measure(labels: list[int]) -> None:
    """Single images, one class, two classes whose means coincide."""
    features = jnp.ones((4, 3))
    value, gradient = penalty_and_gradient(features, jnp.asarray(labels), 4)
    assert float(value) == 0
    np.testing.assert_array_equal(gradient, 0)
