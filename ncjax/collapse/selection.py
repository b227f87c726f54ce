"""Intervals that hold given that they are given.

A rule that gives an interval only where noise seems small selects draws in which distances come out large. Among them a
plain interval covers too little: down to half of what it says where few draws pass. An interval of the distribution
truncated to the draws that pass covers among these (Lee, Sun, Sun, Taylor, "Exact post-selection inference, with
application to the lasso", 2016, arXiv 1311.6238).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.special import log_ndtr

_STEPS, _FARTHEST = 100, 1000.0


class Rule(NamedTuple):
    """Gives an interval only if a noise is at most `most`; `left_out` is that noise in the jackknife's replicates."""

    noise: float
    left_out: Float[np.ndarray, " g"]
    most: float


class Scale(NamedTuple):
    """An increasing function of a positive number x: log x for power 0, else x**power with the sign of the power."""

    power: float

    def to(self, x: ArrayLike) -> np.ndarray:
        """Returns the number or numbers `x` on this scale."""
        x = np.asarray(x, np.float64)
        return np.sign(self.power) * x**self.power if self.power else np.log(x)

    def back(self, z: float) -> float:
        """Returns x; for z beyond the ends of the scale, 0 or inf."""
        if not self.power:
            return float(np.exp(z))
        size = max(float(np.sign(self.power)) * z, 0.0)
        return float(np.inf if size == 0 and self.power < 0 else size ** (1.0 / self.power))

    def slope(self, z: float) -> float:
        """Returns how much z changes with log x."""
        return abs(self.power * z) if self.power else 1.0


def passing_range(value: float, left_out: Float[np.ndarray, " g"], rules: Sequence[Rule]) -> tuple[float, float]:
    """Computes how small and how large an estimate could be so that all rules would still be met.

    The replicates of the jackknife say by how much the inverse of each noise changes on average as the estimate does.

    Args:
        value: The estimate.
        left_out: The estimate with each group left out.
        rules: Rules that are met.

    Returns:
        The limits, infinite where no rule limits the estimate.
    """
    lowest, highest = -np.inf, np.inf
    deviation = left_out - left_out.mean()
    for rule in rules:
        if min(rule.noise, float(rule.left_out.min())) <= 0:  # far from any limit
            continue
        slope = float(np.sum(deviation / -rule.left_out) / np.sum(deviation**2))
        room = 1.0 / rule.noise - 1.0 / rule.most
        if slope > 0:
            highest = min(highest, value + room / slope)
        elif slope < 0:
            lowest = max(lowest, value + room / slope)
    return lowest, highest


def truncated_interval(
    value: float, error: float, lowest: float, highest: float, quantile: float
) -> tuple[float, float, float]:
    """Inverts the distribution function of a normal variable truncated to a range.

    Args:
        value: The estimate.
        error: Its standard error without truncation.
        lowest: The smallest value that would have passed, at most `value`.
        highest: The largest value that would have passed, at least `value`.
        quantile: Half of the length of the interval without truncation, in units of `error`.

    Returns:
        The lower and upper end, and the median-unbiased estimate; without truncation value ∓ quantile · error and
        value. Infinite where the range tells nothing.
    """
    below, above = (lowest - value) / error, (highest - value) / error

    def probability(z: float) -> float:  # of a value as low as this, if the true one is `value + z * error`
        return float(np.exp(_log_probability(below - z, -z) - _log_probability(below - z, above - z)))

    tail = float(np.exp(log_ndtr(-quantile)))
    roots = np.array([decreasing_root(probability, p, -_FARTHEST, _FARTHEST) for p in (1.0 - tail, tail, 0.5)])
    low, high, middle = np.where(np.abs(roots) < 0.99 * _FARTHEST, value + roots * error, np.sign(roots) * np.inf)
    return float(low), float(high), float(middle)


def _log_probability(low: float, high: float) -> float:
    """Computes log(Φ(high) − Φ(low)) without cancellation in the upper tail."""
    if low > 0:
        low, high = -high, -low
    top, bottom = log_ndtr(high), log_ndtr(low)
    return float(top + np.log1p(-np.exp(bottom - top))) if top > bottom else -np.inf


def decreasing_root(function: Callable[[float], float], target: float, low: float, high: float) -> float:
    """Finds z between `low` and `high` with function(z) = target by bisection; the nearer end if there is none."""
    if function(low) <= target:
        return low
    for _ in range(_STEPS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if function(middle) > target else (low, middle)
    return high
