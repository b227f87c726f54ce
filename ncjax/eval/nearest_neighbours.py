"""Weighted k-nearest neighbours by the cosine, as self-supervised encoders are evaluated."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ncjax.devices import data_mesh, limit_in_flight, replicated, sharded
from ncjax.eval.ridge_regression import product

_ROWS_AT_ONCE, _ROWS_ON_HOST = 256, 4096


def nearest_neighbours(
    train: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    query: Float[np.ndarray, "m d"],
    num_classes: int,
    *,
    neighbours: Sequence[int],
    temperature: float,
) -> Int[np.ndarray, "k m"]:
    """Predicts the class of each query for each number of neighbours k, at most n.

    The protocol of Wu, Xiong, Yu, Lin (CVPR 2018) and DINO (Caron et al., ICCV 2021): features of unit norm; the k
    training rows of largest cosine s vote for their class with weight exp(s / temperature).
    """
    mesh = data_mesh()
    rows = -(-_ROWS_AT_ONCE // mesh.size) * mesh.size
    starts = range(0, len(train), _ROWS_ON_HOST)
    centre = sum(_unit(train[i : i + _ROWS_ON_HOST]).sum(axis=0) for i in starts) / len(train)
    about = [(_unit(train[i : i + _ROWS_ON_HOST]) - centre).astype(np.float32) for i in starts]
    placed = jax.device_put((np.concatenate(about), train.any(axis=1), labels), replicated(mesh))
    predicted = []
    for i, start in enumerate(range(0, len(query), rows)):
        batch = (_unit(query[start : start + rows]) - centre).astype(np.float32)
        batch = np.concatenate([batch, np.zeros((rows - len(batch), batch.shape[1]), batch.dtype)])
        votes = _predict(*placed, jax.device_put(batch, sharded(mesh)), temperature, num_classes, tuple(neighbours))
        limit_in_flight(i, votes)
        predicted.append(votes)
    return np.concatenate([np.asarray(votes) for votes in predicted], axis=1)[:, : len(query)]


def _unit(features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Divides each row by its norm in float64: float32 would lose the differences of nearly equal directions."""
    rows = features.astype(np.float64)
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norm > 0, norm, 1.0)


@partial(jax.jit, static_argnames=("num_classes", "neighbours"))
def _predict(
    x: Float[Array, "n d"],
    directed: Bool[Array, " n"],
    labels: Int[Array, " n"],
    query: Float[Array, "m d"],
    temperature: float | Array,
    num_classes: int,
    neighbours: tuple[int, ...],
) -> Int[Array, "k m"]:
    """Predicts from unit vectors less a common centre; rows that are not `directed` were zeros, of cosine 0."""
    # s = ½(‖q‖² + ‖x‖² - ‖q - x‖²), from differences to the centre: if all directions are nearly equal, the cosine
    # itself is 1 up to rounding. What is common to all rows of a query is left out.
    similarity = product(query, x.T) - 0.5 * jnp.sum(x * x, axis=1) - jnp.where(directed, 0.0, 0.5)
    similarity, index = jax.lax.top_k(similarity, max(neighbours))
    # exp(z) = 1 + expm1(z), and the ones are counted apart: votes of nearly equal weight differ by little
    excess = jnp.expm1((similarity - similarity[:, :1]) / temperature)

    def predicted(k: int) -> Int[Array, " m"]:
        def of_row(voters: Int[Array, " k"], excess: Float[Array, " k"]) -> Int[Array, ""]:
            count = jnp.zeros(num_classes, jnp.float32).at[voters].add(1)
            return jnp.argmax(count - count.max() + jnp.zeros_like(count).at[voters].add(excess)).astype(jnp.int32)

        return jax.vmap(of_row)(labels[index[:, :k]], excess[:, :k])

    return jnp.stack([predicted(k) for k in neighbours])
