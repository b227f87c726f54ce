"""The training state, and a training step as a pure function: augment, forward, backward and update."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Float, Int, Integer, UInt8

from ncjax import keys
from ncjax.classifier import normalize
from ncjax.data.augment import augment
from ncjax.models import Network
from ncjax.train import losses
from ncjax.train.losses import Objective


@struct.dataclass
class TrainState:
    """The state that a step changes.

    Attributes:
      step: the number of steps done, int32.
      variables: the network's ``{"params": …, "batch_stats": …}``.
      optimizer: the optimiser's state.
    """

    step: Int[Array, ""]
    variables: dict[str, Any]
    optimizer: optax.OptState


@struct.dataclass
class StepTotals:
    """Sums over some steps.

    Attributes:
      loss: the sum of the batches' mean losses.
      correct: the number of images whose class had the highest score.
      first_bad_step: the first step whose loss or new state was not finite; -1 if there was none.
    """

    loss: Float[Array, ""]
    correct: Int[Array, ""]
    first_bad_step: Int[Array, ""]

    def then(self, now: "StepTotals") -> "StepTotals":
        """Adds a later step."""
        bad = jnp.where(self.first_bad_step >= 0, self.first_bad_step, now.first_bad_step)
        return StepTotals(self.loss + now.loss, self.correct + now.correct, bad)


@struct.dataclass
class Batch:
    """Raw images and their labels, with the mean and deviation that normalise pixels."""

    images: UInt8[Array, "b h w c"]
    labels: Int[Array, " b"]
    mean: Float[Array, " c"]
    std: Float[Array, " c"]


def initial_state(
    network: Network,
    tx: optax.GradientTransformation,
    seed: int | Integer[Array, ""],
    image_shape: tuple[int, int, int],
) -> TrainState:
    """Draws the state before the first step from `seed`."""
    variables = network.init(keys.stream(seed, "init"), image_shape)
    return TrainState(jnp.int32(0), variables, tx.init(variables["params"]))


def epoch_order(seed: Integer[Array, ""], epoch: Int[Array, ""], n: int, batch_size: int) -> Int[Array, " m"]:
    """Returns the order in which an epoch visits n images, followed by the start of the next epoch.

    Batches run on over the end of an epoch, so that an epoch sees every image exactly once and every batch is full.

    Returns:
      int32 [n + batch_size].
    """
    this, following = (
        jax.random.permutation(keys.stream(seed, "order", epoch + i), n).astype(jnp.int32) for i in (0, 1)
    )
    return jnp.concatenate([this, following[:batch_size]])


def train_step(
    network: Network,
    tx: optax.GradientTransformation,
    objective: Objective,
    augmentation: str,
    seed: Integer[Array, ""],
    state: TrainState,
    batch: Batch,
) -> tuple[TrainState, StepTotals]:
    """Takes a step of the optimiser.

    Sums over the batch, also those of batch norm, are over the whole batch even if it is divided over devices: the
    result depends on the number of devices only by rounding.
    """
    key = {name: keys.stream(seed, name, state.step) for name in ("augment", "mixup", "dropout", "feature dropout")}
    labels = batch.labels
    images = normalize(augment(key["augment"], batch.images, augmentation), batch.mean, batch.std)
    targets = None
    if objective.label_smoothing or objective.mixup:
        targets = losses.smoothed_targets(labels, network.num_classes, objective.label_smoothing)
    if targets is not None and objective.mixup:
        images, targets = losses.mixup(key["mixup"], images, targets, objective.mixup)

    def loss_fn(params: Any) -> tuple[Array, tuple[Array, Any]]:
        output, batch_stats = network.apply(
            {"params": params, "batch_stats": state.variables["batch_stats"]},
            images,
            train=True,
            key=key["dropout"],
        )
        logits = output.logits
        if objective.dropout:
            weights, bias = network.head({"params": params})
            logits = losses.dropout(key["feature dropout"], output.features, objective.dropout) @ weights.T + bias
        if targets is None:
            loss = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))
        else:
            loss = losses.cross_entropy(logits, targets)
        if objective.cdnv_penalty:
            penalty = losses.cdnv_penalty(output.features, labels, network.num_classes)
            loss += objective.cdnv_penalty * penalty.astype(loss.dtype)
        return loss, (logits, batch_stats)

    (loss, (logits, batch_stats)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.variables["params"])
    updates, opt_state = tx.update(grads, state.optimizer, state.variables["params"])
    params = optax.apply_updates(state.variables["params"], updates)
    # a norm is finite only if every entry is; the new state is checked, so that no bad state is saved
    finite = jnp.isfinite(loss) & jnp.isfinite(optax.tree.norm((params, batch_stats)))
    totals = StepTotals(
        loss=loss.astype(jnp.float32),
        correct=jnp.sum(jnp.argmax(logits, -1).astype(labels.dtype) == labels, dtype=jnp.int32),
        first_bad_step=jnp.where(finite, -1, state.step),
    )
    return TrainState(state.step + 1, {"params": params, "batch_stats": batch_stats}, opt_state), totals
