"""Two coordinate systems for the weights of logistic regression, which lie in the span of the support.

Weights w [W,d] that minimise a loss of the scores w x' plus ½‖w‖² lie in the span of the rows of x [N,d]. In
coordinates v [W,m] of that span, m at most N, the cost of an iteration does not grow with d.
"""

from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ncjax.eval.ridge_regression import product, solve_positive

_EPS = float(jnp.finfo(jnp.float32).eps)
_INVERSE_BLOCK = 32
_MAX_INVERTED = 2**40
"""Numbers in the preconditioner's matrices; above, one matrix serves all ways."""


class Coordinates(Protocol):
    """Coordinates v [W,m] of weights w [W,d] in the span of the centred support x [N,d]."""

    def scores(self, v: Float[Array, "W m"]) -> Float[Array, "W N"]:
        """Computes w x'."""

    def combine(self, h: Float[Array, "W N"]) -> Float[Array, "W m"]:
        """Computes the coordinates of h x, without the components that the loss cannot change."""

    def inner(self, v: Float[Array, "W m"], other: Float[Array, "W m"], scores: Float[Array, "W N"]) -> Array:
        """Computes <w, w'>; `scores` are the scores of `other`."""

    def inverse(self, s: Float[Array, "W N"]) -> Float[Array, "P m m"] | None:
        """Computes (I + x' diag(s) x)⁻¹ for each way, or one for all; None for the identity."""

    def outside(self, h: Float[Array, "W N"]) -> Float[Array, ""]:
        """Computes the norm of the part of h x outside of these coordinates."""

    def weights(self, v: Float[Array, "W m"]) -> Float[Array, "W d"]:
        """Computes w."""


class SampleCoordinates(NamedTuple):
    """w = v x with v [W,N]: cheap, with null directions if samples are linearly dependent."""

    x: Float[Array, "N d"]
    gram: Float[Array, "N N"]

    @classmethod
    def of(cls, x: Float[Array, "N d"]) -> "SampleCoordinates":
        """Makes coordinates for the centred support x."""
        return cls(x, product(x, x.T))

    def scores(self, v: Float[Array, "W N"]) -> Float[Array, "W N"]:
        """Computes v K, K the Gram matrix."""
        return product(v, self.gram)

    def combine(self, h: Float[Array, "W N"]) -> Float[Array, "W N"]:
        """Returns h minus its mean, since rounding would grow along the Gram matrix's null vector 1."""
        return h - h.mean(axis=1, keepdims=True)

    def inner(self, v: Float[Array, "W N"], other: Float[Array, "W N"], scores: Float[Array, "W N"]) -> Array:
        """Computes Σ v * (v' K)."""
        return jnp.sum(v * scores)

    def inverse(self, s: Float[Array, "W N"]) -> None:
        """Returns None: no preconditioner."""
        return

    def outside(self, h: Float[Array, "W N"]) -> Float[Array, ""]:
        """Returns 0: these coordinates span all of h x."""
        return jnp.zeros(())

    def weights(self, v: Float[Array, "W N"]) -> Float[Array, "W d"]:
        """Computes v x."""
        return product(v, self.x)


class DirectionCoordinates(NamedTuple):
    """w = v Q with x = Z Q + E and orthonormal rows of Q: no null directions, each rounded at its own scale."""

    z: Float[Array, "N m"]
    directions: Float[Array, "m d"]
    rest: Float[Array, "N d"]

    @classmethod
    def of(cls, x: Float[Array, "N d"]) -> "DirectionCoordinates":
        """Makes coordinates for the centred support x with `orthogonal`."""
        return cls(*orthogonal(x))

    def scores(self, v: Float[Array, "W m"]) -> Float[Array, "W N"]:
        """Computes v Z'."""
        return product(v, self.z.T)

    def combine(self, h: Float[Array, "W N"]) -> Float[Array, "W m"]:
        """Computes h Z minus its mean over the ways, which does not change the loss, so that rounding would grow."""
        v = product(h, self.z)
        return v - v.mean(axis=0)

    def inner(self, v: Float[Array, "W m"], other: Float[Array, "W m"], scores: Float[Array, "W N"]) -> Array:
        """Computes Σ v * v'."""
        return jnp.sum(v * other)

    def inverse(self, s: Float[Array, "W N"]) -> Float[Array, "P m m"]:
        """Computes (I + Z' diag(s) Z)⁻¹ for each way, or for their mean if those would be too large."""
        if len(s) * self.z.shape[1] ** 2 > _MAX_INVERTED:
            s = s.mean(axis=0, keepdims=True) * (len(s) / max(len(s) - 1, 1))

        def invert(s: Float[Array, " N"]) -> Float[Array, "m m"]:
            scatter = product(self.z.T * s, self.z)
            # Adding the size of the rounding, which is relative to the diagonal, keeps the inverse positive.
            scatter = scatter + jnp.diag(1.0 + len(scatter) * _EPS * jnp.diagonal(scatter))
            return invert_positive(scatter)

        return jax.vmap(invert)(s)

    def outside(self, h: Float[Array, "W N"]) -> Float[Array, ""]:
        """Computes ‖h E‖."""
        return jnp.linalg.norm(product(h, self.rest))

    def weights(self, v: Float[Array, "W m"]) -> Float[Array, "W d"]:
        """Computes v Q."""
        return product(v, self.directions)


class _Orthogonal(NamedTuple):
    """State of `orthogonal`: `rank` counts the directions; `size` holds the squared norms of the rows of `rest`."""

    rank: Int[Array, ""]
    rest: Float[Array, "N d"]
    z: Float[Array, "N m"]
    directions: Float[Array, "m d"]
    size: Float[Array, " N"]


def orthogonal(x: Float[Array, "N d"]) -> tuple[Float[Array, "N m"], Float[Array, "m d"], Float[Array, "N d"]]:
    """Factors x = Z Q + E with orthonormal rows of Q, m = min(N, d); Z and Q are zero beyond the rank of x.

    E is the rounding error outside of the rows of Q, 0 if there are d of them. Uses Gram-Schmidt with the largest
    remaining row, on x itself, since the Gram matrix loses everything below √eps of its largest entry.
    """
    rows, width = x.shape
    rank = min(rows, width)

    def squares(rest: Array) -> Array:
        return jnp.sum(rest * rest, axis=1)

    smallest = (4 * _EPS) ** 2 * jnp.max(squares(x))

    def unfinished(state: _Orthogonal) -> Array:
        return (state.rank < rank) & (jnp.max(state.size) > smallest)

    def extend(state: _Orthogonal) -> _Orthogonal:
        q = state.rest[jnp.argmax(state.size)]
        q = q / jnp.linalg.norm(q)
        q = q - product(
            product(state.directions, q), state.directions
        )  # removes rounding errors along earlier directions
        q = q / jnp.linalg.norm(q)
        along = product(state.rest, q)
        rest = state.rest - along[:, None] * q
        return _Orthogonal(
            state.rank + 1,
            rest,
            state.z.at[:, state.rank].set(along),
            state.directions.at[state.rank].set(q),
            squares(rest),
        )

    start = _Orthogonal(
        jnp.int32(0), x, jnp.zeros((rows, rank), x.dtype), jnp.zeros((rank, width), x.dtype), squares(x)
    )
    end = jax.lax.while_loop(unfinished, extend, start)
    rest = end.rest - product(product(end.rest, end.directions.T), end.directions)
    return end.z, end.directions, jnp.where(end.rank < width, rest, 0.0)


def invert_positive(matrix: Float[Array, "m m"]) -> Float[Array, "m m"]:
    """Inverts a symmetric positive definite matrix, as `solve_positive` but in blocks, with matrix products."""
    size = matrix.shape[0]
    block = min(size, _INVERSE_BLOCK)
    padded = -(-size // block) * block
    filled = jnp.eye(padded, dtype=matrix.dtype).at[:size, :size].set(matrix)

    def eliminate(i: Array, system: Array) -> Array:
        start = i * block
        row = jax.lax.dynamic_slice_in_dim(system, start, block, axis=0)
        column = jax.lax.dynamic_slice_in_dim(system, start, block, axis=1)
        pivot = jax.lax.dynamic_slice_in_dim(row, start, block, axis=1)
        pivot = solve_positive(pivot, jnp.eye(block, dtype=matrix.dtype))
        row = product(pivot, row)
        system = system - product(column, row)
        system = jax.lax.dynamic_update_slice_in_dim(system, -product(column, pivot), start, axis=1)
        row = jax.lax.dynamic_update_slice_in_dim(row, pivot, start, axis=1)
        return jax.lax.dynamic_update_slice_in_dim(system, row, start, axis=0)

    inverse = jax.lax.fori_loop(0, padded // block, eliminate, filled)[:size, :size]
    return 0.5 * (inverse + inverse.T)
