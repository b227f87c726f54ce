"""Training objectives: cross-entropy, and regularisers whose effect on collapse and transfer is studied.

Pure functions, for use inside jit and grad.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Float, Integer, Key

from ncjax import collapse
from ncjax.collapse.moments import segments


@dataclass(frozen=True)
class Objective:
    """What a run minimises; all zeros mean plain cross-entropy.

    Attributes:
      label_smoothing: the share of each target that is spread evenly over all classes.
      mixup: alpha of the Beta distribution of mixing weights; 0 mixes nothing.
      manifold_mixup: likewise, of mixing at a random depth of the network.
      dropout: the share of features that are hidden from the head.
      cdnv_penalty: the weight of the batch's own CDNV.
      distill_weight: the weight of the teacher, where there is one; labels have the rest.
      distill_temperature: divides the logits of teacher and student.
    """

    label_smoothing: float = 0.0
    mixup: float = 0.0
    manifold_mixup: float = 0.0
    dropout: float = 0.0
    cdnv_penalty: float = 0.0
    distill_weight: float = 0.5
    distill_temperature: float = 4.0


@struct.dataclass
class Targets:
    """What the outputs for a batch shall be. Rows are mixed where the images are.

    Attributes:
      classes: the share of each class; None for plain labels.
      turns: the share of each number of quarter turns; None without a rotation head.
      teacher: the teacher's class probabilities at the temperature; None without a teacher.
    """

    classes: Float[Array, "n k"] | None = None
    turns: Float[Array, "n 4"] | None = None
    teacher: Float[Array, "n k"] | None = None


def smoothed_targets(labels: Integer[Array, " n"], num_classes: int, smoothing: float) -> Float[Array, "n k"]:
    """Returns (1 − s) one-hot + s / k (Szegedy et al. 2016, https://arxiv.org/abs/1512.00567)."""
    return optax.smooth_labels(jax.nn.one_hot(labels, num_classes), smoothing)


def cross_entropy(logits: Float[Array, "n k"], targets: Float[Array, "n k"]) -> Float[Array, ""]:
    """Returns the mean over the batch of −Σ_c t_c log softmax(z)_c."""
    return jnp.mean(optax.softmax_cross_entropy(logits, targets.astype(logits.dtype)))


def distillation(logits: Float[Array, "n k"], teacher: Float[Array, "n k"], temperature: float) -> Float[Array, ""]:
    """Returns T² times the mean over the batch of KL(p ‖ softmax(z / T)), p the teacher's probabilities at T.

    Hinton, Vinyals & Dean 2015, https://arxiv.org/abs/1503.02531; T² keeps the size of gradients whatever T is.
    """
    log_q = jax.nn.log_softmax(logits / temperature)
    return temperature**2 * jnp.mean(optax.kl_divergence(log_q, teacher.astype(logits.dtype)))


def total(
    objective: Objective,
    labels: Integer[Array, " n"],
    targets: Targets,
    logits: Float[Array, "n k"],
    turn_logits: Float[Array, "n 4"] | None,
) -> Float[Array, ""]:
    """Returns the loss of the outputs, without the penalty on CDNV.

    The class loss is cross-entropy, or (1 - w) cross-entropy + w `distillation` with a teacher; with a rotation head,
    the total is half of it and half the cross-entropy of the turns (Rajasegaran et al. 2020,
    https://arxiv.org/abs/2006.09785; Bendou et al. 2022, https://arxiv.org/abs/2201.09699).
    """
    if targets.classes is None:
        loss = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))
    else:
        loss = cross_entropy(logits, targets.classes)
    if targets.teacher is not None:
        of_teacher = distillation(logits, targets.teacher, objective.distill_temperature)
        loss = (1 - objective.distill_weight) * loss + objective.distill_weight * of_teacher
    if targets.turns is not None:
        assert turn_logits is not None
        loss = 0.5 * loss + 0.5 * cross_entropy(turn_logits, targets.turns)
    return loss


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
