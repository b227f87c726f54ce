"""`conv4`, the four-layer network of width 64 of the first few-shot papers.

Vinyals et al. 2016, https://arxiv.org/abs/1606.04080; Snell, Swersky & Zemel 2017, https://arxiv.org/abs/1703.05175:
four times (3x3 convolution, batch norm, ReLU, 2x2 max pooling); the features are the flattened result.
"""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array

from ncjax.errors import InputError
from ncjax.models.layers import BatchNormAct, at_least_float32, he_normal, pooled
from ncjax.models.mixing import Mixing, mixed
from ncjax.models.network import Output


class Conv4(nn.Module):
    """Four convolutions of width 64. Stages: each convolution, and the flattened features."""

    num_classes: int
    dtype: Any = jnp.float32

    @property
    def mixing_points(self) -> int:
        """The input, and the end of each layer."""
        return 5

    @nn.compact
    def __call__(self, images: Array, train: bool, mixing: Mixing | None = None) -> Output:
        """Computes logits, features [n, 64 (h // 16) (w // 16)] and stages for normalised images [n, h, w, c].

        Raises:
            InputError: The images are smaller than 16 pixels.
        """
        if min(images.shape[1:3]) < 16:
            raise InputError(f"conv4 halves images four times: {images.shape[1]} x {images.shape[2]} is too small")
        x, stages = mixed(mixing, 0, images), []
        for layer in range(4):
            x = nn.Conv(64, (3, 3), padding=1, kernel_init=he_normal, dtype=self.dtype)(x)
            x = mixed(mixing, layer + 1, nn.max_pool(BatchNormAct()(x, train), (2, 2), (2, 2)))
            stages.append(pooled(x))
        wide = at_least_float32(self.dtype)
        features = x.reshape(len(x), -1).astype(wide)
        logits = nn.Dense(self.num_classes, dtype=wide, name="head")(features)
        return Output(logits, features, (*stages, features))


def from_name(name: str, num_classes: int, dtype: Any) -> Conv4 | None:
    """Returns the module of the name `conv4`; None for another name."""
    return Conv4(num_classes, dtype) if name == "conv4" else None
