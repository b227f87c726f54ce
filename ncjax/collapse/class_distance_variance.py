"""Class-distance normalized variance (CDNV) of pairs of classes.

Galanti, György, Hutter, "On the Role of Neural Collapse in Transfer Learning" (ICLR 2022, arXiv 2112.15121);
directional: Luthra, Yang, Galanti (2025, arXiv 2506.04411).
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Integer, Real

from ncjax.collapse.moments import ClassMoments, moments_of_batch
from ncjax.errors import InputError

_EPS = float(jnp.finfo(jnp.float32).eps)


def cdnv(
    features: Real[Array | np.ndarray, "n d"],
    labels: Integer[Array | np.ndarray, " n"],
    num_classes: int | None = None,
    mask: Bool[Array | np.ndarray, " n"] | None = None,
) -> Float[Array, ""]:
    """Computes the mean over pairs i<j of V_ij = (Var_i + Var_j) / (2‖μ_i − μ_j‖²), as in arXiv 2112.15121.

    Pure: for use inside `jit` and `grad`, for example as a regulariser. Gradients are finite even if a variance is 0, a
    class is absent, or two means coincide.

    Args:
        features: [n, d], any floating dtype; the arithmetic is float32.
        labels: [n], 0..num_classes-1; rows with other labels do not count.
        num_classes: Static. Classes without samples are left out of the mean. Outside of jit it may be left out: then
            it is the largest label + 1.
        mask: [n], rows that count, by default all; the contents of other rows, NaN included, have no effect.

    Raises:
        InputError: If `num_classes` is left out inside jit, where labels have no values yet.

    Returns:
        A float32 scalar: inf if two classes have the same mean, NaN if fewer than two classes have samples.

    Examples:
        Two classes of variance 1 whose means are 4 apart, (1 + 1) / (2 · 16):

        >>> features = jnp.array([[0.0, 0.0], [0.0, 2.0], [4.0, 0.0], [4.0, 2.0]])
        >>> float(cdnv(features, jnp.array([0, 0, 1, 1]), 2))
        0.0625
    """
    if num_classes is None:
        if isinstance(labels, jax.core.Tracer):
            raise InputError("cdnv inside jit needs num_classes, since labels have no values there")
        num_classes = int(np.max(labels, initial=0)) + 1
    moments, _ = moments_of_batch(features, labels, num_classes, mask)
    pairs = cdnv_pairs(moments.variance, squared_distances(moments.centred_mean))
    counts = moments.present[:, None] & moments.present & ~jnp.eye(num_classes, dtype=bool)
    number = jnp.sum(counts, dtype=jnp.float32)
    mean = jnp.sum(jnp.where(counts, pairs, 0.0)) / jnp.maximum(number, 1.0)
    return jnp.where(number > 0, mean, jnp.nan)


def squared_distances(points: Float[Array, "k d"]) -> Float[Array, "k k"]:
    """Computes ‖x_i − x_j‖² from explicit differences, which near points need, in tiles of rows.

    The derivative computes the differences again, tile by tile, instead of storing k·k·d numbers.
    """
    k, d = points.shape
    rows = max(1, 2**22 // (k * d))

    @partial(jax.checkpoint, prevent_cse=False)
    def to_all(point: Float[Array, " d"]) -> Float[Array, " k"]:
        return jnp.sum((point - points) ** 2, axis=-1)

    return jax.vmap(to_all)(points) if rows >= k else jax.lax.map(to_all, points, batch_size=rows)


def cdnv_pairs(variance: Float[Array, " k"], squared_distance: Float[Array, "k k"]) -> Float[Array, "k k"]:
    """Computes V_ij; inf where the means coincide, and on the diagonal."""
    total = variance[:, None] + variance
    return _ratio(total, 2.0 * squared_distance, coincident(variance, squared_distance))


def debiased_cdnv_pairs(moments: ClassMoments, squared_distance: Float[Array, "k k"]) -> Float[Array, "k k"]:
    """Computes V_ij from unbiased variances and squared distances; inf where such a distance is not positive.

    Var_c is divided by n_c − 1, and Var_i/n_i + Var_j/n_j, the bias of the distance of two sample means, is subtracted
    from ‖μ_i − μ_j‖². A class needs two samples.
    """
    count = moments.count.astype(jnp.float32)
    variance = moments.square / jnp.maximum(count - 1.0, 1.0)
    excess = variance / jnp.maximum(count, 1.0)
    distance = squared_distance - (excess[:, None] + excess)
    unresolved = (distance <= 0.0) | coincident(moments.variance, squared_distance)
    return _ratio(variance[:, None] + variance, 2.0 * distance, unresolved)


def directional_cdnv_pairs(
    along: Float[Array, "k k"], variance: Float[Array, " k"], squared_distance: Float[Array, "k k"]
) -> Float[Array, "k k"]:
    """Computes Ṽ_ij = uᵀΣ_i u / ‖μ_i − μ_j‖² from `along`, (μ_j − μ_i)ᵀΣ_i(μ_j − μ_i); inf where means coincide."""
    infinite = coincident(variance, squared_distance)
    return _ratio(_ratio(along, squared_distance, infinite), squared_distance, infinite)


def variance_along_axes(
    along: Float[Array, "k k"], variance: Float[Array, " k"], squared_distance: Float[Array, "k k"]
) -> Float[Array, " k"]:
    """Computes the mean over the other classes j of uᵀΣ_i u, u the axis from μ_i to μ_j; NaN if no class has an axis.

    Luthra, Salunkhe, Galanti, "Directional Neural Collapse Explains Few-Shot Transfer in Self-Supervised Learning"
    (2026, arXiv 2603.03530), from `along`, (μ_j − μ_i)ᵀΣ_i(μ_j − μ_i).
    """
    without_axis = coincident(variance, squared_distance) | jnp.eye(len(variance), dtype=bool)
    on_axis = jnp.where(without_axis, 0.0, along / jnp.where(without_axis, 1.0, squared_distance))
    axes = jnp.sum(~without_axis, axis=1, dtype=jnp.float32)
    # no direction holds more than the whole variance; rounding might
    return jnp.where(axes > 0, jnp.minimum(jnp.sum(on_axis, axis=1) / jnp.maximum(axes, 1.0), variance), jnp.nan)


def coincident(variance: Float[Array, " k"], squared_distance: Float[Array, "k k"]) -> Bool[Array, "k k"]:
    """Returns the pairs whose means are equal up to the rounding of float32 sums of the residuals."""
    return squared_distance <= (8 * _EPS) ** 2 * (variance[:, None] + variance)


def _ratio(top: Float[Array, "k k"], bottom: Float[Array, "k k"], infinite: Bool[Array, "k k"]) -> Float[Array, "k k"]:
    # The inner `where` keeps 0/0 out of the gradient; the outer `where` alone does not.
    return jnp.where(infinite, jnp.inf, top / jnp.where(infinite, 1.0, bottom))
