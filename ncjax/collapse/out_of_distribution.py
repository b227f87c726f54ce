"""How features of samples from elsewhere lie to the classes: NC5, and the NECO score.

Ben Ammar et al., "NECO: NEural Collapse Based Out-of-distribution detection" (2024, arXiv 2310.06823). Computed on the
host in float64.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ncjax.checks import not_finite, read_features
from ncjax.collapse.spectra import spectrum_of_rows
from ncjax.equal_by_value import EqualByValue
from ncjax.errors import InputError

_OF_NECO = ("neco", "neco_ood", "neco_auroc")


@dataclass(frozen=True, eq=False)
class OutOfDistribution(EqualByValue):
    """How samples from elsewhere lie to the classes. What cannot be computed is None, and `reasons` says why.

    Attributes:
        nc5: Mean over classes of |cos(μ_c, μ_OOD)|, with means that are not centred, as in the paper: 0 if the samples
            from elsewhere are orthogonal to every class on average. A common offset of all features increases it.
        neco: Mean NECO score of the samples themselves: the norm of the projection on the first k − 1 principal
            components, divided by the norm, of features standardised by these samples (eq. 6; the authors' code
            standardises, and multiplies by the largest logit for transformers, which is not done here). 1 at collapse.
        neco_ood: Mean NECO score of the samples from elsewhere.
        neco_auroc: The chance that a sample has a higher NECO score than one from elsewhere; 1/2 where the score does
            not tell them apart. The components are fitted to the same samples, which favours these where they are few.
        components: Number of principal components, at most k − 1.
        neco_scores: NECO score of each sample [n].
        neco_scores_ood: NECO score of each sample from elsewhere [m].
        samples: Number of samples from elsewhere, m.
        reasons: Why a measure is None, by its name.
    """

    nc5: float | None
    neco: float | None
    neco_ood: float | None
    neco_auroc: float | None
    components: int
    neco_scores: Float[np.ndarray, " n"] | None
    neco_scores_ood: Float[np.ndarray, " m"] | None
    samples: int
    reasons: dict[str, str] = field(default_factory=dict)


def read_ood(ood: Any, dimensions: int) -> Float[np.ndarray, "m d"]:
    """Reads features of samples from elsewhere as float64.

    Raises:
        InputError: They cannot be read, are of another width, none, or not finite.
    """
    try:
        array = read_features(ood)
    except InputError as error:
        raise InputError(f"ood: {error}") from None
    if array.shape[1] != dimensions:
        raise InputError(
            f"ood has {array.shape[1]} dimensions, and features {dimensions}: give features of the same encoder"
        )
    if len(array) == 0:
        raise InputError("ood has no samples: give features [m, d], or leave it out")
    values = np.asarray(array).astype(np.float64)
    if not np.isfinite(values).all():
        raise InputError(f"ood: {not_finite(values)}")
    return values


def nc5(means: Float[np.ndarray, "k d"], ood: Float[np.ndarray, "m d"]) -> float | None:
    """Computes the mean over classes of |cos(μ_c, μ_OOD)|; None if a mean is 0."""
    elsewhere = ood.mean(axis=0)
    norms = np.linalg.norm(means, axis=1) * np.linalg.norm(elsewhere)
    return float(np.mean(np.abs(means @ elsewhere) / norms)) if (norms > 0).all() else None


def out_of_distribution(
    features: Float[np.ndarray, "n d"], position: Int[np.ndarray, " n"], ood: Float[np.ndarray, "m d"], num_classes: int
) -> OutOfDistribution:
    """Computes NC5 and NECO of samples of classes 0..k-1, all of which are present, and of samples from elsewhere."""
    means = np.stack([features[position == c].mean(axis=0) for c in range(num_classes)])
    mean, scale = features.mean(axis=0), features.std(axis=0)
    # a column that is constant up to rounding is not divided, as in scikit-learn's StandardScaler
    constant = scale <= 10 * np.finfo(np.float64).eps * np.sqrt(len(features)) * np.abs(mean)
    scale = np.where(constant | (scale == 0), 1.0, scale)
    inside = np.where(constant, 0.0, (features - mean) / scale)
    outside = (ood - mean) / scale
    spectrum = spectrum_of_rows(inside)
    components = min(num_classes - 1, len(spectrum.values))
    why = ""
    if components == 0:
        why = "all features are equal: they have no principal component"
    elif num_classes - 1 >= features.shape[1]:
        why = f"{num_classes - 1} principal components of {features.shape[1]} dimensions: every score is 1"
    else:
        axes = spectrum.vectors[:, :components]
        scores, scores_ood = _neco(inside, axes), _neco(outside, axes)
        if np.isfinite(scores).all() and np.isfinite(scores_ood).all():
            return replace(
                nc5_alone(means, ood, ""),
                neco=float(scores.mean()),
                neco_ood=float(scores_ood.mean()),
                neco_auroc=_auroc(scores, scores_ood),
                components=components,
                neco_scores=scores,
                neco_scores_ood=scores_ood,
            )
        why = "a sample lies exactly at the mean of the features, and has no direction"
    return nc5_alone(means, ood, why)


def nc5_alone(means: Float[np.ndarray, "k d"], ood: Float[np.ndarray, "m d"], why: str) -> OutOfDistribution:
    """Computes NC5, and says why there is no NECO."""
    reasons = dict.fromkeys(_OF_NECO, why) if why else {}
    orthogonality = nc5(means, ood)
    if orthogonality is None:
        reasons["nc5"] = "a class mean, or the mean of ood, is 0: it has no direction"
    return OutOfDistribution(orthogonality, None, None, None, 0, None, None, len(ood), reasons)


def _neco(rows: Float[np.ndarray, "n d"], axes: Float[np.ndarray, "d r"]) -> Float[np.ndarray, " n"]:
    norm = np.linalg.norm(rows, axis=1)
    projected = np.linalg.norm(rows @ axes, axis=1)
    return np.minimum(projected / np.where(norm > 0, norm, np.nan), 1.0)


def _auroc(scores: Float[np.ndarray, " n"], scores_ood: Float[np.ndarray, " m"]) -> float:
    """Computes the area under the ROC curve, the share of pairs in the right order; ties count half."""
    ordered = np.sort(scores_ood)
    below = (np.searchsorted(ordered, scores, "left") + np.searchsorted(ordered, scores, "right")) / 2
    return float(below.mean() / len(scores_ood))
