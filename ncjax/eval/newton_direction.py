"""The step of Newton's method for logistic regression: preconditioned conjugate gradients, then a line search."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ncjax.eval.logistic_problem import EPS, TINY, Point, Problem, balance_own_class, precondition, probabilities

SHORTEST = 1e-4
"""Shortest step of the line search."""
_CG_ACCURACY = 0.03
"""Share of the gradient's norm that conjugate gradients leave."""
_MAX_CG = 200


class Direction(NamedTuple):
    """A Newton direction.

    Attributes:
        v: Change of the weights' coordinates.
        scores: The scores of that change.
        b: Change of the intercepts.
        remaining: Norm of the gradient that the direction leaves; inf if the system was not solved.
        useful: Whether another Newton step may help.
        steps: Steps of conjugate gradients.
    """

    v: Float[Array, "W m"]
    scores: Float[Array, "W N"]
    b: Float[Array, " W"]
    remaining: Float[Array, ""]
    useful: Bool[Array, ""]
    steps: Int[Array, ""]


class _CGState(NamedTuple):
    """State of conjugate gradients: the direction so far, the residual, and the next change of the direction.

    `square` is the squared norm of the preconditioned residual; `positive` says whether it and the curvature have
    been positive so far.
    """

    steps: Int[Array, ""]
    v: Float[Array, "W m"]
    scores: Float[Array, "W N"]
    b: Float[Array, " W"]
    residual: Float[Array, "W m"]
    residual_b: Float[Array, " W"]
    change: Float[Array, "W m"]
    change_scores: Float[Array, "W N"]
    change_b: Float[Array, " W"]
    square: Float[Array, ""]
    positive: Bool[Array, ""]


def newton_direction(problem: Problem, at: Point) -> Direction:
    """Solves for the Newton direction at a point by preconditioned conjugate gradients."""
    coordinates, C = problem.coordinates, problem.C

    def norm(residual: Array, uphill: Array, uphill_scores: Array, residual_b: Array) -> Array:
        within = jnp.sum(at.curvature_b * residual_b * residual_b)
        return coordinates.inner(residual, uphill, uphill_scores) + within

    def unfinished(state: _CGState) -> Array:
        return (state.steps < _MAX_CG) & (state.square > goal) & state.positive

    def iterate(state: _CGState) -> _CGState:
        change, change_scores, change_b = state.change, state.change_scores, state.change_b
        u = change_scores + change_b[:, None]
        bent = balance_own_class(problem, at.p * (u - jnp.sum(at.p * u, axis=0)))
        curvature = coordinates.inner(change, change, change_scores) + C * jnp.sum(u * bent)
        positive = curvature > 0
        length = jnp.where(positive, state.square / jnp.where(positive, curvature, 1.0), 0.0)
        residual = state.residual - length * (change + C * coordinates.combine(bent))
        residual_b = state.residual_b - length * C * bent.sum(axis=1) / at.curvature_b
        uphill = precondition(at.inverse, residual)
        uphill_scores = coordinates.scores(uphill)
        square = norm(residual, uphill, uphill_scores, residual_b)
        share = square / jnp.maximum(state.square, TINY)
        return _CGState(
            state.steps + 1,
            state.v + length * change,
            state.scores + length * change_scores,
            state.b + length * change_b,
            residual,
            residual_b,
            uphill + share * change,
            uphill_scores + share * change_scores,
            residual_b + share * change_b,
            square,
            positive & (square >= 0),  # otherwise only rounding is left
        )

    residual, residual_b = -at.gradient, -at.gradient_b / at.curvature_b
    uphill, uphill_scores = -at.uphill, -at.uphill_scores
    square = norm(residual, uphill, uphill_scores, residual_b)
    goal = _CG_ACCURACY**2 * square
    start = _CGState(
        jnp.int32(0),
        jnp.zeros_like(residual),
        jnp.zeros_like(uphill_scores),
        jnp.zeros_like(residual_b),
        residual,
        residual_b,
        uphill,
        uphill_scores,
        residual_b,
        square,
        jnp.bool_(True),
    )
    end = jax.lax.while_loop(unfinished, iterate, start)
    solved = end.positive & (end.square <= goal)
    return Direction(
        end.v,
        end.scores,
        end.b - end.b.mean(),
        remaining=jnp.where(solved, jnp.sqrt(end.square), jnp.inf),
        # Without a preconditioner more Newton steps do not help; the other coordinates do.
        useful=solved if at.inverse is None else end.positive,
        steps=end.steps,
    )


def line_search(problem: Problem, at: Point, direction: Direction) -> Float[Array, ""]:
    """Shortens the step until F no longer rises steeply at its end; a length of `SHORTEST` or less means failure."""
    coordinates, C = problem.coordinates, problem.C
    u = direction.scores + direction.b[:, None]
    along = coordinates.inner(at.v, direction.v, direction.scores)
    square = jnp.abs(coordinates.inner(direction.v, direction.v, direction.scores))
    scores = at.scores + at.b[:, None]

    def slope(length: Array, residual: Array) -> Array:
        return along + length * square + C * jnp.sum(residual * u)

    first = slope(jnp.float32(0), at.residual)
    # A slope below this is rounding and says nothing about the step.
    noise = 4 * EPS * (jnp.abs(along) + C * jnp.sum(jnp.abs(at.residual * u)))

    def too_far(trial: tuple[Array, Array]) -> Array:
        length, now = trial
        return (length > SHORTEST) & (now > jnp.maximum(-0.25 * first, noise))

    def shorten(trial: tuple[Array, Array]) -> tuple[Array, Array]:
        length, now = trial
        length = length * jnp.clip(first / jnp.minimum(first - now, -TINY), 0.1, 0.9)
        return length, slope(length, probabilities(problem, scores + length * u)[1])

    full = jnp.float32(1)
    trial = (full, slope(full, probabilities(problem, scores + full * u)[1]))
    return jax.lax.while_loop(too_far, shorten, trial)[0]
