"""NC1, NC2 and NC3 of Papyan, Han, Donoho (PNAS 2020), from class means.

`centred_mean` [k, d] are the class means about μ_G, the mean of the class means, with every class present.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ncjax.collapse.moments import HIGHEST, ClassMoments

_EPS = float(jnp.finfo(jnp.float32).eps)


def nc1_directions(moments: ClassMoments) -> tuple[Float[Array, "d r"], Int[Array, ""]]:
    """Computes the directions onto which NC1 projects within-class residuals, and how many are used.

    With Σ_B = Σ_c (μ_c − μ_G)(μ_c − μ_G)ᵀ/k = V diag(s²/k) Vᵀ, tr(Σ_W Σ_B⁺)/k is the mean over classes of
    E‖(V/s)ᵀ(x − μ_c)‖². Returns the columns V/s, 0 for a direction that is not used. Uses at most min(k−1, d)
    directions, those whose s is above max(k, d)·eps·max_c‖μ_c‖ with raw means: smaller s are the rounding of the
    features' common offset, which must not be inverted.
    """
    centred = moments.centred_mean
    k, d = centred.shape
    r = min(k - 1, d)
    # The SVD of the transpose: LAPACK works on columns, and XLA would otherwise lay out the features that way.
    v, s, _ = jnp.linalg.svd(centred.T, full_matrices=False)
    v, s = v[:, :r], s[:r]
    largest = jnp.max(jnp.linalg.norm(moments.mean, axis=-1))
    used = s > max(k, d) * _EPS * largest
    return jnp.where(used, v / jnp.where(used, s, 1.0), 0.0), jnp.sum(used)


def nc1_quotient(moments: ClassMoments) -> Float[Array, ""]:
    """Computes tr Σ_W / tr Σ_B, Σ_W the mean class covariance; inf if all class means coincide."""
    between = jnp.mean(jnp.sum(moments.centred_mean**2, axis=-1))
    return jnp.where(between > 0, jnp.mean(moments.variance) / jnp.where(between > 0, between, 1.0), jnp.inf)


def nc2_equinorm(centred_mean: Float[Array, "k d"]) -> Float[Array, ""]:
    """Computes the standard deviation over the mean of ‖μ_c − μ_G‖; 0 at a simplex, NaN if all means coincide."""
    norms = jnp.linalg.norm(centred_mean, axis=-1)
    mean = jnp.mean(norms)
    return jnp.where(mean > 0, jnp.std(norms) / _nonzero(mean), jnp.nan)


def nc2_equiangular(centred_mean: Float[Array, "k d"]) -> Float[Array, ""]:
    """Computes the mean over pairs of |cos(μ_c − μ_G, μ_c' − μ_G) + 1/(k−1)|; 0 at a simplex.

    A class mean at μ_G has no direction; its cosines count as 0.
    """
    k = centred_mean.shape[0]
    unit = centred_mean / _nonzero(jnp.linalg.norm(centred_mean, axis=-1, keepdims=True))
    gap = jnp.abs(jnp.matmul(unit, unit.T, precision=HIGHEST) + 1.0 / (k - 1))
    return jnp.sum(jnp.triu(gap, 1)) / (k * (k - 1) / 2)


def nc3(centred_mean: Float[Array, "k d"], weights: Float[Array, "k d"]) -> Float[Array, ""]:
    """Computes ‖W/‖W‖_F − M/‖M‖_F‖_F, M the centred means: 0 if W is proportional to M, at most 2."""
    return jnp.linalg.norm(
        weights / _nonzero(jnp.linalg.norm(weights)) - centred_mean / _nonzero(jnp.linalg.norm(centred_mean))
    )


def _nonzero(x: Array) -> Array:
    return jnp.where(x > 0, x, jnp.ones_like(x))
