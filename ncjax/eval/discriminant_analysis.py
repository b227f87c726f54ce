"""Linear discriminant analysis, on the host in float64: eigenvalues decide what a small covariance means."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

_LEAST_VARIANCE = 1e-10
"""Variance within classes that is added in every direction, relative to the mean variance of all samples."""


class Discriminant(NamedTuple):
    """Scores ``(x - centre) @ weights.T + offset``: log posteriors up to a constant of each sample.

    Attributes:
        weights: [k, d].
        offset: [k].
        centre: [d].
    """

    weights: Float[np.ndarray, "k d"]
    offset: Float[np.ndarray, " k"]
    centre: Float[np.ndarray, " d"]

    def __call__(self, features: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "m k"]:
        """Computes the scores of `features` in float64."""
        scores: np.ndarray = (features.astype(np.float64) - self.centre) @ self.weights.T + self.offset
        return scores


def fit_discriminant(
    features: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"], num_classes: int, shrinkage: float = 0.0
) -> Discriminant:
    """Fits Gaussian classes with one covariance: score_c(x) = xᵀΣ⁻¹μ_c - ½ μ_cᵀΣ⁻¹μ_c + log n_c/n.

    Σ = (1 - s) S + s (tr S / d) I, S the mean over samples of the residuals' squares (divided by n), as scikit-learn's
    ``LinearDiscriminantAnalysis(solver="lsqr", shrinkage=s)``. That leaves out the directions in which S is 0, though
    class means may differ there; here Σ has 1e-10 of the mean total variance more in every direction, so that collapsed
    classes are told apart by their nearest mean. Elsewhere the two agree.

    Args:
        features: [n, d].
        labels: [n], 0..k-1, each class present.
        num_classes: k.
        shrinkage: s, 0 to 1.
    """
    n, d = features.shape
    centre = features.mean(axis=0, dtype=np.float64)
    x = features.astype(np.float64) - centre
    counts = np.bincount(labels, minlength=num_classes)
    means = np.zeros((num_classes, d))
    np.add.at(means, labels, x)
    means /= counts[:, None]
    within = x - means[labels]
    covariance = within.T @ within / n
    least = _LEAST_VARIANCE * float(np.mean(x * x)) or 1.0  # 1 if all features are equal: then the priors decide
    floor = shrinkage * float(np.trace(covariance)) / d + least
    values, vectors = np.linalg.eigh((1 - shrinkage) * covariance)
    # rounding makes eigenvalues of 0 slightly negative
    weights = (means @ vectors) / (np.maximum(values, 0.0) + floor) @ vectors.T
    return Discriminant(weights, np.log(counts / n) - 0.5 * np.sum(weights * means, axis=1), centre)
