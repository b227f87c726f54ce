"""Sums over within-class residuals, for metrics that need a second pass when the class means are known."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ncjax.collapse.class_distance_variance import squared_distances
from ncjax.collapse.moments import HIGHEST, ClassMoments, class_sums
from ncjax.collapse.nc import nc1_directions

_matmul = partial(jnp.matmul, precision=HIGHEST)
_MOST_JOINED, _MULTIPLE = 256, 16
"""Columns of the products that are computed as one, and the multiple that their number is padded to."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LinearHead:
    """A linear classifier's weights [k, d] and bias [k]."""

    weights: Float[Array, "k d"]
    bias: Float[Array, " k"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Frame:
    """The class means, and what the pass over the samples needs of them.

    Attributes:
        moments: Moments of k classes that all have samples.
        centred_mean: μ_c − μ_G.
        squared_distance: ‖μ_i − μ_j‖².
        drift: offset_i·(μ_j − μ_i), the error of projected residuals about the anchor.
        nc1_drift: ‖(V/s)ᵀ offset_i‖².
        nc1_basis: See `nc1_directions`.
        nc1_rank: The number of directions that are used.
        head: The linear classifier, or None.
    """

    moments: ClassMoments
    centred_mean: Float[Array, "k d"]
    squared_distance: Float[Array, "k k"]
    drift: Float[Array, "k k"]
    nc1_drift: Float[Array, " k"]
    nc1_basis: Float[Array, "d r"]
    nc1_rank: Int[Array, ""]
    head: LinearHead | None

    @classmethod
    def of(cls, moments: ClassMoments, head: LinearHead | None = None) -> "Frame":
        """Computes the frame from the moments of all samples."""
        centred = moments.centred_mean
        drift = _matmul(moments.offset, centred.T)
        basis, rank = nc1_directions(moments)
        return cls(
            moments=moments,
            centred_mean=centred,
            squared_distance=squared_distances(centred),
            drift=drift - jnp.diagonal(drift)[:, None],
            nc1_drift=jnp.sum(_matmul(moments.offset, basis) ** 2, axis=-1),
            nc1_basis=basis,
            nc1_rank=rank,
            head=head,
        )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ResidualSums:
    """Sums over the samples of each class, with residuals r about its anchor; sums of batches add up.

    Attributes:
        along: Σ (r·(μ_j − μ_i))² over the samples of class i.
        nc1: Σ ‖(V/s)ᵀr‖².
        nearest: Number of samples whose nearest class mean is their own.
        nearest_left_out: The same with each sample left out of the mean of its own class.
        agree: Number of samples whose nearest class mean is the head's choice; None without a head.
        agree_left_out: The same with each sample left out of the mean of its own class.
    """

    along: Float[Array, "k k"]
    nc1: Float[Array, " k"]
    nearest: Int[Array, " k"]
    nearest_left_out: Int[Array, " k"]
    agree: Int[Array, " k"] | None
    agree_left_out: Int[Array, " k"] | None


def _products(rows: Float[Array, "n d"], *matrices: Float[Array, "d _"]) -> list[Float[Array, "n _"]]:
    """Multiplies the rows by each matrix.

    Narrow matrices are joined: a product of 20 columns takes a CPU about as long as a product of 64, and an odd number
    of columns up to twice as long. Wide matrices are not, since their joint product would take more memory.
    """
    widths = [matrix.shape[1] for matrix in matrices]
    if sum(widths) > _MOST_JOINED:
        return [_matmul(rows, matrix) for matrix in matrices]
    joined = jnp.pad(jnp.concatenate(matrices, axis=1), ((0, 0), (0, -sum(widths) % _MULTIPLE)))
    return jnp.split(_matmul(rows, joined), np.cumsum(widths).tolist(), axis=1)[:-1]


def residual_sums(residuals: Float[Array, "n d"], segment: Int[Array, " n"], frame: Frame) -> ResidualSums:
    """Computes the sums over one batch.

    Args:
        residuals: Each sample minus the anchor of its class, as `moments_of_batch` returns.
        segment: Classes 0..k-1; rows with k do not count.
        frame: The frame of all samples.
    """
    k = frame.centred_mean.shape[0]
    row = jnp.minimum(segment, k - 1)
    total = partial(class_sums, segment=segment, num_classes=k)

    # ‖x − μ_j‖² = ‖r‖² + 2 r·(μ_i − μ_j) + ‖μ_i − μ_j‖², r the residual of x about its own mean μ_i: every
    # term is small where the difference of the distances is, so nothing cancels at collapse.
    heads = [] if frame.head is None else [frame.head.weights.T]
    projected, inverted, *head_products = _products(residuals, frame.centred_mean.T, frame.nc1_basis, *heads)
    towards = projected - jnp.take_along_axis(projected, row[:, None], axis=1)
    farther = (frame.squared_distance + 2.0 * frame.drift)[
        row
    ] - 2.0 * towards  # squared distance minus that of the own mean
    choice = jnp.argmin(farther, axis=1)
    # Without the sample its class mean is n/(n − 1) times as far away. Two minima say whether it is still the nearest,
    # the first of equals as in `argmin`, which is slower.
    count = frame.moments.count.astype(jnp.float32)[row]
    along_offset = jnp.take_along_axis(_matmul(residuals, frame.moments.offset.T), row[:, None], axis=1)[:, 0]
    own = jnp.sum(residuals**2, axis=-1) - 2.0 * along_offset + jnp.sum(frame.moments.offset**2, axis=-1)[row]
    own = jnp.maximum(own, 0.0) * ((2.0 * count - 1.0) / (count - 1.0) ** 2)
    column = jnp.arange(k, dtype=row.dtype)
    before = jnp.min(jnp.where(column < row[:, None], farther, jnp.inf), axis=1)
    after = jnp.min(jnp.where(column > row[:, None], farther, jnp.inf), axis=1)
    stays = (own < before) & (own <= after)

    agree = agree_left_out = None
    if frame.head is not None:
        at_anchor = _matmul(frame.moments.anchor, frame.head.weights.T) + frame.head.bias
        of_head = jnp.argmax(head_products[0] + at_anchor[row], axis=1)
        agree = total((of_head == choice).astype(jnp.int32))
        at_head = jnp.take_along_axis(farther, of_head[:, None], axis=1)[:, 0]
        moved = ~stays & (of_head != row) & (at_head == jnp.minimum(before, after))
        agree_left_out = total(((stays & (of_head == row)) | moved).astype(jnp.int32))
    return ResidualSums(
        along=total(towards**2),
        nc1=total(jnp.sum(inverted**2, axis=-1)),
        nearest=total((choice == segment).astype(jnp.int32)),
        nearest_left_out=total(stays.astype(jnp.int32)),
        agree=agree,
        agree_left_out=agree_left_out,
    )


def mean_along(sums: ResidualSums, frame: Frame) -> Float[Array, "k k"]:
    """Computes (μ_j − μ_i)ᵀ Σ_i (μ_j − μ_i) from the sums over all samples."""
    # The mean square about the anchor exceeds the mean square about the mean by the squared drift.
    count = frame.moments.count.astype(jnp.float32)
    return jnp.maximum(sums.along / count[:, None] - frame.drift**2, 0.0)


def nc1(sums: ResidualSums, frame: Frame) -> Float[Array, ""]:
    """Computes tr(Σ_W Σ_B⁺)/k from the sums over all samples; inf if Σ_B is nothing but rounding."""
    count = frame.moments.count.astype(jnp.float32)
    value = jnp.mean(jnp.maximum(sums.nc1 / count - frame.nc1_drift, 0.0))
    return jnp.where(frame.nc1_rank > 0, value, jnp.inf)
