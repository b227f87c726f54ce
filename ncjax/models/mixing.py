"""Manifold mixup: mixes the images of a batch at one depth of a network, drawn at random."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, ArrayLike, Float, Int, Key


@struct.dataclass
class Mixing:
    """How the images of a batch are mixed: x becomes λx + (1 − λ)x' at one point of the network.

    Verma et al. 2019, https://arxiv.org/abs/1806.05236; Mangla et al. 2020 (S2M2), https://arxiv.org/abs/1907.12087.

    Attributes:
        weight: λ.
        order: The row of x' for each row x of the batch.
        point: The point at which they are mixed: 0 is the network's input, i what its i-th stage hands on.
    """

    weight: Float[Array, ""]
    order: Int[Array, " n"]
    point: Int[Array, ""]

    @classmethod
    def draw(cls, key: Key[Array, ""], n: int, points: int, alpha: float) -> "Mixing":
        """Draws λ ~ Beta(alpha, alpha), an order of n images, and one of `points` points, all equally likely."""
        weight_key, order_key, point_key = jax.random.split(key, 3)
        return cls(
            jax.random.beta(weight_key, alpha, alpha, dtype=jnp.float32),
            jax.random.permutation(order_key, n),
            jax.random.randint(point_key, (), 0, points, jnp.int32),
        )

    def mix(self, x: Float[Array, "n ..."]) -> Float[Array, "n ..."]:
        """Mixes rows, for example of targets."""
        weight = self.weight.astype(x.dtype)
        return weight * x + (1 - weight) * x[self.order]


def mixed(mixing: Mixing | None, point: int, x: Float[ArrayLike, "n ..."]) -> Any:
    """Returns `x`, mixed if this is the point to mix at; `None` mixes nowhere. A network calls it at each point."""
    if mixing is None:
        return x
    return jax.lax.cond(mixing.point == point, mixing.mix, lambda x: x, x)
