"""Intervals cover what they are named for."""

import numpy as np
import oracles_eval as oracles
import pytest
from scipy import stats

from ncjax.eval import feature_episodes
from ncjax.eval.intervals import _jackknife_error, _without_each_class, mean_interval, t_quantile

DIM = 16


def test_t_quantile():
    for df in [*range(1, 400), 1000, 10_000, 10**7]:
        assert t_quantile(df) == pytest.approx(stats.t.ppf(0.975, df), rel=1e-9)
    assert np.isnan(t_quantile(0))


def test_mean_interval():
    values = np.random.default_rng(0).random(30).astype(np.float32)
    low, high = stats.t.interval(0.95, 29, values.mean(dtype=np.float64), stats.sem(values.astype(np.float64)))
    assert mean_interval(values) == pytest.approx((high - low) / 2, rel=1e-6)
    assert np.isnan(mean_interval(values[:1]))


def test_class_jackknife():
    rng = np.random.default_rng(0)
    classes = np.stack([rng.permutation(9)[:4] for _ in range(400)])
    values = rng.random(400) + classes.sum(axis=1) / 50
    expected = oracles.jackknife_half_width(values, classes, 9, stats.t.ppf(0.975, 8))
    error = _jackknife_error(_without_each_class(values, classes, 9))
    assert t_quantile(8) * error == pytest.approx(expected, rel=1e-9)
    everyone = np.tile(np.arange(4), (10, 1))
    assert _without_each_class(values[:10], everyone, 4) is None


def class_parameters(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    return 0.55 * rng.standard_normal((count, DIM)), np.exp(0.35 * rng.standard_normal((count, 1)))


def draw_images(
    rng: np.random.Generator, classes: tuple[np.ndarray, np.ndarray], each: int
) -> tuple[np.ndarray, np.ndarray]:
    labels = np.repeat(np.arange(len(classes[0])), each)
    return classes[0][labels] + classes[1][labels] * rng.standard_normal((len(labels), DIM)), labels


@pytest.mark.slow
@pytest.mark.parametrize("shots", [1, 5])
def test_target_interval_covers_new_classes(shots: int):
    rng = np.random.default_rng(shots)
    truth = feature_episodes(*draw_images(rng, class_parameters(rng, 3000), 40), shots=shots, episodes=40_000).accuracy
    repeats, covered, covered_by_episodes = 300, 0, 0
    for seed in range(repeats):
        x, y = draw_images(rng, class_parameters(rng, 20), 60)
        report = feature_episodes(x, y, shots=shots, episodes=4000, seed=seed)
        covered += abs(report.accuracy - truth) <= report.target_ci95
        covered_by_episodes += abs(report.accuracy - truth) <= report.ci95
    assert 0.90 <= covered / repeats <= 0.98
    assert covered_by_episodes / repeats < 0.3


@pytest.mark.slow
def test_same_classes_interval_is_none_where_the_images_are_lost_in_the_noise_of_the_episodes():
    """It never is the interval of the episodes alone, as if images added nothing."""
    rng = np.random.default_rng(0)
    x, y = draw_images(rng, class_parameters(rng, 20), 60)
    reports = [feature_episodes(x, y, shots=40, episodes=100, seed=seed) for seed in range(10)]
    found = [report.same_classes_ci95 for report in reports]
    assert any(np.isnan(found))
    assert all(np.isnan(half) or half > report.ci95 for half, report in zip(found, reports, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(("shots", "each"), [(1, 100), (5, 100), (5, 20), (20, 40)])
def test_same_classes_interval_covers_new_images(shots: int, each: int):
    rng = np.random.default_rng(shots)
    classes = class_parameters(rng, 20)
    truth = feature_episodes(*draw_images(rng, classes, 3000), shots=shots, episodes=200_000).accuracy
    repeats, covered, covered_by_episodes = 300, 0, 0
    for seed in range(repeats):
        x, y = draw_images(rng, classes, each)
        report = feature_episodes(x, y, shots=shots, episodes=4000, seed=seed)
        covered += abs(report.accuracy - truth) <= report.same_classes_ci95
        covered_by_episodes += abs(report.accuracy - truth) <= report.ci95
    assert 0.90 <= covered / repeats <= 0.98
    assert covered_by_episodes / repeats < 0.7
