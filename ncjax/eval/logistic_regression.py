"""Multinomial logistic regression: Newton's method, each step by preconditioned conjugate gradients.

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
from jaxtyping import Array, Bool, Float, Int

from ncjax.eval.coordinates import Coordinates, DirectionCoordinates, SampleCoordinates
from ncjax.eval.linear import Linear, check_one_number, product

Info = dict[str, Array]

_TINY = float(jnp.finfo(jnp.float32).tiny)
_EPS = float(jnp.finfo(jnp.float32).eps)
_CONVERGED = 1e-4
"""Relative error of the weights below which a fit counts as converged."""
_TARGET = 3e-5
"""Relative error at which Newton's method stops."""
_VANISHING = 1e-30
_SHORTEST = 1e-4
"""Shortest step of the line search."""
_CG_ACCURACY = 0.03
"""Share of the gradient's norm that conjugate gradients leave."""
_MAX_NEWTON = 50
_MAX_CG = 200


class Problem(NamedTuple):
    """What a fit minimises.

    Attributes:
        coordinates: Of the weights.
        own: Whether n is of class w, Y.
        C: The weight of the loss.
        log_prior: Intercepts that fit the class counts alone, about their mean.
    """

    coordinates: Coordinates
    own: Bool[Array, "W N"]
    C: float | Array
    log_prior: Float[Array, "W"]


class Point(NamedTuple):
    """Weights v and intercepts b, and what follows from them.

    Attributes:
        v: Coordinates of the weights.
        b: Intercepts.
        scores: w x', without the intercepts.
        p: Probabilities P.
        residual: R = P - Y.
        gradient: Of F in v.
        gradient_b: Of F in b, about its mean: the same added to every intercept changes nothing.
        curvature_b: τ.
        inverse: The preconditioner of v, None for the identity.
        uphill: The preconditioned gradient.
        uphill_scores: Its scores.
        size: ‖w‖; -1 before there is a point.
        reach: Root mean square of scores and intercepts about `log_prior`.
    """

    v: Float[Array, "W m"]
    b: Float[Array, "W"]
    scores: Float[Array, "W N"]
    p: Float[Array, "W N"]
    residual: Float[Array, "W N"]
    gradient: Float[Array, "W m"]
    gradient_b: Float[Array, "W"]
    curvature_b: Float[Array, "W"]
    inverse: Float[Array, "P m m"] | None
    uphill: Float[Array, "W m"]
    uphill_scores: Float[Array, "W N"]
    size: Float[Array, ""]
    reach: Float[Array, ""]


class Direction(NamedTuple):
    """A Newton direction: of v, its scores, of b; the gradient's norm that it leaves, inf where it was not solved.

    `sound` says whether another Newton step may help, and `steps` counts those of conjugate gradients.
    """

    v: Float[Array, "W m"]
    scores: Float[Array, "W N"]
    b: Float[Array, "W"]
    left: Float[Array, ""]
    sound: Bool[Array, ""]
    steps: Int[Array, ""]


class Fit(NamedTuple):
    """A solution, or the state on the way to it: the relative error of the weights, and the steps taken."""

    v: Float[Array, "W m"]
    b: Float[Array, "W"]
    error: Float[Array, ""]
    newton_steps: Int[Array, ""]
    cg_steps: Int[Array, ""]


class _Search(NamedTuple):
    """State of Newton's method."""

    fit: Fit
    at: Point
    going: Bool[Array, ""]


class _Conjugate(NamedTuple):
    """State of conjugate gradients: the direction so far, the residual, and the next change of the direction.

    `square` is the squared norm of the preconditioned residual; it and the curvature were `positive` so far.
    """

    steps: Int[Array, ""]
    v: Float[Array, "W m"]
    scores: Float[Array, "W N"]
    b: Float[Array, "W"]
    residual: Float[Array, "W m"]
    residual_b: Float[Array, "W"]
    change: Float[Array, "W m"]
    change_scores: Float[Array, "W N"]
    change_b: Float[Array, "W"]
    square: Float[Array, ""]
    positive: Bool[Array, ""]


def fit_logistic(
    support: Float[Array, "N d"], labels: Int[Array, "N"], ways: int, C: float | Array = 1.0
) -> tuple[Linear, Info]:
    """Computes the weights w and intercepts b that minimise F = C Σ_n CE(w x_n + b, y_n) + ½‖w‖², to convergence.

    The same as scikit-learn's ``LogisticRegression(C=C)``, with two ways too: its binary loss is the multinomial one
    at C/2, and its one row of coefficients is row 1 less row 0 here.

    Works in the span of the support, min(N, d) coordinates, by Newton's method. Equal samples of different classes with
    C‖x‖² of 10⁴ and more may end without convergence, and `converged` says so.

    Returns:
        The classifier, and {"gradient_norm", "converged", "newton_steps", "cg_steps"}. `gradient_norm` is
        ‖∇_w F‖ / ‖w‖ + ‖∇_b F / τ‖ / (root mean square of the scores). Since F is 1-strongly convex in w, its first
        term bounds the relative error of the weights, where b is exact; where the last Newton step gave a smaller
        bound, it is that. `converged` says that it is at most 1e-4, and that C‖x‖² is not below 1e-30, where scores
        vanish in float32: larger features, a larger C or the transform "l2" help then.
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
        # Where the Gram matrix has other null vectors, as of equal samples of two classes, the other one goes on.
        def again(state: tuple[Array, Fit]) -> tuple[Array, Fit]:
            # The barrier keeps XLA from computing before the loop, entered or not, what does not depend on the state.
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
    """Minimises F; takes no step where `before` has converged, and adds to its numbers of steps."""
    done, going = (jnp.int32(0), jnp.int32(0)), jnp.bool_(True)
    if before is not None:
        done, going = (before.newton_steps, before.cg_steps), ~(before.error <= _CONVERGED)
    limit = done[0] + _MAX_NEWTON

    def unfinished(state: _Search) -> Array:
        return (state.fit.error > _TARGET) & (state.fit.newton_steps < limit) & state.going

    v = jnp.zeros_like(problem.coordinates.combine(jnp.zeros(problem.own.shape, jnp.float32)))
    # The first step leads nowhere: it makes the first point, so that the code of `_point` is compiled once.
    nowhere = jax.eval_shape(lambda v, b: _point(problem, v, b), v, problem.log_prior)
    nowhere = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), nowhere)
    nowhere = nowhere._replace(b=problem.log_prior, size=jnp.float32(-1))
    start = Fit(v, problem.log_prior, jnp.float32(jnp.inf), done[0] - 1, done[1])
    return jax.lax.while_loop(
        unfinished, lambda state: _newton_step(problem, state), _Search(start, nowhere, going)
    ).fit


def _newton_step(problem: Problem, state: _Search) -> _Search:
    coordinates, at = problem.coordinates, state.at
    direction = _newton_direction(problem, at)
    length = _line_search(problem, at, direction)
    now = _point(problem, at.v + length * direction.v, at.b + length * direction.b)
    # Two bounds of the error: the curvature is 1 or more; before the step, its solution told more of it.
    gradient = jnp.sqrt(jnp.abs(coordinates.inner(now.gradient, now.gradient, now.uphill_scores)))
    gradient = gradient + problem.C * coordinates.outside(now.residual)
    step = jnp.sqrt(jnp.abs(coordinates.inner(direction.v, direction.v, direction.scores)))
    step = step + direction.left + problem.C * coordinates.outside(at.residual)
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
    return _Search(fit, now, first | (direction.sound & (length > _SHORTEST) & (by_step > _CONVERGED)))


def _point(problem: Problem, v: Float[Array, "W m"], b: Float[Array, "W"]) -> Point:
    coordinates, C = problem.coordinates, problem.C
    scores = coordinates.scores(v)
    p, residual = _probabilities(problem, scores + b[:, None])
    total = residual.sum(axis=1)
    # 0 where the sum is rounding: an intercept that follows it would hide small scores.
    gradient_b = C * jnp.where(jnp.abs(total) > 2 * _EPS * jnp.abs(residual).sum(axis=1), total, 0.0)
    # The mean curvature of a sample's loss in its scores.
    curvature = C * p * jnp.where(problem.own, -residual, 1 - p)
    gradient = v + C * coordinates.combine(residual)
    inverse = coordinates.inverse(curvature)
    uphill = _precondition(inverse, gradient)
    return Point(
        v,
        b,
        scores,
        p,
        residual,
        gradient,
        gradient_b=gradient_b - gradient_b.mean(),
        curvature_b=jnp.maximum(curvature.sum(axis=1), _TINY),
        inverse=inverse,
        uphill=uphill,
        uphill_scores=coordinates.scores(uphill),
        size=jnp.sqrt(jnp.abs(coordinates.inner(v, v, scores))),
        reach=jnp.sqrt(jnp.mean((scores + (b - problem.log_prior)[:, None]) ** 2)),
    )


def _probabilities(problem: Problem, scores: Float[Array, "W N"]) -> tuple[Float[Array, "W N"], Float[Array, "W N"]]:
    p = jax.nn.softmax(scores, axis=0)
    return p, _own_as_minus_the_others(problem, p)


def _own_as_minus_the_others(problem: Problem, values: Float[Array, "W N"]) -> Float[Array, "W N"]:
    """Sets the entry of each sample's own class to minus the sum of the others.

    That keeps the digits of 1 - p where p is nearly 1.
    """
    others = jnp.where(problem.own, 0.0, values)
    return jnp.where(problem.own, -others.sum(axis=0), others)


def _precondition(inverse: Float[Array, "P m m"] | None, r: Float[Array, "W m"]) -> Float[Array, "W m"]:
    if inverse is None:
        return r
    if len(inverse) == 1:
        return product(r, inverse[0])
    y = jnp.einsum("wm,wmk->wk", r, inverse, precision=jax.lax.Precision.HIGHEST)
    return y - y.mean(axis=0)


def _relative(at: Point, of_weights: Float[Array, ""], of_intercepts: Float[Array, "W"]) -> Float[Array, ""]:
    """Adds an error of the weights over their norm and one of the intercepts over the scores that they are part of."""

    def ratio(part: Array, whole: Array) -> Array:
        return jnp.where(part <= _TINY, 0.0, part / jnp.maximum(whole, _TINY))

    return ratio(of_weights, at.size) + ratio(jnp.sqrt(jnp.sum(of_intercepts**2)), at.reach)


def _newton_direction(problem: Problem, at: Point) -> Direction:
    coordinates, C = problem.coordinates, problem.C

    def norm(residual: Array, uphill: Array, uphill_scores: Array, residual_b: Array) -> Array:
        within = jnp.sum(at.curvature_b * residual_b * residual_b)
        return coordinates.inner(residual, uphill, uphill_scores) + within

    def unfinished(state: _Conjugate) -> Array:
        return (state.steps < _MAX_CG) & (state.square > goal) & state.positive

    def iterate(state: _Conjugate) -> _Conjugate:
        change, change_scores, change_b = state.change, state.change_scores, state.change_b
        u = change_scores + change_b[:, None]
        bent = _own_as_minus_the_others(problem, at.p * (u - jnp.sum(at.p * u, axis=0)))
        curvature = coordinates.inner(change, change, change_scores) + C * jnp.sum(u * bent)
        positive = curvature > 0
        length = jnp.where(positive, state.square / jnp.where(positive, curvature, 1.0), 0.0)
        residual = state.residual - length * (change + C * coordinates.combine(bent))
        residual_b = state.residual_b - length * C * bent.sum(axis=1) / at.curvature_b
        uphill = _precondition(at.inverse, residual)
        uphill_scores = coordinates.scores(uphill)
        square = norm(residual, uphill, uphill_scores, residual_b)
        share = square / jnp.maximum(state.square, _TINY)
        return _Conjugate(
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
            positive & (square >= 0),  # if not, rounding is all that is left
        )

    residual, residual_b = -at.gradient, -at.gradient_b / at.curvature_b
    uphill, uphill_scores = -at.uphill, -at.uphill_scores
    square = norm(residual, uphill, uphill_scores, residual_b)
    goal = _CG_ACCURACY**2 * square
    start = _Conjugate(
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
        left=jnp.where(solved, jnp.sqrt(end.square), jnp.inf),
        # Without a preconditioner, more steps do not help: the other coordinates will.
        sound=solved if at.inverse is None else end.positive,
        steps=end.steps,
    )


def _line_search(problem: Problem, at: Point, direction: Direction) -> Float[Array, ""]:
    """Shortens the step until the slope there is no longer steeply uphill; `_SHORTEST` or less means failure."""
    coordinates, C = problem.coordinates, problem.C
    u = direction.scores + direction.b[:, None]
    along = coordinates.inner(at.v, direction.v, direction.scores)
    square = jnp.abs(coordinates.inner(direction.v, direction.v, direction.scores))
    scores = at.scores + at.b[:, None]

    def slope(length: Array, residual: Array) -> Array:
        return along + length * square + C * jnp.sum(residual * u)

    first = slope(jnp.float32(0), at.residual)
    # A slope below this is rounding and says nothing about the step.
    noise = 4 * _EPS * (jnp.abs(along) + C * jnp.sum(jnp.abs(at.residual * u)))

    def too_far(trial: tuple[Array, Array]) -> Array:
        length, now = trial
        return (length > _SHORTEST) & (now > jnp.maximum(-0.25 * first, noise))

    def shorten(trial: tuple[Array, Array]) -> tuple[Array, Array]:
        length, now = trial
        length = length * jnp.clip(first / jnp.minimum(first - now, -_TINY), 0.1, 0.9)
        return length, slope(length, _probabilities(problem, scores + length * u)[1])

    whole = jnp.float32(1)
    trial = (whole, slope(whole, _probabilities(problem, scores + whole * u)[1]))
    return jax.lax.while_loop(too_far, shorten, trial)[0]
