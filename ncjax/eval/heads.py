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
        """Scores [M,W] of the queries, and diagnostics."""
        return self.solve(support, labels, query, ways, **self.hyperparameters)

    def __str__(self) -> str:
        values = ", ".join(f"{name}={float(value):g}" for name, value in self.hyperparameters.items())
        return f"{self.name}({values})" if values else self.name


def ncc() -> Head:
    """Nearest class centre: squared Euclidean distance to the class means of the support.

    logits = -‖q - μ_w‖² (the prototypical network's; Snell, Swersky, Zemel 2017).
    """
    return Head("ncc", _ncc)


def cosine() -> Head:
    """Nearest class centre by cosine: logits = cos(q, μ_w), in -1..1."""
    return Head("cosine", _cosine)


def ridge(alpha: float | Array = 1.0) -> Head:
    """Ridge regression on one-hot targets in ±1, the intercept not penalised; see `fit_ridge`."""
    return Head("ridge", _ridge, {"alpha": alpha})


HEADS: Mapping[str, Callable[[], Head]] = {"ncc": ncc, "cosine": cosine, "ridge": ridge}


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
        raise InputError(
            f"head is a {type(head).__name__}; give a name ({', '.join(HEADS)}) or a callable pytree"
        )
    if jax.tree_util.all_leaves([head]):  # a plain function, which cannot itself be an argument of jit
        return Head(getattr(head, "__name__", "head"), head)
    return head


def class_means(features: Float[Array, "N d"], labels: Int[Array, "N"], ways: int) -> Float[Array, "W d"]:
    """The mean of each class; of a class without rows, 0."""
    member = jax.nn.one_hot(labels, ways, axis=0, dtype=features.dtype)
    count = jnp.maximum(member.sum(axis=1, keepdims=True), 1.0)
    return jnp.matmul(member / count, features, precision=_HIGHEST)


def _ncc(support: Array, labels: Array, query: Array, ways: int) -> tuple[Array, Info]:
    # Differences, not ‖q‖² + ‖μ‖² - 2q·μ, which loses everything when the classes have collapsed.
    difference = query[:, None, :] - class_means(support, labels, ways)
    return -jnp.sum(difference * difference, axis=-1), {}


def _cosine(support: Array, labels: Array, query: Array, ways: int) -> tuple[Array, Info]:
    # 1 - ½‖q/‖q‖ - μ/‖μ‖‖² is the cosine, and keeps its digits where all directions are nearly one.
    difference = unit_norm(query)[:, None, :] - unit_norm(class_means(support, labels, ways))
    return 1.0 - 0.5 * jnp.sum(difference * difference, axis=-1), {}


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
        return self.offset - jnp.matmul(self.weights, self.centre, precision=_HIGHEST)


def fit_ridge(
    support: Float[Array, "N d"], labels: Int[Array, "N"], ways: int, alpha: float | Array = 1.0
) -> Linear:
    """Weights and intercepts that minimise Σ_n ‖W x_n + b - y_n‖² + α‖W‖², y one-hot in ±1.

    What scikit-learn's ``RidgeClassifier(alpha=α)`` computes (with two ways its one row is row 1 here). Solved in
    the smaller of the two forms: with centred X [N,d] and Y [N,W],
    W' = X'(XX' + αI)⁻¹Y (dual, N < d) = (X'X + αI)⁻¹X'Y (primal).
    """
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
    return fit_ridge(support, labels, ways, alpha)(query), {}
