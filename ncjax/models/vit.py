"""`vit-depth-width-patch`: vision transformers for small images.

Dosovitskiy et al. 2021, https://arxiv.org/abs/2010.11929, with the mean over patches instead of a class token
(Beyer, Zhai & Kolesnikov 2022, https://arxiv.org/abs/2205.01580). Attention heads are 64 wide.
"""

import re
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array

from ncjax.errors import InputError
from ncjax.models.layers import at_least_float32
from ncjax.models.mixing import Mixing, mixed
from ncjax.models.network import Output


def _attention(query: Array, key: Array, value: Array, **_: Any) -> Array:
    """Computes the softmax in float32; Flax's own uses the type of its inputs. Without masks and dropout."""
    return jax.nn.dot_product_attention(query, key, value)


class _Block(nn.Module):
    width: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        wide = at_least_float32(self.dtype)
        y = nn.LayerNorm(epsilon=1e-6, dtype=wide)(x)
        x = x + nn.MultiHeadDotProductAttention(self.width // 64, dtype=self.dtype, attention_fn=_attention)(y)
        y = nn.LayerNorm(epsilon=1e-6, dtype=wide)(x)
        y = nn.gelu(nn.Dense(4 * self.width, dtype=self.dtype)(y))
        return x + nn.Dense(self.width, dtype=self.dtype)(y)


class ViT(nn.Module):
    """`depth` pre-norm transformer blocks on patches. Stages: the patches, each block, and the features."""

    num_classes: int
    depth: int
    width: int
    patch: int
    dtype: Any = jnp.float32

    @property
    def mixing_points(self) -> int:
        """The input, and the end of each block."""
        return self.depth + 1

    @nn.compact
    def __call__(self, images: Array, train: bool, mixing: Mixing | None = None) -> Output:
        """Computes logits, features [n, width] and stages for normalised images [n, h, w, c].

        Raises:
            InputError: The patches do not tile the image.
        """
        n, height, width, _ = images.shape
        if height % self.patch or width % self.patch:
            raise InputError(
                f"patches of {self.patch} pixels do not tile images of {height} x {width}; "
                "choose a patch that divides both, for example 4"
            )
        wide = at_least_float32(self.dtype)
        side = (self.patch, self.patch)
        x = nn.Conv(self.width, side, side, padding="VALID", dtype=self.dtype)(mixed(mixing, 0, images))
        x = x.reshape(n, -1, self.width)
        position = self.param("position", nn.initializers.normal(0.02), (1, x.shape[1], self.width))
        x = x.astype(wide) + position
        stages = [jnp.mean(x, 1)]
        for block in range(self.depth):
            x = mixed(mixing, block + 1, _Block(self.width, self.dtype)(x))
            stages.append(jnp.mean(x, 1))
        features = jnp.mean(nn.LayerNorm(epsilon=1e-6, dtype=wide)(x), 1)
        logits = nn.Dense(self.num_classes, dtype=wide, name="head")(features)
        return Output(logits, features, (*stages, features))


def from_name(name: str, num_classes: int, dtype: Any) -> ViT | None:
    """Returns the module of a name `vit-depth-width-patch`; None for a name of another form.

    Raises:
        InputError: The width is not a multiple of 64, or depth or patch is 0.
    """
    match = re.fullmatch(r"vit-(\d+)-(\d+)-(\d+)", name)
    if match is None:
        return None
    depth, width, patch = (int(group) for group in match.groups())
    if depth < 1 or width < 64 or width % 64 or patch < 1:
        raise InputError(
            f"network {name!r}: the width must be a multiple of 64, depth and patch at least 1; for example vit-6-192-4"
        )
    return ViT(num_classes, depth, width, patch, dtype)
