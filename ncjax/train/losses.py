"""What training minimises: cross-entropy, and the regularisers whose effect on collapse and transfer is studied.

Pure functions, for use inside jit and grad.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from ncjax import collapse
from ncjax.collapse.moments import segments


@dataclass(frozen=True)
class Objective:
    """The regularisers of a run; all zero is plain cross-entropy.

    Attributes:
      label_smoothing: the share of each target that is spread evenly over all classes.
      mixup: alpha of the Beta distribution of mixing weights; 0 mixes nothing.
      dropout: the share of features that the head does not see.
      cdnv_penalty: the weight of the batch's own CDNV.
    """

    label_smoothing: float = 0.0
    mixup: float = 0.0
    dropout: float = 0.0
    cdnv_penalty: float = 0.0


def smoothed_targets(labels: Int[Array, " n"], num_classes: int, smoothing: float) -> Float[Array, "n k"]:
    """(1 − s) one-hot + s / k (Szegedy et al. 2016, https://arxiv.org/abs/1512.00567)."""
    return optax.smooth_labels(jax.nn.one_hot(labels, num_classes), smoothing)


def cross_entropy(logits: Float[Array, "n k"], targets: Float[Array, "n k"]) -> Float[Array, ""]:
    """The mean over the batch of −Σ_c t_c log softmax(z)_c."""
    return jnp.mean(optax.softmax_cross_entropy(logits, targets.astype(logits.dtype)))


def mixup(
    key: Key[Array, ""], images: Float[Array, "n h w c"], targets: Float[Array, "n k"], alpha: float
) -> tuple[Float[Array, "n h w c"], Float[Array, "n k"]]:
    """λx + (1 − λ)x' of images and targets alike, x' the batch in random order and one λ ~ Beta(α, α) a batch.

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
    """Features set to 0 with probability `rate`, the others scaled by 1 / (1 − rate)."""
    keep = jax.random.bernoulli(key, jnp.float32(1 - rate), features.shape)
    return jnp.where(keep, features / (1 - rate), 0)


def cdnv_penalty(features: Float[Array, "n d"], labels: Int[Array, " n"], num_classes: int) -> Float[Array, ""]:
    """The CDNV of a batch, over the classes of which it has two images or more.

    A class with a single image has no variance to speak of, and would draw the mean towards 0. The penalty is 0, with
    gradient 0, where fewer than two classes are left or two class means coincide.

    Returns:
      float32, at least 0; its gradient is finite everywhere.
    """
    segment = segments(labels, num_classes)
    count = jnp.zeros(num_classes, jnp.int32).at[segment].add(1, mode="drop")
    value = collapse.cdnv(features, segment, num_classes, mask=count.at[segment].get(mode="fill", fill_value=0) >= 2)
    return jnp.where(jnp.isfinite(value), value, 0)
