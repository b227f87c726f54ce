"""Scores that rank encoders for a labelled target task without training on it, beside CDNV's family.

Computed on the host in float64: eigenvalues decide the rank of a covariance, and float32 rounds the small ones away.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Int
from scipy.special import log_softmax, logsumexp

from ncjax.checks import as_numpy, encode_labels, read_features
from ncjax.collapse.ncti import Ncti, class_sums, ncti_parts
from ncjax.collapse.spectra import Spectrum, centred, h_score, rankme, spectrum_of_rows, vci
from ncjax.equal_by_value import EqualByValue
from ncjax.errors import InputError

_CODING_PRECISION = 1e-4  # TransRate's ε, of the authors' code
_LEAST_VARIANCE = 1e-4  # GBC's floor under the variance of a dimension, of the authors' code


@dataclass(frozen=True, eq=False)
class Transferability(EqualByValue):
    """Scores of one encoder on one labelled set. Compare them between encoders on the same images only.

    A score that cannot be computed is None, and `reasons` says why.

    Attributes:
        vci: Variability collapse index, 1 - tr(Σ_T⁺Σ_B)/min(d, k - 1) (Xu & Liu 2023); smaller is better. Σ_T is the
            covariance of all samples, Σ_B that of each sample's class mean. None where the samples span as many
            directions as they are, n - 1: there it would be 0 whatever the classes.
        h_score: tr(Σ_T⁺Σ_B) (Bao et al. 2019); larger is better, at most min(d, k - 1).
        covariance_rank: Directions of Σ_T that were inverted for both.
        logme: Mean over classes of the log evidence a sample of a Bayesian linear regression on one-hot labels (You et
            al. 2021, the fixed-point iteration of arXiv 2110.10545); larger is better. Features are not centred.
        transrate: R(Z) - mean_c R(Z_c), R(Z) = ½ log det(I + ZᵀZ/(nε)), Z the centred features, ε = 1e-4 (Huang et al.
            2022); larger is better. In nats. It depends on the features' scale.
        ncti: The three parts of NCTI. They depend on the features' scale.
        rankme: exp of the entropy of the normalised singular values of the features (Garrido et al. 2023); needs no
            labels; larger is better.
        gbc: -Σ_{i≠j} exp(-B_ij), B_ij the Bhattacharyya distance between spherical Gaussians of the classes (Pándy et
            al. 2022); larger is better, at most 0. It depends on the features' scale.
        leep: Mean log of the empirical prediction of the label through the source head's classes (Nguyen et al. 2020);
            larger is better, at most 0. None without a source head.
        reasons: Why a score is None, by its name.
        samples: Number of samples n.
        classes: Number of classes k.
        dimensions: Number of dimensions d.
    """

    vci: float | None
    h_score: float | None
    covariance_rank: int
    logme: float | None
    transrate: float
    ncti: Ncti | None
    rankme: float | None
    gbc: float
    leep: float | None
    reasons: dict[str, str]
    samples: int
    classes: int
    dimensions: int


def transferability(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    bias: ArrayLike | None = None,
) -> Transferability:
    """Computes scores that rank encoders for a target task.

    Args:
        features: [n, d], of the target task's samples.
        labels: [n], whole numbers or names; two classes or more. Each class needs two samples or more for GBC, since
            a single sample has no variance.
        weights: [s, d], the rows of the source classes' head, for LEEP.
        bias: [s], zeros by default.

    Returns:
        The scores; None with a reason where one cannot be computed.

    Raises:
        InputError: If features or labels cannot be read, are not finite or do not fit each other; if fewer than two
            classes are present, or a class has a single sample; or if the head does not fit the features.
    """
    x = np.asarray(read_features(features)).astype(np.float64)
    names, y, counts = encode_labels(labels)
    n, d = x.shape
    k = len(names)
    if len(y) != n:
        raise InputError(f"{n} rows of features but {len(y)} labels: give one label a row")
    if k < 2:
        raise InputError(f"{k} classes: a target task has two or more")
    if counts.min() < 2:
        raise InputError(f"class {names[counts.argmin()]} has one sample, which has no variance: add samples")
    if not np.isfinite(x).all():
        raise InputError(f"features of row {int(np.flatnonzero(~np.isfinite(x).all(axis=1))[0])} are not finite")
    probabilities = _source_probabilities(x, weights, bias)

    reasons: dict[str, str] = {}
    rows, rounding = centred(x)
    raw_spectrum, centred_spectrum = spectrum_of_rows(x), spectrum_of_rows(rows, rounding)
    score, why = h_score(centred_spectrum, class_sums(rows, y, k) / counts[:, None], counts)
    if score is None:
        reasons["h_score"] = reasons["vci"] = why
    logme = _logme(x, y, k, raw_spectrum)
    rank = rankme(raw_spectrum.values, min(n, d))
    if logme is None:
        reasons["logme"] = reasons["rankme"] = "all features are 0"
    ncti, why = ncti_parts(rows, y, counts, centred_spectrum)
    if ncti is None:
        reasons["ncti"] = why
    if probabilities is None:
        reasons["leep"] = "no source head was given"
    return Transferability(
        vci=vci(score, d, k),
        h_score=score,
        covariance_rank=len(centred_spectrum.values),
        logme=logme,
        transrate=_transrate(rows, y, k, centred_spectrum),
        ncti=ncti,
        rankme=rank,
        gbc=_gbc(x, y, counts),
        leep=None if probabilities is None else _leep(probabilities, y, k),
        reasons=reasons,
        samples=n,
        classes=k,
        dimensions=d,
    )


def _source_probabilities(x: Float[np.ndarray, " n d"], weights: Any, bias: Any) -> Float[np.ndarray, " n s"] | None:
    """Log probabilities of the source classes.

    Raises:
        InputError: If weights and bias do not fit the features or each other, or are not finite.
    """
    if weights is None:
        if bias is not None:
            raise InputError("a bias without weights: give weights [s, d] too")
        return None
    w = as_numpy("weights", weights).astype(np.float64)
    if w.ndim != 2 or w.shape[1] != x.shape[1]:
        hint = ": a Flax Dense kernel is [d, s], give its transpose" if w.shape[:1] == x.shape[1:] else ""
        raise InputError(f"weights have shape {w.shape}, and features {x.shape[1]} dimensions: give [s, d]{hint}")
    b = np.zeros(len(w)) if bias is None else as_numpy("values of bias", bias).astype(np.float64)
    if b.shape != (len(w),):
        raise InputError(f"bias of shape {b.shape} for {len(w)} source classes: give shape ({len(w)},)")
    if not (np.isfinite(w).all() and np.isfinite(b).all()):
        raise InputError("weights or bias hold values that are not finite")
    log_probabilities: np.ndarray = log_softmax(x @ w.T + b, axis=1)
    return log_probabilities


def _logme(x: Float[np.ndarray, " n d"], y: Int[np.ndarray, " n"], k: int, spectrum: Spectrum) -> float | None:
    """The authors' fixed point: at most 11 rounds for each class, until its α/β settles to 1e-3."""
    n, d = x.shape
    sigma, vectors = spectrum
    if len(sigma) == 0:
        return None
    totals = np.bincount(y, minlength=k).astype(np.float64)
    projected = (class_sums(x, y, k) @ vectors) ** 2 / sigma  # [k, r], squares of uᵀy
    outside = totals - projected.sum(axis=1)  # what no feature explains
    evidences = []
    for squares, rest in zip(projected, outside, strict=True):
        alpha = beta = 1.0
        for _ in range(11):
            ratio = alpha / beta
            gamma = (sigma / (sigma + ratio)).sum()
            weight = (sigma * squares / (ratio + sigma) ** 2).sum()
            residual = (squares / (1 + sigma / ratio) ** 2).sum() + rest
            alpha, beta = gamma / (weight + 1e-5), (n - gamma) / (residual + 1e-5)
            if abs(alpha / beta - ratio) <= 1e-3 * ratio:
                break
        evidences.append(
            d / 2 * np.log(alpha)
            + n / 2 * np.log(beta)
            - 0.5 * np.log(alpha + beta * sigma).sum()
            - beta / 2 * residual
            - alpha / 2 * weight
            - n / 2 * np.log(2 * np.pi)
        )
    return float(np.mean(evidences)) / n


def _coding_rate(squared_singular: Float[np.ndarray, " r"], n: int) -> float:
    """½ log det(I + ZᵀZ/(nε)), from the squared singular values of the n rows of Z."""
    return 0.5 * float(np.log1p(np.maximum(squared_singular, 0.0) / (n * _CODING_PRECISION)).sum())


def _transrate(centred: Float[np.ndarray, " n d"], y: Int[np.ndarray, " n"], k: int, spectrum: Spectrum) -> float:
    def of_class(z: Float[np.ndarray, " m d"]) -> float:
        return _coding_rate(np.linalg.eigvalsh(z.T @ z if len(z) >= z.shape[1] else z @ z.T), len(z))

    return _coding_rate(spectrum.values, len(y)) - float(np.mean([of_class(centred[y == c]) for c in range(k)]))


def _gbc(x: Float[np.ndarray, " n d"], y: Int[np.ndarray, " n"], counts: Int[np.ndarray, " k"]) -> float:
    """Spherical Gaussians, as the authors' default; the distance sums over dimensions, log variances do not."""
    k = len(counts)
    means = class_sums(x, y, k) / counts[:, None]
    variances = np.stack([((x[y == c] - means[c]) ** 2).mean(axis=0) for c in range(k)])
    spread = np.maximum(variances, _LEAST_VARIANCE).mean(axis=1)
    total = 0.0
    for i in range(k):
        both = (spread[i] + spread) / 2
        distance = ((means[i] - means) ** 2).sum(axis=1) / both / 8
        distance += 0.5 * (np.log(both) - 0.5 * np.log(spread[i]) - 0.5 * np.log(spread))
        total += np.exp(-np.delete(distance, i)).sum()
    return -float(total)


def _leep(log_probabilities: Float[np.ndarray, " n s"], y: Int[np.ndarray, " n"], k: int) -> float:
    """In logarithms, so that a source class that is never predicted divides nothing by 0."""
    joint = np.stack([logsumexp(log_probabilities[y == c], axis=0) for c in range(k)])  # [k, s], up to a constant
    given_source = joint - logsumexp(joint, axis=0)
    return float(np.mean(logsumexp(log_probabilities + given_source[y], axis=1)))
