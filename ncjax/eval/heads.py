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


@dataclasses.dataclass(frozen=True)
class _Fitting:
    """A `Head.solve` in two parts: ``fit(support, labels, ways, **hyperparameters) -> (scorer, info)``, then scores."""

    fit: Callable[..., tuple[Any, Any]]

    def __call__(
        self, support: Array, labels: Array, query: Array, ways: int, **hyperparameters: Any
    ) -> tuple[Array, Any]:
        scorer, info = self.fit(support, labels, ways, **hyperparameters)
        return scorer(query), info


@partial(jax.tree_util.register_dataclass, data_fields=("head", "support", "labels"), meta_fields=("ways",))
@dataclasses.dataclass(frozen=True)
class Unfitted:
    """The scorer of a head that is one function: it sees the support again with every batch of queries."""

    head: Callable[..., Any]
    support: Array
    labels: Array
    ways: int

    def __call__(self, features: Float[Array, "M d"]) -> Float[Array, "M W"]:
        """The head's scores of `features`."""
        logits: Array = self.head(self.support, self.labels, features, self.ways)[0]
        return logits


def fit(
    head: Callable[..., Any], support: Float[Array, "N d"], labels: Int[Array | np.ndarray, "N"], ways: int
) -> tuple[Any, Any]:
    """What a head learns of one support, once for any number of queries.

    Returns:
        A scorer, a pytree called as ``scorer(query [M,d]) -> logits [M,W]`` (of ncjax's own heads `Centres`,
        `Directions` or `Linear`; of others it calls the head again), and diagnostics.
    """
    if isinstance(head, Head) and isinstance(head.solve, _Fitting):
        return head.solve.fit(jnp.asarray(support, jnp.float32), labels, ways, **head.hyperparameters)
    return Unfitted(head, jnp.asarray(support), jnp.asarray(labels), ways), {}


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
    return Head("ncc", _SOLVE["ncc"])


def cosine() -> Head:
    """Nearest class centre by cosine: logits = cos(q, μ_w), in -1..1, and 0 where either has no direction."""
    return Head("cosine", _SOLVE["cosine"])


def ridge(alpha: float | Array = 1.0) -> Head:
    """Ridge regression on one-hot targets in ±1, the intercept not penalised; see `fit_ridge`.

    Raises:
        InputError: `alpha` is not positive.
    """
    return Head("ridge", _SOLVE["ridge"], {"alpha": _positive("alpha", alpha)})


def logistic(C: float | Array = 1.0) -> Head:
    """Multinomial logistic regression with an L2 penalty, the intercept not penalised; see `fit_logistic`.

    Raises:
        InputError: `C` is not positive.
    """
    return Head("logistic", _SOLVE["logistic"], {"C": _positive("C", C)})


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


class Centres(NamedTuple):
    """Scores by distance to the means of the classes."""

    means: Float[Array, "W d"]

    def __call__(self, features: Float[Array, "M d"]) -> Float[Array, "M W"]:
        """Minus the squared distances of `features`."""
        # Differences, not ‖q‖² + ‖μ‖² - 2q·μ, which loses everything when the classes have collapsed.
        difference = features[:, None, :] - self.means
        return -jnp.sum(difference * difference, axis=-1)


class Directions(NamedTuple):
    """Scores by the cosine with the means of the classes; `means` are of unit norm, or 0."""

    means: Float[Array, "W d"]

    def __call__(self, features: Float[Array, "M d"]) -> Float[Array, "M W"]:
        """The cosines of `features`."""
        # 1 - ½‖q/‖q‖ - μ/‖μ‖‖² is the cosine, and keeps its digits where all directions are nearly one.
        query = unit_norm(features)
        difference = query[:, None, :] - self.means
        directed = jnp.any(query != 0, axis=-1)[:, None] & jnp.any(self.means != 0, axis=-1)
        return jnp.where(directed, 1.0 - 0.5 * jnp.sum(difference * difference, axis=-1), 0.0)


def _fit_ncc(support: Array, labels: Array, ways: int) -> tuple[Centres, Info]:
    return Centres(class_means(support, labels, ways)), {}


def _fit_cosine(support: Array, labels: Array, ways: int) -> tuple[Directions, Info]:
    return Directions(unit_norm(class_means(support, labels, ways))), {}


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


def _fit_ridge_scorer(support: Array, labels: Array, ways: int, *, alpha: Array) -> tuple[Linear, Info]:
    fitted = fit_ridge(support, labels, ways, alpha)
    # Only differences of scores count here, and an offset that all ways share would swallow those of small features.
    # The mean target is 2 count / N - 1; differences of counts are exact.
    counts = jnp.sum(jax.nn.one_hot(labels, ways, dtype=fitted.offset.dtype), axis=0)
    return fitted._replace(offset=2.0 * (counts - counts[0]) / len(labels)), {}


_TINY = float(jnp.finfo(jnp.float32).tiny)
_EPS = float(jnp.finfo(jnp.float32).eps)
_FORCING = 0.03
_CONVERGED = 1e-4
_TARGET = 3e-5
_VANISHING = 1e-30
_SHORTEST = 1e-4
_MAX_NEWTON = 50
_MAX_CG = 200
_BLOCK = 32
_BLOCKS = 2**40


class _Span(NamedTuple):
    """Coordinates v [W,m] of weights w [W,d] in the span of the centred support x [N,d].

    Attributes:
        scores: v -> w x' [W,N].
        gradient: h [W,N] -> the coordinates of h x.
        dot: (v, v', scores of v') -> <w, w'>.
        inverse: s [N] -> (I + x' diag(s) x)⁻¹ in these coordinates, a preconditioner; None is the identity.
        outside: h -> the norm of what h x has outside of these coordinates.
        weights: v -> w.
    """

    scores: Callable[[Array], Array]
    gradient: Callable[[Array], Array]
    dot: Callable[[Array, Array, Array], Array]
    inverse: Callable[[Array], Array | None]
    outside: Callable[[Array], Array]
    weights: Callable[[Array], Array]


def _times(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=_HIGHEST)


def _span_of_samples(x: Float[Array, "N d"]) -> _Span:
    """w = v x with v [W,N]: all but the Gram matrix is of size [W,N], so that the cost does not grow with d."""
    gram = _times(x, x.T)
    return _Span(
        scores=lambda v: _times(v, gram),
        # The Gram matrix has the null vector 1: what rounding adds along it would grow unseen.
        gradient=lambda h: h - h.mean(axis=1, keepdims=True),
        dot=lambda v, other, scores: jnp.sum(v * scores),
        inverse=lambda s: None,
        outside=lambda h: jnp.zeros(()),
        weights=lambda v: _times(v, x),
    )


def _span_of_directions(x: Float[Array, "N d"]) -> _Span:
    """w = v Q with x = Z Q, of `_orthogonal`: no null directions, and each is rounded at its own scale."""
    z, directions, rest = _orthogonal(x)

    def balanced(v: Array) -> Array:
        # Of the sum over the ways, which the scores do not feel, rounding is all there is.
        return v - v.mean(axis=0)

    def inverse(s: Array) -> Array:
        if len(s) * z.shape[1] ** 2 > _BLOCKS:
            s = s.mean(axis=0, keepdims=True) * (len(s) / max(len(s) - 1, 1))
        return jax.vmap(one_inverse)(s)

    def one_inverse(s: Array) -> Array:
        scatter = _times(z.T * s, z)
        # Rounding is relative to the diagonal; so much more of it keeps the inverse positive.
        scatter = scatter + jnp.diag(1.0 + len(scatter) * _EPS * jnp.diagonal(scatter))
        return _inverse_positive(scatter)

    return _Span(
        scores=lambda v: _times(v, z.T),
        gradient=lambda h: balanced(_times(h, z)),
        dot=lambda v, other, scores: jnp.sum(v * other),
        inverse=inverse,
        outside=lambda h: jnp.linalg.norm(_times(h, rest)),
        weights=lambda v: _times(v, directions),
    )


def _orthogonal(x: Float[Array, "N d"]) -> tuple[Float[Array, "N m"], Float[Array, "m d"], Float[Array, "N d"]]:
    """Z, Q and E with x = Z Q + E and orthonormal rows of Q, m = min(N, d); zeros in Z and Q beyond the rank of x.

    E is what rounding leaves outside of the rows of Q, none where they are d.

    Gram-Schmidt that takes the largest of the remaining rows each time. Of x itself, since the Gram matrix has lost
    what is smaller than √eps of the largest.
    """
    rows, width = x.shape
    rank = min(rows, width)

    def squares(rest: Array) -> Array:
        return jnp.sum(rest * rest, axis=1)

    smallest = (4 * _EPS) ** 2 * jnp.max(squares(x))

    def unfinished(state: Any) -> Array:
        i, *_, size = state
        return (i < rank) & (jnp.max(size) > smallest)

    def extend(state: Any) -> Any:
        i, rest, z, directions, size = state
        q = rest[jnp.argmax(size)]
        q = q / jnp.linalg.norm(q)
        q = q - _times(_times(directions, q), directions)  # of what rounding left of the earlier ones
        q = q / jnp.linalg.norm(q)
        along = _times(rest, q)
        rest = rest - along[:, None] * q
        return i + 1, rest, z.at[:, i].set(along), directions.at[i].set(q), squares(rest)

    start = (jnp.int32(0), x, jnp.zeros((rows, rank), x.dtype), jnp.zeros((rank, width), x.dtype), squares(x))
    i, rest, z, directions, _ = jax.lax.while_loop(unfinished, extend, start)
    rest = rest - _times(_times(rest, directions.T), directions)
    return z, directions, jnp.where(i < width, rest, 0.0)


def _inverse_positive(matrix: Float[Array, "m m"]) -> Float[Array, "m m"]:
    """The inverse of a symmetric positive definite matrix: `_solve_positive` by blocks, in matrix products."""
    size = matrix.shape[0]
    block = min(size, _BLOCK)
    padded = -(-size // block) * block
    filled = jnp.eye(padded, dtype=matrix.dtype).at[:size, :size].set(matrix)

    def eliminate(i: Array, system: Array) -> Array:
        start = i * block
        row = jax.lax.dynamic_slice_in_dim(system, start, block, axis=0)
        column = jax.lax.dynamic_slice_in_dim(system, start, block, axis=1)
        pivot = jax.lax.dynamic_slice_in_dim(row, start, block, axis=1)
        pivot = _solve_positive(pivot, jnp.eye(block, dtype=matrix.dtype))
        row = _times(pivot, row)
        system = system - _times(column, row)
        system = jax.lax.dynamic_update_slice_in_dim(system, -_times(column, pivot), start, axis=1)
        row = jax.lax.dynamic_update_slice_in_dim(row, pivot, start, axis=1)
        return jax.lax.dynamic_update_slice_in_dim(system, row, start, axis=0)

    inverse = jax.lax.fori_loop(0, padded // block, eliminate, filled)[:size, :size]
    return 0.5 * (inverse + inverse.T)


class _Point(NamedTuple):
    """Weights v and intercepts b, and what follows from them."""

    v: Array
    b: Array
    scores: Array
    p: Array
    residual: Array
    gradient: Array
    gradient_b: Array
    curvature_b: Array
    inverse: Array | None
    uphill: Array
    uphill_scores: Array
    size: Array
    reach: Array


class _Fit(NamedTuple):
    """What a solver found."""

    weights: Array
    b: Array
    error: Array
    newton_steps: Array
    cg_steps: Array


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
    rows, width = support.shape
    centre = support.mean(axis=0)
    x = support - centre
    own = jax.nn.one_hot(labels, ways, axis=0, dtype=jnp.bool_)
    if rows > width:
        fit = _newton(_span_of_directions(x), own, C)
    else:
        # Where the Gram matrix has other null vectors, as of equal samples of two classes, the other one goes on.
        fit = _newton(_span_of_samples(x), own, C)

        def again(state: Any) -> Any:
            # The barrier keeps XLA from computing before the loop, entered or not, what does not depend on the state.
            about, fit = jax.lax.optimization_barrier((centre, state[1]))
            return jnp.bool_(False), _newton(_span_of_directions(support - about), own, C, fit)

        _, fit = jax.lax.while_loop(
            lambda state: state[0] & ~(state[1].error <= _CONVERGED), again, (jnp.bool_(True), fit)
        )
    largest = jnp.max(jnp.abs(x))
    vanishing = (largest > 0) & (C * largest * largest < _VANISHING)
    info = {
        "gradient_norm": fit.error,
        "converged": (fit.error <= _CONVERGED) & ~vanishing,
        "newton_steps": fit.newton_steps,
        "cg_steps": fit.cg_steps,
    }
    return Linear(fit.weights, fit.b, centre), info


def _newton(span: _Span, own: Array, C: float | Array, before: _Fit | None = None) -> _Fit:
    """`fit_logistic` in the coordinates of `span`; it does nothing where `before` has converged."""

    def balanced(values: Array) -> Array:
        # Rows of own class as minus the sum of the others, which keeps the digits of 1 - p where p is nearly 1.
        others = jnp.where(own, 0.0, values)
        return jnp.where(own, -others.sum(axis=0), others)

    def precondition(inverse: Array | None, r: Array) -> Array:
        if inverse is None:
            return r
        if len(inverse) == 1:
            return _times(r, inverse[0])
        y = jnp.einsum("wm,wmk->wk", r, inverse, precision=_HIGHEST)
        return y - y.mean(axis=0)

    def sum_over_samples(residual: Array) -> Array:
        # 0 where the sum is rounding: an intercept that follows it would hide small scores.
        total = residual.sum(axis=1)
        return jnp.where(jnp.abs(total) > 2 * _EPS * jnp.abs(residual).sum(axis=1), total, 0.0)

    def residual_at(scores: Array) -> tuple[Array, Array]:
        p = jax.nn.softmax(scores, axis=0)
        return p, balanced(p)

    def length(v: Array, scores: Array) -> Array:
        return jnp.sqrt(jnp.abs(span.dot(v, v, scores)))

    def point(v: Array, b: Array) -> _Point:
        scores = span.scores(v)
        p, residual = residual_at(scores + b[:, None])
        gradient_b = C * sum_over_samples(residual)
        # The mean curvature of a sample's loss in its scores.
        curvature = C * p * jnp.where(own, -residual, 1 - p)
        gradient = v + C * span.gradient(residual)
        inverse = span.inverse(curvature)
        uphill = precondition(inverse, gradient)
        return _Point(
            v,
            b,
            scores,
            p,
            residual,
            gradient,
            gradient_b=gradient_b - gradient_b.mean(),  # the same added to every intercept changes nothing
            curvature_b=jnp.maximum(curvature.sum(axis=1), _TINY),
            inverse=inverse,
            uphill=uphill,
            uphill_scores=span.scores(uphill),
            size=length(v, scores),
            reach=jnp.sqrt(jnp.mean((scores + (b - log_prior)[:, None]) ** 2)),
        )

    def relative(at: _Point, w: Array, b: Array) -> Array:
        def ratio(part: Array, whole: Array) -> Array:
            return jnp.where(part <= _TINY, 0.0, part / jnp.maximum(whole, _TINY))

        return ratio(w, at.size) + ratio(jnp.sqrt(jnp.sum(b * b)), at.reach)

    def newton_direction(at: _Point) -> tuple[Array, Array, Array, Array, Array, Array]:
        """Direction in v, its scores, in b; norm of the gradient that it leaves; whether to go on from it; steps."""

        def norm(r: Array, y: Array, yu: Array, rb: Array) -> Array:
            return span.dot(r, y, yu) + jnp.sum(at.curvature_b * rb * rb)

        def unfinished(state: Any) -> Array:
            i, *_, rr, positive = state
            return (i < _MAX_CG) & (rr > goal) & positive

        def iterate(state: Any) -> Any:
            i, d, du, e, r, rb, q, qu, qb, rr, _ = state
            u = qu + qb[:, None]
            hu = balanced(at.p * (u - jnp.sum(at.p * u, axis=0)))
            bent = span.dot(q, q, qu) + C * jnp.sum(u * hu)
            positive = bent > 0
            alpha = jnp.where(positive, rr / jnp.where(positive, bent, 1.0), 0.0)
            d, du, e = d + alpha * q, du + alpha * qu, e + alpha * qb
            r, rb = r - alpha * (q + C * span.gradient(hu)), rb - alpha * C * hu.sum(axis=1) / at.curvature_b
            y = precondition(at.inverse, r)
            yu = span.scores(y)
            new = norm(r, y, yu, rb)
            beta = new / jnp.maximum(rr, _TINY)
            positive &= new >= 0  # if not, rounding is all that is left
            return i + 1, d, du, e, r, rb, y + beta * q, yu + beta * qu, rb + beta * qb, new, positive

        r, rb = -at.gradient, -at.gradient_b / at.curvature_b
        y, yu = -at.uphill, -at.uphill_scores
        rr = norm(r, y, yu, rb)
        goal = _FORCING**2 * rr
        zero = (jnp.zeros_like(r), jnp.zeros_like(yu), jnp.zeros_like(rb))
        start = (jnp.int32(0), *zero, r, rb, y, yu, rb, rr, jnp.bool_(True))
        i, d, du, e, *_, rr, positive = jax.lax.while_loop(unfinished, iterate, start)
        e = e - e.mean()
        solved = positive & (rr <= goal)
        # Without a preconditioner, more steps do not help: the other coordinates will.
        sound = solved if at.inverse is None else positive
        return d, du, e, jnp.where(solved, jnp.sqrt(rr), jnp.inf), sound, i

    def unfinished(state: Any) -> Array:
        fit, _, going = state
        return (fit[2] > _TARGET) & (fit[3] < limit) & going

    def step(state: Any) -> Any:
        (_, _, _, steps, cg), at, _ = state
        d, du, e, left, sound, i = newton_direction(at)
        u = du + e[:, None]
        along, square = span.dot(at.v, d, du), jnp.abs(span.dot(d, d, du))

        def slope(t: Array, residual: Array) -> Array:
            return along + t * square + C * jnp.sum(residual * u)

        scores = at.scores + at.b[:, None]
        first = slope(jnp.float32(0), at.residual)
        # A slope below this is rounding and says nothing about the step.
        noise = 4 * _EPS * (jnp.abs(along) + C * jnp.sum(jnp.abs(at.residual * u)))

        def too_far(trial: Any) -> Array:
            t, now = trial
            return (t > _SHORTEST) & (now > jnp.maximum(-0.25 * first, noise))

        def shorten(trial: Any) -> Any:
            t, now = trial
            t = t * jnp.clip(first / jnp.minimum(first - now, -_TINY), 0.1, 0.9)
            return t, slope(t, residual_at(scores + t * u)[1])

        t = jnp.float32(1)
        t, _ = jax.lax.while_loop(too_far, shorten, (t, slope(t, residual_at(scores + u)[1])))
        now = point(at.v + t * d, at.b + t * e)
        # Two bounds: the curvature is 1 or more; before the step, its solution told more of it.
        flat = jnp.sqrt(jnp.abs(span.dot(now.gradient, now.gradient, now.uphill_scores)))
        flat = relative(now, flat + C * span.outside(now.residual), now.gradient_b / now.curvature_b)
        bent = relative(at, length(d, du) + left + C * span.outside(at.residual), e)
        going = sound & (t > _SHORTEST) & (bent > _CONVERGED)
        arrived = at.size < 0
        error = jnp.where(arrived, jnp.inf, jnp.minimum(flat, bent))
        return (now.v, now.b, error, steps + 1, cg + i), now, arrived | going

    log_prior = jnp.log(jnp.maximum(own.sum(axis=1, dtype=jnp.float32), 0.5))
    log_prior = log_prior - log_prior.mean()
    v = jnp.zeros_like(span.gradient(jnp.zeros(own.shape, jnp.float32)))
    # The first step leads nowhere: it makes the first point, so that what makes one is compiled once.
    nowhere = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(point, v, log_prior))
    nowhere = nowhere._replace(b=log_prior, size=jnp.float32(-1))
    done, going = (jnp.int32(0), jnp.int32(0)), jnp.bool_(True)
    if before is not None:
        done, going = (before.newton_steps, before.cg_steps), ~(before.error <= _CONVERGED)
    limit = done[0] + _MAX_NEWTON
    fit = (v, log_prior, jnp.float32(jnp.inf), done[0] - 1, done[1])
    (v, b, *rest), _, _ = jax.lax.while_loop(unfinished, step, (fit, nowhere, going))
    return _Fit(span.weights(v), b, *rest)


# One object a head: it is part of what a compiled program is found by.
_SOLVE = {
    "ncc": _Fitting(_fit_ncc),
    "cosine": _Fitting(_fit_cosine),
    "ridge": _Fitting(_fit_ridge_scorer),
    "logistic": _Fitting(fit_logistic),
}
