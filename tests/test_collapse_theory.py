"""Bounds and prediction: against the formulas in float64, and against simulated few-shot error."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles_collapse as oracles
import pytest
from oracles_collapse import clusters

from ncjax.collapse import ClassGeometry, theory
from ncjax.collapse.bounds import luthra_2026
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


def ncc_errors(key, means, roots, shots, episodes, draw):
    """The share of wrong queries in each of `episodes` tasks of all k classes, one query a class [episodes]."""
    for_support, for_query = jax.random.split(key)
    k, d = means.shape
    support = means + jnp.einsum("kij,ekj->eki", roots, draw(for_support, (episodes, shots, k, d)).mean(1))
    query = means + jnp.einsum("kij,ekj->eki", roots, draw(for_query, (episodes, k, d)))
    distance = jnp.sum((query[:, :, None] - support[:, None]) ** 2, axis=-1)
    return jnp.mean((jnp.argmin(distance, axis=2) != jnp.arange(k)).astype(jnp.float32), axis=1)


def simulated(classes, shots, draw, episodes=400):
    """Mean and standard error of the NCC error of every geometry [g]."""
    means, roots = (jnp.asarray(np.stack(x), jnp.float32) for x in zip(*classes, strict=True))

    def one(index, means, roots):
        errors = ncc_errors(jax.random.fold_in(jax.random.key(1), index), means, roots, shots, episodes, draw)
        return errors.mean(), errors.std() / np.sqrt(episodes)

    error, spread = jax.jit(lambda m, r: jax.lax.map(lambda x: one(*x), (jnp.arange(len(m)), m, r)))(means, roots)
    return np.asarray(error), np.asarray(spread)


def gaussian(key, shape):
    return jax.random.normal(key, shape)


def skewed(key, shape):
    """Components of mean 0 and variance 1 with a long tail: exponentials less 1, of kurtosis 9."""
    return jax.random.exponential(key, shape) - 1.0


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


def test_geometry_of_features_is_that_of_their_moments():
    x, y, _, _ = clusters(5, 30, 11, offset=10.0, unbalanced=True)
    means, _ = oracles.means_and_variances(x, y)
    fourth = [np.mean(np.sum((c - c.mean(0)) ** 2, axis=1) ** 2) for c in oracles.by_class(x, y)]
    got = ClassGeometry.of_features(x, y * 3 + 80)
    for name, value in oracles.geometry(means, oracles.covariances(x, y), fourth).items():
        np.testing.assert_allclose(getattr(got, name), value, rtol=1e-5, atol=1e-5 * np.abs(value).max())


def test_gaussian_fourth_moments():
    means, roots = random_classes(3)
    arrays = (jnp.asarray(x, jnp.float32) for x in (means, roots @ roots.transpose(0, 2, 1)))
    np.testing.assert_allclose(
        ClassGeometry.of_population(*arrays).fourth, [fourth_moment(a, 3.0) for a in roots], rtol=1e-5
    )


@pytest.mark.parametrize("shots", [1, 4])
def test_margins_have_the_moments_derived_for_them(shots):
    means, roots = random_classes(7, k=4, d=6)
    got = margins(population((means, roots)), 1, jnp.asarray([0, 2, 3]), shots)
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


def check_bounds(geometries, kurtosis, draw, shots, episodes):
    """No bound is violated; returns how often each said something, and the distances of the prediction."""
    classes = [random_classes(seed) for seed in geometries]
    informative = dict.fromkeys((*BOUNDS, "galanti_2022_spherical"), 0)
    gaps = []
    for n in shots:
        error, spread = simulated(classes, n, draw, episodes)
        for g, seed in enumerate(geometries):
            said = theory(population(classes[g], kurtosis), ways=5, shots=(n,))
            names = (*BOUNDS, "galanti_2022_spherical") if seed % 4 < 2 and kurtosis == 3.0 else BOUNDS
            for name in names:
                bound = getattr(said, name)[0]
                if np.isnan(bound):
                    continue
                informative[name] += bound < 1
                assert error[g] + 2.6 * spread[g] <= bound, (name, n, seed, error[g], spread[g], bound)
            gaps.append(abs(said.predicted[0] - error[g]) - 2.6 * spread[g])
    return informative, np.array(gaps)


def test_no_bound_is_violated_and_the_prediction_is_near():
    informative, gaps = check_bounds(range(240), 3.0, gaussian, SHOTS, 400)
    assert min(informative.values()) > 20, informative
    assert gaps.max() < 0.03
    assert np.mean(gaps) < 0.0


def test_no_bound_is_violated_by_skewed_features():
    informative, _ = check_bounds(range(80), 9.0, skewed, (1, 10), 400)
    assert min(informative[name] for name in BOUNDS) > 5, informative


def test_two_way_prediction_is_near_the_simulated_error():
    worst = 0.0
    for seed in range(8):
        means, roots = random_classes(seed, k=2)
        said = theory(population((means, roots)), ways=2, shots=SHOTS)
        # With one task of both classes, the two predictions integrate the same chance in two ways.
        np.testing.assert_allclose(said.predicted, said.predicted_two_way, atol=2e-3)
        for i, n in enumerate(SHOTS):
            error, spread = simulated([(means, roots)], n, gaussian, 4000)
            worst = max(worst, abs(said.predicted_two_way[i] - error[0]) - 2.6 * spread[0])
    assert worst < 0.02


def test_prediction_of_features_is_the_measured_error_of_their_episodes():
    x, y, _, _ = clusters(12, 100, 8, sd=0.9)
    said = theory(x, y, ways=5, shots=(1, 5))
    rng = np.random.default_rng(0)
    by_class = oracles.by_class(x, y)
    for i, n in enumerate((1, 5)):
        errors = []
        for _ in range(3000):
            ways = [rng.permuted(by_class[c], axis=0)[: n + 1] for c in rng.choice(12, 5, replace=False)]
            centre = np.stack([w[:n].mean(0) for w in ways])
            query = np.stack([w[n] for w in ways])
            distance = np.sum((query[:, None] - centre) ** 2, axis=-1)
            errors.append(np.mean(distance.argmin(1) != np.arange(5)))
        assert said.predicted[i] == pytest.approx(np.mean(errors), abs=0.02)
        assert said.predicted_error[i] < 0.005


def test_degenerate_geometries_are_said_to_be_so():
    constant = theory(np.ones((8, 3), np.float32), np.arange(8) % 4, ways=3, shots=(1, 10))
    assert np.isinf(constant.galanti_2022).all()
    assert np.isinf(constant.luthra_2025).all()
    np.testing.assert_allclose(constant.luthra_2026_any_shots, 2.0)  # every pair's term is 1
    assert "vacuous" in str(constant)
    x, y, _, _ = clusters(4, 5, 6)
    means, _ = oracles.means_and_variances(x, y)
    collapsed = theory(means[y].astype(np.float32), y, ways=4, shots=(1, 10))
    for name in (*BOUNDS, "predicted", "predicted_two_way"):
        np.testing.assert_allclose(getattr(collapsed, name)[1], 0.0, atol=1e-7)


def test_a_pair_about_which_chebyshev_says_nothing_counts_as_one():
    means = jnp.asarray([[0.0, 0.0], [1.0, 0.0]])
    geometry = ClassGeometry.of_population(means, jnp.asarray([10.0, 0.1])[:, None, None] * jnp.eye(2))
    # Var_1 − Var_0 = −19.8: the margin of class 0 is negative on average below 20 shots.
    with_silence = luthra_2026(geometry, ways=2, shots=1, any_shots=True)
    w, theta = 20.2, 8 * (10.0**2 + 0.1**2)
    spread = 3 * (4 * (w**2 + w / 4) + w + theta)
    assert float(with_silence) == pytest.approx((1 + (4 * 0.1 + spread) / (1 + 19.8) ** 2) / 2, rel=1e-5)


def test_table_and_bad_input():
    x, y, _, _ = clusters(6, 30, 8, sd=0.1)
    said = theory(x, y, ways=4, shots=(1, 10))
    table = said.table(measured=[0.25, 0.125])
    assert "4 ways of 6 classes" in table
    assert table.splitlines()[-1].split() == ["measured", "0.2500", "0.1250"]
    assert "–" in table  # the theorem of 2026 is not stated for 1 shot
    for kwargs, message in [
        ({"ways": 7}, "ways=7 of 6 classes"),
        ({"shots": (0, 1)}, "at least 1"),
        ({"shots": ()}, "one or more"),
    ]:
        with pytest.raises(InputError, match=message):
            theory(x, y, **kwargs)
    with pytest.raises(InputError, match="without labels"):
        theory(x)
