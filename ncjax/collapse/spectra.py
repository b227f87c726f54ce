"""Measures of the whole spectrum of features: VCI and H-score, RankMe, α-ReQ.

Computed on the host in float64: eigenvalues decide the rank of a covariance, and float32 rounds the small ones away.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from ncjax.equal_by_value import EqualByValue

_ENTROPY_OFFSET = 1e-7  # RankMe's ε, for float32 features
_FIRST, _LAST = 11, 100  # the eigenvalues that α-ReQ fits, as its authors do


class Spectrum(NamedTuple):
    """Eigenvalues that are no rounding noise, descending [r], and their eigenvectors [d, r]."""

    values: Float[np.ndarray, " r"]
    vectors: Float[np.ndarray, "d r"]


def in_own_span(rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n n"]:
    """Rotates fewer rows than dimensions into coordinates of what they span; inner products stay."""
    return np.transpose(np.linalg.qr(rows.T).R)


def spectrum_of_rows(x: Float[np.ndarray, "n d"], rounding: float = 0.0) -> Spectrum:
    """Computes the spectrum of Σ xxᵀ from the Gram matrix of the shorter side: far cheaper than singular values.

    Args:
        x: The rows.
        rounding: Size of the rounding of a row's entries, which is no spectrum of its own.
    """
    n, d = x.shape
    if n >= d:
        return spectrum_of_matrix(x.T @ x, n, rounding)
    values, vectors = spectrum_of_matrix(x @ x.T, n, rounding)
    return Spectrum(values, x.T @ vectors / np.sqrt(values))


def spectrum_of_matrix(matrix: Float[np.ndarray, "r r"], samples: int, rounding: float) -> Spectrum:
    """Computes the eigenvalues of a Gram matrix of n samples, above its own rounding and that of its rows."""
    values, vectors = np.linalg.eigh(matrix)
    values, vectors = values[::-1], vectors[:, ::-1]
    least = max(samples, len(matrix)) * np.finfo(np.float64).eps * values[0]
    kept = values > max(least, samples * len(matrix) * rounding**2)
    return Spectrum(values[kept], vectors[:, kept])


def centred(x: Float[np.ndarray, "n d"]) -> tuple[Float[np.ndarray, "n d"], float]:
    """Subtracts the mean of all rows; returns the size of the rounding that equal rows are left with too."""
    mean = x.mean(axis=0)
    return x - mean, 64 * float(np.finfo(np.float64).eps * np.abs(mean).max())


@dataclass(frozen=True, eq=False)
class Spectra(EqualByValue):
    """Measures of the spectrum of features. One that cannot be computed is None, and `reasons` says why.

    Attributes:
        vci: Variability collapse index, 1 − tr(Σ_T⁺Σ_B)/min(d, k − 1) (Xu, Liu, "Quantifying the Variability Collapse
            of Neural Networks", 2023, arXiv 2306.03440); smaller is more collapsed, 0 at collapse. Σ_T is the
            covariance of all samples, Σ_B that of each sample's class mean, so that a class counts by its samples.
        h_score: tr(Σ_T⁺Σ_B) (Bao et al. 2019); larger is better, at most min(d, k − 1).
        covariance_rank: Directions of Σ_T that were inverted for both.
        rankme: exp of the entropy of the singular values of the features, not centred, divided by their sum (Garrido et
            al., "RankMe", 2023, arXiv 2210.02885); needs no labels; larger is better.
        alpha_req: α of the power law rank^−α fitted to the 11th to 100th largest eigenvalue of the covariance (Agrawal
            et al., "α-ReQ", 2022); needs no labels; the authors find 1 best.
        reasons: Why a measure is None, by its name.
    """

    vci: float | None
    h_score: float | None
    covariance_rank: int
    rankme: float | None
    alpha_req: float | None
    reasons: dict[str, str]

    @classmethod
    def of_features(
        cls, x: Float[np.ndarray, "n d"], position: Int[np.ndarray, " n"], count: Int[np.ndarray, " k"]
    ) -> "Spectra":
        """Computes every measure of samples of classes 0..k-1, all of which are present."""
        n, d = x.shape
        rows, rounding = centred(x)
        one_hot = (np.arange(len(count))[:, None] == position).astype(np.float64)
        means = one_hot @ rows / count[:, None]
        if n >= d:
            return cls.of_scatter(rows.T @ rows, x.mean(axis=0), means, count, rounding)
        return cls._of(spectrum_of_rows(rows, rounding), spectrum_of_rows(x).values, means, count)

    @classmethod
    def of_scatter(
        cls,
        scatter: Float[np.ndarray, "d d"],
        mean: Float[np.ndarray, " d"],
        centred_mean: Float[np.ndarray, "k d"],
        count: Int[np.ndarray, " k"],
        rounding: float = 0.0,
    ) -> "Spectra":
        """Computes every measure from Σ (x − μ)(x − μ)ᵀ, μ, the class means less μ, and their numbers of samples."""
        n = int(count.sum())
        values = np.linalg.eigvalsh(scatter + n * np.outer(mean, mean))[::-1]
        values = values[values > n * np.finfo(np.float64).eps * values[0]]
        return cls._of(spectrum_of_matrix(scatter, n, rounding), values, centred_mean, count)

    @classmethod
    def _of(
        cls,
        spectrum: Spectrum,
        raw: Float[np.ndarray, " s"],
        centred_mean: Float[np.ndarray, "k d"],
        count: Int[np.ndarray, " k"],
    ) -> "Spectra":
        reasons: dict[str, str] = {}
        n, (k, d) = int(count.sum()), centred_mean.shape
        score, why = h_score(spectrum, centred_mean, count)
        if score is None:
            reasons["vci"] = reasons["h_score"] = why
        rank = rankme(raw, min(n, d))
        if rank is None:
            reasons["rankme"] = "all features are 0"
        alpha, why = alpha_req(spectrum)
        if alpha is None:
            reasons["alpha_req"] = why
        return cls(vci(score, d, k), score, len(spectrum.values), rank, alpha, reasons)


def h_score(
    spectrum: Spectrum, centred_mean: Float[np.ndarray, "k d"], count: Int[np.ndarray, " k"]
) -> tuple[float | None, str]:
    """Computes tr(Σ_T⁺Σ_B) from the spectrum of the centred features and the class means about their mean.

    Returns:
        The score, or None and the reason.
    """
    rank, n = len(spectrum.values), int(count.sum())
    if rank == 0:
        return None, "all features are equal"
    if rank >= n - 1:
        return None, f"{n} samples span {rank} directions, in which any labels at all would give VCI 0: add samples"
    means = centred_mean @ spectrum.vectors
    return float(np.sum(count[:, None] * means**2 / spectrum.values)), ""


def vci(score: float | None, dimensions: int, classes: int) -> float | None:
    """Computes the variability collapse index from the H-score; rounding does not make it negative."""
    return None if score is None else max(0.0, 1.0 - score / min(dimensions, classes - 1))


def rankme(values: Float[np.ndarray, " r"], most: int) -> float | None:
    """Computes exp of the entropy of `most` singular values, given the squares of those above 0; None without any."""
    if len(values) == 0:
        return None
    singular = np.zeros(most)
    singular[: len(values)] = np.sqrt(values)
    p = singular / singular.sum() + _ENTROPY_OFFSET
    return float(np.exp(-(p * np.log(p)).sum()))


def alpha_req(spectrum: Spectrum) -> tuple[float | None, str]:
    """Fits log eigenvalue against −log rank, each rank with the weight 1/rank; returns α, or None and the reason."""
    values = spectrum.values
    if len(values) < _LAST:
        return None, f"the features span {len(values)} directions: it fits the eigenvalues {_FIRST} to {_LAST}"
    rank = np.arange(_FIRST, _LAST + 1, dtype=np.float64)
    weight = 1.0 / rank
    x, y = -np.log(rank), np.log(values[_FIRST - 1 : _LAST])
    x = x - np.average(x, weights=weight)
    return float(np.sum(weight * x * y) / np.sum(weight * x * x)), ""
