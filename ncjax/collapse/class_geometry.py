"""Moments of classes and of pairs of classes, from which few-shot error is bounded and predicted."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Real

from ncjax.checks import not_finite, read_features
from ncjax.collapse.class_distance_variance import squared_distances
from ncjax.collapse.inputs import checked_labels
from ncjax.collapse.moments import HIGHEST, moments_of_batch

_einsum = partial(jnp.einsum, precision=HIGHEST)
_Sums = TypeVar("_Sums")
_CUBE_SAMPLES = 256


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Covariances:
    """Known means and covariances of classes."""

    mean: Float[Array, "k d"]
    covariance: Float[Array, "k d d"]

    def along(self, i: Int[ArrayLike, ""], others: Int[Array, " w"]) -> Float[Array, "w w"]:
        """Computes δ_ijᵀ Σ_i δ_il for the classes j and l of `others`."""
        delta = self.mean[i] - self.mean[others]
        return _einsum("ja,ab,lb->jl", delta, self.covariance[i], delta)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Samples:
    """Samples sorted by class, without padding of the smaller classes.

    Attributes:
        mean: Sample means about their mean.
        residuals: Each sample minus its class mean, followed by at least `tile` rows that do not count.
        start: The first row of each class.
        count: The number of samples of each class, n.
        excess: s_ij. The sample value δ_ijᵀ S_i δ_il has the bias s_ij + s_il, and t_ij more if j = l.
        own_excess: t_ij.
        tile: Rows that are read at a time; static.
    """

    mean: Float[Array, "k d"]
    residuals: Float[Array, "m d"]
    start: Int[Array, " k"]
    count: Int[Array, " k"]
    excess: Float[Array, "k k"]
    own_excess: Float[Array, "k k"]
    tile: int = field(metadata={"static": True})

    def along(self, i: Int[ArrayLike, ""], others: Int[Array, " w"]) -> Float[Array, "w w"]:
        """Estimates δ_ijᵀ Σ_i δ_il without bias, for the classes j and l of `others`."""
        delta = self.mean[i] - self.mean[others]

        def scatter(rows: Float[Array, "t d"]) -> Float[Array, "w w"]:
            projected = _einsum("td,jd->tj", rows, delta)
            return _einsum("tj,tl->jl", projected, projected)

        excess = self.excess[i, others]
        value = self.sum_over(i, scatter) / (self.count[i].astype(jnp.float32) - 1.0)
        value -= excess[:, None] + excess
        value -= jnp.where(others[:, None] == others, self.own_excess[i, others], 0.0)
        pair = others != i
        return jnp.where(pair[:, None] & pair, value, 0.0)

    def sum_over(self, i: Int[ArrayLike, ""], of_rows: Callable[[Float[Array, "t d"]], _Sums]) -> _Sums:
        """Sums `of_rows` over the tiles of class i; rows of zeros must add nothing."""
        start, count = self.start[i], self.count[i]

        def add(step: Int[Array, ""], total: _Sums) -> _Sums:
            done = step * self.tile
            rows = jax.lax.dynamic_slice_in_dim(self.residuals, start + done, self.tile)
            inside = done + jnp.arange(self.tile, dtype=jnp.int32) < count
            return jax.tree.map(jnp.add, total, of_rows(jnp.where(inside[:, None], rows, 0.0)))

        sums = jax.eval_shape(of_rows, jax.ShapeDtypeStruct((self.tile, self.residuals.shape[1]), jnp.float32))
        nothing = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), sums)
        return jax.lax.fori_loop(0, (count + self.tile - 1) // self.tile, add, nothing)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class ClassGeometry:
    """The moments of k classes that the bounds and the prediction need.

    Class means μ_i, δ_ij = μ_i − μ_j and class covariances Σ_i are those of the population: known, or estimated from
    samples without bias, so that estimates may be negative even if the moment cannot be.

    Attributes:
        variance: Var_i = tr Σ_i.
        squared_distance: ‖δ_ij‖².
        along_pair: δ_ijᵀ Σ_i δ_ij.
        product: tr(Σ_i Σ_j).
        leading: tr Σ_i³/tr Σ_i², a mean of the eigenvalues of Σ_i, weighted by their squares.
        fourth: E‖f − μ_i‖⁴.
        source: Covariances or samples, from which δ_ijᵀ Σ_i δ_il is computed.
        dim: d; static.
    """

    variance: Float[Array, " k"]
    squared_distance: Float[Array, "k k"]
    along_pair: Float[Array, "k k"]
    product: Float[Array, "k k"]
    leading: Float[Array, " k"]
    fourth: Float[Array, " k"]
    source: Covariances | Samples
    dim: int = field(metadata={"static": True})

    @classmethod
    def of_population(
        cls,
        means: Float[Array, "k d"],
        covariances: Float[Array, "k d d"],
        fourth: Float[Array, " k"] | None = None,
    ) -> "ClassGeometry":
        """Computes the geometry of classes with known moments; `fourth` defaults to Gaussian, Var² + 2 tr Σ²."""
        delta = means[:, None, :] - means
        variance = jnp.trace(covariances, axis1=1, axis2=2)
        product = _einsum("iab,jab->ij", covariances, covariances)
        unit = covariances / jnp.where(variance > 0, variance, 1.0)[:, None, None]
        square = _einsum("iab,ibc->iac", unit, unit)
        leading = variance * _over(jnp.sum(square * unit, axis=(1, 2)), jnp.trace(square, axis1=1, axis2=2))
        return cls(
            variance=variance,
            squared_distance=jnp.sum(delta**2, axis=-1),
            along_pair=_einsum("ija,iab,ijb->ij", delta, covariances, delta),
            product=product,
            leading=leading,
            fourth=variance**2 + 2.0 * jnp.diagonal(product) if fourth is None else fourth,
            source=Covariances(means, covariances),
            dim=means.shape[1],
        )

    @classmethod
    def of_features(cls, features: Any, labels: Any, *, num_classes: int | None = None) -> "ClassGeometry":
        """Estimates the geometry of the classes of these samples, checked and compiled as in `measure`.

        Estimates every moment without bias for any distribution, as the mean over all choices of distinct samples.
        The moments of an episode's margin are thus those of episodes whose queries are not in the support. With mean
        m_i and covariance S_i (divided by n − 1) of n samples, residuals r and v = tr S_i, uses the k-statistics
        (Fisher 1930; McCullagh, "Tensor Methods in Statistics", 1987, chapter 4),
        contracted over dimensions:

            κ    = [n²(n+1)/(n−1)·mean ‖r‖⁴ − (n−1)²(v² + 2 tr S_i²)]/((n−2)(n−3))     E‖f−μ‖⁴ − Var² − 2 tr Σ²
            tr Σ_i² = (n−1)²/((n−2)(n+1))·[tr S_i² − v²/(n−1) − κ(n−2)/(n(n−1))]       Himeno, Yamada (2014)
            E‖f−μ‖⁴ = κ + Var² + 2 tr Σ_i², Var² by v² − κ/n − 2 tr Σ_i²/(n−1)
            ‖δ_ij‖² = ‖m_i−m_j‖² − v_i/n_i − v_j/n_j;    tr Σ_iΣ_j = tr S_iS_j
            δ_ijᵀΣ_iδ_il = (m_i−m_j)ᵀS_i(m_i−m_l) − tr Σ_i²/n_i − [j=l]·tr Σ_iΣ_j/n_j
                           − Σ ‖r‖² rᵀ(2m_i−m_j−m_l)/((n_i−1)(n_i−2)) + κ_i/n_i²,

        where the last line corrects for the correlation of mean and covariance of skewed samples. These estimates need
        four samples; for a class with fewer, all but variance and distances are NaN. `leading` uses at most 256 samples
        of a class, and its tr Σ³ is unbiased for Gaussian classes only (see `_cube`).

        Costs n·d·(k + d) + k²·d² multiplications. Memory: twice the features during the computation, once afterwards,
        k² numbers, and 64 MiB for rows of all Σ.

        Args:
            features: [n, d], as in `ncjax.collapse.measure`.
            labels: [n], as in `ncjax.collapse.measure`.
            num_classes: As in `ncjax.collapse.measure`.

        Raises:
            InputError: As in `ncjax.collapse.measure`.
        """
        array = read_features(features)
        known = checked_labels(array, labels, num_classes)
        order = np.argsort(known.position, kind="stable")
        tile = int(np.clip(len(order) // len(known.counts), 16, 1024))
        geometry = _of_samples(
            jnp.asarray(array[order]),
            jnp.asarray(known.position[order]),
            jnp.asarray(np.cumsum(known.counts) - known.counts, jnp.int32),
            jnp.asarray(known.counts, jnp.int32),
            tile,
        )
        if not np.isfinite(geometry.variance).all():
            raise not_finite(array)
        return geometry

    @property
    def num_classes(self) -> int:
        """The number of classes, k."""
        return self.variance.shape[0]

    @property
    def along(self) -> Float[Array, "k k k"]:
        """δ_ijᵀ Σ_i δ_il at [i, j, l]: k³ numbers, computed on each access."""
        classes = jnp.arange(self.num_classes)
        return jax.lax.map(lambda i: self.source.along(i, classes), classes)


@partial(jax.jit, static_argnames="tile")
def _of_samples(
    features: Real[Array, "n d"],
    position: Int[Array, " n"],
    start: Int[Array, " k"],
    count: Int[Array, " k"],
    tile: int,
) -> ClassGeometry:
    """Computes `ClassGeometry.of_features` for samples sorted by class, at least two of every class."""
    k, d = count.shape[0], features.shape[1]
    moments, residuals = moments_of_batch(features, position, k)
    some = min(features.shape[0], _CUBE_SAMPLES)
    residuals = jnp.pad(residuals - moments.offset[position], ((0, max(tile, some)), (0, 0)))
    mean, n = moments.centred_mean, count.astype(jnp.float32)
    unknown = jnp.zeros((k, k))
    samples = Samples(mean, residuals, start, count, unknown, unknown, tile)
    classes = jnp.arange(k)

    def means(i: Int[Array, ""]) -> tuple[Float[Array, ""], Float[Array, " k"], Float[Array, " k"]]:
        def of_rows(rows: Float[Array, "t d"]) -> tuple[Float[Array, ""], Float[Array, " k"], Float[Array, " k"]]:
            square = jnp.sum(rows**2, axis=-1)
            towards = _einsum("td,jd->tj", rows, mean[i] - mean)
            share = square / n[i]
            return jnp.sum(share * square), jnp.sum(towards**2 / n[i], axis=0), _einsum("t,tj->j", share, towards)

        return samples.sum_over(i, of_rows)

    # tr(S_i S_j) from some rows of all S at a time, since all rows are k·d² numbers.
    width = max(1, min(d, 2**24 // (k * d)))

    def product_of(first: Int[Array, ""]) -> Float[Array, "k k"]:
        # If `width` does not divide d, the last tile overlaps the one before; its earlier columns are set to zero.
        at = jnp.minimum(first, d - width)
        new = at + jnp.arange(width) >= first

        def covariance(i: Int[Array, ""]) -> Float[Array, "w d"]:
            def of_rows(rows: Float[Array, "t d"]) -> Float[Array, "w d"]:
                return _einsum("tw,td->wd", jnp.where(new, jax.lax.dynamic_slice_in_dim(rows, at, width, 1), 0.0), rows)

            return samples.sum_over(i, of_rows) / (n[i] - 1.0)

        rows = jax.lax.map(covariance, classes)
        return _einsum("iwd,jwd->ij", rows, rows)

    def cube(i: Int[Array, ""]) -> Float[Array, ""]:
        # evenly from the whole class, since samples may be sorted
        j = jnp.arange(some, dtype=jnp.int32)
        rows = residuals[start[i] + j * jnp.maximum(count[i] // some, 1)]
        return _cube(jnp.where((j < count[i])[:, None], rows, 0.0), jnp.minimum(count[i], some))

    def add(total: Float[Array, "k k"], first: Int[Array, ""]) -> tuple[Float[Array, "k k"], None]:
        return total + product_of(first), None

    fourth, along, third = jax.lax.map(means, classes)
    product, _ = jax.lax.scan(add, jnp.zeros((k, k)), jnp.arange(0, d, width))

    variance = moments.variance * n / (n - 1.0)
    kappa = n * n / (n - 2.0) / (n - 3.0) * (n + 1.0) / (n - 1.0) * fourth
    kappa -= (n - 1.0) / (n - 2.0) * (n - 1.0) / (n - 3.0) * (variance**2 + 2.0 * jnp.diagonal(product))
    own = jnp.diagonal(product) - variance**2 / (n - 1.0) - kappa * (n - 2.0) / n / (n - 1.0)
    own = jnp.where(n >= 4.0, own * (n - 1.0) / (n - 2.0) * (n - 1.0) / (n + 1.0), jnp.nan)
    same = jnp.eye(k, dtype=bool)
    product = jnp.where(same, own[:, None], product)
    # tr Σ³/tr Σ² lies between tr Σ²/tr Σ and the root of tr Σ²
    least = _over(own, variance)
    leading = jnp.clip(jax.lax.map(cube, classes) * _over(variance**2, own), least, jnp.sqrt(jnp.maximum(own, 0.0)))
    excess = (n / (n - 1.0) / (n - 2.0))[:, None] * third + ((own - kappa / n) / n / 2.0)[:, None]
    own_excess = product / n
    along = (n / (n - 1.0))[:, None] * along - 2.0 * excess - own_excess
    distance = squared_distances(mean) - (variance / n)[:, None] - variance / n
    return ClassGeometry(
        variance=variance,
        squared_distance=jnp.where(same, 0.0, distance),
        along_pair=jnp.where(same, 0.0, along),
        product=product,
        leading=leading,
        fourth=kappa + (variance**2 - kappa / n - 2.0 * own / (n - 1.0)) + 2.0 * own,
        source=replace(samples, excess=excess, own_excess=own_excess),
        dim=d,
    )


def _cube(rows: Float[Array, "m d"], count: Int[Array, ""]) -> Float[Array, ""]:
    """Estimates tr Σ³/(tr Σ)² of Gaussian samples, the first `count` rows, as unbiased tr Σ³ over (tr S)².

    With ν = count − 1, ν⁴/((ν−1)(ν−2)(ν+2)(ν+4))·[tr S³ − 3 tr S·tr S²/ν + 2 (tr S)³/ν²], from the moments of
    the Wishart distribution: E tr S³ = (1+3/ν+4/ν²)c + 3(1/ν+1/ν²)ab + a³/ν², E tr S·tr S² = (1+1/ν+4/ν²)ab + a³/ν
    + 4(1/ν+1/ν²)c and E (tr S)³ = a³ + 6ab/ν + 8c/ν², where a, b, c are the traces of Σ, Σ², Σ³.
    """
    n = count.astype(jnp.float32)
    inside = jnp.arange(rows.shape[0], dtype=jnp.int32) < count
    rows = jnp.where(inside[:, None], rows - jnp.sum(rows, axis=0) / n, 0.0)
    nu = n - 1.0
    trace = jnp.sum(rows**2) / nu
    gram = _einsum("pd,qd->pq", rows, rows) / jnp.where(trace > 0, trace, 1.0) / nu
    third = jnp.sum(_einsum("pq,qr->pr", gram, gram) * gram) - 3.0 * jnp.sum(gram**2) / nu + 2.0 / nu**2
    return trace * third * (nu / (nu - 1.0)) * (nu / (nu - 2.0)) * (nu / (nu + 2.0)) * (nu / (nu + 4.0))


def _over(top: Array, bottom: Array) -> Array:
    """Divides; 0 where `bottom` is not positive."""
    return jnp.where(bottom > 0, top / jnp.where(bottom > 0, bottom, 1.0), 0.0)


def mean_of_pairs(values: Float[Array, "k k"]) -> Float[Array, ""]:
    """Computes the mean over ordered pairs i ≠ j."""
    k = values.shape[0]
    return jnp.sum(jnp.where(jnp.eye(k, dtype=bool), 0.0, values)) / (k * (k - 1))
