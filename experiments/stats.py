"""Statistics over runs: means, differences and rank correlations with intervals."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import rankdata, ttest_ind

from ncjax.eval.intervals import mean_interval

FEWEST = 5
"""Independent draws that an interval of a correlation takes."""
RESAMPLES = 2000


class Mean(NamedTuple):
    """A mean over runs, and the half width of its 95 % t interval: NaN for one run."""

    value: float
    ci95: float
    runs: int

    @classmethod
    def of(cls, values: Iterable[float]) -> "Mean":
        """Of independent values; NaN without any, or where one is infinite."""
        array = np.asarray(list(values), np.float64)
        if not len(array) or not np.isfinite(array).all():
            return cls(math.nan, math.nan, len(array))
        return cls(float(array.mean()), mean_interval(array), len(array))

    def __str__(self) -> str:
        return f"{self.value:.4g}" + ("" if math.isnan(self.ci95) else f" ± {self.ci95:.2g}")

    def percent(self) -> str:
        """Of a fraction."""
        return f"{100 * self.value:.2f}" + ("" if math.isnan(self.ci95) else f" ± {100 * self.ci95:.2f}")


def welch(a: np.ndarray, b: np.ndarray) -> tuple[float, float, float]:
    """The difference of means and its 95 % interval by Welch's t; NaN where there is one run on a side."""
    difference = float(a.mean() - b.mean())
    if min(len(a), len(b)) < 2:
        return difference, math.nan, math.nan
    if np.ptp(a) == 0 and np.ptp(b) == 0:
        return difference, difference, difference
    low, high = ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    return difference, float(low), float(high)


def spearman(points: np.ndarray) -> float:
    """Spearman's rank correlation of the two columns, infinity the largest; NaN where one does not vary."""
    x, y = rankdata(points, axis=0).T
    if len(points) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan
    return float(np.corrcoef(x, y)[0, 1])


def independent(points: Sequence[np.ndarray], configurations: Sequence[Any]) -> list[np.ndarray]:
    """The points [m, 2] of the runs of each configuration together; of a single configuration, those of each run.

    Runs that differ in their seed alone resemble each other: drawn apart, they would count as more than they tell.
    """
    each: dict[Any, list[np.ndarray]] = {}
    for one, of in zip(points, configurations, strict=True):
        each.setdefault(of, []).append(one)
    return list(points) if len(each) == 1 else [np.concatenate(one) for one in each.values()]


def correlation_interval(points: Sequence[np.ndarray]) -> tuple[float, float]:
    """Percentiles of Spearman's correlation over resamples of what is `independent`, with all its points [m, 2].

    NaN for fewer than five; also where a fortieth of the resamples or more have no correlation, since a column does not
    vary: the others would be those that happened to draw the few points that differ.
    """
    if len(points) < FEWEST:
        return math.nan, math.nan
    drawn = np.random.default_rng(0).integers(len(points), size=(RESAMPLES, len(points)))
    found = np.asarray([spearman(np.concatenate([points[i] for i in one])) for one in drawn])
    found = found[np.isfinite(found)]
    if len(found) <= 0.975 * RESAMPLES:
        return math.nan, math.nan
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)
