"""Intervals over samples from the metrics of all samples and those with each group of samples left out."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ncjax.collapse.jackknife_replicates import MOST_CLASSES
from ncjax.collapse.nc2_intervals import equinorm_interval
from ncjax.collapse.selection import Rule, Scale, passing_range, truncated_interval
from ncjax.interval import Interval

RATIOS = ("cdnv", "debiased_cdnv", "directional_cdnv", "nc1", "nc1_quotient")
SHAPES = ("nc2_equinorm", "nc2_equiangular")
Replicates = Mapping[str, np.ndarray]


class Limit(NamedTuple):
    """The noise up to which a metric has an interval.

    Attributes:
        noise: The name of the noise among the results of `population_estimates`.
        most: The largest noise that the interval allows for.
        reason: What is said of more.
    """

    noise: str
    most: float
    reason: str


_UNRESOLVED = "the samples are too few to tell the distance of some two class means"
_ALONG = "the variance along differences of class means is little more than the noise of the samples"
_DIRECTION = "in some direction the class means spread little more than the noise of the samples"
LIMITS: Mapping[str, Sequence[Limit]] = {
    "cdnv": [Limit("distance_noise", 1 / 4, _UNRESOLVED)],
    "directional_cdnv": [Limit("distance_noise", 1 / 4, _UNRESOLVED), Limit("directional_cdnv/noise", 1.0, _ALONG)],
    "nc1": [
        Limit("distance_noise", 1 / 4, _UNRESOLVED),
        Limit("nc1/noise", 1.0, _ALONG),
        Limit("nc1_noise", 0.6, _DIRECTION),
    ],
    "nc2_equinorm": [Limit("distance_noise", 1 / 5, _UNRESOLVED)],
    "nc2_equiangular": [Limit("distance_noise", 1 / 5, _UNRESOLVED)],
}
"""Chosen so that intervals covered in the simulations that `intervals` describes."""

# The powers of ratios that are about linear in what is estimated worst, the distances of class means.
_SCALES = {"cdnv": Scale(-1.0), "directional_cdnv": Scale(-0.5), "nc1": Scale(-0.5)}
_MOST_LOG_ERROR, _MOST_LEFT = 1.0, 0.5


def interval_over_samples(
    name: str,
    whole: Replicates,
    left_out: Replicates,
    quantile: float,
    limits: Mapping[str, Sequence[Limit]] = LIMITS,
) -> Interval | str:
    """Computes the interval of a ratio or of a measure of NC2, or returns why there is none.

    Args:
        name: The metric; of `debiased_cdnv` the interval is that of `cdnv`.
        whole: `population_estimates` of all samples, with `with_equiangular`.
        left_out: The same with each group left out, stacked.
        quantile: Half of the length of a normal interval, in units of its standard error.
        limits: The noise up to which metrics have an interval.
    """
    name = "cdnv" if name == "debiased_cdnv" else name
    k = len(whole["squared_norms"])
    if name in SHAPES and k == 2:
        return "two class means are equally far from their centre and opposite each other, whatever they are"
    if name == "nc1_quotient":
        return _quotient(whole["separation"], left_out["separation"], quantile)
    for noise, most, reason in limits.get(name, ()):
        if not whole[noise] <= most:
            return reason
    if name == "nc2_equinorm":
        return equinorm_interval(whole["squared_norms"], left_out["squared_norms"], quantile)
    if name not in whole:
        return f"more than {MOST_CLASSES} classes"
    rules = [Rule(float(whole[limit.noise]), left_out[limit.noise], limit.most) for limit in limits.get(name, ())]
    return _truncated(name, whole, left_out, rules, quantile)


def _truncated(
    name: str, whole: Replicates, left_out: Replicates, rules: Sequence[Rule], quantile: float
) -> Interval | str:
    """Computes an interval that covers among the draws that meet the rules, or returns why there is none."""
    value, left = float(whole[name]), left_out[name].astype(np.float64)
    ratio = name in RATIOS
    if reason := degenerate(value, left, "samples", logarithm=ratio):
        return reason
    scale = _SCALES[name] if ratio else Scale(1.0)
    value, left = float(scale.to(value)), scale.to(left)
    error = jackknife_error(left)
    if name in ("directional_cdnv", "nc1"):
        # The jackknife counts the part that is quadratic in the noise twice (Efron, Stein 1981), which matters for
        # metrics that divide by a distance to the fourth power.
        error /= np.sqrt(1.0 + float(whole["quadratic_share"]))
    # The correction removes bias if the metric is smooth; at kinks it adds more noise than it removes bias.
    correction = float((len(left) - 1) * (value - left.mean())) if ratio else 0.0
    slope = scale.slope(value)
    remaining = correction**2 / slope if ratio else float(whole[f"{name}/remaining"])
    if remaining > _MOST_LEFT * error or (ratio and error > _MOST_LOG_ERROR * slope):
        return "the samples are too few: it depends on their number more than an interval allows for"
    lowest, highest = (limit + correction for limit in passing_range(value, left, rules))
    low, high, centre = truncated_interval(value + correction, error, lowest, highest, quantile)
    return Interval(*(scale.back(end) for end in (low, high, centre))) if np.isfinite(low) else _UNRESOLVED


def degenerate(value: float, left: Float[np.ndarray, " g"], over: str, *, logarithm: bool) -> str | None:
    """Returns why the jackknife has no interval for a value with these replicates; None if it has."""
    if not (np.isfinite(value) and np.isfinite(left).all()):
        return "it is infinite, or becomes infinite when a part is left out"
    if logarithm and min(value, left.min()) <= 0:
        return "it is 0, or becomes 0 when a part is left out, and has no logarithm"
    if np.ptp(left) == 0:
        return f"it is the same whichever of the {over} are left out"
    return None


def jackknife_error(left: Float[np.ndarray, " g"]) -> float:
    """Computes the standard error from the values with each group left out."""
    groups = len(left)
    return float(np.sqrt((groups - 1) / groups * np.sum((left - left.mean()) ** 2)))


def _quotient(separation: np.ndarray, left_out: np.ndarray, quantile: float) -> Interval | str:
    """Computes the interval of `nc1_quotient`, or returns why there is none.

    It is the inverse of an interval of `separation`, which is linear in the quantity that is estimated worst, the
    scatter of the class means. The upper end is inf if that interval reaches 0. So the interval is given whatever the
    noise, and not only to draws that overestimate the scatter.
    """
    value, left = float(separation), left_out.astype(np.float64)
    if not (np.isfinite(value) and np.isfinite(left).all()):
        return "the classes have no variance, or none when a part is left out"
    if np.ptp(left) == 0:
        return "it is the same whichever of the samples are left out"
    centre = value + (len(left) - 1) * (value - float(left.mean()))
    half = quantile * jackknife_error(left)
    if centre + half <= 0:
        return "the samples are too few to tell the class means apart"
    low, high, estimate = (1.0 / x if x > 0 else np.inf for x in (centre + half, centre - half, centre))
    return Interval(float(low), float(high), float(estimate))
