"""Measures of the whole spectrum of features: VCI and H-score, RankMe, α-ReQ.

Computed on the host in float64: eigenvalues decide the rank of a covariance, and float32 rounds the small ones away.
"""

from dataclasses import dataclass
from functools import cached_property
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


@dataclass(frozen=True)
class Scatter:
    """Second moments of labelled features in float64, in coordinates that may be rotated.

    Attributes:
        count: Samples of each class.
        mean: Class means.
        within: Σ (x − μ_c)(x − μ_c)ᵀ over all samples.
        dimensions: Dimensions of the features, before a rotation into fewer.
    """

    count: Int[np.ndarray, " k"]
    mean: Float[np.ndarray, "k r"]
    within: Float[np.ndarray, "r r"]
    dimensions: int

    @classmethod
    def of_features(
        cls, features: Float[np.ndarray, "n d"], position: Int[np.ndarray, " n"], num_classes: int
    ) -> "Scatter":
        """Computes the moments of samples of classes 0..k-1, all of which are present."""
        n, d = features.shape
        rows = in_own_span(features) if n < d else features
        count = np.bincount(position, minlength=num_classes)
        order = np.argsort(position, kind="stable")
        rows, label = rows[order], position[order]
        start = np.cumsum(count) - count
        # about a sample of the class, so that a common offset costs no digits
        near = rows - rows[start][label]
        shift = np.add.reduceat(near, start, axis=0) / count[:, None]
        residuals = near - shift[label]
        return cls(count, rows[start] + shift, residuals.T @ residuals, d)

    @property
    def samples(self) -> int:
        """The number of samples, n."""
        return int(self.count.sum())

    @cached_property
    def centred_mean(self) -> Float[np.ndarray, "k r"]:
        """Class means about the mean of all samples."""
        near = self.mean - self.mean.mean(axis=0)
        centred: np.ndarray = near - self.count @ near / self.samples
        return centred

    @cached_property
    def centred(self) -> Spectrum:
        """The spectrum of Σ (x − μ)(x − μ)ᵀ, μ the mean of all samples."""
        between = self.centred_mean * np.sqrt(self.count)[:, None]
        # a rotation rounds by the size of the features, offset included: equal samples are not quite equal after it
        rounding = self.samples * (64 * np.finfo(np.float64).eps * np.abs(self.mean).max()) ** 2
        return _spectrum(self.within + between.T @ between, max(self.samples, self.dimensions), rounding)

    @cached_property
    def raw(self) -> Spectrum:
        """The spectrum of Σ xxᵀ."""
        means = self.mean * np.sqrt(self.count)[:, None]
        return _spectrum(self.within + means.T @ means, max(self.samples, self.dimensions))


def in_own_span(rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n n"]:
    """Rotates fewer rows than dimensions into coordinates of what they span; inner products stay."""
    return np.transpose(np.linalg.qr(rows.T).R)


def spectrum_of_rows(x: Float[np.ndarray, "n d"]) -> Spectrum:
    """Computes the spectrum of Σ xxᵀ from the Gram matrix of the shorter side: far cheaper than singular values."""
    n, d = x.shape
    if n >= d:
        return _spectrum(x.T @ x, n)
    values, vectors = _spectrum(x @ x.T, d)
    return Spectrum(values, x.T @ vectors / np.sqrt(values))


def _spectrum(matrix: Float[np.ndarray, "r r"], longer: int, rounding: float = 0.0) -> Spectrum:
    """Computes the eigenvalues above `rounding`, and that of a Gram matrix whose longer side is given."""
    values, vectors = np.linalg.eigh(matrix)
    values, vectors = values[::-1], vectors[:, ::-1]
    kept = values > max(longer * np.finfo(np.float64).eps * values[0], rounding)
    return Spectrum(values[kept], vectors[:, kept])


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
    def of(cls, scatter: Scatter) -> "Spectra":
        """Computes every measure."""
        reasons: dict[str, str] = {}
        n, d, k = scatter.samples, scatter.dimensions, len(scatter.count)
        score, why = h_score(scatter.centred, scatter.centred_mean, scatter.count)
        if score is None:
            reasons["vci"] = reasons["h_score"] = why
        rank = rankme(scatter.raw, min(n, d))
        if rank is None:
            reasons["rankme"] = "all features are 0"
        alpha, why = alpha_req(scatter.centred)
        if alpha is None:
            reasons["alpha_req"] = why
        return cls(vci(score, d, k), score, len(scatter.centred.values), rank, alpha, reasons)


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


def rankme(spectrum: Spectrum, most: int) -> float | None:
    """Computes exp of the entropy of `most` singular values, those left out of the spectrum 0; None if all are."""
    if len(spectrum.values) == 0:
        return None
    singular = np.zeros(most)
    singular[: len(spectrum.values)] = np.sqrt(spectrum.values)
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
