"""The four measures of neural collapse of Papyan, Han, Donoho (PNAS 2020), from class means and residuals.

All take the class means about μ_G, the mean of the class means: `ClassMoments.centred_mean`, every class
present.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ncjax.collapse.moments import HIGHEST, ClassMoments

_EPS = float(jnp.finfo(jnp.float32).eps)


def nc1_directions(moments: ClassMoments) -> tuple[Float[Array, "d r"], Int[Array, ""]]:
    """Directions onto which a within-class residual is projected for NC1, and how many of them are used.

    With Σ_B = Σ_c (μ_c − μ_G)(μ_c − μ_G)ᵀ/k = V diag(s²/k) Vᵀ, tr(Σ_W Σ_B⁺)/k is the mean over classes of
    E‖(V/s)ᵀ(x − μ_c)‖²; the columns returned are V/s, 0 where a direction is not used. Of at most min(k−1, d)
    directions those count whose s is above max(k, d)·eps·max_c‖μ_c‖, the norm that of the raw mean: what is
    below is the rounding of the features' common offset, which must not be inverted.
    """
    centred = moments.centred_mean
    k, d = centred.shape
    r = min(k - 1, d)
    # LAPACK works on columns: of the transpose, so that XLA does not lay out the features that way.
    v, s, _ = jnp.linalg.svd(centred.T, full_matrices=False)
    v, s = v[:, :r], s[:r]
    largest = jnp.max(jnp.linalg.norm(moments.mean, axis=-1))
    used = s > max(k, d) * _EPS * largest
    return jnp.where(used, v / jnp.where(used, s, 1.0), 0.0), jnp.sum(used)


def nc1_quotient(moments: ClassMoments) -> Float[Array, ""]:
    """tr Σ_W / tr Σ_B, Σ_W the mean of the class covariances; inf where all class means are one point."""
    between = jnp.mean(jnp.sum(moments.centred_mean**2, axis=-1))
    return jnp.where(between > 0, jnp.mean(moments.variance) / jnp.where(between > 0, between, 1.0), jnp.inf)


def nc2_equinorm(centred_mean: Float[Array, "k d"]) -> Float[Array, ""]:
    """Standard deviation over mean of the norms ‖μ_c − μ_G‖; 0 at a simplex, NaN where all means are one point."""
    norms = jnp.linalg.norm(centred_mean, axis=-1)
    mean = jnp.mean(norms)
    return jnp.where(mean > 0, jnp.std(norms) / _or_one(mean), jnp.nan)


def nc2_equiangular(centred_mean: Float[Array, "k d"]) -> Float[Array, ""]:
    """The mean over pairs of |cos(μ_c − μ_G, μ_c' − μ_G) + 1/(k−1)|; 0 at a simplex.

    A class mean at μ_G has no direction; its cosines count as 0.
    """
    k = centred_mean.shape[0]
    unit = centred_mean / _or_one(jnp.linalg.norm(centred_mean, axis=-1, keepdims=True))
    gap = jnp.abs(jnp.matmul(unit, unit.T, precision=HIGHEST) + 1.0 / (k - 1))
    return jnp.sum(jnp.triu(gap, 1)) / (k * (k - 1) / 2)


def nc3(centred_mean: Float[Array, "k d"], weights: Float[Array, "k d"]) -> Float[Array, ""]:
    """‖W/‖W‖_F − M/‖M‖_F‖_F, M the centred means: 0 where head and means are one shape, at most 2."""
    return jnp.linalg.norm(
        weights / _or_one(jnp.linalg.norm(weights)) - centred_mean / _or_one(jnp.linalg.norm(centred_mean))
    )


def _or_one(x: Array) -> Array:
    return jnp.where(x > 0, x, jnp.ones_like(x))
