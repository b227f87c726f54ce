"""How near class means and head are to a simplex equiangular tight frame (ETF), and to each other.

`centred_mean` [k, d] are the class means about μ_G, the mean of the class means, with every class present; hats are
unit vectors. Sources:

- ETF errors: Zhu et al., "A Geometric Analysis of Neural Collapse with Unconstrained Features" (2021, arXiv
  2105.02375); Kothapalli, "Neural Collapse: A Review on Modelling Principles and Generalization" (2023, arXiv
  2206.04041).
- GNC2 and UNC3: Wu, Papyan, "Linguistic Collapse: Neural Collapse in (Large) Language Models" (2024, arXiv 2405.17767),
  with the logarithmic kernel of Liu et al., "Generalizing and Decoupling Neural Collapse via Hyperspherical Uniformity
  Gap" (2023, arXiv 2303.06484).
- Self-duality: Jiang et al., "Generalized Neural Collapse for a Large Number of Classes" (2024, arXiv 2310.05351).
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ncjax.collapse.class_distance_variance import squared_distances
from ncjax.collapse.moments import HIGHEST

_ROUNDING = 8 * float(jnp.finfo(jnp.float32).eps)


def etf_error(first: Float[Array, "k d"], second: Float[Array, "k d"]) -> Float[Array, ""]:
    """Computes ‖A/‖A‖_F − (I − 11ᵀ/k)/√(k − 1)‖_F with A = first·secondᵀ; 0 at a simplex ETF, at most 2.

    Either matrix may have any scale. NaN if A is 0.
    """
    k = first.shape[0]
    product = jnp.matmul(_scaled(first), _scaled(second).T, precision=HIGHEST)
    norm = jnp.linalg.norm(product)
    simplex = (jnp.eye(k) - 1.0 / k) / jnp.sqrt(k - 1.0)
    return jnp.where(norm > 0, jnp.linalg.norm(product / jnp.where(norm > 0, norm, 1.0) - simplex), jnp.nan)


def directed(rows: Float[Array, "k d"], rounding: Float[Array, ""]) -> Bool[Array, " k"]:
    """Returns which rows have a direction: whose norm is above `rounding`."""
    return jnp.linalg.norm(rows, axis=-1) > rounding


def mean_rounding(centred_mean: Float[Array, "k d"], variance: Float[Array, " k"]) -> Float[Array, ""]:
    """Returns the norm up to which a centred class mean is rounding of float32 sums."""
    largest = jnp.max(jnp.linalg.norm(centred_mean, axis=-1))
    return _ROUNDING * (largest + jnp.sqrt(jnp.max(variance)))


def cosines(unit: Float[Array, "k d"]) -> Float[Array, "k k"]:
    """Computes the cosines between unit rows; a row of 0 has cosines 0."""
    return jnp.clip(jnp.matmul(unit, unit.T, precision=HIGHEST), -1.0, 1.0)


def uniformity(unit: Float[Array, "k d"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Computes GNC2: mean and standard deviation over pairs of log(1/‖μ̂_i − μ̂_j‖).

    Two equal directions make the mean inf and the standard deviation NaN.
    """
    k = unit.shape[0]
    square = squared_distances(unit)
    pair = jnp.triu(jnp.ones((k, k), bool), 1)
    apart = square > _ROUNDING**2
    values = jnp.where(pair & apart, -0.5 * jnp.log(jnp.where(apart, square, 1.0)), 0.0)
    number = k * (k - 1) / 2
    mean = jnp.sum(values) / number
    std = jnp.sqrt(jnp.sum(jnp.where(pair, (values - mean) ** 2, 0.0)) / number)
    infinite = jnp.any(pair & ~apart)
    return jnp.where(infinite, jnp.inf, mean), jnp.where(infinite, jnp.nan, std)


def duality(unit_mean: Float[Array, "k d"], unit_weights: Float[Array, "k d"]) -> tuple[Float[Array, ""], ...]:
    """Computes the self-duality mean_c (1 − ⟨ŵ_c, μ̂_c⟩), and UNC3, the standard deviation over classes of ⟨ŵ_c, μ̂_c⟩.

    Half the squared distance of two unit vectors is 1 less their cosine, without its rounding where they agree.
    """
    gap = 0.5 * jnp.sum((unit_mean - unit_weights) ** 2, axis=-1)
    return jnp.mean(gap), jnp.std(gap)


def etf_measures(
    centred_mean: Float[Array, "k d"], variance: Float[Array, " k"], weights: Float[Array, "k d"] | None
) -> dict[str, Array]:
    """Computes the measures of this module by the names of `Collapse`; those of the head only with `weights`. Pure.

    NaN where a class mean or a row of the head has no direction.
    """
    with_direction = directed(centred_mean, mean_rounding(centred_mean, variance))
    unit = unit_rows(centred_mean, with_direction)
    complete = jnp.all(with_direction)
    mean, std = uniformity(unit)
    measures = {
        "with_direction": with_direction,
        "nc2_etf_error": jnp.where(jnp.any(with_direction), etf_error(centred_mean, centred_mean), jnp.nan),
        "mean_cosines": cosines(unit),
        "gnc2_mean": jnp.where(complete, mean, jnp.nan),
        "gnc2_std": jnp.where(complete, std, jnp.nan),
    }
    if weights is not None:
        head_direction = directed(weights, jnp.zeros(()))
        distance, spread = duality(unit, unit_rows(weights, head_direction))
        complete &= jnp.all(head_direction)
        measures |= {
            "nc2_etf_error_head": etf_error(weights, weights),
            "nc3_etf_error": jnp.where(jnp.any(with_direction), etf_error(weights, centred_mean), jnp.nan),
            "self_duality": jnp.where(complete, distance, jnp.nan),
            "unc3": jnp.where(complete, spread, jnp.nan),
        }
    return measures


def unit_rows(rows: Float[Array, "k d"], with_direction: Bool[Array, " k"]) -> Float[Array, "k d"]:
    """Divides each row by its norm; rows without a direction become 0."""
    scaled = _scaled(rows)
    norm = jnp.linalg.norm(scaled, axis=-1, keepdims=True)
    return jnp.where(with_direction[:, None], scaled / jnp.where(norm > 0, norm, 1.0), 0.0)


def _scaled(rows: Float[Array, "k d"]) -> Float[Array, "k d"]:
    """Divides by the largest entry, so that no product over- or underflows."""
    largest = jnp.max(jnp.abs(rows))
    return rows / jnp.where(largest > 0, largest, 1.0)
