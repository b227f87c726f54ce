"""The objective of multinomial logistic regression, and what Newton's method needs of it at a point.

    F(w, b) = C Σ_n CE(w x_n + b, y_n) + ½‖w‖²

in coordinates v of w in the span of the centred support x (see `ncjax.eval.coordinates`). With P the probabilities
[W,N], R = P - Y and U = the scores of a change of v, plus its change of b,

    gradient      (v + C combine(R), C R 1)
    Hessian       (q + C combine(H(U)), C H(U) 1)       H(U) = P * (U - Σ_w P U)
    inner product <q, q'> + Σ_w τ_w e_w e'_w            τ: the curvature in b, a preconditioner
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ncjax.eval.coordinates import Coordinates
from ncjax.eval.ridge_regression import product

TINY = float(jnp.finfo(jnp.float32).tiny)
EPS = float(jnp.finfo(jnp.float32).eps)


class Problem(NamedTuple):
    """The objective of one fit.

    Attributes:
        coordinates: Coordinates of the weights.
        own: Y, whether sample n is of class w.
        C: The weight of the loss.
        log_prior: Intercepts that fit the class counts alone, with mean 0.
    """

    coordinates: Coordinates
    own: Bool[Array, "W N"]
    C: float | Array
    log_prior: Float[Array, " W"]


class Point(NamedTuple):
    """Weights v and intercepts b, and quantities computed from them.

    Attributes:
        v: Coordinates of the weights.
        b: Intercepts.
        scores: w x', without the intercepts.
        p: Probabilities P.
        residual: R = P - Y.
        gradient: Gradient of F in v.
        gradient_b: Gradient of F in b, with mean 0, since a constant added to every intercept changes nothing.
        curvature_b: τ.
        inverse: The preconditioner of v, None for the identity.
        uphill: The preconditioned gradient.
        uphill_scores: The scores of `uphill`.
        size: ‖w‖; -1 before the first point.
        reach: Root mean square of scores and intercepts about `log_prior`.
    """

    v: Float[Array, "W m"]
    b: Float[Array, " W"]
    scores: Float[Array, "W N"]
    p: Float[Array, "W N"]
    residual: Float[Array, "W N"]
    gradient: Float[Array, "W m"]
    gradient_b: Float[Array, " W"]
    curvature_b: Float[Array, " W"]
    inverse: Float[Array, "P m m"] | None
    uphill: Float[Array, "W m"]
    uphill_scores: Float[Array, "W N"]
    size: Float[Array, ""]
    reach: Float[Array, ""]


def evaluate(problem: Problem, v: Float[Array, "W m"], b: Float[Array, " W"]) -> Point:
    """Computes the gradient, curvature and preconditioner of F at (v, b)."""
    coordinates, C = problem.coordinates, problem.C
    scores = coordinates.scores(v)
    p, residual = probabilities(problem, scores + b[:, None])
    total = residual.sum(axis=1)
    # 0 if the sum is only rounding: an intercept that follows rounding would hide small scores.
    gradient_b = C * jnp.where(jnp.abs(total) > 2 * EPS * jnp.abs(residual).sum(axis=1), total, 0.0)
    # the mean curvature of a sample's loss in its scores
    curvature = C * p * jnp.where(problem.own, -residual, 1 - p)
    gradient = v + C * coordinates.combine(residual)
    inverse = coordinates.inverse(curvature)
    uphill = precondition(inverse, gradient)
    return Point(
        v,
        b,
        scores,
        p,
        residual,
        gradient,
        gradient_b=gradient_b - gradient_b.mean(),
        curvature_b=jnp.maximum(curvature.sum(axis=1), TINY),
        inverse=inverse,
        uphill=uphill,
        uphill_scores=coordinates.scores(uphill),
        size=jnp.sqrt(jnp.abs(coordinates.inner(v, v, scores))),
        reach=jnp.sqrt(jnp.mean((scores + (b - problem.log_prior)[:, None]) ** 2)),
    )


def probabilities(problem: Problem, scores: Float[Array, "W N"]) -> tuple[Float[Array, "W N"], Float[Array, "W N"]]:
    """Computes P and R from scores with intercepts."""
    p = jax.nn.softmax(scores, axis=0)
    return p, balance_own_class(problem, p)


def balance_own_class(problem: Problem, values: Float[Array, "W N"]) -> Float[Array, "W N"]:
    """Sets the entry of each sample's own class to minus the sum of the others.

    That keeps the digits of 1 - p where p is nearly 1.
    """
    others = jnp.where(problem.own, 0.0, values)
    return jnp.where(problem.own, -others.sum(axis=0), others)


def precondition(inverse: Float[Array, "P m m"] | None, r: Float[Array, "W m"]) -> Float[Array, "W m"]:
    """Applies the preconditioner, None for the identity, to r."""
    if inverse is None:
        return r
    if len(inverse) == 1:
        return product(r, inverse[0])
    y = jnp.einsum("wm,wmk->wk", r, inverse, precision=jax.lax.Precision.HIGHEST)
    return y - y.mean(axis=0)
