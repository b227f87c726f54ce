"""Rank correlations of measures with accuracy over models, with jackknife intervals."""

import math
import warnings
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.stats import weightedtau

from ncjax.eval.intervals import t_quantile
from ncjax.statistics import FEWEST, spearman


class Interval(NamedTuple):
    """A 95 % interval; both ends NaN, and a reason, where there is none."""

    low: float
    high: float
    reason: str = ""

    @property
    def exists(self) -> bool:
        """Whether there is one."""
        return not math.isnan(self.low)

    def __str__(self) -> str:
        return f"[{self.low:.2f}, {self.high:.2f}]" if self.exists else "–"


@dataclass(frozen=True)
class Correlation:
    """A rank correlation over models.

    Attributes:
      value: the correlation; NaN where there is none.
      over_classes: covers other target classes from the same population, for these models.
      over_models: covers other models from the same population, for these classes.
      reason: why there is no value.
    """

    value: float
    over_classes: Interval
    over_models: Interval
    reason: str = ""


Statistic = Callable[[np.ndarray, np.ndarray], float]


def weighted_tau(measure: np.ndarray, accuracy: np.ndarray) -> float:
    """Kendall's τ_w (Vigna 2015): exchanges of the best models count most, as the scores of transferability use it.

    SciPy's default: an exchange of the models of ranks r and s, 0 for the largest value, weighs 1/(r+1) + 1/(s+1), and
    the result is the mean of ranking by the measure and by the accuracy. Larger values must be better. NaN for fewer
    than two models, or if either does not vary.
    """
    if len(measure) < 2 or (measure == measure[0]).all() or (accuracy == accuracy[0]).all():
        return math.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # an infinite measure ranks last
        return float(weightedtau(measure, accuracy).statistic)


def rank_correlation(measure: np.ndarray, accuracy: np.ndarray) -> float:
    """Spearman's ρ; see `ncjax.statistics.spearman`."""
    return spearman(np.stack([measure, accuracy], axis=1))


def jackknife(value: float, left_out: np.ndarray, unit: str, most: float = 1.0) -> Interval:
    """Computes the t interval, within -most to most, from the values with each unit left out.

    Standard error: √((g-1)/g Σ (v_i - v̄)²) over g units (Tukey 1958), g - 1 degrees of freedom. Ranks are not smooth:
    where leaving out a unit changes no rank, there is no interval, and with few models it is rough.
    """
    g = len(left_out)
    if g < 2 or np.isnan(left_out).any():
        return Interval(math.nan, math.nan, f"it cannot be computed without some of the {unit}")
    if np.ptp(left_out) <= 1e-12:
        return Interval(math.nan, math.nan, f"the same whichever of the {unit} is left out")
    error = math.sqrt((g - 1) / g * float(np.sum((left_out - left_out.mean()) ** 2)))
    half = t_quantile(g - 1) * error
    return Interval(max(value - half, -most), min(value + half, most))


def groups_of(names: Sequence[Hashable]) -> list[np.ndarray]:
    """Returns the rows of each group of models, in the order of their first model."""
    first = dict.fromkeys(names)
    return [np.flatnonzero([name == group for name in names]) for group in first]


def correlate(
    statistic: Statistic,
    measure: Callable[[np.ndarray], np.ndarray],
    accuracy: np.ndarray,
    groups: Sequence[np.ndarray],
) -> Correlation:
    """Correlates a measure with accuracy over models.

    Args:
      statistic: `weighted_tau` or `rank_correlation`.
      measure: of the rows of some models, their values [m, 1 + k]: with all classes, and with each class left out.
        Larger is better; a single column if there is nothing without each class.
      accuracy: [m, 1 + k], or [m, 1].
      groups: rows of the models that are one piece of evidence, such as seeds of a configuration or checkpoints of a
        run; they are left out together.
    """
    values = measure(np.arange(len(accuracy)))
    none = Interval(math.nan, math.nan)
    missing = int(np.isnan(values[:, 0]).sum())
    if missing:
        return Correlation(math.nan, none, none, f"{missing} of {len(values)} models do not have it")
    value = statistic(values[:, 0], accuracy[:, 0])
    if math.isnan(value):
        return Correlation(value, none, none, "it or the accuracy is the same for all models")
    over_classes = jackknife(value, _without_classes(statistic, values, accuracy), "classes")
    return Correlation(value, over_classes, _over_models(statistic, value, measure, accuracy, groups))


def compare(
    first: Callable[[np.ndarray], np.ndarray],
    second: Callable[[np.ndarray], np.ndarray],
    accuracy: np.ndarray,
    groups: Sequence[np.ndarray],
) -> Correlation:
    """Computes τ_w of one measure less τ_w of another over the same models, arguments as in `correlate`.

    Both with each class or each group of models left out at once, so that what they share cancels.
    """

    def difference(values: np.ndarray, accuracy: np.ndarray) -> float:
        return weighted_tau(values[:, 0], accuracy) - weighted_tau(values[:, 1], accuracy)

    def both(rows: np.ndarray) -> np.ndarray:
        values = first(rows), second(rows)
        width = min(v.shape[1] for v in values)
        return np.stack([v[:, :width] for v in values], axis=2)  # [m, 1 + k, 2]

    values = both(np.arange(len(accuracy)))
    value = _or_nan(difference, values[:, 0], accuracy[:, 0])
    if math.isnan(value):
        none = Interval(math.nan, math.nan)
        return Correlation(value, none, none, "one of them has no rank correlation")
    over_classes = jackknife(value, _without_classes(difference, values, accuracy), "classes", 2.0)
    return Correlation(value, over_classes, _over_models(difference, value, both, accuracy, groups, 2.0))


def _without_classes(statistic: Statistic, values: np.ndarray, accuracy: np.ndarray) -> np.ndarray:
    """Returns the statistic with each class left out; empty if one of the two is not computed so."""
    if values.shape[1] != accuracy.shape[1]:
        return np.array([])
    return np.asarray([_or_nan(statistic, values[:, c], accuracy[:, c]) for c in range(1, accuracy.shape[1])])


def _or_nan(statistic: Statistic, values: np.ndarray, accuracy: np.ndarray) -> float:
    return math.nan if np.isnan(values).any() or np.isnan(accuracy).any() else statistic(values, accuracy)


def _over_models(
    statistic: Statistic,
    value: float,
    measure: Callable[[np.ndarray], np.ndarray],
    accuracy: np.ndarray,
    groups: Sequence[np.ndarray],
    most: float = 1.0,
) -> Interval:
    if len(groups) < FEWEST:
        return Interval(math.nan, math.nan, f"{len(groups)} independent models: it takes {FEWEST}")
    left_out = []
    for group in groups:
        rows = np.setdiff1d(np.arange(len(accuracy)), group)
        left_out.append(_or_nan(statistic, measure(rows)[:, 0], accuracy[rows, 0]))
    return jackknife(value, np.asarray(left_out), "models", most)
