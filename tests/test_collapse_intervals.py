"""Intervals: the jackknife against one by hand, and coverage by simulation."""

import importlib

import jax
import numpy as np
import oracles_collapse as oracles
import pytest
from oracles_collapse import clusters
from scipy import stats

from ncjax.collapse import intervals, measure, through_layers
from ncjax.collapse.intervals import _balanced_groups, _number_of_groups
from ncjax.errors import InputError

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


def by_hand(name, whole, parts, over):
    """The 95 % interval from the metrics of all samples and of those with each part left out."""
    value, values = whole[name], np.array([part[name] for part in parts])
    if name in ("ncc_accuracy", "nc4") and over == "samples":
        ends = [
            stats.binomtest(round(share * 48), 48).proportion_ci(method="wilson")
            for share in (value, whole[f"{name}/left_out"])
        ]
        return min(low for low, _ in ends), max(high for _, high in ends), value
    ratio = "cdnv" in name or "nc1" in name
    if ratio:
        value, values = np.log(value), np.log(values)
    g = len(values)
    error = np.sqrt((g - 1) * np.mean((values - values.mean()) ** 2))
    centre = g * value - (g - 1) * values.mean() if ratio and over == "samples" else value
    ends = np.array([-1, 1]) * stats.t.ppf(0.975, g - 1) * error + centre
    if ratio:
        return *np.exp(ends), np.exp(centre)
    return *np.clip(ends, 0, 1), centre


@pytest.mark.parametrize("over", ["samples", "classes"])
def test_intervals_are_those_by_hand(over, monkeypatch):
    x, y, w, b = clusters(6, 8, 7, sd=1.2)
    part = y
    if over == "samples":
        part = np.empty_like(y)
        for c in range(6):
            part[y == c] = np.arange(8)
        module = importlib.import_module("ncjax.collapse.intervals")
        monkeypatch.setattr(module, "_balanced_groups", lambda *_: part.astype(np.int32))
        monkeypatch.setattr(module, "_MOST_NOISE", np.inf)
    whole = oracles.all_metrics(x, y, w, b) | oracles.left_out_accuracies(x, y, w, b)
    if over == "samples":
        assert whole["ncc_accuracy/left_out"] < whole["ncc_accuracy"]
    parts = []
    for p in range(part.max() + 1):
        head = (w, b) if over == "samples" else (np.delete(w, p, 0), np.delete(b, p))
        parts.append(oracles.all_metrics(x[part != p], y[part != p], *head))
    got = intervals(x, 10 * y - 7, weights=w, bias=b, over=over)
    assert got.groups == len(parts)
    for name in (*NAMES, "nc4"):
        low, high, centre = by_hand(name, whole, parts, over)
        np.testing.assert_allclose(getattr(got, name), (low, high, centre), rtol=2e-4, atol=1e-6, err_msg=name)
    assert got.cdnv_median is None
    assert "not smooth" in str(got)
    assert f"intervals over {over}: they cover the drawing of {over}" in str(got)


def test_groups_are_balanced_within_classes():
    position = np.random.default_rng(0).permutation(np.repeat(np.arange(3), [40, 60, 47]))
    counts = np.bincount(position)
    groups = _number_of_groups(counts)
    assert 20 <= groups <= 40
    group = _balanced_groups(position, counts, groups, seed=1)
    for c in range(3):
        assert np.ptp(np.bincount(group[position == c], minlength=groups)) <= 1
    assert (group != _balanced_groups(position, counts, groups, seed=2)).any()


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


@pytest.mark.parametrize("geometry", range(3))
def test_intervals_over_samples_cover_the_population(geometry):
    k, d = 5, 6
    rng = np.random.default_rng(geometry)
    means, sd = rng.normal(size=(k, d)) + 3.0, np.linspace(0.5, 1.0, k)[:, None]

    def draw(rng, n=40):
        y = np.repeat(np.arange(k), n)
        return (means[y] + sd[y] * rng.normal(size=(len(y), d))).astype(np.float32), y

    population = oracles.all_metrics(*draw(rng, 40_000))
    truth = {name: population[name] for name in NAMES}
    found = coverage(draw, truth, "samples", 300)
    # 300 repeats of a true 90 % stay within ± 5 points at 3 standard errors.
    for name in NAMES:
        assert 0.85 <= found[name] <= (1.0 if name == "ncc_accuracy" else 0.97), (name, found)
    # The plain value is not where the population is, which is why the interval moves its centre.
    plain = [measure(*draw(np.random.default_rng(s))).cdnv for s in range(50)]
    assert np.mean(plain) < 0.99 * truth["cdnv"]


@pytest.mark.parametrize(("k", "d", "resolved"), [(10, 16, True), (20, 16, False), (20, 19, False)])
def test_nc1_has_no_interval_where_the_class_means_are_not_resolved(k, d, resolved):
    """With about as many classes as dimensions the means hardly spread in some direction; there it covered little."""
    means = np.random.default_rng(7).normal(size=(k, d)) * 0.5
    y = np.repeat(np.arange(k), 100)
    x = (means[y] + np.random.default_rng(0).normal(size=(len(y), d))).astype(np.float32)
    class_means = np.stack([x[y == c].mean(0, dtype=np.float64) for c in range(k)])
    values, directions = np.linalg.eigh(np.cov(class_means.T, bias=True))
    used = slice(-min(k - 1, d), None)
    within = (((x - class_means[y]) @ directions[:, used]) ** 2).mean(0)
    assert (np.max(within / values[used]) / 100 <= 2 / 3) == resolved
    found = intervals(x, y)
    assert (found.nc1 is not None) == resolved
    assert resolved or "spread little more" in found.reasons["nc1"]


def test_the_interval_of_the_ncc_accuracy_holds_where_samples_are_few_for_their_dimensions():
    k, d = 20, 64
    means = np.random.default_rng(0).normal(size=(k, d)) * 0.35

    def draw(rng, n=30):
        y = np.repeat(np.arange(k), n)
        return (means[y] + rng.normal(size=(len(y), d))).astype(np.float32), y

    truth = {"ncc_accuracy": measure(*draw(np.random.default_rng(1), 5000)).ncc_accuracy}
    assert coverage(draw, truth, "samples", 40)["ncc_accuracy"] >= 0.9
    # samples that are part of their own class mean are classified too well: the plain share is far off
    x, y = draw(np.random.default_rng(2))
    plain = measure(x, y).ncc_accuracy
    assert stats.binomtest(round(plain * len(y)), len(y)).proportion_ci(method="wilson").low > truth["ncc_accuracy"]


def test_intervals_over_classes_cover_the_expected_value():
    k, d, n = 16, 8, 40

    def draw(rng):
        y = np.repeat(np.arange(k), n)
        means, sd = rng.normal(size=(k, d)), np.exp(rng.normal(size=(k, 1)) / 4)
        return (1.3 * means[y] + sd[y] * rng.normal(size=(k * n, d))).astype(np.float32), y

    samples = [measure(*draw(np.random.default_rng(10_000 + s))) for s in range(800)]
    truth = {name: np.mean([getattr(c, name) for c in samples]) for name in NAMES}
    assert np.isfinite(list(truth.values())).all()
    found = coverage(draw, truth, "classes", 200)
    # NC1 and the angles are of the k classes together: leaving one out changes them by more than drawing
    # them anew.
    for name in NAMES:
        assert 0.83 <= found[name] <= (1.0 if name in ("nc1", "nc2_equiangular") else 0.97), (name, found)


def test_infinite_metrics_have_no_interval_and_say_why():
    x, y, _, _ = clusters(4, 6, 5)
    x[y == 2] = x[y == 1]
    got = intervals(x, y, over="classes")
    assert got.cdnv is None
    assert "infinite" in got.reasons["cdnv"]
    alone = intervals(*clusters(4, 6, 5, sd=1e-3)[:2], over="classes")
    assert "does not change" in alone.reasons["ncc_accuracy"]
    assert got.nc1_quotient is not None
    assert "takes a head" in got.reasons["nc4"]
    one = np.eye(4, dtype=np.float32)[np.arange(24) % 4]
    one[5] += 0.1  # without this sample, collapse is complete
    point = intervals(one, np.arange(24) % 4)
    assert point.cdnv is None
    assert "has no logarithm" in point.reasons["cdnv"]


def test_sharded_intervals_are_those_of_one_device(on_devices):
    x, y, w, b = clusters(5, 9, 6)
    one = intervals(x, y, weights=w, bias=b)
    with jax.set_mesh(on_devices(8)):
        eight = intervals(x, y, weights=w, bias=b)
    for name in set(NAMES) - {"nc1"}:
        np.testing.assert_allclose(getattr(eight, name), getattr(one, name), rtol=1e-4)
    assert eight.reasons == one.reasons


def test_bad_input_is_named():
    x, y, _, _ = clusters(4, 6, 5)
    for kwargs, message in [
        ({"over": "pairs"}, "give 'samples' or 'classes'"),
        ({"confidence": 95}, "between 0 and 1"),
    ]:
        with pytest.raises(InputError, match=message):
            intervals(x, y, **kwargs)
    with pytest.raises(InputError, match="fewer than 4 samples of class 0, 1"):
        intervals(x[:9], np.arange(9) // 3 % 3)
    with pytest.raises(InputError, match="2 classes: an interval over classes takes 3"):
        intervals(x, y % 2, over="classes")
    x[3] = np.nan
    with pytest.raises(InputError, match="not finite"):
        intervals(x, y)


def test_collapse_through_layers_finds_the_depth():
    stages = [clusters(5, 30, d, sd=sd)[0] for d, sd in ((3, 2.0), (16, 0.8), (24, 0.05), (24, 0.01))]
    y = clusters(5, 30, 3)[1]
    layers = through_layers(stages, y, tolerance=0.02)
    assert layers.ncc_accuracy[0] < 0.98 <= layers.ncc_accuracy[1]
    assert layers.effective_depth == 2
    np.testing.assert_allclose(layers.cdnv, [measure(x, y).cdnv for x in stages], rtol=1e-6)
    assert (np.diff(layers.cdnv) < 0).all()
    assert "effective depth: stage" in str(layers)
    assert through_layers(stages[:1], y).effective_depth is None
    assert "no stage" in str(through_layers(stages[:1], y))
    with pytest.raises(InputError, match="no stages"):
        through_layers([], y)
