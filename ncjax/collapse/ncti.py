"""NCTI: how near features are to neural collapse in the coordinates of a discriminant analysis.

Wang et al., "How Far Pre-trained Models Are from Neural Collapse on the Target Dataset Informs their Transferability"
(2023).
"""

from typing import NamedTuple

import numpy as np
import scipy.linalg
from jaxtyping import Float, Int
from scipy.special import softmax

from ncjax.collapse.spectra import Spectrum
from ncjax.errors import InputError

_NCTI_DIMENSIONS = 64  # principal components that NCTI keeps
_LDA_TOLERANCE = 1e-4  # singular values below it are not whitened, as in scikit-learn's discriminant analysis


class Ncti(NamedTuple):
    """The three parts of NCTI (Wang et al. 2023).

    The authors scale each part to 0..1 over the models that they compare, and rank by seli + ncc - vc; `combine` does
    that. One model alone has no combined score.

    Attributes:
        seli: Nuclear norm of the centred discriminant coordinates; larger is better.
        ncc: Mean posterior probability of the sample's own class; larger is better.
        vc: Log of the sum over classes of the nuclear norms of their posteriors; smaller is better.
    """

    seli: float
    ncc: float
    vc: float

    @staticmethod
    def combine(parts: "list[Ncti]") -> Float[np.ndarray, " models"]:
        """Returns the authors' score of each model; a part that is equal in all models counts 0.

        Args:
            parts: One for each model, at least two.

        Raises:
            InputError: If there are fewer than two models.
        """
        if len(parts) < 2:
            raise InputError("NCTI compares models: give two or more")
        values = np.asarray(parts, np.float64)
        spread = np.ptp(values, axis=0)
        scaled = np.divide(values - values.min(axis=0), spread, out=np.zeros_like(values), where=spread > 0)
        return scaled @ np.array([1.0, 1.0, -1.0])


def ncti_parts(
    centred: Float[np.ndarray, " n d"], y: Int[np.ndarray, " n"], counts: Int[np.ndarray, " k"], spectrum: Spectrum
) -> tuple[Ncti | None, str]:
    """NCTI's parts, or None and the reason."""
    n, k, rank = len(centred), len(counts), len(spectrum.values)
    if n - 1 < _NCTI_DIMENSIONS or centred.shape[1] < _NCTI_DIMENSIONS:
        return None, f"{n} samples of {centred.shape[1]} dimensions: it takes {_NCTI_DIMENSIONS} principal components"
    if rank < _NCTI_DIMENSIONS:  # as at collapse: what is left would be rounding noise, and be whitened
        return None, f"the features span {rank} directions: it takes {_NCTI_DIMENSIONS} principal components"
    components = centred @ spectrum.vectors[:, :_NCTI_DIMENSIONS]
    within = components - (class_sums(components, y, k) / counts[:, None])[y]
    if (within.std(axis=0) <= 1e-10 * components.std(axis=0)).any():  # no more than rounding, and would be whitened
        return None, "the classes have no variance in some principal component"
    explained = spectrum.values[:32].sum() / (n - 1)
    shrinkage = max(float(np.exp(-explained)), 1e-10)
    try:
        if shrinkage == 1e-10:
            coordinates, log_posterior = _discriminant_analysis(components, y, counts)
        else:
            coordinates, log_posterior = _shrunk_discriminant_analysis(components, y, counts, shrinkage)
    except np.linalg.LinAlgError:
        return None, "the covariance within classes of the principal components is singular"
    posterior = softmax(log_posterior, axis=1)
    coordinates = coordinates - coordinates.mean(axis=0)
    compactness = sum(np.linalg.norm(posterior[y == c], ord="nuc") for c in range(k))
    return Ncti(
        seli=float(np.linalg.norm(coordinates, ord="nuc")),
        ncc=float(posterior[np.arange(n), y].mean()),
        vc=float(np.log(compactness)),
    ), ""


def _discriminant_analysis(
    x: Float[np.ndarray, " n d"], y: Int[np.ndarray, " n"], counts: Int[np.ndarray, " k"]
) -> tuple[Float[np.ndarray, " n r"], Float[np.ndarray, " n k"]]:
    """Coordinates and log posteriors up to a constant of linear discriminant analysis, by singular values.

    Covariances are divided by n, as scikit-learn 1.9 does; older versions divide by n - k.
    """
    n, k = len(x), len(counts)
    priors = counts / n
    means = class_sums(x, y, k) / counts[:, None]
    mean = priors @ means
    within = x - means[y]
    scale = within.std(axis=0)
    scale[scale == 0] = 1.0
    _, singular, directions = np.linalg.svd(within / scale / np.sqrt(n), full_matrices=False)
    rank = int((singular > _LDA_TOLERANCE).sum())
    whitening = (directions[:rank] / scale).T / singular[:rank]
    between = np.sqrt(counts / (k - 1))[:, None] * (means - mean) @ whitening
    _, singular, directions = np.linalg.svd(between, full_matrices=False)
    rank = int((singular > _LDA_TOLERANCE * singular[0]).sum())
    axes = whitening @ directions.T[:, :rank]
    coordinates, centres = (x - mean) @ axes, (means - mean) @ axes
    return coordinates, coordinates @ centres.T - 0.5 * (centres**2).sum(axis=1) + np.log(priors)


def _shrunk_discriminant_analysis(
    x: Float[np.ndarray, " n d"], y: Int[np.ndarray, " n"], counts: Int[np.ndarray, " k"], shrinkage: float
) -> tuple[Float[np.ndarray, " n r"], Float[np.ndarray, " n k"]]:
    """The same with each covariance shrunk towards a multiple of the identity.

    Raises:
        LinAlgError: If the covariance within classes is singular all the same.
    """
    n, k = len(x), len(counts)
    d = x.shape[1]
    priors = counts / n
    means = class_sums(x, y, k) / counts[:, None]

    def shrunk(covariance: Float[np.ndarray, " d d"]) -> Float[np.ndarray, " d d"]:
        return (1 - shrinkage) * covariance + shrinkage * np.trace(covariance) / d * np.eye(d)

    within = sum(prior * shrunk(np.cov(x[y == c].T, bias=True)) for c, prior in enumerate(priors))
    between = shrunk(np.cov(x.T, bias=True)) - within
    _, vectors = scipy.linalg.eigh(between, within)
    axes = vectors[:, ::-1]
    coordinates, centres = x @ axes, means @ axes
    log_posterior = coordinates @ centres.T - 0.5 * (centres**2).sum(axis=1) + np.log(priors)
    return coordinates[:, : min(k - 1, d)], log_posterior


def class_sums(x: Float[np.ndarray, " n d"], y: Int[np.ndarray, " n"], k: int) -> Float[np.ndarray, " k d"]:
    """Sums the rows of each class."""
    return np.stack([x[y == c].sum(axis=0) for c in range(k)])
