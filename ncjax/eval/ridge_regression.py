"""Linear classifiers: their scores, and ridge regression in closed form."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer, Real

from ncjax.errors import InputError

_HIGHEST = jax.lax.Precision.HIGHEST


class Linear(NamedTuple):
    """Scores ``(x - centre) @ weights.T + offset``.

    Stores a centre, since ``x @ weights.T + bias`` loses digits to a large common offset.
    """

    weights: Float[Array, "W d"]
    offset: Float[Array, " W"]
    centre: Float[Array, " d"]

    def __call__(self, features: Float[Array | np.ndarray, "M d"]) -> Float[Array, "M W"]:
        """Computes the scores of `features`."""
        return product(jnp.asarray(features) - self.centre, self.weights.T) + self.offset

    @property
    def bias(self) -> Float[Array, "*batch W"]:
        """The intercept of the uncentred form, ``x @ weights.T + bias``."""
        return self.offset - jnp.einsum("...wd,...d->...w", self.weights, self.centre, precision=_HIGHEST)


def fit_ridge(
    support: Real[Array | np.ndarray, "N d"],
    labels: Integer[Array | np.ndarray, " N"],
    ways: int,
    alpha: float | Array = 1.0,
) -> Linear:
    """Computes the weights and intercepts that minimise Σ_n ‖W x_n + b - y_n‖² + α‖W‖², y one-hot in ±1.

    Equals scikit-learn's ``RidgeClassifier(alpha=α)`` (with two ways, its single row is row 1 here). Solves the
    smaller of two systems: with centred X [N,d] and Y [N,W], W' = X'(XX' + αI)⁻¹Y (dual, N < d) = (X'X + αI)⁻¹X'Y.

    In float32, predictions near a tie differ from those in float64 if the largest eigenvalue of XX' is about 10⁵ times
    α or more, as for raw features that nearly share a direction. Increase α or use the "l2" transform.
    """
    check_one_number("alpha", alpha)
    support = jnp.asarray(support, jnp.float32)
    rows, width = support.shape
    centre = support.mean(axis=0)
    x = support - centre
    targets = 2.0 * jax.nn.one_hot(labels, ways, dtype=support.dtype) - 1.0
    mean_target = targets.mean(axis=0)
    y = targets - mean_target
    if rows < width:
        gram = product(x, x.T) + alpha * jnp.eye(rows, dtype=x.dtype)
        weights = product(solve_positive(gram, y).T, x)
    else:
        scatter = product(x.T, x) + alpha * jnp.eye(width, dtype=x.dtype)
        weights = solve_positive(scatter, product(x.T, y)).T
    return Linear(weights, mean_target, centre)


def solve_positive(matrix: Float[Array, "m m"], right: Float[Array, "m c"]) -> Float[Array, "m c"]:
    """Solves a symmetric positive definite system by Gauss-Jordan elimination, stable without pivoting there.

    For the few dozen unknowns of an episode, this is as fast as batched LAPACK on one CPU device. With several CPU
    devices, batched LAPACK stalls on a shared thread pool, and this does not.
    """
    size = matrix.shape[0]
    row_number = jnp.arange(size)[:, None]

    def eliminate(i: Array, system: Array) -> Array:
        row = jax.lax.dynamic_slice_in_dim(system, i, 1, axis=0)
        column = jax.lax.dynamic_slice_in_dim(system, i, 1, axis=1)
        row = row / jax.lax.dynamic_slice_in_dim(row, i, 1, axis=1)
        return jnp.where(row_number == i, row, system - column * row)

    return jax.lax.fori_loop(0, size, eliminate, jnp.concatenate([matrix, right], axis=1))[:, size:]


def product(a: Array, b: Array) -> Array:
    """Computes the matrix product in full float32 on every device."""
    return jnp.matmul(a, b, precision=_HIGHEST)


def check_one_number(name: str, value: Any) -> None:
    """Raises InputError if a penalty is an array of several numbers."""
    if jnp.ndim(value):
        raise InputError(f"{name} is an array {list(jnp.shape(value))}: one head takes one number; make one of each")
