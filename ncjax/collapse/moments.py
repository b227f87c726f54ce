"""Counts, means and centred sums of squares of every class, in one mergeable pytree.

Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances" (1979).
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

HIGHEST = jax.lax.Precision.HIGHEST
_BLOCK = 8192
"""Samples that are added one after the other."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class ClassMoments:
    """The first two moments of k classes of features in R^d; start with `empty`, then `update` and `merge`.

    A class mean is `anchor + offset`: the anchor is a float32 point near the mean, the offset what the mean
    is away from it. Means of a million samples with a large common offset are so kept to the rounding of
    the deviations within the class, not to that of the offset, and merging thousands of batches does not
    wear them out.

    Attributes:
        count: samples of each class.
        anchor: a point near each class mean; 0 for an empty class.
        offset: the class mean less the anchor.
        square: Σ‖x − μ_c‖² over the samples of the class; divided by `count` it is tr Σ_c.
        pooled_scatter: Σ_c Σ (x − μ_c)(x − μ_c)ᵀ, or None where it was not asked for.
        class_scatter: Σ (x − μ_c)(x − μ_c)ᵀ of each class, or None where it was not asked for.
    """

    count: Int[Array, "k"]
    anchor: Float[Array, "k d"]
    offset: Float[Array, "k d"]
    square: Float[Array, "k"]
    pooled_scatter: Float[Array, "d d"] | None = None
    class_scatter: Float[Array, "k d d"] | None = None

    @classmethod
    def empty(
        cls, num_classes: int, dim: int, *, pooled_scatter: bool = False, class_scatter: bool = False
    ) -> "ClassMoments":
        """No samples; the two flags ask for the scatter matrices, d² and k·d² floats."""
        return cls(
            count=jnp.zeros(num_classes, jnp.int32),
            anchor=jnp.zeros((num_classes, dim), jnp.float32),
            offset=jnp.zeros((num_classes, dim), jnp.float32),
            square=jnp.zeros(num_classes, jnp.float32),
            pooled_scatter=jnp.zeros((dim, dim), jnp.float32) if pooled_scatter else None,
            class_scatter=jnp.zeros((num_classes, dim, dim), jnp.float32) if class_scatter else None,
        )

    def update(
        self,
        features: Float[Array, "n d"],
        labels: Int[Array, "n"],
        mask: Bool[Array, "n"] | None = None,
    ) -> "ClassMoments":
        """With a batch added. Rows that are masked out, or whose label is outside 0..k-1, do not count.

        For use inside `jit` and `scan`. Where `features` and `labels` are sharded along n, the sums over
        samples become collectives, and the moments come out replicated.
        """
        batch, _ = moments_of_batch(
            features,
            labels,
            self.count.shape[0],
            mask,
            pooled_scatter=self.pooled_scatter is not None,
            class_scatter=self.class_scatter is not None,
        )
        return self.merge(batch)

    def merge(self, other: "ClassMoments") -> "ClassMoments":
        """The moments of both sets of samples together, in any order and grouping the same to rounding."""
        count = self.count + other.count
        n_self, n_other = self.count.astype(jnp.float32), other.count.astype(jnp.float32)
        share = n_other / jnp.maximum(n_self + n_other, 1.0)
        has_self, has_other = self.count > 0, other.count > 0
        both = has_self & has_other

        delta = (other.anchor - self.anchor) + (other.offset - self.offset)
        delta = jnp.where(both[:, None], delta, 0.0)
        offset = self.offset + share[:, None] * delta
        weight = n_self * share
        spread = jnp.sqrt(weight)[:, None] * delta
        pooled_scatter, class_scatter = None, None
        if self.pooled_scatter is not None and other.pooled_scatter is not None:
            pooled_scatter = self.pooled_scatter + other.pooled_scatter
            pooled_scatter += jnp.matmul(spread.T, spread, precision=HIGHEST)
        if self.class_scatter is not None and other.class_scatter is not None:
            class_scatter = self.class_scatter + other.class_scatter
            class_scatter += spread[:, :, None] * spread[:, None, :]
        return ClassMoments(
            count=count,
            anchor=jnp.where(has_self[:, None], self.anchor, other.anchor),
            offset=jnp.where(has_self[:, None], offset, other.offset),
            square=self.square + other.square + weight * jnp.sum(delta**2, axis=-1),
            pooled_scatter=pooled_scatter,
            class_scatter=class_scatter,
        )

    @property
    def present(self) -> Bool[Array, "k"]:
        """Which classes have samples."""
        return self.count > 0

    @property
    def mean(self) -> Float[Array, "k d"]:
        """The class means μ_c; 0 for an empty class."""
        return self.anchor + self.offset

    @property
    def centred_mean(self) -> Float[Array, "k d"]:
        """μ_c − μ_G, μ_G the mean of the class means; 0 for an empty class. Exact where `mean` is rounded."""
        present = self.present.astype(jnp.float32)[:, None]
        weight = present / jnp.maximum(jnp.sum(present), 1.0)
        reference = jax.lax.stop_gradient(jnp.sum(weight * self.anchor, axis=0))
        near = (self.anchor - reference) + self.offset
        return jnp.where(self.present[:, None], near - jnp.sum(weight * near, axis=0), 0.0)

    @property
    def variance(self) -> Float[Array, "k"]:
        """Var_c = tr Σ_c, divided by n_c; 0 for an empty class."""
        return self.square / jnp.maximum(self.count, 1).astype(jnp.float32)


def moments_of_batch(
    features: Float[Array, "n d"],
    labels: Int[Array, "n"],
    num_classes: int,
    mask: Bool[Array, "n"] | None = None,
    *,
    pooled_scatter: bool = False,
    class_scatter: bool = False,
) -> tuple[ClassMoments, Float[Array, "n d"]]:
    """The moments of one batch, and its residuals: each row less the anchor of its class.

    Rows that do not count have residuals without meaning, but finite ones.
    """
    features = features.astype(jnp.float32)
    segment = segments(labels, num_classes, mask)
    if mask is not None:
        features = jnp.where(mask[:, None], features, 0.0)
    total = partial(class_sums, segment=segment, num_classes=num_classes)

    count = total(jnp.ones_like(segment))
    n = jnp.maximum(count, 1).astype(jnp.float32)
    # A float32 sum of many samples with a common offset loses digits that the variance needs. As an anchor it
    # is good enough: the residuals about it are exact, and their sum corrects the mean. The compiler may
    # compute the quotient twice, once fused into the subtraction without rounding it; dropping a bit makes
    # it one number.
    anchor = jax.lax.stop_gradient(total(features) / n[:, None])
    anchor = jax.lax.reduce_precision(anchor, exponent_bits=8, mantissa_bits=22)
    residuals = features - anchor[jnp.minimum(segment, num_classes - 1)]
    offset = total(residuals) / n[:, None]
    square = total(jnp.sum(residuals**2, axis=-1)) - n * jnp.sum(offset**2, axis=-1)

    pooled, per_class = None, None
    counted = (segment < num_classes)[:, None]
    if pooled_scatter:
        rows, spread = jnp.where(counted, residuals, 0.0), jnp.sqrt(n)[:, None] * offset
        pooled = _gram(rows) - _gram(spread)
    if class_scatter:

        def scatter_of(c: Int[Array, ""]) -> Float[Array, "d d"]:
            return _gram(jnp.where((segment == c)[:, None], residuals - offset[c], 0.0))

        per_class = jax.lax.map(scatter_of, jnp.arange(num_classes))
    moments = ClassMoments(count, anchor, offset, jnp.maximum(square, 0.0), pooled, per_class)
    return moments, residuals


def segments(labels: Int[Array, "n"], num_classes: int, mask: Bool[Array, "n"] | None = None) -> Int[Array, "n"]:
    """The labels as int32 segment numbers: `num_classes`, which `class_sums` drops, for rows that do not count."""
    labels = labels if isinstance(labels, np.ndarray) else jnp.asarray(labels)
    if labels.dtype.itemsize < 4:
        labels = labels.astype(jnp.int32)  # a type that may not hold num_classes
    counts = (labels >= 0) & (labels < num_classes)  # in a wide type, of which int32 would cut off the upper half
    labels = jnp.where(counts, labels, 0).astype(jnp.int32)
    if mask is not None:
        counts &= mask
    return jnp.where(counts, labels, num_classes)


def class_sums(values: Shaped[Array, "n *s"], segment: Int[Array, "n"], num_classes: int) -> Shaped[Array, "k *s"]:
    """The sum of the values of each class; rows with segment `num_classes` do not count.

    Of many samples it is the sum of the sums of blocks: CPUs add a segment's values one after the other, and in
    float32 a sum of 2²⁴ ones grows no further.
    """
    n = len(segment)
    # so few blocks that their sums take at most an eighth of the memory of the values
    blocks = max(1, min(n // _BLOCK, n // (8 * num_classes), 1024))
    if blocks == 1:
        return jax.ops.segment_sum(values, segment, num_classes)
    block = jnp.arange(n, dtype=jnp.int32) // -(-n // blocks)
    row = jnp.where(segment < num_classes, block * num_classes + segment, blocks * num_classes)
    sums = jax.ops.segment_sum(values, row, blocks * num_classes)
    return jnp.sum(sums.reshape(blocks, num_classes, *values.shape[1:]), axis=0, dtype=values.dtype)


def _gram(x: Float[Array, "n d"]) -> Float[Array, "d d"]:
    return jnp.matmul(x.T, x, precision=HIGHEST)
