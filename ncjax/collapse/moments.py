"""Counts, means and centred sums of squares of every class, in one mergeable pytree.

Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances" (1979).
"""

from dataclasses import dataclass
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Integer, Real, Shaped

HIGHEST = jax.lax.Precision.HIGHEST
_BLOCK = 8192
"""Samples in one sequential sum."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class ClassMoments:
    """The first two moments of k classes of features in R^d; start with `empty`, then `update` and `merge`.

    A class mean is `anchor + offset`: the anchor is a float32 point near the mean, the offset the small remainder.
    Means of a million samples with a large common offset thus keep the precision of the deviations within the
    class, and merging thousands of batches does not degrade them.

    Attributes:
        count: samples of each class.
        anchor: a point near each class mean; 0 for an empty class.
        offset: the class mean minus the anchor.
        square: Σ‖x − μ_c‖² over the samples of the class; divided by `count` it is tr Σ_c.
    """

    count: Int[Array, " k"]
    anchor: Float[Array, "k d"]
    offset: Float[Array, "k d"]
    square: Float[Array, " k"]

    @classmethod
    def empty(cls, num_classes: int, dim: int) -> "ClassMoments":
        """Moments of no samples."""
        return cls(
            count=jnp.zeros(num_classes, jnp.int32),
            anchor=jnp.zeros((num_classes, dim), jnp.float32),
            offset=jnp.zeros((num_classes, dim), jnp.float32),
            square=jnp.zeros(num_classes, jnp.float32),
        )

    def update(
        self,
        features: Real[Array | np.ndarray, "n d"],
        labels: Integer[Array | np.ndarray, " n"],
        mask: Bool[Array | np.ndarray, " n"] | None = None,
    ) -> "ClassMoments":
        """Adds a batch. Rows that are masked out, or whose label is outside 0..k-1, do not count.

        For use inside `jit` and `scan`. If `features` and `labels` are sharded along n, the sums over samples become
        collectives, and the moments are replicated.
        """
        batch, _ = moments_of_batch(features, labels, self.count.shape[0], mask)
        return self.merge(batch)

    def merge(self, other: "ClassMoments") -> "ClassMoments":
        """Combines the moments of two sets of samples; order and grouping change the result by rounding only.

        Raises:
            AssertionError: The number of classes or dimensions differs.
        """
        chex.assert_equal_shape([self.anchor, other.anchor])  # other sizes could broadcast
        count = self.count + other.count
        n_self, n_other = self.count.astype(jnp.float32), other.count.astype(jnp.float32)
        share = n_other / jnp.maximum(n_self + n_other, 1.0)
        has_self, has_other = self.count > 0, other.count > 0
        both = has_self & has_other

        delta = (other.anchor - self.anchor) + (other.offset - self.offset)
        delta = jnp.where(both[:, None], delta, 0.0)
        offset = self.offset + share[:, None] * delta
        weight = n_self * share
        return ClassMoments(
            count=count,
            anchor=jnp.where(has_self[:, None], self.anchor, other.anchor),
            offset=jnp.where(has_self[:, None], offset, other.offset),
            square=self.square + other.square + weight * jnp.sum(delta**2, axis=-1),
        )

    @property
    def present(self) -> Bool[Array, " k"]:
        """Which classes have samples."""
        return self.count > 0

    @property
    def mean(self) -> Float[Array, "k d"]:
        """The class means μ_c; 0 for an empty class."""
        return self.anchor + self.offset

    @property
    def centred_mean(self) -> Float[Array, "k d"]:
        """μ_c − μ_G, μ_G the mean of the class means; 0 for an empty class. Not rounded to the scale of the means."""
        present = self.present.astype(jnp.float32)[:, None]
        weight = present / jnp.maximum(jnp.sum(present), 1.0)
        reference = jax.lax.stop_gradient(jnp.sum(weight * self.anchor, axis=0))
        near = (self.anchor - reference) + self.offset
        return jnp.where(self.present[:, None], near - jnp.sum(weight * near, axis=0), 0.0)

    @property
    def variance(self) -> Float[Array, " k"]:
        """Var_c = tr Σ_c, divided by n_c; 0 for an empty class."""
        return self.square / jnp.maximum(self.count, 1).astype(jnp.float32)


def moments_of_batch(
    features: Real[Array | np.ndarray, "n d"],
    labels: Integer[Array | np.ndarray, " n"],
    num_classes: int,
    mask: Bool[Array | np.ndarray, " n"] | None = None,
) -> tuple[ClassMoments, Float[Array, "n d"]]:
    """Computes the moments of one batch, and its residuals: each row less the anchor of its class.

    Residuals of rows that do not count are finite but meaningless.
    """
    rows = jnp.asarray(features).astype(jnp.float32)
    segment = segments(labels, num_classes, mask)
    chex.assert_equal_shape_prefix([rows, segment], 1)  # a single label would broadcast
    if mask is not None:
        rows = jnp.where(mask[:, None], rows, 0.0)
    total = partial(class_sums, segment=segment, num_classes=num_classes)

    count = total(jnp.ones_like(segment))
    n = jnp.maximum(count, 1).astype(jnp.float32)
    # A float32 sum of many samples with a common offset loses digits that the variance needs, but is accurate
    # enough for an anchor: the residuals about it are exact, and their sum corrects the mean. The compiler may
    # compute the quotient twice, once fused into the subtraction without rounding; dropping a bit makes both equal.
    anchor = jax.lax.stop_gradient(total(rows) / n[:, None])
    anchor = jax.lax.reduce_precision(anchor, exponent_bits=8, mantissa_bits=22)
    residuals = rows - anchor[jnp.minimum(segment, num_classes - 1)]
    offset = total(residuals) / n[:, None]
    square = total(jnp.sum(residuals**2, axis=-1)) - n * jnp.sum(offset**2, axis=-1)
    return ClassMoments(count, anchor, offset, jnp.maximum(square, 0.0)), residuals


def segments(
    labels: Integer[Array | np.ndarray, " n"], num_classes: int, mask: Bool[Array | np.ndarray, " n"] | None = None
) -> Int[Array, " n"]:
    """Converts labels to int32 segment numbers; rows that do not count get `num_classes`, which `class_sums` drops."""
    labels = labels if isinstance(labels, np.ndarray) else jnp.asarray(labels)
    if labels.dtype.itemsize < 4:
        labels = labels.astype(jnp.int32)  # a narrow type may not hold num_classes
    counts = (labels >= 0) & (labels < num_classes)  # before int32 truncates wide types
    labels = jnp.where(counts, labels, 0).astype(jnp.int32)
    if mask is not None:
        counts &= mask
    return jnp.where(counts, labels, num_classes)


def class_sums(values: Shaped[Array, " n *s"], segment: Int[Array, " n"], num_classes: int) -> Shaped[Array, " k *s"]:
    """Sums the values of each class; rows with segment `num_classes` do not count.

    Sums many samples in blocks: CPUs add a segment's values sequentially, and a float32 sum of ones stops growing
    at 2²⁴.
    """
    n = len(segment)
    # few enough blocks that their sums take at most an eighth of the memory of the values
    blocks = max(1, min(n // _BLOCK, n // (8 * num_classes), 1024))
    if blocks == 1:
        return jax.ops.segment_sum(values, segment, num_classes)
    block = jnp.arange(n, dtype=jnp.int32) // -(-n // blocks)
    row = jnp.where(segment < num_classes, block * num_classes + segment, blocks * num_classes)
    sums = jax.ops.segment_sum(values, row, blocks * num_classes)
    return jnp.sum(sums.reshape(blocks, num_classes, *values.shape[1:]), axis=0, dtype=values.dtype)
