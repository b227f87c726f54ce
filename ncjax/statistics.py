"""Statistics over runs: means, differences and rank correlations, each with a 95 % interval.

scipy.stats is imported inside the functions that need it: that takes half a second.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ncjax.eval.intervals import mean_interval

FEWEST = 5
"""Smallest number of independent samples for an interval of a correlation."""
RESAMPLES = 2000


class Mean(NamedTuple):
    """A mean over runs, and the half width of its 95 % t interval: NaN for a single run."""

    value: float
    ci95: float
    runs: int

    @classmethod
    def of(cls, values: Iterable[float]) -> "Mean":
        """Averages independent values; NaN if there are none, or if any is infinite."""
        array = np.asarray(list(values), np.float64)
        if not len(array) or not np.isfinite(array).all():
            return cls(math.nan, math.nan, len(array))
        return cls(float(array.mean()), mean_interval(array), len(array))

    def __str__(self) -> str:
        return f"{self.value:.4g}" + ("" if math.isnan(self.ci95) else f" ± {self.ci95:.2g}")

    def percent(self) -> str:
        """Formats a mean of fractions in percent."""
        return f"{100 * self.value:.2f}" + ("" if math.isnan(self.ci95) else f" ± {100 * self.ci95:.2f}")


def welch(a: np.ndarray, b: np.ndarray) -> tuple[float, float, float]:
    """Difference of two means, mean(a) - mean(b), with its 95 % interval by Welch's t.

    Returns:
      The difference and both ends of the interval, which are NaN if either sample is a single value.
    """
    from scipy.stats import ttest_ind

    difference = float(a.mean() - b.mean())
    if min(len(a), len(b)) < 2:
        return difference, math.nan, math.nan
    if np.ptp(a) == 0 and np.ptp(b) == 0:
        return difference, difference, difference
    low, high = ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    return difference, float(low), float(high)


def spearman(points: np.ndarray) -> float:
    """Spearman's rank correlation of the two columns of `points` [m, 2].

    Infinity ranks highest. NaN if a column does not vary.
    """
    from scipy.stats import rankdata

    x, y = rankdata(points, axis=0).T
    if len(points) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan
    return float(np.corrcoef(x, y)[0, 1])


def independent(points: Sequence[np.ndarray], configurations: Sequence[Any]) -> list[np.ndarray]:
    """Merges the points of runs that share a configuration.

    Runs that differ only in their seed resemble each other: resampled separately, they would count for more evidence
    than they are. If all runs share one configuration, each run stays a sample of its own.

    Args:
      points: [m, 2] for each run.
      configurations: the configuration of each run.

    Returns:
      The points of each independent sample.
    """
    merged: dict[Any, list[np.ndarray]] = {}
    for run, configuration in zip(points, configurations, strict=True):
        merged.setdefault(configuration, []).append(run)
    return list(points) if len(merged) == 1 else [np.concatenate(runs) for runs in merged.values()]


def correlation_interval(points: Sequence[np.ndarray]) -> tuple[float, float]:
    """Percentile bootstrap interval of Spearman's correlation, which resamples independent samples.

    Args:
      points: [m, 2] for each independent sample, as `independent` returns them.

    Returns:
      The 2.5 % and 97.5 % percentiles. NaN for fewer than five samples; also if a fortieth of the resamples or more
      have no correlation, because a column does not vary: the others would be those that happened to draw the few
      points that differ.
    """
    if len(points) < FEWEST:
        return math.nan, math.nan
    draws = np.random.default_rng(0).integers(len(points), size=(RESAMPLES, len(points)))
    correlations = np.asarray([spearman(np.concatenate([points[i] for i in rows])) for rows in draws])
    correlations = correlations[np.isfinite(correlations)]
    if len(correlations) <= 0.975 * RESAMPLES:
        return math.nan, math.nan
    low, high = np.percentile(correlations, [2.5, 97.5])
    return float(low), float(high)
