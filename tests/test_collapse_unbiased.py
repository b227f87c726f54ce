"""The moments that bounds and prediction take are unbiased: means over all choices of distinct samples."""

from itertools import combinations, permutations

import jax
import jax.numpy as jnp
import numpy as np
import oracles_collapse as oracles
import pytest

from ncjax.collapse import ClassGeometry, theory
from ncjax.collapse.class_geometry import _cube, _of_samples


def skewed_classes(counts, d, seed=0):
    """Samples of skewed classes about means in general position, with a common offset, in any order."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    means = rng.normal(size=(len(counts), d)) + 3.0
    noise = rng.exponential(size=(len(labels), d)) - 1.0
    axes = rng.normal(size=(len(counts), d, d))
    order = rng.permutation(len(labels))
    features = means[labels] + np.einsum("nij,nj->ni", axes[labels], noise)
    return features[order].astype(np.float32), labels[order]


def u_statistics(classes):
    """The fields of ClassGeometry as means of their kernels over all choices of distinct samples, in float64."""
    k = len(classes)
    out = {
        "variance": np.zeros(k),
        "fourth": np.zeros(k),
        "product": np.zeros((k, k)),
        "squared_distance": np.zeros((k, k)),
        "along": np.zeros((k, k, k)),
    }
    for i, x in enumerate(classes):
        out["variance"][i] = np.mean([np.sum((x[p] - x[q]) ** 2) / 2 for p, q in permutations(range(len(x)), 2)])
        five = np.array(list(permutations(range(len(x)), 5))).T
        first, second, third, fourth = (x[five[0]] - x[five[m]] for m in (1, 2, 3, 4))
        out["fourth"][i] = np.mean(np.sum(first * second, 1) * np.sum(third * fourth, 1))
        p, q, r, s = np.array(list(permutations(range(len(x)), 4))).T
        out["product"][i, i] = np.mean(np.sum((x[p] - x[q]) * (x[r] - x[s]), 1) ** 2) / 4
        for j, y in enumerate(classes):
            if i == j:
                continue
            apart = [np.stack([z[a] - z[b] for a, b in combinations(range(len(z)), 2)]) for z in (x, y)]
            out["product"][i, j] = np.mean((apart[0] @ apart[1].T) ** 2) / 4
            distinct = [np.array(list(permutations(range(len(z)), 2))).T for z in (x, y)]
            a = x[distinct[0][0]][:, None] - y[distinct[1][0]]
            b = x[distinct[0][1]][:, None] - y[distinct[1][1]]
            out["squared_distance"][i, j] = np.mean(np.sum(a * b, -1))
            for m, z in enumerate(classes):
                if m == i:
                    continue
                # [tuples of class i, samples of j], the same of m: their product, but for one sample twice
                left = np.einsum("td,tjd->tj", x[p] - x[q], x[r][:, None] - y)
                right = np.einsum("td,tmd->tm", x[p] - x[q], x[s][:, None] - z)
                both = np.einsum("tj,tm->jm", left, right) / len(p) / 2
                keep = ~np.eye(len(y), dtype=bool) if j == m else np.ones_like(both, bool)
                out["along"][i, j, m] = both[keep].mean()
    return out


def test_the_moments_are_means_over_all_choices_of_distinct_samples():
    x, y = skewed_classes([5, 6, 7], 3)
    got = ClassGeometry.of_features(x, y * 3 + 80)
    expected = u_statistics(oracles.by_class(x, y))
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(got, name), value, rtol=1e-4, atol=1e-5 * np.abs(value).max(), err_msg=name)
    np.testing.assert_allclose(got.along_pair, np.einsum("ijj->ij", expected["along"]), rtol=1e-4, atol=1e-4)


def test_tr_sigma_cubed_is_without_bias():
    """Of 20,000 sets of 6 Gaussian samples; the plug-in value is 3 times as much."""
    rng = np.random.default_rng(0)
    root = rng.normal(size=(3, 3))
    x = jnp.asarray(rng.normal(size=(20_000, 6, 3)) @ root.T, jnp.float32)
    trace = np.var(x, axis=1, ddof=1).sum(-1)
    estimate = np.asarray(jax.vmap(lambda rows: _cube(rows, jnp.int32(6)))(x)) * trace**2
    sigma = root @ root.T
    assert abs(estimate.mean() - np.trace(sigma @ sigma @ sigma)) < 4 * estimate.std() / np.sqrt(len(x))


@pytest.mark.slow
@pytest.mark.parametrize("skewed", [False, True])
def test_the_moments_are_unbiased_in_simulation(skewed):
    """Over 40,000 draws of 4, 6 and 9 samples the mean of every moment is that of the population."""
    rng = np.random.default_rng(int(skewed))
    counts, d, draws = np.array([4, 6, 9]), 3, 40_000
    means, roots = rng.normal(size=(3, d)), 0.7 * rng.normal(size=(3, d, d))
    label = np.repeat(np.arange(3), counts)
    noise = rng.exponential(size=(draws, 19, d)) - 1 if skewed else rng.normal(size=(draws, 19, d))
    x = jnp.asarray(means[label] + np.einsum("nij,tnj->tni", roots[label], noise), jnp.float32)
    start = jnp.asarray(np.cumsum(counts) - counts, jnp.int32)

    @jax.jit
    def geometry(x):
        found = _of_samples(x, jnp.asarray(label, jnp.int32), start, jnp.asarray(counts, jnp.int32), 16)
        names = ("variance", "squared_distance", "along_pair", "product", "fourth")
        return {name: getattr(found, name) for name in names} | {"along": found.along}

    got = jax.device_get(jax.lax.map(geometry, x, batch_size=500))
    sigma = roots @ roots.transpose(0, 2, 1)
    kurtosis = 9.0 if skewed else 3.0
    inner = roots.transpose(0, 2, 1) @ roots
    fourth = [np.trace(b) ** 2 + 2 * np.trace(b @ b) + (kurtosis - 3) * np.sum(np.diag(b) ** 2) for b in inner]
    expected = oracles.geometry(means, sigma, fourth)
    expected["along_pair"] = np.einsum("ijj->ij", expected["along"])
    for name, value in expected.items():
        error = got[name].astype(np.float64).std(0) / np.sqrt(draws)
        assert (np.abs(got[name].mean(0, dtype=np.float64) - value) < 4.5 * error + 1e-5).all(), name


@pytest.mark.slow
def test_classes_of_fewer_than_four_samples_have_no_prediction():
    """tr Σ² takes four samples: what takes it is NaN, the rest is there."""
    x, y = skewed_classes([3, 39, 39, 39], 3)
    got = theory(x, y, ways=3, shots=(1, 10))
    for name in ("predicted", "predicted_two_way", "luthra_2025", "luthra_2026_any_shots"):
        assert np.isnan(getattr(got, name)).all(), name
    assert not np.isnan(got.galanti_2022).any()
    assert got.table().splitlines()[-1].split()[-2:] == ["–", "–"]
