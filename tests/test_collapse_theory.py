"""Bounds and prediction: against the formulas in float64, and against simulated few-shot error."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles_collapse as oracles
import pytest
from oracles_collapse import clusters

from ncjax.collapse import ClassGeometry, theory
from ncjax.collapse.bounds import luthra_2026
from ncjax.collapse.few_shot_theory import _theory
from ncjax.collapse.prediction import margins
from ncjax.errors import InputError

SHOTS = (1, 5, 10, 20)
BOUNDS = ("galanti_2022", "luthra_2025", "luthra_2026", "luthra_2026_any_shots")


def random_classes(seed, k=5, d=10):
    """Means [k, d] and roots A [k, d, d] of covariances AAᵀ, of a random kind and tightness.

    Every fourth is spherical with one variance, the next spherical with unequal ones, then round but
    unequal along the axes of one shared frame, then of a few directions for each class by itself.
    """
    rng = np.random.default_rng(seed)
    kind = seed % 4
    means = rng.normal(size=(k, d)) * np.exp(rng.normal(size=(k, 1)) / 3) + 5.0
    size = np.exp(rng.uniform(np.log(0.03), np.log(1.0))) * np.ones(k)
    if kind != 0:
        size *= np.exp(rng.normal(size=k) / 2)
    if kind == 2:
        axes = np.linalg.qr(rng.normal(size=(d, d)))[0] * np.exp(rng.normal(size=d))
        roots = np.stack([axes] * k)
    elif kind == 3:
        roots = rng.normal(size=(k, d, d)) * (np.arange(d) < 3)
    else:
        roots = np.stack([np.eye(d)] * k)
    return means, roots * size[:, None, None]


def simulated(means, roots, shots, draw, episodes):
    """Mean and standard error of the NCC error of every geometry [g], of tasks of all classes, one query a class."""
    mean, spread = [], []
    for index, (mu, root) in enumerate(zip(means, roots, strict=True)):
        rng = np.random.default_rng([1, index, shots])
        k, d = mu.shape
        support = mu + np.einsum("kij,ekj->eki", root, draw(rng, (shots, episodes, k, d)).mean(0))
        query = mu + np.einsum("kij,ekj->eki", root, draw(rng, (episodes, k, d)))
        distance = np.sum((query[:, :, None] - support[:, None]) ** 2, axis=-1)
        errors = np.mean(distance.argmin(2) != np.arange(k), axis=1)
        mean.append(errors.mean())
        spread.append(errors.std() / np.sqrt(episodes))
    return np.array(mean), np.array(spread)


@jax.jit
def said(means, roots, fourth):
    """What `theory` says of every geometry, [g, s] each, as one program."""

    def one(means, roots, fourth):
        geometry = ClassGeometry.of_population(means, roots @ roots.mT, fourth)
        return _theory(geometry, jax.random.key(0), jnp.asarray(SHOTS, jnp.float32), len(means))

    return jax.lax.map(lambda x: one(*x), (means, roots, fourth))


def gaussian(rng, shape):
    return rng.normal(size=shape)


def skewed(rng, shape):
    """Components of mean 0 and variance 1 with a long tail: exponentials less 1, of kurtosis 9."""
    return rng.exponential(size=shape) - 1.0


def fourth_moment(root, kurtosis):
    """E‖A s‖⁴ of independent components s of variance 1."""
    b = root.T @ root
    return np.trace(b) ** 2 + 2 * np.trace(b @ b) + (kurtosis - 3) * np.sum(np.diag(b) ** 2)


def population(classes, kurtosis=3.0):
    means, roots = classes
    sigma = roots @ roots.transpose(0, 2, 1)
    fourth = np.array([fourth_moment(a, kurtosis) for a in roots])
    arrays = (jnp.asarray(x, jnp.float32) for x in (means, sigma, fourth))
    return ClassGeometry.of_population(*arrays)


@pytest.mark.parametrize("seed", range(4))
def test_bounds_are_their_formulas(seed):
    means, roots = random_classes(seed)
    sigma = roots @ roots.transpose(0, 2, 1)
    fourth = np.array([fourth_moment(a, 3.0) for a in roots])
    got = theory(population((means, roots)), ways=3, shots=SHOTS)
    for i, n in enumerate(SHOTS):
        for name, value in oracles.bounds(means, sigma, fourth, 3, n).items():
            assert getattr(got, name)[i] == pytest.approx(value, rel=1e-4, nan_ok=True), (name, n)


def test_gaussian_fourth_moments():
    means, roots = random_classes(3)
    arrays = (jnp.asarray(x, jnp.float32) for x in (means, roots @ roots.transpose(0, 2, 1)))
    np.testing.assert_allclose(
        ClassGeometry.of_population(*arrays).fourth, [fourth_moment(a, 3.0) for a in roots], rtol=1e-5
    )


@pytest.mark.parametrize("shots", [1, 4])
def test_margins_have_the_moments_derived_for_them(shots):
    means, roots = random_classes(7, k=4, d=6)
    got = jax.jit(margins)(population((means, roots)), 1, jnp.asarray([0, 2, 3]), shots)
    covariance = got.shared + got.common + jnp.diag(got.own)
    rng = np.random.default_rng(0)
    draws = 400_000
    x = means[1] + rng.normal(size=(draws, 6)) @ roots[1].T
    support = [means[c] + rng.normal(size=(draws, 6)) @ roots[c].T / np.sqrt(shots) for c in range(4)]
    distance = np.stack([np.sum((x - s) ** 2, axis=1) for s in support], axis=1)
    margin = distance[:, [0, 2, 3]] - distance[:, [1]]
    spread = margin.std(0) / np.sqrt(draws)
    assert (np.abs(margin.mean(0) - got.mean) < 5 * spread).all()
    simulated = np.cov(margin.T)
    np.testing.assert_allclose(covariance, simulated, atol=0.02 * simulated.max())


def compared(seeds, draw, kurtosis, *, k=5, episodes=400):
    """What theory says [g, s] by name, and the simulated error and its standard error [g, s]."""
    means, roots = (np.stack(x) for x in zip(*(random_classes(seed, k) for seed in seeds), strict=True))
    fourth = np.array([[fourth_moment(a, kurtosis) for a in geometry] for geometry in roots])
    runs = [simulated(means, roots, n, draw, episodes) for n in SHOTS]
    error, spread = (np.stack(x, axis=1) for x in zip(*runs, strict=True))
    arrays = (jnp.asarray(x, jnp.float32) for x in (means, roots, fourth))
    return jax.device_get(said(*arrays)), error, spread


def assert_no_bound_violated(values, error, spread, names, rows=slice(None)):
    """The interval of the simulated error is below the bound; and the bound says something of some."""
    for name in names:
        bound, top = values[name][rows], (error + 2.6 * spread)[rows]
        stated = ~np.isnan(bound)
        assert (top <= bound)[stated].all(), name
        assert np.sum(bound[stated] < 1) > 0.05 * np.sum(stated), name


@pytest.mark.slow
@pytest.mark.parametrize("count", [240])
def test_no_bound_is_violated_and_the_prediction_is_near(count):
    seeds = np.arange(count)
    values, error, spread = compared(seeds, gaussian, 3.0)
    assert_no_bound_violated(values, error, spread, BOUNDS)
    assert_no_bound_violated(values, error, spread, ["galanti_2022_spherical"], seeds % 4 < 2)
    gap = np.abs(values["predicted"] - error)
    assert (np.mean(gap, axis=0) < 0.02).all()
    # what the docstring of `predict` says
    assert (np.mean(gap[seeds % 4 < 2], axis=0) < [0.005, 0.003, 0.002, 0.002]).all()
    assert (np.mean(gap[seeds % 4 >= 2], axis=0) < 0.015).all()


@pytest.mark.slow
@pytest.mark.parametrize("count", [160])
def test_no_bound_is_violated_by_skewed_features(count):
    values, error, spread = compared(range(count), skewed, 9.0)
    assert_no_bound_violated(values, error, spread, BOUNDS)


@pytest.mark.slow
def test_two_way_predictions_are_near_the_simulated_error():
    values, error, _ = compared(range(12), gaussian, 3.0, k=2, episodes=1000)
    for name in ("predicted", "predicted_two_way"):
        assert np.mean(np.abs(values[name] - error)) < 0.01, name


@pytest.mark.slow
def test_prediction_of_features_is_the_measured_error_of_their_episodes():
    x, y, _, _ = clusters(12, 100, 48, sd=2.5)
    predicted = theory(x, y, ways=5, shots=(1, 5))
    rng = np.random.default_rng(0)
    by_class = np.stack(oracles.by_class(x, y))
    for i, n in enumerate((1, 5)):
        ways = np.argsort(rng.random((3000, 12)), axis=1)[:, :5, None]
        drawn = np.argsort(rng.random((3000, 5, 100)), axis=2)[:, :, : n + 1]
        samples = by_class[ways, drawn]  # [episodes, ways, n + 1, d]
        distance = np.sum((samples[:, :, None, n] - samples[:, None, :, :n].mean(3)) ** 2, axis=-1)
        error = np.mean(distance.argmin(2) != np.arange(5))
        assert 0.05 < error < 0.6
        assert predicted.predicted[i] == pytest.approx(error, abs=0.02)
        assert predicted.predicted_error[i] < 0.005


@pytest.mark.slow
def test_degenerate_geometries_are_said_to_be_so():
    x, y, _, _ = clusters(5, 30, 10)
    constant = theory(np.ones_like(x), y, ways=3, shots=SHOTS)
    assert np.isinf(constant.galanti_2022).all()
    assert np.isinf(constant.luthra_2025).all()
    np.testing.assert_allclose(constant.luthra_2026_any_shots, 2.0)  # every pair's term is 1
    assert "vacuous" in str(constant)
    means, _ = oracles.means_and_variances(x, y)
    collapsed = theory(means[y].astype(np.float32), y, ways=3, shots=SHOTS)
    for name in (*BOUNDS, "predicted", "predicted_two_way"):
        np.testing.assert_allclose(getattr(collapsed, name)[2], 0.0, atol=1e-7)


def test_a_pair_about_which_chebyshev_says_nothing_counts_as_one():
    means = jnp.asarray([[0.0, 0.0], [1.0, 0.0]])
    geometry = ClassGeometry.of_population(means, jnp.asarray([10.0, 0.1])[:, None, None] * jnp.eye(2))
    # Var_1 − Var_0 = −19.8: the margin of class 0 is negative on average below 20 shots.
    with_silence = jax.jit(lambda g: luthra_2026(g, ways=2, shots=1, any_shots=True))(geometry)
    w, theta = 20.2, 8 * (10.0**2 + 0.1**2)
    spread = 3 * (4 * (w**2 + w / 4) + w + theta)
    assert float(with_silence) == pytest.approx((1 + (4 * 0.1 + spread) / (1 + 19.8) ** 2) / 2, rel=1e-5)


def test_table_and_bad_input():
    x, y, _, _ = clusters(5, 30, 10, sd=0.1)
    said = theory(x, y, ways=3, shots=SHOTS)
    measured = [0.25, 0.125, 0.0, 1.0]
    table = said.table(measured=measured)
    assert "3 ways of 5 classes" in table
    assert table.splitlines()[-1].split() == ["measured", "0.2500", "0.1250", "0.0000", "1.0000"]
    assert theory(x, y, ways=3, shots=np.array(SHOTS)).table(measured=measured) == table
    assert "–" in table  # the theorem of 2026 is not stated for 1 shot
    for kwargs, message in [
        ({"ways": 6}, "ways=6 of 5 classes"),
        ({"shots": (0, 1)}, "at least 1"),
        ({"shots": ()}, "one or more"),
    ]:
        with pytest.raises(InputError, match=message):
            theory(x, y, **({"ways": 3} | kwargs))
    with pytest.raises(InputError, match="without labels"):
        theory(x)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shots": 5}, "shots=5: give a list"),
        ({"shots": (1.5,)}, "shots=1.5: give a whole number"),
        ({"ways": 5.0}, "ways=5.0: give a whole number"),
    ],
)
def test_shots_and_ways_are_whole_numbers(changes, message):
    features = np.random.default_rng(0).normal(size=(40, 3))
    with pytest.raises(InputError, match=message):
        theory(features, np.arange(40) % 5, **changes)
