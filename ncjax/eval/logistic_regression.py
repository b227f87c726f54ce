"""Multinomial logistic regression by Newton's method, for episodes, few-shot classifiers and linear probes."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Integer, Real

from ncjax.eval.coordinates import Coordinates, DirectionCoordinates, SampleCoordinates
from ncjax.eval.logistic_problem import TINY, Point, Problem, evaluate
from ncjax.eval.newton_direction import SHORTEST, line_search, newton_direction
from ncjax.eval.ridge_regression import Linear, check_one_number

Info = dict[str, Array]

_CONVERGED = 1e-4
"""Relative error of the weights below which a fit counts as converged."""
_TARGET = 3e-5
"""Relative error at which Newton's method stops."""
_VANISHING = 1e-30
_MAX_NEWTON = 50


class Fit(NamedTuple):
    """A solution or an iterate: weights, intercepts, a bound of the weights' relative error, and the steps taken."""

    v: Float[Array, "W m"]
    b: Float[Array, " W"]
    error: Float[Array, ""]
    newton_steps: Int[Array, ""]
    cg_steps: Int[Array, ""]


class _NewtonState(NamedTuple):
    """State of Newton's method."""

    fit: Fit
    at: Point
    active: Bool[Array, ""]


def fit_logistic(
    support: Real[Array | np.ndarray, "N d"],
    labels: Integer[Array | np.ndarray, " N"],
    ways: int,
    C: float | Array = 1.0,
) -> tuple[Linear, Info]:
    """Computes the weights w and intercepts b that minimise F = C Σ_n CE(w x_n + b, y_n) + ½‖w‖², to convergence.

    The same as scikit-learn's ``LogisticRegression(C=C)``, with two ways too: its binary loss is the multinomial one
    at C/2, and its one row of coefficients is row 1 less row 0 here.

    Works in the span of the support, min(N, d) coordinates, by Newton's method. With equal samples in different classes
    and C‖x‖² of 10⁴ or more, it may not converge; `converged` is then False.

    Returns:
        The classifier, and {"gradient_norm", "converged", "newton_steps", "cg_steps"}. `gradient_norm` is
        ‖∇_w F‖ / ‖w‖ + ‖∇_b F / τ‖ / (root mean square of the scores), or the bound from the last Newton step if that
        is smaller. Since F is 1-strongly convex in w, its first term bounds the relative error of the weights for exact
        b. `converged` is whether `gradient_norm` is at most 1e-4 and C‖x‖² at least 1e-30; below that, scores vanish in
        float32: increase the features or C, or use the "l2" transform.
    """
    check_one_number("C", C)
    if ways == 2:
        C = C / 2
    support = jnp.asarray(support, jnp.float32)
    rows, width = support.shape
    centre = support.mean(axis=0)
    x = support - centre
    own = jax.nn.one_hot(labels, ways, axis=0, dtype=jnp.bool_)
    log_prior = jnp.log(jnp.maximum(own.sum(axis=1, dtype=jnp.float32), 0.5))
    log_prior = log_prior - log_prior.mean()

    def fit_in(coordinates: Coordinates, before: Fit | None = None) -> Fit:
        fit = _newton(Problem(coordinates, own, C, log_prior), before)
        return fit._replace(v=coordinates.weights(fit.v))

    if rows > width:
        fit = fit_in(DirectionCoordinates.of(x))
    else:
        # If the Gram matrix has more null vectors, as for equal samples of two classes, the other coordinates continue.
        def again(state: tuple[Array, Fit]) -> tuple[Array, Fit]:
            # The barrier keeps XLA from moving work that does not depend on the state out of the loop.
            about, before = jax.lax.optimization_barrier((centre, state[1]))
            return jnp.bool_(False), fit_in(DirectionCoordinates.of(support - about), before)

        def unfinished(state: tuple[Array, Fit]) -> Array:
            return state[0] & ~(state[1].error <= _CONVERGED)

        _, fit = jax.lax.while_loop(unfinished, again, (jnp.bool_(True), fit_in(SampleCoordinates.of(x))))
    largest = jnp.max(jnp.abs(x))
    vanishing = (largest > 0) & (C * largest * largest < _VANISHING)
    info = {
        "gradient_norm": fit.error,
        "converged": (fit.error <= _CONVERGED) & ~vanishing,
        "newton_steps": fit.newton_steps,
        "cg_steps": fit.cg_steps,
    }
    return Linear(fit.v, fit.b, centre), info


def _newton(problem: Problem, before: Fit | None) -> Fit:
    """Minimises F; takes no step if `before` has converged, and adds to its step counts."""
    done, active = (jnp.int32(0), jnp.int32(0)), jnp.bool_(True)
    if before is not None:
        done, active = (before.newton_steps, before.cg_steps), ~(before.error <= _CONVERGED)
    limit = done[0] + _MAX_NEWTON

    def unfinished(state: _NewtonState) -> Array:
        return (state.fit.error > _TARGET) & (state.fit.newton_steps < limit) & state.active

    v = jnp.zeros_like(problem.coordinates.combine(jnp.zeros(problem.own.shape, jnp.float32)))
    # The first step has length 0 and computes the first point, so that the code of `evaluate` is compiled once.
    blank = jax.eval_shape(lambda v, b: evaluate(problem, v, b), v, problem.log_prior)
    blank = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), blank)
    blank = blank._replace(b=problem.log_prior, size=jnp.float32(-1))
    start = Fit(v, problem.log_prior, jnp.float32(jnp.inf), done[0] - 1, done[1])
    return jax.lax.while_loop(
        unfinished, lambda state: _newton_step(problem, state), _NewtonState(start, blank, active)
    ).fit


def _newton_step(problem: Problem, state: _NewtonState) -> _NewtonState:
    coordinates, at = problem.coordinates, state.at
    direction = newton_direction(problem, at)
    length = line_search(problem, at, direction)
    now = evaluate(problem, at.v + length * direction.v, at.b + length * direction.b)
    # Two bounds of the error: from a curvature of at least 1, and from the solution of the Newton step.
    gradient = jnp.sqrt(jnp.abs(coordinates.inner(now.gradient, now.gradient, now.uphill_scores)))
    gradient = gradient + problem.C * coordinates.outside(now.residual)
    step = jnp.sqrt(jnp.abs(coordinates.inner(direction.v, direction.v, direction.scores)))
    step = step + direction.remaining + problem.C * coordinates.outside(at.residual)
    by_gradient = _relative(now, gradient, now.gradient_b / now.curvature_b)
    by_step = _relative(at, step, direction.b)
    first = at.size < 0
    fit = Fit(
        now.v,
        now.b,
        jnp.where(first, jnp.inf, jnp.minimum(by_gradient, by_step)),
        state.fit.newton_steps + 1,
        state.fit.cg_steps + direction.steps,
    )
    return _NewtonState(fit, now, first | (direction.useful & (length > SHORTEST) & (by_step > _CONVERGED)))


def _relative(at: Point, of_weights: Float[Array, ""], of_intercepts: Float[Array, " W"]) -> Float[Array, ""]:
    """Adds the error of the weights over their norm and the error of the intercepts over the scores' size."""

    def ratio(part: Array, whole: Array) -> Array:
        return jnp.where(part <= TINY, 0.0, part / jnp.maximum(whole, TINY))

    return ratio(of_weights, at.size) + ratio(jnp.sqrt(jnp.sum(of_intercepts**2)), at.reach)
