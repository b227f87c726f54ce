"""Bounds on the few-shot error of the nearest class centre (NCC), each as its paper states it.

Pure functions of a `ClassGeometry`, for tasks of `ways` of its classes with `shots` support samples each. A sum over
the other classes of a task is `ways − 1` times a mean over pairs.

The theorems use moments of the population. `ClassGeometry.of_features` estimates these without bias, so that the
results are estimates of the bounds. The plain moments of the samples make them too small: with 20 samples a class in
640 dimensions by half for W = 20 (see `luthra_2026`), by 7 % for W = 1/2; with unbiased moments they were 10 and 1 %
too large. A pair with an estimated distance of at most 0 counts as coincident.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Real

from ncjax.collapse.class_distance_variance import coincident
from ncjax.collapse.class_geometry import ClassGeometry, mean_of_pairs


def galanti_2022(
    geometry: ClassGeometry, *, ways: int, shots: Real[ArrayLike, ""], spherical: bool = False
) -> Float[Array, ""]:
    """Computes 16(k−1)(1/s + 1/n)·mean V_ij, k ways, n shots; s = 1, or d if the classes are spherically symmetric.

    Galanti, György, Hutter (ICLR 2022, arXiv 2112.15121). `spherical` is the caller's assumption; it
    is not checked.
    """
    ratio = _over_distance(geometry, geometry.variance[:, None] + geometry.variance) / 2.0
    inverse = (1.0 / geometry.dim if spherical else 1.0) + 1.0 / jnp.asarray(shots)
    return 16.0 * (ways - 1) * inverse * mean_of_pairs(ratio)


def luthra_2025(
    geometry: ClassGeometry, *, ways: int, shots: Real[ArrayLike, ""]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Computes the bound of Proposition 1, and the a ≥ 5 that minimises it.

    (k−1)[(1/2 − 2/a − 2^{3/2}/(a n))^{−2}·Ṽ + (a/4)((2/√n)(V^s + V) + V/n)] with means over ordered pairs,
    V of Var_i/‖δ_ij‖² and V^s of its square root; for every a with a positive bracket. Luthra, Yang,
    Galanti (2025, arXiv 2506.04411).
    """
    n = jnp.asarray(shots, jnp.float32)
    ratio = _over_distance(geometry, jnp.broadcast_to(geometry.variance[:, None], geometry.squared_distance.shape))
    v, v_root = mean_of_pairs(ratio), mean_of_pairs(jnp.sqrt(ratio))
    directional = mean_of_pairs(_directional(geometry))
    slope = (2.0 / jnp.sqrt(n) * (v_root + v) + v / n) / 4.0
    # The bound is directional/(1/2 − c/a)² + slope·a: convex where the bracket is positive, a > 2c. Its
    # derivative vanishes where (a/2 − c)³/a = 2c·directional/slope, whose left side increases with a.
    # Any a gives a bound, so that an inaccurate search makes it looser but not wrong.
    c = 2.0 + 2.0**1.5 / n
    target = 2.0 * c * directional / jnp.where(slope > 0, slope, 1.0)
    target = jnp.where(slope > 0, target, jnp.inf)

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = jnp.sqrt(low * high)
        too_low = (middle / 2.0 - c) ** 3 / middle < target
        return jnp.where(too_low, middle, low), jnp.where(too_low, high, middle)

    _, a = jax.lax.fori_loop(0, 60, halve, (2.0 * c, jnp.full_like(c, 1e9)))
    a = jax.lax.stop_gradient(jnp.maximum(a, 5.0))
    return (ways - 1) * (directional / (0.5 - c / a) ** 2 + slope * a), a


def luthra_2026(
    geometry: ClassGeometry, *, ways: int, shots: Real[ArrayLike, ""], any_shots: bool = False
) -> Float[Array, ""]:
    """Computes the bound of Theorem 4.1, for n ≥ 10 shots (NaN below), or its form for any n ≥ 1.

    (k−1) times the mean over ordered pairs of [4Ṽ_ij + (√E1 + √E2 + √E3)²]/(1 + (Var_j −
    Var_i)/(n‖δ_ij‖²))², with W = (Var_i + Var_j)/‖δ_ij‖², E1 = (4/n)(W² + W/4), E2 = W/n, E3 = (Θ +
    2(n−1)W²)/n³, Θ = (M4_i + M4_j)/‖δ_ij‖⁴, M4 = E‖f − μ‖⁴; for any n, 3(E1 + E2 + E3) replaces the
    square. A pair with 1 + (Var_j − Var_i)/(n‖δ_ij‖²) ≤ 0, for which Chebyshev's inequality gives no
    bound, counts as 1. Luthra, Salunkhe, Galanti (2026, arXiv 2603.03530).
    """
    n = jnp.asarray(shots, jnp.float32)
    distance = geometry.squared_distance
    coincide = _coincident(geometry)
    safe = jnp.where(coincide, 1.0, distance)
    variance = geometry.variance
    w = (variance[:, None] + variance) / safe
    theta = (geometry.fourth[:, None] + geometry.fourth) / safe**2
    e1 = 4.0 / n * (w**2 + w / 4.0)
    e2 = w / n
    e3 = (theta + 2.0 * (n - 1.0) * w**2) / n**3
    spread = 3.0 * (e1 + e2 + e3) if any_shots else (jnp.sqrt(e1) + jnp.sqrt(e2) + jnp.sqrt(e3)) ** 2
    margin = 1.0 + (variance - variance[:, None]) / (n * safe)
    unbounded = coincide | (margin <= 0)
    term = (4.0 * _directional(geometry) + spread) / jnp.where(unbounded, 1.0, margin) ** 2
    bound = (ways - 1) * mean_of_pairs(jnp.where(unbounded, 1.0, term))
    return bound if any_shots else jnp.where(n >= 10, bound, jnp.nan)


def _coincident(geometry: ClassGeometry) -> Bool[Array, "k k"]:
    return coincident(geometry.variance, geometry.squared_distance)


def _over_distance(geometry: ClassGeometry, top: Float[Array, "k k"]) -> Float[Array, "k k"]:
    coincide = _coincident(geometry)
    return jnp.where(coincide, jnp.inf, top / jnp.where(coincide, 1.0, geometry.squared_distance))


def _directional(geometry: ClassGeometry) -> Float[Array, "k k"]:
    """Computes Ṽ_ij = δᵀΣ_iδ/‖δ‖⁴, 0 where its estimate is negative."""
    once = _over_distance(geometry, jnp.maximum(geometry.along_pair, 0.0))
    return _over_distance(geometry, once)
