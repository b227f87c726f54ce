"""`resnet12`, the few-shot field's residual network, and `resnet12-dropblock`.

Lee et al. 2019, https://arxiv.org/abs/1904.03758, as Tian et al. 2020, https://arxiv.org/abs/2003.11539, use it: four
blocks of widths 64, 160, 320 and 640, each three 3x3 convolutions beside a 1x1 shortcut, then leaky ReLU of slope 0.1
and 2x2 max pooling; global average pooling at the end.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from ncjax.errors import InputError
from ncjax.models.layers import BatchNormAct, at_least_float32, pooled
from ncjax.models.mixing import Mixing, mixed
from ncjax.models.network import Output

_he_leaky = nn.initializers.variance_scaling(2.0 / (1 + 0.1**2), "fan_out", "normal")


def drop_block(key: Array, x: Float[Array, "n h w c"], rate: float, size: int) -> Float[Array, "n h w c"]:
    """Sets random squares of each channel to zero and scales up the rest.

    Ghiasi, Lin & Le 2018, https://arxiv.org/abs/1810.12890: drops a square of side `size` (at most the image)
    around each of a set of seeds, whose density makes the expected share of dropped entries `rate`.
    """
    height, width = x.shape[1:3]
    size = min(size, height, width)
    valid = (height - size + 1) * (width - size + 1)
    density = rate / size**2 * (height * width / valid)
    corners = (x.shape[0], height - size + 1, width - size + 1, x.shape[3])
    seeds = jax.random.bernoulli(key, jnp.float32(density), corners).astype(jnp.float32)
    # a seed is the corner of a square; a pixel is dropped if any square that covers it is
    padding = ((0, 0), (size - 1, size - 1), (size - 1, size - 1), (0, 0))
    dropped = jax.lax.reduce_window(seeds, jnp.float32(0), jax.lax.max, (1, size, size, 1), (1, 1, 1, 1), padding)
    keep = (1 - dropped).astype(x.dtype)
    return x * keep * (keep.size / jnp.maximum(jnp.sum(keep, dtype=jnp.float32), 1)).astype(x.dtype)


class _Block(nn.Module):
    width: int
    drop: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        conv = partial(nn.Conv, self.width, use_bias=False, kernel_init=_he_leaky, dtype=self.dtype)
        y = x
        for slope in (0.1, 0.1, None):
            y = BatchNormAct(slope)(conv((3, 3), padding=1)(y), train)
        shortcut = BatchNormAct(None)(conv((1, 1), name="shortcut")(x), train)
        y = nn.max_pool(nn.leaky_relu(y + shortcut, 0.1), (2, 2), (2, 2))
        return drop_block(self.make_rng("dropout"), y, 0.1, 5) if self.drop and train else y


class ResNet12(nn.Module):
    """Four residual blocks; `drop` adds drop-block (rate 0.1, side 5) to the last two. Stages: each block."""

    num_classes: int
    drop: bool = False
    dtype: Any = jnp.float32

    @property
    def mixing_points(self) -> int:
        """The input, and the end of each block."""
        return 5

    @nn.compact
    def __call__(self, images: Array, train: bool, mixing: Mixing | None = None) -> Output:
        """Computes logits, features [n, 640] and stages for normalised images [n, h, w, c].

        Raises:
            InputError: The images are smaller than 16 pixels.
        """
        if min(images.shape[1:3]) < 16:
            raise InputError(f"resnet12 halves images four times: {images.shape[1]} x {images.shape[2]} is too small")
        x, stages = mixed(mixing, 0, images), []
        for number, width in enumerate((64, 160, 320, 640)):
            x = mixed(mixing, number + 1, _Block(width, self.drop and number >= 2, self.dtype)(x, train))
            stages.append(pooled(x))
        logits = nn.Dense(self.num_classes, dtype=at_least_float32(self.dtype), name="head")(stages[-1])
        return Output(logits, stages[-1], tuple(stages))


def from_name(name: str, num_classes: int, dtype: Any) -> ResNet12 | None:
    """Returns the module of the name `resnet12` or `resnet12-dropblock`; None for another name."""
    if name not in ("resnet12", "resnet12-dropblock"):
        return None
    return ResNet12(num_classes, drop=name.endswith("dropblock"), dtype=dtype)
