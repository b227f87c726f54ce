"""Axes of two labellings: cosines and bounds against the definitions, the proposition by simulation, bad input."""

import itertools

import numpy as np
import pytest

from ncjax.collapse import axis_orthogonality
from ncjax.errors import InputError


def factors(k, m, copies, d, seed, noise=1.0):
    """Features of balanced, exactly independent labellings with k and m classes."""
    rng = np.random.default_rng(seed)
    cells = np.array(list(itertools.product(range(k), range(m))))
    first, second = np.tile(cells, (copies, 1)).T
    x = rng.normal(size=(k, d))[first] + rng.normal(size=(m, d))[second] + noise * rng.normal(size=(len(first), d))
    return x, first, second


def by_definition(x, first, second):
    """Cosine, bound of the authors' code for every pair of pairs, in the order of the classes."""
    out = []
    axes = []
    for y in (first, second):
        k = y.max() + 1
        found = []
        for a, b in itertools.combinations(range(k), 2):
            u = x[y == a].mean(0) - x[y == b].mean(0)
            length = np.sqrt(u @ u)
            u = u / length
            projected = np.concatenate([(x[y == c] - x[y == c].mean(0)) @ u for c in (a, b)])
            found.append((u, length, np.mean(projected**2) / length**2, k))
        axes.append(found)
    for u, d1, v1, k1 in axes[0]:
        out.append([(abs(u @ w), min(d1 / d2 * np.sqrt(2 * k2 * v1), d2 / d1 * np.sqrt(2 * k1 * v2)))
                    for w, d2, v2, k2 in axes[1]])  # fmt: skip
    return np.array(out).transpose(2, 0, 1)


@pytest.mark.parametrize(("k", "m"), [(2, 2), (3, 4)])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_cosines_and_bounds_are_their_definitions(k, m, offset):
    x, first, second = factors(k, m, 10, 6, 0)
    x = (x + offset).astype(np.float32)
    found = axis_orthogonality(x, first, second)
    cosines, bounds = by_definition(x.astype(np.float64), first, second)
    np.testing.assert_allclose(found.cosines, cosines, rtol=1e-6)
    np.testing.assert_allclose(found.bounds, bounds, rtol=1e-6)
    assert found.dependence == pytest.approx(0, abs=1e-9)
    if k == m == 2:
        np.testing.assert_allclose(found.sample_bounds, bounds, rtol=1e-6)
    named = axis_orthogonality(x, np.array(list("abcd"))[first], 10 * second)
    np.testing.assert_array_equal(named.cosines, found.cosines)
    assert list(named.pairs[0]) == ["a", "b"]
    assert list(named.other_pairs[0]) == [0, 10]
    assert "pairs of decision axes" in str(found)


def test_the_proposition_holds_for_two_balanced_independent_labellings():
    """1,000 draws, from loose to almost collapsed; the bound is reached to within 5 % in some of them."""
    tightest = 0.0
    for seed in range(1000):
        x, first, second = factors(2, 2, 2, 1 + seed % 4, seed, noise=[0.01, 0.3, 1.0, 3.0][seed // 250])
        found = axis_orthogonality(x, first, second)
        assert found.violations == 0
        assert (found.cosines <= found.sample_bounds * (1 + 1e-9)).all()
        tightest = max(tightest, np.max(found.cosines / found.sample_bounds))
    assert tightest > 0.95


def test_the_bound_of_the_samples_holds_whatever_they_are():
    rng = np.random.default_rng(0)
    for _ in range(300):
        k, m, d = rng.integers(2, 6, 3)
        n = int(rng.integers(40, 80))
        first = np.concatenate([np.arange(k).repeat(2), rng.integers(0, k, n)])
        second = np.where(rng.random(len(first)) < rng.random(), first % m, rng.integers(0, m, len(first)))
        second[: 2 * m] = np.arange(m).repeat(2)
        x = (
            rng.normal(size=(k, d))[first]
            + rng.normal(size=(m, d))[second]
            + rng.random() * rng.normal(size=(len(first), d))
        )
        found = axis_orthogonality(x, first, second)
        assert (found.cosines <= found.sample_bounds * (1 + 1e-6) + 1e-9).all()


def test_the_form_for_many_classes_of_the_authors_code_need_not_hold():
    """Two classes are points, so that its variance is 0; the third alone moves with the other labelling."""
    first, second = np.repeat([0, 1, 2], 20), np.tile([0, 1], 30)
    x = np.zeros((60, 2))
    x[first == 0, 0], x[first == 1, 0] = -1, 1
    x[first == 2, 0] = np.where(second == 0, -1.0, 1.0)[first == 2]
    x[first == 2, 1] = 5
    found = axis_orthogonality(x, first, second)
    row = 0  # classes 0 and 1, apart along the first coordinate; so is the other labelling
    assert found.dependence == pytest.approx(0, abs=1e-9)
    assert found.cosines[row, 0] == pytest.approx(1)
    assert found.bounds[row, 0] < 0.9
    assert found.violations >= 1
    assert found.sample_bounds[row, 0] >= 1


def test_dependent_labellings_and_coincident_means():
    x, first, second = factors(3, 3, 6, 5, 1)
    same = axis_orthogonality(x, first, first)
    assert same.dependence == pytest.approx(1)
    np.testing.assert_allclose(np.diag(same.cosines), 1)
    assert (same.cosines <= same.sample_bounds * (1 + 1e-6)).all()
    flat = x.copy()
    flat[first == 1] -= flat[first == 1].mean(0) - flat[first == 0].mean(0)
    found = axis_orthogonality(flat, first, second)
    assert np.isnan(found.cosines[0]).all()
    assert np.isfinite(found.cosines[1:]).all()
    collapsed, first, second = factors(2, 2, 3, 4, 0, noise=0.0)
    one = np.random.default_rng(0).normal(size=(2, 4))[first]
    only = axis_orthogonality(one, first, second)  # the other labelling says nothing of the features
    assert np.isnan(only.cosines).all()
    assert axis_orthogonality(collapsed, first, second).violations == 0


def test_mistakes_are_one_line():
    x, first, second = factors(2, 2, 3, 4, 0)
    bad = np.where(np.arange(len(x))[:, None] == 3, np.nan, x)
    for arguments, words in [
        ((x, first, second[:-1]), "one label a row"),
        ((x, first, np.zeros_like(second)), "only class 0"),
        ((bad, first, second), "not finite"),
    ]:
        with pytest.raises(InputError, match=words) as raised:
            axis_orthogonality(*arguments)
        assert "\n" not in str(raised.value)
    many = np.arange(800) // 2
    with pytest.raises(InputError, match="too many"):
        axis_orthogonality(np.random.default_rng(0).normal(size=(800, 2)), many, many)
