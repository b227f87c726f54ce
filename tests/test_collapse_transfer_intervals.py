"""Intervals of transferability scores over classes: the jackknife by hand, coverage, and where there is none."""

import numpy as np
import pytest
from scipy import stats

from ncjax.collapse import transferability, transferability_intervals
from ncjax.errors import InputError

SCORES = ("vci", "h_score", "logme", "transrate", "rankme", "gbc", "leep")


def draw(rng, k=8, n=30, d=12):
    y = np.repeat(np.arange(k), n)
    means = 0.8 * rng.normal(size=(k, d)) * np.exp(0.3 * rng.normal(size=(k, 1)))
    sd = np.exp(rng.normal(size=(k, 1)) / 4)
    return means[y] + sd[y] * rng.normal(size=(k * n, d)), y


HEAD = np.random.default_rng(7).normal(size=(12, 12))


def test_intervals_are_those_by_hand():
    x, y = draw(np.random.default_rng(0))
    got = transferability_intervals(x, np.array(list("hgfedcba"))[y], weights=HEAD)
    whole = transferability(x, y, weights=HEAD)
    parts = [transferability(x[y != c], y[y != c], weights=HEAD) for c in range(8)]
    for name in SCORES:
        value, values = getattr(whole, name), np.array([getattr(part, name) for part in parts])
        if name == "h_score":
            value, values = value / 7, values / 6
        if name in ("vci", "gbc"):
            value, values = np.log(abs(value)), np.log(np.abs(values))
        if name == "rankme":  # of 12 dimensions
            value, values = -np.log(12 - value), -np.log(12 - values)
        half = stats.t.ppf(0.975, 7) * np.sqrt(7 * np.var(values))
        ends = np.array([value - half, value + half])
        if name in ("vci", "gbc"):
            ends = np.exp(ends) * np.sign(getattr(whole, name))
        if name == "rankme":
            ends = 12 - np.exp(-ends)
        ends = np.sort(7 * ends if name == "h_score" else ends)
        found = getattr(got, name)
        np.testing.assert_allclose([found.low, found.high], ends, rtol=1e-7, err_msg=name)
        assert found.estimate == pytest.approx(getattr(whole, name))
    assert got.ncti is None
    assert "compares models" in str(got)
    assert "drawing of 8 classes" in str(got)


def test_there_is_none_where_it_would_not_cover_and_it_is_said():
    y = np.arange(60) % 6
    collapsed = np.eye(6)[y] * 3
    got = transferability_intervals(collapsed, y)
    assert got.vci is None
    assert "no logarithm" in got.reasons["vci"]
    assert "no source head" in got.reasons["leep"]
    for arguments, words in [
        ({"labels": y % 4}, "4 classes: an interval over classes needs 5"),
        ({"confidence": 95}, "between 0 and 1"),
        ({"labels": y[:-1]}, "60 rows of features but 59 labels"),
    ]:
        with pytest.raises(InputError, match=words):
            transferability_intervals(**({"features": collapsed, "labels": y} | arguments))


@pytest.mark.slow
def test_they_cover_the_expected_score():
    rng = np.random.default_rng(1)
    many = [transferability(*draw(rng), weights=HEAD) for _ in range(400)]
    hits = dict.fromkeys(SCORES, 0)
    for _ in range(300):
        x, y = draw(rng)
        got = transferability_intervals(x, y, weights=HEAD, confidence=0.9)
        for name in SCORES:
            interval = getattr(got, name)
            hits[name] += interval.low <= np.mean([getattr(scores, name) for scores in many]) <= interval.high
    assert all(240 <= count <= 291 for count in hits.values()), hits
