"""The compiled measurements of the jackknife: of all samples, and with each group of samples or class left out."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Real

from ncjax.collapse.metrics import summary_of_samples
from ncjax.collapse.moments import HIGHEST, moments_of_batch
from ncjax.collapse.residuals import Frame, LinearHead
from ncjax.collapse.unbiased import covariance_products, population_estimates

ACCURACIES = ("nc4", "ncc_accuracy")
PLAIN = (
    "nc1", "nc1_quotient", "nc2_equinorm", "nc2_equiangular", "nc2_etf_error", "nc2_etf_error_head", "nc3_etf_error",
    "gnc2_mean", "gnc2_std", "unc3", "self_duality",
)  # fmt: skip
"""Scalars of `summary` that are measures as they are."""
MOST_CLASSES = 1000
"""With more classes, the cosines of all pairs of class means in all replicates would take gigabytes."""

products_of_groups = partial(jax.jit, static_argnames=("num_classes", "groups"))(covariance_products)


@partial(jax.jit, static_argnames="num_classes")
def whole_metrics(
    features: Real[Array, "n d"],
    position: Int[Array, " n"],
    group: Int[Array, " n"],
    head: LinearHead | None,
    products: Float[Array, "k k"] | None,
    num_classes: int,
) -> dict[str, Array]:
    """Computes the plain metrics of all samples; with `products`, accuracies and estimates for infinite samples."""
    parts = summary_of_samples(features, position, head, num_classes)
    whole = _scalars(parts, position, num_classes) | {"spread": parts["spread"]}
    if products is None:
        return whole
    samples = jnp.sum(position < num_classes, dtype=jnp.float32)
    accuracies = {name: whole[name] for name in (*ACCURACIES, "spread") if name in whole}
    for name, hits in (("ncc_accuracy", "nearest_left_out"), ("nc4", "agree_left_out")):
        if hits in parts:
            accuracies[f"{name}/left_out"] = parts[hits].astype(jnp.float32) / samples
    uncertain = {"uncertain": _uncertain(features, position, group, num_classes)}
    return accuracies | uncertain | _estimates(features, position, products, num_classes)


@partial(jax.jit, static_argnames="num_classes")
def metrics_without(
    features: Real[Array, "n d"],
    position: Int[Array, " n"],
    group: Int[Array, " n"],
    part: Int[Array, ""],
    head: LinearHead | None,
    products: Float[Array, "k k"] | None,
    num_classes: int,
) -> dict[str, Array]:
    """Leaves out one group of samples from the estimates or, without `products`, one class from the plain metrics."""
    if products is not None:
        return _estimates(features, jnp.where(group == part, num_classes, position), products, num_classes)
    kept = jnp.arange(num_classes - 1)
    kept = jnp.where(kept < part, kept, kept + 1)
    moved = jnp.where(position > part, position - 1, position)
    # Rows that are left out, and padding, get the position one past the last class.
    moved = jnp.where((position == part) | (position >= num_classes), num_classes - 1, moved)
    head = jax.tree.map(lambda x: x[kept], head)
    return _scalars(summary_of_samples(features, moved, head, num_classes - 1), moved, num_classes - 1)


def _estimates(
    features: Real[Array, "n d"], position: Int[Array, " n"], products: Float[Array, "k k"], num_classes: int
) -> dict[str, Array]:
    estimates = population_estimates(features, position, products, num_classes)
    if num_classes > MOST_CLASSES:
        estimates["cosines"] = jnp.zeros(0)
    return estimates


def _uncertain(
    features: Float[Array, "n d"], position: Int[Array, " n"], group: Int[Array, " n"], num_classes: int
) -> Float[Array, ""]:
    """Computes the share of samples to which the class means of the even and of the odd groups assign two classes."""
    counts = (position >= 0) & (position < num_classes)
    row = jnp.where(counts, position, 0)

    def nearest(half: int) -> Int[Array, " n"]:
        part = jnp.where(group % 2 == half, position, num_classes)
        moments, _ = moments_of_batch(features, part, num_classes)
        frame = Frame.of(moments)
        residuals = features.astype(jnp.float32) - moments.anchor[row] - moments.offset[row]
        towards = jnp.matmul(residuals, frame.centred_mean.T, precision=HIGHEST)
        towards -= jnp.take_along_axis(towards, row[:, None], axis=1)
        return jnp.argmin(frame.squared_distance[row] - 2.0 * towards, axis=1)

    even, odd = nearest(0), nearest(1)
    return jnp.sum(counts & (even != odd), dtype=jnp.float32) / jnp.sum(counts, dtype=jnp.float32)


def _scalars(parts: dict[str, Array], position: Int[Array, " n"], num_classes: int) -> dict[str, Array]:
    """Computes means and accuracies from `summary_of_samples` of the rows whose position is below `num_classes`."""
    samples = jnp.sum(position < num_classes, dtype=jnp.float32)
    pair = ~jnp.eye(num_classes, dtype=bool)

    def mean(name: str) -> Float[Array, ""]:
        return jnp.sum(jnp.where(pair, parts[name], 0.0)) / (num_classes * (num_classes - 1))

    out = {name: parts[name] for name in PLAIN if name in parts}
    out |= {name: mean(f"{name}_pairs") for name in ("cdnv", "debiased_cdnv", "directional_cdnv")}
    out["ncc_accuracy"] = parts["nearest"].astype(jnp.float32) / samples
    if "agree" in parts:
        out["nc4"] = parts["agree"].astype(jnp.float32) / samples
    return out
