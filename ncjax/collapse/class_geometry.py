"""The moments of classes and of pairs of them that bounds and prediction of few-shot error are made of."""

from dataclasses import dataclass, field
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from ncjax.collapse.cdnv import squared_distances
from ncjax.collapse.inputs import checked_features, checked_labels, not_finite
from ncjax.collapse.moments import HIGHEST, moments_of_batch

_einsum = partial(jnp.einsum, precision=HIGHEST)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class ClassGeometry:
    """The moments of k classes that bounds and prediction are made of.

    Class means μ_i, δ_ij = μ_i − μ_j, class covariances Σ_i divided by n_i.

    Attributes:
        variance: Var_i = tr Σ_i.
        squared_distance: ‖δ_ij‖².
        along: δ_ijᵀ Σ_i δ_il, at [i, j, l].
        product: tr(Σ_i Σ_j).
        fourth: E‖f − μ_i‖⁴.
        dim: d; static.
    """

    variance: Float[Array, "k"]
    squared_distance: Float[Array, "k k"]
    along: Float[Array, "k k k"]
    product: Float[Array, "k k"]
    fourth: Float[Array, "k"]
    dim: int = field(metadata={"static": True})

    @classmethod
    def of_population(
        cls,
        means: Float[Array, "k d"],
        covariances: Float[Array, "k d d"],
        fourth: Float[Array, "k"] | None = None,
    ) -> "ClassGeometry":
        """Of classes with known moments; without `fourth` that of Gaussian features, Var² + 2 tr Σ²."""
        delta = means[:, None, :] - means
        variance = jnp.trace(covariances, axis1=1, axis2=2)
        product = _einsum("iab,jab->ij", covariances, covariances)
        return cls(
            variance=variance,
            squared_distance=jnp.sum(delta**2, axis=-1),
            along=_einsum("ija,iab,ilb->ijl", delta, covariances, delta),
            product=product,
            fourth=variance**2 + 2.0 * jnp.diagonal(product) if fourth is None else fourth,
            dim=means.shape[1],
        )

    @classmethod
    def of_features(
        cls, features: Float[ArrayLike, "n d"], labels: Int[ArrayLike, "n"], *, num_classes: int | None = None
    ) -> "ClassGeometry":
        """Of samples: a front door, checked and compiled as `measure` is.

        The samples are taken for the population, as episodes do that are drawn from them.

        Raises:
            InputError: as `ncjax.collapse.measure` does.
        """
        array = checked_features(features)
        known = checked_labels(labels, num_classes, array.shape[0])
        # Samples by class, the rows of smaller classes filled up with a number past the last sample.
        place = np.arange(len(known.position)) - np.repeat(np.cumsum(known.counts) - known.counts, known.counts)
        order = np.argsort(known.position, kind="stable")
        samples = np.full((len(known.counts), known.counts.max()), len(order), np.int32)
        samples[known.position[order], place] = order
        geometry = _of_samples(jnp.asarray(array), jnp.asarray(known.position), jnp.asarray(samples))
        if not np.isfinite(geometry.fourth).all():
            raise not_finite(array)
        return geometry

    @property
    def num_classes(self) -> int:
        """k."""
        return self.variance.shape[0]


@jax.jit
def _of_samples(features: Float[Array, "n d"], position: Int[Array, "n"], samples: Int[Array, "k m"]) -> ClassGeometry:
    k, d = samples.shape[0], features.shape[1]
    moments, residuals = moments_of_batch(features, position, k)
    exists = (samples < features.shape[0])[..., None]
    r = residuals.at[samples].get(mode="clip") - moments.offset[:, None, :]
    r = jnp.where(exists, r, 0.0)
    count = moments.count.astype(jnp.float32)
    projected = _einsum("imd,jd->imj", r, moments.centred_mean)
    towards = projected - jnp.take_along_axis(projected, jnp.arange(k)[:, None, None], axis=2)

    # tr(Σ_i Σ_j) from some rows of all Σ at a time, for all of them are k·d² numbers.
    rows = max(1, min(d, 2**24 // (k * d)))
    padded = jnp.pad(r, ((0, 0), (0, 0), (0, -d % rows)))

    def of_rows(start: Int[Array, ""]) -> Float[Array, "k k"]:
        some = jax.lax.dynamic_slice_in_dim(padded, start, rows, axis=2)
        covariance = _einsum("imb,imd->ibd", some, r) / count[:, None, None]
        return _einsum("ibd,jbd->ij", covariance, covariance)

    return ClassGeometry(
        variance=moments.variance,
        squared_distance=squared_distances(moments.centred_mean),
        along=_einsum("imj,iml->ijl", towards, towards) / count[:, None, None],
        product=jnp.sum(jax.lax.map(of_rows, jnp.arange(0, d, rows)), axis=0),
        fourth=jnp.sum(jnp.sum(r**2, axis=-1) ** 2, axis=-1) / count,
        dim=d,
    )


def mean_of_pairs(values: Float[Array, "k k"]) -> Float[Array, ""]:
    """Over ordered pairs i ≠ j."""
    k = values.shape[0]
    return jnp.sum(jnp.where(jnp.eye(k, dtype=bool), 0.0, values)) / (k * (k - 1))
