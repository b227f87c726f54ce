"""Few-shot heads: from a labelled support set to scores of the queries, each a pure function of one episode.

A head is called as ``head(support [N,d], labels [N], query [M,d], ways) -> (logits [M,W], info)`` with labels in
0..W-1, and can be vmapped and jitted. `info` is a pytree of diagnostics, empty where there is nothing to tell.
Any pytree with that signature is a head; `Head` makes one of a function.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ncjax.errors import InputError
from ncjax.eval.transforms import unit_norm

_HIGHEST = jax.lax.Precision.HIGHEST
Info = dict[str, Array]


@partial(jax.tree_util.register_dataclass, meta_fields=("name", "solve"), data_fields=("hyperparameters",))
@dataclasses.dataclass(frozen=True)
class Head:
    """A named head: ``solve(support, labels, query, ways, **hyperparameters) -> (logits, info)``.

    A pytree whose leaves are the hyperparameters, so that another value of one does not compile again.
    """

    name: str
    solve: Callable[..., tuple[Array, Any]]
    hyperparameters: Mapping[str, float | Array] = dataclasses.field(default_factory=dict)

    def __call__(
        self, support: Float[Array, "N d"], labels: Int[Array, "N"], query: Float[Array, "M d"], ways: int
    ) -> tuple[Float[Array, "M W"], Any]:
        """Scores [M,W] of the queries, and diagnostics; computed in float32 whatever the features' type."""
        support, query = jnp.asarray(support, jnp.float32), jnp.asarray(query, jnp.float32)
        return self.solve(support, labels, query, ways, **self.hyperparameters)

    def __str__(self) -> str:
        values = ", ".join(f"{name}={_shown(value)}" for name, value in self.hyperparameters.items())
        return f"{self.name}({values})" if values else self.name


def _shown(value: Any) -> str:
    return f"{float(value):g}" if np.ndim(value) == 0 else f"array{list(np.shape(value))}"


def _positive(name: str, value: Any) -> Any:
    """`value`, if it is a positive number, or an array of them; what is being traced is not looked at."""
    if isinstance(value, jax.core.Tracer):
        return value
    given = np.asarray(value)
    if given.dtype.kind in "iuf":
        with np.errstate(over="ignore"):  # what overflows is told below
            array = given.astype(np.float32)
        if (np.isfinite(array) & (array > 0)).all():
            return value
    raise InputError(f"{name}={value!r}: give a positive number that float32 can hold")


def _one_number(name: str, value: Any) -> None:
    if jnp.ndim(value):
        raise InputError(f"{name} is an array {list(jnp.shape(value))}: one head takes one number; make one of each")


def ncc() -> Head:
    """Nearest class centre: squared Euclidean distance to the class means of the support.

    logits = -‖q - μ_w‖² (the prototypical network's; Snell, Swersky, Zemel 2017).
    """
    return Head("ncc", _ncc)


def cosine() -> Head:
    """Nearest class centre by cosine: logits = cos(q, μ_w), in -1..1, and 0 where either has no direction."""
    return Head("cosine", _cosine)


def ridge(alpha: float | Array = 1.0) -> Head:
    """Ridge regression on one-hot targets in ±1, the intercept not penalised; see `fit_ridge`.

    Raises:
        InputError: `alpha` is not positive.
    """
    return Head("ridge", _ridge, {"alpha": _positive("alpha", alpha)})


def logistic(C: float | Array = 1.0) -> Head:
    """Multinomial logistic regression with an L2 penalty, the intercept not penalised; see `fit_logistic`.

    Raises:
        InputError: `C` is not positive.
    """
    return Head("logistic", _logistic, {"C": _positive("C", C)})


HEADS: Mapping[str, Callable[[], Head]] = {"ncc": ncc, "cosine": cosine, "ridge": ridge, "logistic": logistic}


def get(head: str | Callable[..., Any]) -> Callable[..., Any]:
    """The head of that name with its default hyperparameters; a head is returned as it is.

    A bare function with the signature of a head becomes a `Head`.

    Raises:
        InputError: No head has that name.
    """
    if isinstance(head, str):
        if head not in HEADS:
            raise InputError(f"unknown head {head!r}; the heads are {', '.join(HEADS)}")
        return HEADS[head]()
    if not callable(head):
        raise InputError(f"head is a {type(head).__name__}; give a name ({', '.join(HEADS)}) or a callable pytree")
    if any(head is make for make in HEADS.values()):  # ncjax.eval.heads.ridge in the place of …ridge()
        return head()
    if jax.tree_util.all_leaves([head]):  # a plain function, which cannot itself be an argument of jit
        return Head(getattr(head, "__name__", "head"), head)
    return head


def class_means(features: Float[Array, "N d"], labels: Int[Array | np.ndarray, "N"], ways: int) -> Float[Array, "W d"]:
    """The mean of each class; of a class without rows, 0."""
    rows, width = features.shape
    in_order = np.repeat(np.arange(ways), rows // ways)
    # Labels that are known while tracing, and in the engine's order: a plain mean, which is faster.
    if isinstance(labels, np.ndarray) and np.array_equal(labels, in_order):
        return features.reshape(ways, rows // ways, width).mean(axis=1)
    member = jax.nn.one_hot(labels, ways, axis=0, dtype=features.dtype)
    count = jnp.maximum(member.sum(axis=1, keepdims=True), 1.0)
    return jnp.matmul(member / count, features, precision=_HIGHEST)


def _ncc(support: Array, labels: Array, query: Array, ways: int) -> tuple[Array, Info]:
    # Differences, not ‖q‖² + ‖μ‖² - 2q·μ, which loses everything when the classes have collapsed.
    difference = query[:, None, :] - class_means(support, labels, ways)
    return -jnp.sum(difference * difference, axis=-1), {}


def _cosine(support: Array, labels: Array, query: Array, ways: int) -> tuple[Array, Info]:
    # 1 - ½‖q/‖q‖ - μ/‖μ‖‖² is the cosine, and keeps its digits where all directions are nearly one.
    query, means = unit_norm(query), unit_norm(class_means(support, labels, ways))
    difference = query[:, None, :] - means
    directed = jnp.any(query != 0, axis=-1)[:, None] & jnp.any(means != 0, axis=-1)
    return jnp.where(directed, 1.0 - 0.5 * jnp.sum(difference * difference, axis=-1), 0.0), {}


class Linear(NamedTuple):
    """Scores ``(x - centre) @ weights.T + offset``.

    Kept about a centre, since ``x @ weights.T + bias`` loses the digits that a large common offset takes.
    """

    weights: Float[Array, "W d"]
    offset: Float[Array, "W"]
    centre: Float[Array, "d"]

    def __call__(self, features: Float[Array, "M d"]) -> Float[Array, "M W"]:
        """The scores of `features`."""
        return jnp.matmul(features - self.centre, self.weights.T, precision=_HIGHEST) + self.offset

    @property
    def bias(self) -> Float[Array, "W"]:
        """The intercept of the uncentred form, ``x @ weights.T + bias``."""
        return self.offset - jnp.einsum("...wd,...d->...w", self.weights, self.centre, precision=_HIGHEST)


def fit_ridge(support: Float[Array, "N d"], labels: Int[Array, "N"], ways: int, alpha: float | Array = 1.0) -> Linear:
    """Weights and intercepts that minimise Σ_n ‖W x_n + b - y_n‖² + α‖W‖², y one-hot in ±1.

    What scikit-learn's ``RidgeClassifier(alpha=α)`` computes (with two ways its one row is row 1 here). Solved in
    the smaller of the two forms: with centred X [N,d] and Y [N,W],
    W' = X'(XX' + αI)⁻¹Y (dual, N < d) = (X'X + αI)⁻¹X'Y (primal).

    In float32: where the largest eigenvalue of XX' is some 10⁵ times α or more, as with raw features that all but share
    one direction, predictions near a tie differ from those in float64. A larger α, or the transform "l2", is the mend.
    """
    _one_number("alpha", alpha)
    support = jnp.asarray(support, jnp.float32)
    rows, width = support.shape
    centre = support.mean(axis=0)
    x = support - centre
    targets = 2.0 * jax.nn.one_hot(labels, ways, dtype=support.dtype) - 1.0
    mean_target = targets.mean(axis=0)
    y = targets - mean_target
    if rows < width:
        gram = jnp.matmul(x, x.T, precision=_HIGHEST) + alpha * jnp.eye(rows, dtype=x.dtype)
        weights = jnp.matmul(_solve_positive(gram, y).T, x, precision=_HIGHEST)
    else:
        scatter = jnp.matmul(x.T, x, precision=_HIGHEST) + alpha * jnp.eye(width, dtype=x.dtype)
        weights = _solve_positive(scatter, jnp.matmul(x.T, y, precision=_HIGHEST)).T
    return Linear(weights, mean_target, centre)


def _solve_positive(matrix: Float[Array, "m m"], right: Float[Array, "m c"]) -> Float[Array, "m c"]:
    """Solves a symmetric positive definite system by Gauss-Jordan elimination, stable without pivoting there.

    For the few dozen unknowns of an episode this is as fast as batched LAPACK on one CPU device, and it does not
    wait for a shared thread pool, where batched LAPACK stalls with several CPU devices.
    """
    size = matrix.shape[0]
    row_number = jnp.arange(size)[:, None]

    def eliminate(i: Array, system: Array) -> Array:
        row = jax.lax.dynamic_slice_in_dim(system, i, 1, axis=0)
        column = jax.lax.dynamic_slice_in_dim(system, i, 1, axis=1)
        row = row / jax.lax.dynamic_slice_in_dim(row, i, 1, axis=1)
        return jnp.where(row_number == i, row, system - column * row)

    return jax.lax.fori_loop(0, size, eliminate, jnp.concatenate([matrix, right], axis=1))[:, size:]


def _ridge(support: Array, labels: Array, query: Array, ways: int, *, alpha: Array) -> tuple[Array, Info]:
    fitted = fit_ridge(support, labels, ways, alpha)
    # Only differences of scores count here, and an offset that all ways share would swallow those of small features.
    # The mean target is 2 count / N - 1; differences of counts are exact.
    counts = jnp.sum(jax.nn.one_hot(labels, ways, dtype=fitted.offset.dtype), axis=0)
    return fitted._replace(offset=2.0 * (counts - counts[0]) / len(labels))(query), {}


_TINY = float(jnp.finfo(jnp.float32).tiny)
_FORCING = 0.03
_CONVERGED = 1e-4
_TARGET = 1e-5
_LOST = 1e-8
_MAX_NEWTON = 30
_MAX_CG = 200


def fit_logistic(
    support: Float[Array, "N d"], labels: Int[Array, "N"], ways: int, C: float | Array = 1.0
) -> tuple[Linear, Info]:
    """Weights w and intercepts b that minimise F = C Σ_n CE(w x_n + b, y_n) + ½‖w‖², to convergence.

    What scikit-learn's ``LogisticRegression(C=C)`` computes, with two ways too: its binary loss is the multinomial
    one at C/2, and its one row of coefficients is row 1 less row 0 here.

    The minimum lies in the span of the centred support x [N,d]: w = A x, with A [W,N]. There everything but the
    Gram matrix K = x x' is of size [W,N], so that the cost does not grow with d. Newton's method; each step by
    conjugate gradients in the inner product of w and b, for which coordinates alone suffice:

        gradient   (A + C R, C R 1)              R = softmax(A K + b) - Y
        Hessian    (D + C H(U), C H(U) 1)        U = D K + e,  H(U) = P * (U - Σ_w P U)
        <D, D'>  = Σ_w D_w K D'_w + τ Σ_w e_w e'_w      τ: about the curvature in b, a preconditioner

    Returns:
        The classifier, and {"gradient_norm", "converged", "newton_steps", "cg_steps"}. `gradient_norm` is
        ‖∇_w F‖ / ‖w‖ + ‖∇_b F‖ / τ. Since F is 1-strongly convex in w, its first term bounds the relative error of
        the weights, where b is exact; `converged` says that it is at most 1e-4, and that the scores are not so small,
        C‖x‖² below 1e-8, that the rounding of b hides them: larger features, a larger C or the transform "l2" is the
        mend then.
    """
    _one_number("C", C)
    if ways == 2:
        C = C / 2
    support = jnp.asarray(support, jnp.float32)
    rows = support.shape[0]
    centre = support.mean(axis=0)
    x = support - centre
    gram = jnp.matmul(x, x.T, precision=_HIGHEST)
    own = jax.nn.one_hot(labels, ways, axis=0, dtype=jnp.bool_)

    def balanced(values: Array) -> Array:
        # Rows of own class as minus the sum of the others, which keeps the digits of 1 - p where p is nearly 1.
        others = jnp.where(own, 0.0, values)
        return jnp.where(own, -others.sum(axis=0), others)

    def times_gram(a: Array) -> Array:
        return jnp.matmul(a, gram, precision=_HIGHEST)

    def centred(a: Array) -> Array:
        # K has the null vector 1: what rounding adds along it would grow unseen.
        return a - a.mean(axis=1, keepdims=True)

    def newton_direction(
        p: Array, curvature: Array, gradient: tuple[Array, Array]
    ) -> tuple[Array, Array, Array, Array]:
        def hessian(d: Array, u: Array) -> tuple[Array, Array, Array]:
            hu = balanced(p * (u - jnp.sum(p * u, axis=0)))
            return d + C * centred(hu), C * hu.sum(axis=1) / curvature, C * jnp.sum(u * hu)

        def unfinished(state: Any) -> Array:
            i, *_, rr = state
            return (i < _MAX_CG) & (rr > goal)

        def iterate(state: Any) -> Any:
            i, d, dk, e, r, rb, q, qk, qb, rr = state
            hq, hb, energy = hessian(q, qk + qb[:, None])
            bent = jnp.sum(q * qk) + energy
            alpha = jnp.where(bent > 0, rr / jnp.where(bent > 0, bent, 1.0), 0.0)
            d, dk, e = d + alpha * q, dk + alpha * qk, e + alpha * qb
            r, rb = r - alpha * hq, rb - alpha * hb
            rk = times_gram(r)
            new = jnp.sum(r * rk) + curvature * jnp.sum(rb * rb)
            beta = new / jnp.maximum(rr, _TINY)
            new = jnp.where(bent > 0, new, 0.0)  # rounding is all that is left
            return i + 1, d, dk, e, r, rb, r + beta * q, rk + beta * qk, rb + beta * qb, new

        r, rb = -gradient[0], -gradient[1] / curvature
        rk = times_gram(r)
        rr = jnp.sum(r * rk) + curvature * jnp.sum(rb * rb)
        # Below the second, all that is left is the rounding of the intercepts' gradient.
        goal = jnp.maximum(_FORCING**2 * rr, jnp.finfo(jnp.float32).eps ** 2 * curvature * ways)
        zero = jnp.zeros_like(r)
        start = (jnp.int32(0), zero, zero, jnp.zeros_like(rb), r, rb, r, rk, rb, rr)
        i, d, dk, e, *_ = jax.lax.while_loop(unfinished, iterate, start)
        return d, dk, e, i

    def at(z: Array) -> tuple[Array, Array]:
        p = jax.nn.softmax(z, axis=0)
        return p, balanced(p)

    def measure(a: Array, ak: Array, p: Array, residual: Array) -> tuple[Array, Array, Array, Array]:
        """Gradient, curvature in b, and the relative size of the gradient."""
        ga, gb = centred(a + C * residual), C * residual.sum(axis=1)
        gb = gb - gb.mean()  # the same added to every intercept changes nothing
        curvature = jnp.maximum(C * jnp.sum(p * jnp.where(own, -residual, 1 - p)) / ways, _TINY)
        slope = jnp.sqrt(jnp.maximum(jnp.sum(ga * times_gram(ga)), 0.0))
        size = jnp.sqrt(jnp.maximum(jnp.sum(a * ak), 0.0))
        flat = slope <= _TINY
        relative = jnp.where(flat, 0.0, slope / jnp.maximum(size, _TINY)) + jnp.sqrt(jnp.sum(gb * gb)) / curvature
        return ga, gb, curvature, relative

    def unfinished(state: Any) -> Array:
        steps, *_, relative, moved = state
        return (steps < _MAX_NEWTON) & (relative > _TARGET) & (moved > _CONVERGED)

    def newton(state: Any) -> Any:
        steps, cg, a, b, ak, p, residual, ga, gb, curvature, _, _ = state
        d, dk, e, i = newton_direction(p, curvature, (ga, gb))
        u = dk + e[:, None]

        def slope(t: Array, r: Array) -> Array:
            return jnp.sum((a + t * d + C * r) * dk) + C * jnp.sum(r.sum(axis=1) * e)

        z = ak + b[:, None]
        first = slope(jnp.float32(0), residual)
        # A slope below this is rounding and says nothing about the step.
        noise = 4 * jnp.finfo(jnp.float32).eps * (jnp.sum(jnp.abs(a * dk)) + C * jnp.sum(jnp.abs(residual * u)))

        def too_far(trial: Any) -> Array:
            tries, _, _, _, now = trial
            return (tries < 20) & (now > jnp.maximum(-0.25 * first, noise))

        def shorten(trial: Any) -> Any:
            tries, t, _, _, now = trial
            t = t * jnp.clip(first / jnp.minimum(first - now, -_TINY), 0.1, 0.9)
            p, r = at(z + t * u)
            return tries + 1, t, p, r, slope(t, r)

        p, residual = at(z + u)
        t = jnp.float32(1)
        _, t, p, residual, _ = jax.lax.while_loop(too_far, shorten, (jnp.int32(0), t, p, residual, slope(t, residual)))
        a, b = a + t * d, b + t * e
        ak = times_gram(a)
        p, residual = at(ak + b[:, None])
        ga, gb, curvature, new = measure(a, ak, p, residual)
        moved = t * (
            jnp.sqrt(jnp.maximum(jnp.sum(d * dk) / jnp.maximum(jnp.sum(a * ak), _TINY), 0.0)) + jnp.max(jnp.abs(e))
        )
        return steps + 1, cg + i, a, b, ak, p, residual, ga, gb, curvature, new, moved

    a = jnp.zeros((ways, rows), support.dtype)
    b = jnp.zeros(ways, support.dtype)
    p, residual = at(a)
    ga, gb, curvature, _ = measure(a, a, p, residual)
    state = (
        jnp.int32(0),
        jnp.int32(0),
        a,
        b,
        a,
        p,
        residual,
        ga,
        gb,
        curvature,
        jnp.float32(jnp.inf),
        jnp.float32(jnp.inf),
    )
    steps, cg, a, b, *_, relative, moved = jax.lax.while_loop(unfinished, newton, state)
    size = C * jnp.max(jnp.diagonal(gram))
    lost = (size > 0) & (size < _LOST)
    info = {
        "gradient_norm": relative,
        "converged": (jnp.minimum(relative, moved) <= _CONVERGED) & ~lost,
        "newton_steps": steps,
        "cg_steps": cg,
    }
    return Linear(jnp.matmul(a, x, precision=_HIGHEST), b, centre), info


def _logistic(support: Array, labels: Array, query: Array, ways: int, *, C: Array) -> tuple[Array, Info]:
    classifier, info = fit_logistic(support, labels, ways, C)
    return classifier(query), info
