"""Intervals: the jackknife against one by hand, and coverage by simulation."""

import importlib

import jax
import numpy as np
import oracles_collapse as oracles
import pytest
from oracles_collapse import clusters
from oracles_directions import directions as further
from scipy import stats

from ncjax.collapse import intervals, measure
from ncjax.collapse.jackknife import balanced_groups, number_of_groups
from ncjax.collapse.nc2_intervals import equinorm_interval
from ncjax.collapse.selection import Rule, passing_range, truncated_interval
from ncjax.interval import share_interval

NAMES = (
    "cdnv",
    "debiased_cdnv",
    "directional_cdnv",
    "nc1",
    "nc1_quotient",
    "nc2_equinorm",
    "nc2_equiangular",
    "ncc_accuracy",
)


DIRECTIONS = ("nc2_etf_error", "nc2_etf_error_head", "nc3_etf_error", "gnc2_mean", "gnc2_std", "unc3", "self_duality")


def exact(whole, name):
    ends = [
        stats.binomtest(round(share * 48), 48).proportion_ci(method="exact")
        for share in (whole[name], whole[f"{name}/left_out"])
    ]
    return min(low for low, _ in ends), max(high for _, high in ends), whole[name]


def by_hand(value, values, *, power=1.0, correct=False, shrink=1.0, least=0.0):
    """The 95 % interval from the metric of all samples and those with each part left out; power 0 is the logarithm."""
    to = np.log if power == 0 else lambda x: np.sign(power) * np.asarray(x) ** power
    back = np.exp if power == 0 else lambda z: np.maximum(np.sign(power) * z, least) ** (1 / power)
    value, values = to(value), to(np.array(values))
    g = len(values)
    error = np.sqrt((g - 1) * np.mean((values - values.mean()) ** 2)) * shrink
    centre = g * value - (g - 1) * values.mean() if correct else value
    return back(np.array([-1, 1, 0]) * stats.t.ppf(0.975, g - 1) * error + centre)


def test_intervals_over_samples_are_those_by_hand(monkeypatch):
    """With little noise, so that no draw is selected: truncation does not matter."""
    x, y, w, b = clusters(6, 8, 12, sd=0.3)
    part = np.empty_like(y)
    for c in range(6):
        part[y == c] = np.arange(8)
    module = importlib.import_module("ncjax.collapse.jackknife")
    monkeypatch.setattr(module, "balanced_groups", lambda *_: part.astype(np.int32))
    products = oracles.covariance_products(x, y)
    whole = oracles.population(x, y, products)
    parts = [oracles.population(x[part != p], y[part != p], products) for p in range(8)]
    got = intervals(x, 10 * y - 7, weights=w, bias=b)
    assert got.groups == 8
    double = (1 + whole["quadratic_share"]) ** -0.5  # less what the jackknife counts twice
    for name, power, shrink in [("cdnv", -1, 1), ("directional_cdnv", -0.5, double), ("nc1", -0.5, double)]:
        expected = by_hand(whole[name], [one[name] for one in parts], power=power, correct=True, shrink=shrink)
        np.testing.assert_allclose(getattr(got, name), expected, rtol=1e-3, err_msg=name)
    assert got.debiased_cdnv == got.cdnv
    low, high, middle = by_hand(whole["separation"], [one["separation"] for one in parts], correct=True)
    np.testing.assert_allclose(got.nc1_quotient, (1 / high, 1 / low, 1 / middle), rtol=1e-3)

    noise = np.sqrt(7 * np.var([one["cosines"] for one in parts], axis=0))

    def equiangular(one):
        gap = np.abs(one["cosines"] + 1 / 5)
        return np.mean(2 * gap - stats.foldnorm(gap / noise, scale=noise).mean())

    expected = by_hand(equiangular(whole), [equiangular(one) for one in parts])
    np.testing.assert_allclose(got.nc2_equiangular, expected, rtol=1e-3, atol=1e-6)
    plain = oracles.all_metrics(x, y, w, b) | oracles.left_out_accuracies(x, y, w, b)
    for name in ("ncc_accuracy", "nc4"):
        np.testing.assert_allclose(getattr(got, name), exact(plain, name), rtol=1e-5)
    assert got.cdnv_median is None
    assert "not smooth" in str(got)
    assert all("noise of the class means" in got.reasons[name] for name in DIRECTIONS)
    assert "intervals over samples: they cover the drawing of samples" in str(got)


def test_equinorm_is_inverted_from_the_gamma_distribution_with_the_moments_of_a_quadratic_form():
    rng = np.random.default_rng(0)
    norms = np.array([1.0, 1.3, 0.8, 1.1])
    left_out = norms + rng.normal(size=(20, 4)) * [0.001, 0.001, 0.001, 0.02]
    low, high, middle = equinorm_interval(norms**2, left_out**2, 1.96)
    delta, replicates = norms / norms.mean() - 1, left_out / left_out.mean(1, keepdims=True) - 1
    covariance = np.cov(replicates.T, bias=True) * 19
    trace = np.trace(covariance)
    square = 19**2 / (18 * 21) * (np.sum(covariance**2) - trace**2 / 19)
    along = delta @ covariance @ delta / (delta @ delta)
    for value, probability in [(low, stats.norm.cdf(1.96)), (high, stats.norm.sf(1.96)), (middle, 0.5)]:
        mean, variance = 4 * value**2 + trace, 16 * value**2 * along + 2 * square
        got = stats.gamma.cdf(delta @ delta, mean**2 / variance, scale=variance / mean)
        np.testing.assert_allclose(got, probability, rtol=1e-6)
    assert square > trace**2 / 3  # of three equal directions
    assert low < norms.std() / norms.mean() < high
    equal = equinorm_interval(np.ones(4), 1 + 0.01 * rng.normal(size=(20, 4)), 1.96)
    assert equal.low == equal.estimate == 0 < equal.high
    assert "how far some class mean" in equinorm_interval(np.array([1.0, -0.1]), np.ones((8, 2)), 1.96)


@pytest.mark.parametrize(("lowest", "highest"), [(-np.inf, np.inf), (-np.inf, 2.3), (1.2, np.inf), (1.9, 2.5)])
def test_an_interval_after_selection_inverts_the_truncated_normal_distribution(lowest, highest):
    value, error, quantile = 2.0, 0.4, 1.7
    ends = truncated_interval(value, error, lowest, highest, quantile)
    for true, probability in zip(ends, (stats.norm.cdf(quantile), stats.norm.sf(quantile), 0.5), strict=True):
        a, b = (lowest - true) / error, (highest - true) / error
        np.testing.assert_allclose(stats.truncnorm.cdf(value, a, b, true, error), probability, rtol=1e-5)


def test_selection_leaves_a_range_of_estimates():
    """The noise is 1/estimate here, so that at most 1/2 means at least 2."""
    left = np.array([3.9, 4.1, 4.3, 3.7])
    rule = Rule(1 / 4.0, 1 / left, 1 / 2)
    np.testing.assert_allclose(passing_range(4.0, left, [rule]), (2.0, np.inf), rtol=1e-12)
    np.testing.assert_allclose(passing_range(-4.0, -left, [rule]), (-np.inf, -2.0), rtol=1e-12)
    assert passing_range(4.0, left, []) == (-np.inf, np.inf)
    assert passing_range(4.0, left, [Rule(0.0, 0 * left, 1.0)]) == (-np.inf, np.inf)


def test_intervals_over_classes_are_those_by_hand():
    x, y, w, b = clusters(6, 8, 7, sd=1.2)
    whole = oracles.all_metrics(x, y, w, b)
    parts = [oracles.all_metrics(x[y != c], y[y != c], np.delete(w, c, 0), np.delete(b, c)) for c in range(6)]
    got = intervals(x, 10 * y - 7, weights=w, bias=b, over="classes")
    assert got.groups == 6
    for name in (*NAMES, "nc4"):
        expected = by_hand(
            whole[name], [one[name] for one in parts], power=float(not ("cdnv" in name or "nc1" in name))
        )
        expected = np.minimum(expected, 1) if name in ("ncc_accuracy", "nc4") else expected
        np.testing.assert_allclose(getattr(got, name), expected, rtol=2e-4, atol=1e-6, err_msg=name)
    for name in DIRECTIONS:
        values = [further(x[y != c], y[y != c], np.delete(w, c, 0))[name] for c in range(6)]
        expected = by_hand(further(x, y, w)[name], values, power=float(name == "gnc2_mean"), least=-np.inf)
        np.testing.assert_allclose(getattr(got, name), expected, rtol=2e-4, atol=1e-6, err_msg=name)
    assert "intervals over classes: they cover the drawing of classes" in str(got)


def test_the_interval_of_a_share_is_exact():
    for count, total in ((0, 5), (24, 25), (7, 7), (149, 150)):
        for confidence in (0.9, 0.95):
            low, high, estimate = share_interval(count, total, confidence)
            expected = stats.binomtest(count, total).proportion_ci(confidence, method="exact")
            np.testing.assert_allclose((low, high, estimate), (*expected, count / total), rtol=1e-12)


def test_groups_are_balanced_within_classes():
    position = np.random.default_rng(0).permutation(np.repeat(np.arange(3), [40, 60, 47]))
    counts = np.bincount(position)
    groups = number_of_groups(counts)
    assert 20 <= groups <= 40
    group = balanced_groups(position, counts, groups, seed=1)
    for c in range(3):
        assert np.ptp(np.bincount(group[position == c], minlength=groups)) <= 1
    assert (group != balanced_groups(position, counts, groups, seed=2)).any()


def coverage(draw, truth, over, repeats):
    """The share of 90 % intervals that hold the truth, by name, of those that there are."""
    hits, given = dict.fromkeys(truth, 0), dict.fromkeys(truth, 0)
    for seed in range(repeats):
        x, y = draw(np.random.default_rng(seed))
        got = intervals(x, y, over=over, confidence=0.9, seed=seed)
        for name, value in truth.items():
            interval = getattr(got, name)
            if interval is not None:
                given[name] += 1
                hits[name] += interval.low <= value <= interval.high
    assert min(given.values()) > 0.9 * repeats
    return {name: count / given[name] for name, count in hits.items()}


def test_accuracies_have_no_interval_where_the_noise_of_the_class_means_decides():
    """NC4 of a head with the true means is 1; of these samples it was 0.6, with an interval that never held 1."""
    k, d, n = 5, 16, 20
    rng = np.random.default_rng(0)
    means = rng.normal(size=(k, d)) * 0.5
    y = np.repeat(np.arange(k), n)
    x = (means[y] + rng.normal(size=(len(y), d))).astype(np.float32)
    found = intervals(x, y, weights=means, bias=-0.5 * (means**2).sum(1))
    assert found.nc4 is None
    assert "of two halves assign" in found.reasons["nc4"]
    assert found.ncc_accuracy is None
    assert "of two halves assign" in found.reasons["ncc_accuracy"]
    apart = (10 * means[y] + x - means[y]).astype(np.float32)
    sure = intervals(apart, y, weights=means, bias=-5 * (means**2).sum(1))
    for interval in (sure.nc4, sure.ncc_accuracy):
        assert interval.high == interval.estimate == 1
        assert interval.low == pytest.approx(stats.binomtest(100, 100).proportion_ci(method="exact").low)


@pytest.mark.slow
def test_intervals_over_classes_cover_the_expected_value():
    k, d, n = 16, 8, 40

    def draw(rng):
        y = np.repeat(np.arange(k), n)
        means, sd = rng.normal(size=(k, d)), np.exp(rng.normal(size=(k, 1)) / 4)
        return (1.3 * means[y] + sd[y] * rng.normal(size=(k * n, d))).astype(np.float32), y

    names = (*NAMES, "nc2_etf_error", "gnc2_mean", "gnc2_std")
    samples = [measure(*draw(np.random.default_rng(10_000 + s))) for s in range(800)]
    truth = {name: np.mean([getattr(c, name) for c in samples]) for name in names}
    assert np.isfinite(list(truth.values())).all()
    found = coverage(draw, truth, "classes", 200)
    # NC1 and the angles are of the k classes together: leaving one out changes them by more than drawing
    # them anew.
    together = ("nc1", "nc2_equiangular", "nc2_etf_error", "gnc2_std")
    for name in names:
        assert 0.83 <= found[name] <= (1.0 if name in together else 0.97), (name, found)


@pytest.mark.slow
def test_sharded_intervals_are_those_of_one_device(on_devices):
    x, y, w, b = clusters(5, 9, 12, sd=0.5)
    one = intervals(x, y, weights=w, bias=b)
    with jax.set_mesh(on_devices(8)):
        eight = intervals(x, y, weights=w, bias=b)
    for name in NAMES:
        np.testing.assert_allclose(getattr(eight, name), getattr(one, name), rtol=1e-4, err_msg=name)
    assert eight.reasons == one.reasons
