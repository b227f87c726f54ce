"""The compiled programs of training: every batch is divided over the devices of the mesh."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array

from ncjax import devices
from ncjax.classifier import Classifier
from ncjax.models import Network
from ncjax.train.compile import compile_program
from ncjax.train.recipe import Recipe
from ncjax.train.step import Batch, StepTotals, TrainState, epoch_order, initial_state, train_step

States = tuple[TrainState, ...]
"""The state of each seed; or, where seeds are vmapped, one state whose arrays have a leading axis of seeds."""

Carry = tuple[TrainState, StepTotals]

BatchesFrom = Callable[[int], Iterator[tuple[np.ndarray, np.ndarray]]]
"""Yields this process's images and labels of every batch from a step on."""


@dataclass(frozen=True)
class Setup:
    """The inputs of a training step that do not change, and the devices.

    Attributes:
      network: whose parameters are trained.
      tx: the optimiser.
      recipe: what a step does with images and outputs.
      batch_size: images a step and seed.
      num_images: images an epoch.
      image_shape: (h, w, c).
      mesh: the ("data",) mesh.
    """

    network: Network
    tx: optax.GradientTransformation
    recipe: Recipe
    batch_size: int
    num_images: int
    image_shape: tuple[int, int, int]
    mesh: Mesh


@dataclass(frozen=True)
class Trainer:
    """The compiled functions of a run.

    Attributes:
      initial: the states before the first step.
      run: `run(states, step, count) -> (states, totals)` takes steps number `step` to `step + count - 1`, all in one
        epoch, and waits for them. It donates the states; the arrays of the totals are NumPy [seeds].
      one_seed: `one_seed(states, i)` returns the state of the i-th seed, whole on every device.
      join: makes states for `run` from the state of each seed.
      compile_seconds: the time of compilation, or of reading the program from JAX's cache.
    """

    initial: States
    run: Callable[[States, int, int], tuple[States, StepTotals]]
    one_seed: Callable[[States, int], TrainState]
    join: Callable[[Sequence[TrainState]], States]
    compile_seconds: float


def one_call_a_step(mesh: Mesh) -> bool:
    """Whether each step is a call, instead of many steps in one compiled loop.

    On CPUs, XLA compiles gradients of convolutions badly inside loops: they run twenty times slower there
    (https://github.com/jax-ml/jax/issues/12868). A step on a CPU is long enough for a call.
    """
    return bool(mesh.devices.flat[0].platform == "cpu")


def resident_trainer(setup: Setup, data: Batch, seeds: Sequence[int]) -> Trainer:
    """Makes a trainer whose images lie whole on every device, and are shuffled and gathered there.

    On accelerators, several seeds are vmapped in one program. On CPUs, where convolutions with different weights for
    every seed run several times slower, the seeds take turns. Seeds divided over two CPU devices, instead of batches,
    were 1.0 to 1.2 times as fast (wrn-10-1 at 28 x 28, batch 64, 2 to 4 seeds).
    """
    batch, n = setup.batch_size, setup.num_images
    everywhere = devices.replicated(setup.mesh)
    data = jax.device_put(data, everywhere)
    one_by_one = one_call_a_step(setup.mesh)
    are_vmapped = len(seeds) > 1 and not one_by_one

    def over_seeds(function: Callable[..., Any], in_axes: Any) -> Callable[..., Any]:
        return jax.vmap(function, in_axes) if are_vmapped else function

    def one_step(data: Batch, seed: Array, order: Array, offset: Array, carry: Carry) -> Carry:
        rows = jax.lax.dynamic_slice(order, (offset,), (batch,))
        rows = jax.lax.with_sharding_constraint(rows, devices.sharded(setup.mesh))
        return take_step(setup, seed, replace(data, images=data.images[rows], labels=data.labels[rows]), carry)

    step = over_seeds(one_step, (None, 0, 0, None, 0))

    def many_steps(data: Batch, seed: Array, order: Array, offset: Array, carry: Carry, count: Array) -> Carry:
        return jax.lax.fori_loop(0, count, lambda i, c: step(data, seed, order, offset + i * batch, c), carry)

    def order_of(seed: Array, epoch: Array) -> Array:
        return epoch_order(seed, epoch, n, batch)

    all_seeds = np.asarray(seeds, np.uint32)
    groups: list[Array] = jax.device_put([all_seeds] if are_vmapped else list(all_seeds), everywhere)
    initial_of = jax.jit(over_seeds(partial(initial, setup), 0), out_shardings=everywhere)
    first = tuple(initial_of(group) for group in groups)
    orders = jax.jit(over_seeds(order_of, (0, None)), out_shardings=everywhere)
    zero = partial(_zero_totals, groups[0].shape, everywhere)
    example = (data, groups[0], orders(groups[0], np.int32(0)), np.int32(0), (first[0], zero()))
    program, seconds = compile_program(
        step if one_by_one else many_steps,
        example if one_by_one else (*example, np.int32(1)),
        (everywhere, everywhere),
        carry=4,
    )

    def run(states: States, start: int, count: int) -> tuple[States, StepTotals]:
        epoch, offset = divmod(start * batch, n)
        carries = []
        for seed, state in zip(groups, states, strict=True):
            order, carry = orders(seed, np.int32(epoch)), (state, zero())
            if one_by_one:
                for i in range(count):
                    carry = program(data, seed, order, np.int32(offset + i * batch), carry)
                    devices.limit_in_flight(i, carry)
                jax.block_until_ready(carry)  # otherwise the calls of the next seed wait beside this one's
            else:
                carry = program(data, seed, order, np.int32(offset), carry, np.int32(count))
            carries.append(carry)
        return tuple(state for state, _ in carries), _on_host([totals for _, totals in carries])

    if not are_vmapped:
        return Trainer(first, run, lambda states, i: states[i], tuple, seconds)
    stack = jax.jit(lambda *states: jax.tree.map(lambda *a: jnp.stack(a), *states), out_shardings=everywhere)
    take = jax.jit(lambda states, i: jax.tree.map(lambda a: a[i], states), out_shardings=everywhere)
    return Trainer(
        first, run, lambda states, i: take(states[0], np.int32(i)), lambda states: (stack(*states),), seconds
    )


def local_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
    """Returns the rows of a batch that lie on this process's devices, ascending, whatever the order of the mesh."""
    indices = devices.sharded(mesh).addressable_devices_indices_map((batch_size,))
    rows = [np.arange(batch_size)[index] for index in indices.values() if index is not None]
    return np.unique(np.concatenate(rows))


def streamed_trainer(
    setup: Setup,
    normalization: tuple[Array, Array],
    batches_from: BatchesFrom,
    seed: int,
    teacher: Classifier | None = None,
) -> Trainer:
    """Makes a trainer of one seed that reads the `local_rows` of every batch.

    `normalization` is the mean and standard deviation of the pixels.
    """
    everywhere, divided = devices.replicated(setup.mesh), devices.sharded(setup.mesh)
    group = jax.device_put(np.asarray(seed, np.uint32), everywhere)
    mean, std, teacher = jax.device_put((*normalization, teacher), everywhere)
    rows = local_rows(setup.mesh, setup.batch_size)

    def to_devices(*local: np.ndarray) -> Batch:
        images, labels = (
            jax.make_array_from_callback(
                (setup.batch_size, *array.shape[1:]),
                divided,
                lambda index, array=array: array[np.searchsorted(rows, np.arange(setup.batch_size)[index[0]])],  # type: ignore[misc]
            )
            for array in local
        )
        return Batch(images, labels, mean, std, teacher)

    def step(seed: Array, batch: Batch, carry: Carry) -> Carry:
        return take_step(setup, seed, batch, carry)

    first = (jax.jit(partial(initial, setup), out_shardings=everywhere)(group),)
    zero = partial(_zero_totals, (), everywhere)
    example = to_devices(np.zeros((len(rows), *setup.image_shape), np.uint8), np.zeros(len(rows), np.int32))
    program, seconds = compile_program(step, (group, example, (first[0], zero())), (everywhere, everywhere), carry=2)
    position: int | None = None
    batches: Iterator[tuple[np.ndarray, np.ndarray]] = iter(())

    def run(states: States, step: int, count: int) -> tuple[States, StepTotals]:
        nonlocal position, batches
        if position != step:
            batches = batches_from(step)
        carry = (states[0], zero())
        for i in range(count):
            carry = program(group, to_devices(*next(batches)), carry)
            devices.limit_in_flight(i, carry)
        position = step + count
        return (carry[0],), _on_host([carry[1]])

    return Trainer(first, run, lambda states, i: states[0], tuple, seconds)


def take_step(setup: Setup, seed: Array, batch: Batch, carry: Carry) -> Carry:
    """Takes a step and adds to the totals; for use inside jit."""
    state, totals = carry
    state, now = train_step(setup.network, setup.tx, setup.recipe, seed, state, batch)
    return state, totals.then(now)


def initial(setup: Setup, seed: int | Array) -> TrainState:
    """Draws the state before the first step from `seed`; for use inside jit."""
    averaged = setup.recipe.ema_decay > 0
    return initial_state(setup.network, setup.tx, seed, setup.image_shape, averaged=averaged)


def _zero_totals(shape: tuple[int, ...], placement: NamedSharding) -> StepTotals:
    zeros: Any = (np.zeros(shape, np.float32), np.zeros(shape, np.int32), np.full(shape, -1, np.int32))
    return StepTotals(*jax.device_put(zeros, placement))


def _on_host(parts: Sequence[StepTotals]) -> StepTotals:
    return jax.tree.map(lambda *arrays: np.concatenate([np.atleast_1d(a) for a in arrays]), *parts)
