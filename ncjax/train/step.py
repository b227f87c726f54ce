"""The training state and the compiled step: shuffle, crop, forward, backward and update on the device."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, UInt8

from ncjax import devices, keys
from ncjax.classifier import normalize
from ncjax.data.augment import augment
from ncjax.models import Network
from ncjax.train.config import Config


@struct.dataclass
class TrainState:
    """Everything that a step changes.

    Attributes:
      step: the number of steps done, int32.
      variables: the network's ``{"params": …, "batch_stats": …}``.
      optimizer: the optimiser's state.
    """

    step: Int[Array, ""]
    variables: dict[str, Any]
    optimizer: optax.OptState


@struct.dataclass
class Progress:
    """Sums over the steps since the host last looked.

    Attributes:
      loss: the sum of the batches' mean losses.
      correct: images whose class had the highest score.
      first_bad_step: the first step whose loss, or whose result, was not finite; -1 if there was none.
    """

    loss: Float[Array, ""]
    correct: Int[Array, ""]
    first_bad_step: Int[Array, ""]

    @staticmethod
    def zero() -> "Progress":
        """Nothing seen yet."""
        return Progress(jnp.float32(0), jnp.int32(0), jnp.int32(-1))


@struct.dataclass
class TrainData:
    """The source-train images, whole on every device, with their normalisation."""

    images: UInt8[Array, "n h w c"]
    labels: Int[Array, "n"]
    mean: Float[Array, "c"]
    std: Float[Array, "c"]


def schedule(config: Config, total_steps: int) -> optax.Schedule:
    """The learning rate of each step."""
    rate = config.learning_rate
    if config.schedule == "cosine":
        cosine = optax.cosine_decay_schedule(rate, total_steps)
        return lambda step: cosine(jnp.asarray(step, jnp.float32))
    if config.schedule == "step":
        return optax.piecewise_constant_schedule(rate, {int(0.6 * total_steps): 0.1, int(0.8 * total_steps): 0.1})
    return optax.constant_schedule(rate)


def optimizer(config: Config, total_steps: int) -> optax.GradientTransformation:
    """SGD with momentum; the L2 penalty enters the gradient before the momentum, as in the reference networks."""
    return optax.chain(
        optax.add_decayed_weights(config.weight_decay),
        optax.sgd(schedule(config, total_steps), momentum=config.momentum or None),
    )


def initial_state(
    network: Network, tx: optax.GradientTransformation, seed: int, image_shape: tuple[int, int, int]
) -> TrainState:
    """The state before the first step, drawn from `seed`."""
    variables = network.init(keys.stream(seed, "init"), image_shape)
    return TrainState(jnp.int32(0), variables, tx.init(variables["params"]))


def epoch_order(seed: Int[Array, ""], epoch: Int[Array, ""], n: int, batch_size: int) -> Int[Array, "m"]:
    """The order in which an epoch visits n images, and the head of the next epoch's.

    Batches run on over the end of an epoch: the remainder opens the next one's first batch, so that every image is seen
    exactly once an epoch and every batch is full.

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
    mesh: Mesh,
    augmentation: str,
    seed: Int[Array, ""],
    data: TrainData,
    state: TrainState,
    chosen: Int[Array, "b"],
) -> tuple[TrainState, Progress]:
    """One step of SGD on the images numbered `chosen`.

    The batch is divided over the devices of `mesh`; sums over it, those of batch norm included, are over all of it, so
    that the result does not depend on the number of devices but by rounding.
    """
    chosen = jax.lax.with_sharding_constraint(chosen, devices.sharded(mesh))
    images, labels = data.images[chosen], data.labels[chosen]
    images = augment(keys.stream(seed, "augment", state.step), images, augmentation)
    images = normalize(images, data.mean, data.std)

    def loss_fn(params: Any) -> tuple[Array, tuple[Array, Any]]:
        output, batch_stats = network.apply(
            {"params": params, "batch_stats": state.variables["batch_stats"]},
            images,
            train=True,
            key=keys.stream(seed, "dropout", state.step),
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(output.logits, labels)
        return jnp.mean(losses), (output.logits, batch_stats)

    (loss, (logits, batch_stats)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.variables["params"])
    updates, opt_state = tx.update(grads, state.optimizer, state.variables["params"])
    params = optax.apply_updates(state.variables["params"], updates)
    # a norm is finite only if every entry is; the new state's, so that no bad state is ever saved
    finite = jnp.isfinite(loss) & jnp.isfinite(optax.tree.norm((params, batch_stats)))
    progress = Progress(
        loss=loss.astype(jnp.float32),
        correct=jnp.sum(jnp.argmax(logits, -1).astype(labels.dtype) == labels, dtype=jnp.int32),
        first_bad_step=jnp.where(finite, -1, state.step),
    )
    return TrainState(state.step + 1, {"params": params, "batch_stats": batch_stats}, opt_state), progress


@dataclass(frozen=True)
class Trainer:
    """Compiled functions of one run, on one mesh."""

    mesh: Mesh
    order: Callable[[int], Array]
    run: Callable[[TrainState, Array, int, int], tuple[TrainState, Progress]]


def one_call_a_step(mesh: Mesh) -> bool:
    """Whether steps are called one by one, instead of many in one compiled loop.

    XLA compiles the gradients of convolutions well only outside loops on a CPU: in a loop they run twenty times slower
    (https://github.com/jax-ml/jax/issues/12868). A step takes long enough there for a call each.
    """
    return bool(mesh.devices.flat[0].platform == "cpu")


def make_trainer(
    network: Network,
    tx: optax.GradientTransformation,
    mesh: Mesh,
    data: TrainData,
    augmentation: str,
    batch: int,
    seed: int,
) -> Trainer:
    """Compiles what a run needs.

    Returns:
      `order(epoch)`, see `epoch_order`; and `run(state, order, offset, count) -> (state, progress)`, which takes
      `count` steps from position `offset` of `order`, donates `state`, and does not wait.
    """
    n = len(data.labels)
    everywhere = devices.replicated(mesh)
    data = jax.device_put(data, everywhere)
    seed_array = jax.device_put(jnp.uint32(seed), everywhere)

    def step(data: TrainData, seed: Array, order: Array, offset: Array, carry: tuple[TrainState, Progress]) -> Any:
        state, sums = carry
        chosen = jax.lax.dynamic_slice(order, (offset,), (batch,))
        state, now = train_step(network, tx, mesh, augmentation, seed, data, state, chosen)
        bad = jnp.where(sums.first_bad_step >= 0, sums.first_bad_step, now.first_bad_step)
        return state, Progress(sums.loss + now.loss, sums.correct + now.correct, bad)

    def steps(data: TrainData, seed: Array, order: Array, offset: Array, count: Array, carry: Any) -> Any:
        return jax.lax.fori_loop(0, count, lambda i, c: step(data, seed, order, offset + i * batch, c), carry)

    compile_ = partial(jax.jit, out_shardings=everywhere)
    make_order = compile_(partial(epoch_order, n=n, batch_size=batch))
    one = compile_(step, donate_argnums=4)
    many = compile_(steps, donate_argnums=5)
    one_by_one = one_call_a_step(mesh)

    def run(state: TrainState, order: Array, offset: int, count: int) -> tuple[TrainState, Progress]:
        carry = (state, jax.device_put(Progress.zero(), everywhere))
        if not one_by_one:
            return many(data, seed_array, order, jnp.int32(offset), jnp.int32(count), carry)
        for i in range(count):
            carry = one(data, seed_array, order, jnp.int32(offset + i * batch), carry)
        return carry

    return Trainer(mesh, lambda epoch: make_order(seed_array, jnp.int32(epoch)), run)
