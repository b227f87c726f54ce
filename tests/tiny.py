"""A benchmark of a few hundred 12 x 12 images and a network of two layers, for tests of training and evaluation."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array

from ncjax.data import Benchmark, Split
from ncjax.models import Network, Output
from ncjax.models.layers import BatchNormAct


class _Module(nn.Module):
    num_classes: int
    dtype: Any

    @nn.compact
    def __call__(self, images: Array, train: bool) -> Output:
        x = nn.Conv(8, (3, 3), (2, 2), use_bias=False, dtype=self.dtype)(images)
        features = BatchNormAct()(x, train).reshape(len(x), -1)
        logits = nn.Dense(self.num_classes, dtype=self.dtype, name="head")(features)
        return Output(logits, features, (features,))


def network(num_classes: int = 6, dtype: Any = jnp.float32) -> Network:
    """A convolution, batch norm and a linear layer: compiles in no time."""
    return Network("tiny", num_classes, _Module(num_classes, dtype))


def split(num_classes: int, per_class: int, *, seed: int, noise: float = 60.0, draw: int = 0) -> Split:
    """Noisy copies of one random image a class; `seed` makes the classes, `draw` the copies."""
    prototypes = np.random.default_rng(seed).integers(0, 255, (num_classes, 12, 12, 1))
    labels = np.repeat(np.arange(num_classes), per_class).astype(np.int32)
    noisy = prototypes[labels] + np.random.default_rng([seed, draw]).normal(0, noise, (len(labels), 12, 12, 1))
    names = tuple(f"class {i}" for i in range(num_classes))
    return Split(np.clip(noisy, 0, 255).astype(np.uint8), labels, names)


def benchmark() -> Benchmark:
    """Six source classes of 21 + 8 images and five target classes of 22: 126 training images."""
    return Benchmark(
        name="tiny",
        source_train=split(6, 21, seed=1),
        source_test=split(6, 8, seed=1, draw=1),
        validation=None,
        target=split(5, 22, seed=2),
        augmentation="shift",
    )
