"""Wide residual networks, `wrn-N-k`, and the same without shortcuts, `conv-N-k`; `wrn-N-k-s2` on half the resolution.

Zagoruyko & Komodakis 2016, https://arxiv.org/abs/1605.07146: a 3x3 convolution to 16 channels, then three groups of
(N - 4) / 6 blocks at widths 16k, 32k and 64k, where the second and third group halve the resolution; a block is twice
(batch norm, ReLU, 3x3 convolution) beside a shortcut, and a last batch norm and ReLU precede global average pooling.
With `-s2` the first convolution has stride 2: every layer after it computes a quarter of the pixels.
"""

import re
from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array

from ncjax.errors import InputError
from ncjax.models.layers import BatchNormAct, at_least_float32, he_normal, pooled
from ncjax.models.mixing import Mixing, mixed
from ncjax.models.network import Output


class _Block(nn.Module):
    width: int
    stride: int
    shortcut: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        conv = partial(nn.Conv, use_bias=False, kernel_init=he_normal, dtype=self.dtype)
        stride = (self.stride, self.stride)
        active = BatchNormAct()(x, train)
        y = conv(self.width, (3, 3), stride, padding=1)(active)
        y = BatchNormAct()(y, train)
        y = conv(self.width, (3, 3), padding=1)(y)
        if not self.shortcut:
            return y
        if x.shape[-1] == self.width and self.stride == 1:
            return x + y
        # if the shape changes, the shortcut is a projection of the activated input
        return y + conv(self.width, (1, 1), stride, padding=0, name="shortcut")(active)


class WideResNet(nn.Module):
    """WRN-depth-width; with `shortcuts=False` the plain convolutional network of the same layers.

    `stem_stride` is the stride of the first convolution.

    Stages: the stem, each block, and the features.
    """

    num_classes: int
    depth: int
    width: int
    shortcuts: bool = True
    dtype: Any = jnp.float32
    stem_stride: int = 1

    @property
    def mixing_points(self) -> int:
        """The input, and the end of each group."""
        return 4

    @nn.compact
    def __call__(self, images: Array, train: bool, mixing: Mixing | None = None) -> Output:
        """Computes logits, features [n, 64 * width] and stages for normalised images [n, h, w, c]."""
        x = mixed(mixing, 0, images)
        stem = partial(nn.Conv, 16, (3, 3), padding=1, use_bias=False, kernel_init=he_normal, dtype=self.dtype)
        x = stem(strides=(self.stem_stride, self.stem_stride))(x)
        stages = [pooled(x)]
        for group in range(3):
            for block in range((self.depth - 4) // 6):
                stride = 2 if group > 0 and block == 0 else 1
                x = _Block(16 * self.width * 2**group, stride, self.shortcuts, self.dtype)(x, train)
                stages.append(pooled(x))
            x = mixed(mixing, group + 1, x)
        stages.append(pooled(BatchNormAct()(x, train)))
        logits = nn.Dense(self.num_classes, dtype=at_least_float32(self.dtype), name="head")(stages[-1])
        return Output(logits, stages[-1], tuple(stages))


def from_name(name: str, num_classes: int, dtype: Any) -> WideResNet | None:
    """Returns the module of a name `wrn-N-k`, `conv-N-k` or either with `-s2`; None for a name of another form.

    Raises:
        InputError: The depth is not 6n + 4, or the width is 0.
    """
    match = re.fullmatch(r"(wrn|conv)-(\d+)-(\d+)(-s2)?", name)
    if match is None:
        return None
    kind, depth, width = match[1], int(match[2]), int(match[3])
    if depth < 10 or (depth - 4) % 6 or width < 1:
        raise InputError(
            f"network {name!r}: the depth must be 6n + 4 (10, 16, 22, 28, 40, …) and the width at least 1; "
            f"for example {kind}-28-4"
        )
    return WideResNet(num_classes, depth, width, kind == "wrn", dtype, stem_stride=2 if match[4] else 1)
