"""Class-distance normalized variance, of pairs of classes.

Galanti, György, Hutter, "On the Role of Neural Collapse in Transfer Learning" (ICLR 2022, arXiv 2112.15121);
directional: Luthra, Yang, Galanti (2025, arXiv 2506.04411).
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ncjax.collapse.moments import ClassMoments, moments_of_batch

_EPS = float(jnp.finfo(jnp.float32).eps)


def cdnv(
    features: Float[Array, "n d"],
    labels: Int[Array, "n"],
    num_classes: int,
    mask: Bool[Array, "n"] | None = None,
) -> Float[Array, ""]:
    """The mean over pairs i<j of V_ij = (Var_i + Var_j) / (2‖μ_i − μ_j‖²), as in arXiv 2112.15121.

    Pure: for use inside `jit` and `grad`, as a regulariser too. Gradients are finite also where a variance is 0, a
    class is absent, or two means coincide.

    Args:
        features: any floating dtype; the arithmetic is float32.
        labels: 0..num_classes-1; rows with other labels do not count.
        num_classes: static. Classes without samples are left out of the mean.
        mask: rows that count, all by default; what masked rows hold, NaN included, has no effect.

    Returns:
        A float32 scalar: inf if two classes have the same mean, NaN if fewer than two classes have samples.

    Examples:
        Two classes of variance 1 whose means are 4 apart, (1 + 1) / (2 · 16):

        >>> features = jnp.array([[0.0, 0.0], [0.0, 2.0], [4.0, 0.0], [4.0, 2.0]])
        >>> float(cdnv(features, jnp.array([0, 0, 1, 1]), 2))
        0.0625
    """
    moments, _ = moments_of_batch(features, labels, num_classes, mask)
    pairs = cdnv_pairs(moments.variance, squared_distances(moments.centred_mean))
    counts = moments.present[:, None] & moments.present & ~jnp.eye(num_classes, dtype=bool)
    number = jnp.sum(counts, dtype=jnp.float32)
    mean = jnp.sum(jnp.where(counts, pairs, 0.0)) / jnp.maximum(number, 1.0)
    return jnp.where(number > 0, mean, jnp.nan)


def squared_distances(points: Float[Array, "k d"]) -> Float[Array, "k k"]:
    """‖x_i − x_j‖² by explicit differences, which a difference of near points needs; in tiles of rows.

    The derivative takes the differences again, tile by tile: kept, they would be k·k·d numbers.
    """
    k, d = points.shape
    rows = max(1, 2**22 // (k * d))

    @partial(jax.checkpoint, prevent_cse=False)
    def to_all(point: Float[Array, "d"]) -> Float[Array, "k"]:
        return jnp.sum((point - points) ** 2, axis=-1)

    return jax.vmap(to_all)(points) if rows >= k else jax.lax.map(to_all, points, batch_size=rows)


def cdnv_pairs(variance: Float[Array, "k"], squared_distance: Float[Array, "k k"]) -> Float[Array, "k k"]:
    """V_ij; inf where the means coincide (and on the diagonal)."""
    total = variance[:, None] + variance
    return _ratio(total, 2.0 * squared_distance, coincident(variance, squared_distance))


def debiased_cdnv_pairs(moments: ClassMoments, squared_distance: Float[Array, "k k"]) -> Float[Array, "k k"]:
    """V_ij with unbiased variances and unbiased squared distances; inf where that distance is not positive.

    Var_c is divided by n_c − 1, and ‖μ_i − μ_j‖² is less Var_i/n_i + Var_j/n_j, which the distance of two
    sample means exceeds that of the true means by. A class needs two samples.
    """
    count = moments.count.astype(jnp.float32)
    variance = moments.square / jnp.maximum(count - 1.0, 1.0)
    excess = variance / jnp.maximum(count, 1.0)
    distance = squared_distance - (excess[:, None] + excess)
    nothing_left = (distance <= 0.0) | coincident(moments.variance, squared_distance)
    return _ratio(variance[:, None] + variance, 2.0 * distance, nothing_left)


def directional_cdnv_pairs(
    along: Float[Array, "k k"], variance: Float[Array, "k"], squared_distance: Float[Array, "k k"]
) -> Float[Array, "k k"]:
    """Ṽ_ij = uᵀΣ_i u / ‖μ_i − μ_j‖² from `along`, (μ_j − μ_i)ᵀΣ_i(μ_j − μ_i); inf where means coincide."""
    infinite = coincident(variance, squared_distance)
    return _ratio(_ratio(along, squared_distance, infinite), squared_distance, infinite)


def coincident(variance: Float[Array, "k"], squared_distance: Float[Array, "k k"]) -> Bool[Array, "k k"]:
    """Pairs whose means are the same, exactly or but for the rounding of float32 sums of the residuals."""
    return squared_distance <= (8 * _EPS) ** 2 * (variance[:, None] + variance)


def _ratio(top: Float[Array, "k k"], bottom: Float[Array, "k k"], infinite: Bool[Array, "k k"]) -> Float[Array, "k k"]:
    # The inner `where` keeps 0/0 out of the gradient, which the outer one alone would let through.
    return jnp.where(infinite, jnp.inf, top / jnp.where(infinite, 1.0, bottom))
