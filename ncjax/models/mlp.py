"""`mlp-depth-width`: fully connected layers on the pixels."""

import re
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array

from ncjax.errors import InputError
from ncjax.models.layers import BatchNormAct, at_least_float32
from ncjax.models.mixing import Mixing, mixed
from ncjax.models.network import Output


class MLP(nn.Module):
    """`depth` times (linear layer, batch norm, ReLU). Stages: each layer."""

    num_classes: int
    depth: int
    width: int
    dtype: Any = jnp.float32

    @property
    def mixing_points(self) -> int:
        """The input, and the end of each layer."""
        return self.depth + 1

    @nn.compact
    def __call__(self, images: Array, train: bool, mixing: Mixing | None = None) -> Output:
        """Computes logits, features [n, width] and stages for normalised images [n, h, w, c]."""
        wide = at_least_float32(self.dtype)
        x, stages = mixed(mixing, 0, images).reshape(len(images), -1), []
        for layer in range(self.depth):
            x = nn.Dense(self.width, use_bias=False, kernel_init=nn.initializers.he_normal(), dtype=self.dtype)(x)
            x = mixed(mixing, layer + 1, BatchNormAct()(x, train))
            stages.append(x.astype(wide))
        logits = nn.Dense(self.num_classes, dtype=wide, name="head")(stages[-1])
        return Output(logits, stages[-1], tuple(stages))


def from_name(name: str, num_classes: int, dtype: Any) -> MLP | None:
    """Returns the module of a name `mlp-depth-width`; None for a name of another form.

    Raises:
        InputError: Depth or width is 0.
    """
    match = re.fullmatch(r"mlp-(\d+)-(\d+)", name)
    if match is None:
        return None
    depth, width = int(match[1]), int(match[2])
    if depth < 1 or width < 1:
        raise InputError(f"network {name!r}: depth and width must be at least 1; for example mlp-4-256")
    return MLP(num_classes, depth, width, dtype)
