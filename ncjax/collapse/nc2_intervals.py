"""Intervals over samples for the two measures of NC2."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from scipy.special import gammainc, ndtr

from ncjax.collapse.jackknife_replicates import MOST_CLASSES
from ncjax.collapse.selection import decreasing_root
from ncjax.interval import Interval


def equinorm_interval(
    squared_norms: Float[np.ndarray, " k"], left_out: Float[np.ndarray, "g k"], quantile: float
) -> Interval | str:
    """Computes the interval of NC2's equinorm, or returns why there is none.

    The square of equinorm is the mean of the squares of the relative deviations δ_c = ‖μ_c − μ_G‖/mean − 1. Their
    estimates have the covariance C, from the jackknife, so that the sum Q of their squares has mean ‖δ‖² + tr C and
    variance 4 δᵀCδ + 2 tr C². Inverts the gamma distribution with these moments (Patnaik, "The non-central χ² and
    F-distributions and their applications", 1949) for ‖δ‖². A standard error of Q from the jackknife would be too small
    where Q is small by chance, since Q does not change to first order there.

    Args:
        squared_norms: Unbiased estimates of ‖μ_c − μ_G‖².
        left_out: The same with each group left out.
        quantile: Half of the length of a normal interval, in units of its standard error.
    """
    groups, k = left_out.shape
    if min(float(squared_norms.min()), float(left_out.min())) <= 0:
        return "the samples are too few to tell how far some class mean is from the centre"
    delta, replicates = _relative_deviations(squared_norms), _relative_deviations(left_out)
    deviation = (replicates - replicates.mean(axis=0)) * np.sqrt((groups - 1) / groups)
    covariance = deviation.T @ deviation
    trace, free = float(np.trace(covariance)), groups - 1.0
    if trace == 0:
        return "it is the same whichever of the samples are left out"
    # ‖C‖² of an estimate with few degrees of freedom is too large; C has rank k - 1 at most
    square = free**2 / ((free - 1.0) * (free + 2.0)) * (float(np.sum(covariance**2)) - trace**2 / free)
    square = max(square, trace**2 / (k - 1))
    total = float(delta @ delta)
    along = float(delta @ covariance @ delta) / total if total > 0 else square / trace

    def root(measured: float, target: float) -> float:
        def probability(size: float) -> float:  # of deviations as small as measured, if the true ‖δ‖² is `size`
            mean, variance = size + trace, 4.0 * size * along + 2.0 * square
            return float(gammainc(mean**2 / variance, measured * mean / variance))

        return float(np.sqrt(decreasing_root(probability, target, 0.0, k * (k - 1.0)) / k))

    tail = float(ndtr(-quantile))
    # deviations that are smaller by chance than noise makes them would leave no width
    return Interval(root(total, 1.0 - tail), root(max(total, trace), tail), root(total, 0.5))


def _relative_deviations(squared_norms: Float[np.ndarray, "... k"]) -> Float[np.ndarray, "... k"]:
    norms = np.sqrt(squared_norms.astype(np.float64))
    return norms / norms.mean(axis=-1, keepdims=True) - 1.0


def with_equiangular(
    whole: Mapping[str, np.ndarray], left: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Adds NC2's equiangular of all samples and of the replicates, if the classes are at most `MOST_CLASSES`.

    Noise of z increases the mean of |z| over pairs, most near 0. With the standard error of z from the jackknife,
    subtracts what noise of that size adds to the mean of the measured |z|. The remaining bias is about the change
    that a second such correction would make.
    """
    k, groups = len(whole["squared_norms"]), len(left["cosines"])
    if k > MOST_CLASSES:
        return dict(whole), dict(left)
    noise = left["cosines"].std(axis=0, dtype=np.float64) * np.sqrt(groups - 1)

    def equiangular(cosines: Float[np.ndarray, "..."]) -> tuple[float, float]:
        gap = np.abs(cosines.astype(np.float64) + 1.0 / (k - 1))
        once, twice = _folded_mean(gap, noise), _folded_mean(gap, np.sqrt(2.0) * noise)
        return float(np.mean(2.0 * gap - once)), float(np.abs(np.mean(gap - 2.0 * once + twice)))

    value, remaining = equiangular(whole["cosines"])
    added = {"nc2_equiangular": np.array(value), "nc2_equiangular/remaining": np.array(remaining)}
    replicates = {"nc2_equiangular": np.array([equiangular(row)[0] for row in left["cosines"]])}
    return {**whole, **added}, {**left, **replicates}


def _folded_mean(gap: Float[np.ndarray, "..."], noise: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Computes E|gap + noise·ε| for a standard normal ε."""
    z = gap / np.where(noise > 0, noise, 1.0)
    folded = noise * np.sqrt(2 / np.pi) * np.exp(-(z**2) / 2) + gap * (2 * ndtr(z) - 1)
    return np.where(noise > 0, folded, gap)
