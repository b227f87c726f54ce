"""The predicted few-shot error against that of the episodes of the same samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ncjax.collapse import ClassGeometry, theory
from ncjax.collapse.prediction import margins

WAYS, SHOTS = 5, (1, 5)


def spectrum(kind, d):
    """Eigenvalues of a class covariance, of mean 1."""
    index = np.arange(d)
    if kind == "spherical":
        values = np.ones(d)
    elif kind == "exponential":  # (tr Σ)²/tr Σ² = 50
        values = np.exp(-2 * index / 50)
    elif kind == "power law":  # (tr Σ)²/tr Σ² = 50; of tr Σ² half is in the first direction
        exponents = np.linspace(0, 3, 3001)
        powers = (index + 1.0) ** -exponents[:, None]
        rank = powers.sum(1) ** 2 / (powers**2).sum(1)
        values = powers[np.argmin(np.abs(rank - 50))]
    else:  # three directions
        values = (index < 3).astype(float)
    return values / values.mean()


def gaussian_classes(kind, k, n, d, rng, *, separation, own_axes=True):
    """n samples [k, n, d] of classes whose means are apart by `separation` deviations of a margin with one shot."""
    values = spectrum(kind, d)
    rank = int(np.count_nonzero(values))
    square = np.sum(values**2)
    distance = separation * (2 * separation + np.sqrt(4 * separation**2 + 10 * square))
    means = rng.normal(size=(k, d)) * np.sqrt(distance / (2 * d))
    samples = rng.normal(size=(k, n, rank)) * np.sqrt(values[:rank])
    if kind != "spherical":
        axes = [np.linalg.qr(rng.normal(size=(d, rank)))[0] for _ in range(k if own_axes else 1)]
        samples = np.stack([x @ axes[c % len(axes)].T for c, x in enumerate(samples)])
    return (samples + means[:, None]).astype(np.float32)


def measured(samples, ways, shots, episodes, rng):
    """The NCC error of episodes, up to 15 queries a class, and its standard error."""
    k, n, d = samples.shape
    queries = min(15, n - shots)
    errors = np.empty(episodes)
    for e in range(episodes):
        classes = rng.permutation(k)[:ways, None]
        drawn = samples[classes, np.stack([rng.permutation(n)[: shots + queries] for _ in range(ways)])]
        centres, x = drawn[:, :shots].mean(1), drawn[:, shots:].reshape(-1, d)
        farther = np.sum(centres**2, axis=1) - 2 * x @ centres.T
        errors[e] = np.mean(farther.argmin(1) != np.repeat(np.arange(ways), queries))
    return errors.mean(), errors.std() / np.sqrt(episodes)


def gaps(samples, rng, ways=WAYS, episodes=200):
    """Predicted less measured error, for each number of shots."""
    k, n, d = samples.shape
    predicted = theory(samples.reshape(-1, d), np.repeat(np.arange(k), n), ways=ways, shots=SHOTS).predicted
    return predicted - [measured(samples, ways, shots, episodes, rng)[0] for shots in SHOTS]


@pytest.mark.slow
@pytest.mark.parametrize("separation", [0.0, 0.5, 1.0])
def test_few_samples_in_many_dimensions(separation):
    """20 samples a class in 640 dimensions, 0 being pure noise: plug-in moments were off by .15 to .27."""
    rng = np.random.default_rng(3)
    samples = gaussian_classes("spherical", 10, 20, 640, rng, separation=separation)
    assert (np.abs(gaps(samples, rng)) < 0.03).all()


@pytest.mark.parametrize(
    ("kind", "most"), [("power law", 0.03), pytest.param("few directions", 0.04, marks=pytest.mark.slow)]
)
def test_unequal_directions(kind, most):
    """Margins taken for Gaussian were off by .05 and .1: what has few directions is skewed."""
    rng = np.random.default_rng(4)
    samples = gaussian_classes(kind, 10, 20, 640, rng, separation=0.7)
    assert (np.abs(gaps(samples, rng)) < most).all()


@pytest.mark.parametrize("shots", [1, 3])
def test_the_skewness_of_margins_is_the_one_derived_for_it(shots):
    """Of spherical classes, for which Σ² is Σ times a number, as is assumed."""
    rng = np.random.default_rng(5)
    d, draws, deviation = 4, 400_000, np.array([0.7, 1.2])
    means = rng.normal(size=(2, d))
    sigma = deviation[:, None, None] ** 2 * np.eye(d)
    got = jax.jit(margins)(
        ClassGeometry.of_population(jnp.asarray(means, jnp.float32), jnp.asarray(sigma, jnp.float32)),
        0,
        jnp.asarray([1]),
        shots,
    )
    x = deviation[0] * rng.normal(size=(draws, d))  # about the mean of its class, 0
    own, other = (s * rng.normal(size=(draws, d)) / np.sqrt(shots) for s in deviation)
    delta = means[0] - means[1]
    common = np.sum(own**2, axis=1) - 2 * np.sum(x * own, axis=1)
    rest = np.sum(other**2, axis=1) - 2 * np.sum((x + delta) * other, axis=1)
    for part, variance, skewness in [
        (common, got.common, got.common_skewness),
        (rest, got.own[0], got.own_skewness[0]),
    ]:
        part = part - part.mean()
        assert np.var(part) == pytest.approx(float(variance), rel=0.02)
        assert np.mean(part**3) / np.var(part) ** 1.5 == pytest.approx(float(skewness), abs=0.05)
