"""Training objectives: cross-entropy, and regularisers whose effect on collapse and transfer is studied.

Pure functions, for use inside jit and grad.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Integer, Key

from ncjax import collapse
from ncjax.collapse.moments import segments
from ncjax.train.config import Config


@dataclass(frozen=True)
class Objective:
    """The regularisers of a run; all zeros mean plain cross-entropy.

    Attributes:
      label_smoothing: the share of each target that is spread evenly over all classes.
      mixup: alpha of the Beta distribution of mixing weights; 0 mixes nothing.
      dropout: the share of features that are hidden from the head.
      cdnv_penalty: the weight of the batch's own CDNV.
    """

    label_smoothing: float = 0.0
    mixup: float = 0.0
    dropout: float = 0.0
    cdnv_penalty: float = 0.0

    @classmethod
    def of(cls, config: Config) -> "Objective":
        """Returns the objective of a run."""
        return cls(config.label_smoothing, config.mixup, config.dropout, config.cdnv_penalty)


def smoothed_targets(labels: Integer[Array, " n"], num_classes: int, smoothing: float) -> Float[Array, "n k"]:
    """Returns (1 − s) one-hot + s / k (Szegedy et al. 2016, https://arxiv.org/abs/1512.00567)."""
    return optax.smooth_labels(jax.nn.one_hot(labels, num_classes), smoothing)


def cross_entropy(logits: Float[Array, "n k"], targets: Float[Array, "n k"]) -> Float[Array, ""]:
    """Returns the mean over the batch of −Σ_c t_c log softmax(z)_c."""
    return jnp.mean(optax.softmax_cross_entropy(logits, targets.astype(logits.dtype)))


def mixup(
    key: Key[Array, ""], images: Float[Array, "n h w c"], targets: Float[Array, "n k"], alpha: float
) -> tuple[Float[Array, "n h w c"], Float[Array, "n k"]]:
    """Returns λx + (1 − λ)x' of images and targets; x' is the batch in random order, λ ~ Beta(α, α) one number a batch.

    Zhang et al. 2018, https://arxiv.org/abs/1710.09412.
    """
    weight_key, order_key = jax.random.split(key)
    weight = jax.random.beta(weight_key, alpha, alpha, dtype=jnp.float32)
    order = jax.random.permutation(order_key, len(images))

    def mix(x: Array) -> Array:
        w = weight.astype(x.dtype)
        return w * x + (1 - w) * x[order]

    return mix(images), mix(targets)


def dropout(key: Key[Array, ""], features: Float[Array, "n d"], rate: float) -> Float[Array, "n d"]:
    """Sets features to 0 with probability `rate`, and scales the others by 1 / (1 − rate)."""
    keep = jax.random.bernoulli(key, jnp.float32(1 - rate), features.shape)
    return jnp.where(keep, features / (1 - rate), 0)


def cdnv_penalty(features: Float[Array, "n d"], labels: Integer[Array, " n"], num_classes: int) -> Float[Array, ""]:
    """Computes the CDNV of a batch, over the classes with two images or more.

    A class with a single image has variance 0 and would bias the mean towards 0. The penalty is 0, with gradient 0, if
    fewer than two classes remain or two class means coincide.

    Returns:
      float32, at least 0; its gradient is finite everywhere.
    """
    segment = segments(labels, num_classes)
    count = jnp.zeros(num_classes, jnp.int32).at[segment].add(1, mode="drop")
    value = collapse.cdnv(features, segment, num_classes, mask=count.at[segment].get(mode="fill", fill_value=0) >= 2)
    return jnp.where(jnp.isfinite(value), value, 0)
