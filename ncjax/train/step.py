"""The training state, and a training step as a pure function: augment, forward, backward and update."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Float, Int, Integer, UInt8

from ncjax import keys
from ncjax.classifier import Classifier, normalize
from ncjax.data.augment import augment, color_jitter, turn
from ncjax.models import Network
from ncjax.models.mixing import Mixing
from ncjax.train import losses
from ncjax.train.losses import Objective, Targets
from ncjax.train.recipe import Recipe


@struct.dataclass
class TrainState:
    """The state that a step changes.

    Attributes:
      step: the number of steps done, int32.
      variables: the network's ``{"params": …, "batch_stats": …}``.
      optimizer: the optimiser's state.
      average: the exponential moving average of `variables`, batch statistics too; None if there is none.
    """

    step: Int[Array, ""]
    variables: dict[str, Any]
    optimizer: optax.OptState
    average: dict[str, Any] | None = None

    @property
    def classifier_variables(self) -> dict[str, Any]:
        """The variables that are measured, and that `restore` returns: the average, if there is one."""
        return self.variables if self.average is None else self.average


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
    """Raw images and their labels, the mean and deviation that normalise pixels, and the teacher, if there is one."""

    images: UInt8[Array, "b h w c"]
    labels: Int[Array, " b"]
    mean: Float[Array, " c"]
    std: Float[Array, " c"]
    teacher: Classifier | None = None


def initial_state(
    network: Network,
    tx: optax.GradientTransformation,
    seed: int | Integer[Array, ""],
    image_shape: tuple[int, int, int],
    *,
    averaged: bool = False,
) -> TrainState:
    """Draws the state before the first step from `seed`; `averaged` starts an average of the weights."""
    variables = network.init(keys.stream(seed, "init"), image_shape)
    # a copy, since a step donates both
    average = jax.tree.map(jnp.copy, variables) if averaged else None
    return TrainState(jnp.int32(0), variables, tx.init(variables["params"]), average)


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
    recipe: Recipe,
    seed: Integer[Array, ""],
    state: TrainState,
    batch: Batch,
) -> tuple[TrainState, StepTotals]:
    """Takes a step of the optimiser.

    Sums over the batch, also those of batch norm, are over the whole batch even if it is divided over devices: the
    result depends on the number of devices only by rounding.
    """
    objective = recipe.objective
    key = {name: keys.stream(seed, name, state.step) for name in _STREAMS}
    labels = batch.labels
    images = augment(key["augment"], batch.images, recipe.augmentation)
    if recipe.color_jitter:
        images = color_jitter(key["color jitter"], images, recipe.color_jitter)
    turns = None
    if network.rotation_head:
        images, turns = turn(images)
    targets = _targets(objective, network.num_classes, batch.teacher, images, labels, turns)
    images = normalize(images, batch.mean, batch.std)
    mixing = None
    if objective.mixup:
        image_mixing = Mixing.draw(key["mixup"], len(labels), 1, objective.mixup)
        images, targets = image_mixing.mix(images), jax.tree.map(image_mixing.mix, targets)
    if objective.manifold_mixup:
        mixing = Mixing.draw(key["manifold mixup"], len(labels), network.mixing_points, objective.manifold_mixup)
        targets = jax.tree.map(mixing.mix, targets)

    def loss_fn(params: Any) -> tuple[Array, tuple[Array, Any]]:
        variables = {"params": params, "batch_stats": state.variables["batch_stats"]}
        output, batch_stats = network.apply(variables, images, train=True, key=key["dropout"], mixing=mixing)
        logits, turn_logits = output.logits, None
        if objective.dropout:
            kept = losses.dropout(key["feature dropout"], output.features, objective.dropout)
            logits = network.classify(variables, kept)
        if network.rotation_head:
            turn_logits = network.rotation_logits(variables, output.features)
        loss = losses.total(objective, labels, targets, logits, turn_logits)
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
    variables = {"params": params, "batch_stats": batch_stats}
    average = None if state.average is None else moving_average(state.average, variables, state.step, recipe.ema_decay)
    return TrainState(state.step + 1, variables, opt_state, average), totals


_STREAMS = ("augment", "color jitter", "mixup", "manifold mixup", "dropout", "feature dropout")


def _targets(
    objective: Objective,
    num_classes: int,
    teacher: Classifier | None,
    images: UInt8[Array, "b h w c"],
    labels: Int[Array, " b"],
    turns: Int[Array, " b"] | None,
) -> Targets:
    """Returns the targets of augmented images; the teacher sees the same images, in evaluation mode."""
    classes = probabilities = None
    if objective.label_smoothing or objective.mixup or objective.manifold_mixup:
        classes = losses.smoothed_targets(labels, num_classes, objective.label_smoothing)
    if teacher is not None:
        assert isinstance(teacher.network, Network)
        pixels = normalize(images, teacher.mean, teacher.std)
        output, _ = teacher.network.apply(teacher.variables, pixels, train=False)
        probabilities = jax.nn.softmax(output.logits / objective.distill_temperature)
    return Targets(classes, None if turns is None else jax.nn.one_hot(turns, 4), probabilities)


def moving_average(average: Any, variables: Any, step: Int[Array, ""], decay: float) -> Any:
    """Returns d a + (1 - d) v of the average a and the variables v after step number t, d = min(decay, (1+t)/(10+t)).

    The smaller d of the first steps makes the average forget the initial weights, as in TensorFlow's
    ExponentialMovingAverage with `num_updates`. Whole numbers, such as counters, are taken from v.
    """

    def moved(a: Array, v: Array) -> Array:
        if not jnp.issubdtype(a.dtype, jnp.floating):
            return v
        t = step.astype(a.dtype)
        keep = jnp.minimum(decay, (1 + t) / (10 + t))
        return keep * a + (1 - keep) * v

    return jax.tree.map(moved, average, variables)
