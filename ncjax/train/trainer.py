"""The compiled programs of training: one seed with its batch over all devices, or many seeds divided over them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from ncjax import devices
from ncjax.models import Network
from ncjax.train.compile import compile_program
from ncjax.train.losses import Objective
from ncjax.train.step import Batch, Progress, TrainState, epoch_order, initial_state, train_step

States = tuple[TrainState, ...]
"""What a trainer carries: one state, or groups of seeds, each a state whose arrays have a leading axis of seeds."""

Carry = tuple[TrainState, Progress]

BatchesFrom = Callable[[int], Iterator[tuple[np.ndarray, np.ndarray]]]
"""From a step on, this process's share of the images and labels of every batch."""


@dataclass(frozen=True)
class Setup:
    """What is to be trained, and on which devices.

    Attributes:
      network: whose parameters are trained.
      tx: the optimiser.
      objective: what is minimised.
      augmentation: the kind of augmentation.
      batch_size: images a step and seed.
      num_images: images an epoch.
      image_shape: (h, w, c).
      mesh: the ("data",) mesh.
    """

    network: Network
    tx: optax.GradientTransformation
    objective: Objective
    augmentation: str
    batch_size: int
    num_images: int
    image_shape: tuple[int, int, int]
    mesh: Mesh


@dataclass(frozen=True)
class Trainer:
    """The compiled functions of a run.

    Attributes:
      initial: the states before the first step.
      run: `run(states, step, count) -> (states, progress)` takes `count` steps, the first of them number `step`, within
        one epoch, and waits for them. It donates the states; the arrays of progress are NumPy [seeds].
      one_seed: `one_seed(states, i)`, the state of the i-th seed, whole on every device.
      join: the states of the seeds as `run` takes them.
      compile_seconds: the time that compilation took, with reading from the cache of compiled programs.
    """

    initial: States
    run: Callable[[States, int, int], tuple[States, Progress]]
    one_seed: Callable[[States, int], TrainState]
    join: Callable[[Sequence[TrainState]], States]
    compile_seconds: float


def one_call_a_step(mesh: Mesh) -> bool:
    """Whether steps are called one by one, instead of many in one compiled loop.

    XLA compiles the gradients of convolutions well only outside loops on a CPU: in a loop they run twenty times slower
    (https://github.com/jax-ml/jax/issues/12868). A step takes long enough there for a call each.
    """
    return bool(mesh.devices.flat[0].platform == "cpu")


def resident_trainer(setup: Setup, data: Batch, seeds: Sequence[int]) -> Trainer:
    """A trainer whose images lie whole on every device, and are shuffled and gathered there.

    With one seed the batch is divided over the devices. With several, the seeds are: each device trains whole seeds and
    has nothing to exchange. On a CPU a device trains one seed at a time, and groups of seeds take turns, since
    convolutions with other weights for every seed run several times slower there; seeds that would leave half of the
    devices idle, or more, take turns with their batches divided. On accelerators the seeds of a device are vmapped.
    """
    data = jax.device_put(data, devices.replicated(setup.mesh))
    size = setup.mesh.size
    left = len(seeds) % size
    if len(seeds) == 1:
        left = 1
    elif not one_call_a_step(setup.mesh) or 2 * left > size or setup.batch_size % size:
        left = 0
    if not left:
        return _seeds_divided(setup, data, seeds)
    if left == len(seeds):
        return _batch_divided(setup, data, seeds)
    grouped = len(seeds) - left
    parts = _seeds_divided(setup, data, seeds[:grouped]), _batch_divided(setup, data, seeds[grouped:])
    return _one_after_another(*parts, grouped)


def _one_after_another(first: Trainer, second: Trainer, seeds: int) -> Trainer:
    """Both as one trainer; `seeds` of them are the first one's."""
    groups = len(first.initial)

    def run(states: States, step: int, count: int) -> tuple[States, Progress]:
        (a, seen_a), (b, seen_b) = first.run(states[:groups], step, count), second.run(states[groups:], step, count)
        return a + b, jax.tree.map(lambda *arrays: np.concatenate(arrays), seen_a, seen_b)

    def one_seed(states: States, i: int) -> TrainState:
        return first.one_seed(states[:groups], i) if i < seeds else second.one_seed(states[groups:], i - seeds)

    return Trainer(
        first.initial + second.initial,
        run,
        one_seed,
        lambda each: first.join(each[:seeds]) + second.join(each[seeds:]),
        first.compile_seconds + second.compile_seconds,
    )


def _batch_divided(setup: Setup, data: Batch, seeds: Sequence[int]) -> Trainer:
    mesh = setup.mesh

    def step(data: Batch, seed: Array, order: Array, offset: Array, carry: Carry) -> Carry:
        chosen = jax.lax.dynamic_slice(order, (offset,), (setup.batch_size,))
        chosen = jax.lax.with_sharding_constraint(chosen, devices.sharded(mesh))
        return take_step(setup, seed, _gathered(data, chosen), carry)

    everywhere = devices.replicated(mesh)
    groups = [jax.device_put(np.asarray(seed, np.uint32), everywhere) for seed in seeds]
    initial = _initial(setup, groups)
    run, seconds = _resident(setup, data, step, _order(setup), groups, initial)
    return Trainer(initial, partial(run, len(seeds)), lambda states, i: states[i], tuple, seconds)


def _seeds_divided(setup: Setup, data: Batch, seeds: Sequence[int]) -> Trainer:
    mesh = setup.mesh
    everywhere, divided = devices.replicated(mesh), devices.sharded(mesh)

    def step(data: Batch, seed: Array, order: Array, offset: Array, carry: Carry) -> Carry:
        chosen = jax.lax.dynamic_slice(order, (offset,), (setup.batch_size,))
        return take_step(setup, seed, _gathered(data, chosen), carry)

    groups = [jax.device_put(group, divided) for group in _grouped(seeds, mesh)]
    initial = _initial(setup, groups)
    order_of = jax.vmap(_order(setup), in_axes=(0, None))
    run, seconds = _resident(setup, data, _divided(step, mesh), order_of, groups, initial)
    width = len(groups[0])
    return Trainer(
        initial,
        partial(run, len(seeds)),
        partial(_one_of, width, everywhere),
        partial(_join, width, len(groups), divided),
        seconds,
    )


def _gathered(data: Batch, chosen: Array) -> Batch:
    return Batch(data.images[chosen], data.labels[chosen], data.mean, data.std)


def _order(setup: Setup) -> Callable[[Array, Array], Array]:
    def order_of(seed: Array, epoch: Array) -> Array:
        return epoch_order(seed, epoch, setup.num_images, setup.batch_size)

    return order_of


def _resident(
    setup: Setup,
    data: Batch,
    step: Callable[..., Carry],
    order_of: Callable[[Array, Array], Array],
    groups: Sequence[Array],
    initial: States,
) -> tuple[Callable[[int, States, int, int], tuple[States, Progress]], float]:
    """`run(seeds, states, step, count)` with the progress of so many seeds; seconds of compilation."""
    batch, n = setup.batch_size, setup.num_images
    placement, everywhere = groups[0].sharding, devices.replicated(setup.mesh)

    def many_steps(data: Batch, seed: Array, order: Array, offset: Array, carry: Carry, count: Array) -> Carry:
        return jax.lax.fori_loop(0, count, lambda i, c: step(data, seed, order, offset + i * batch, c), carry)

    orders = jax.jit(order_of, out_shardings=placement)
    zero = partial(_no_progress, groups[0].shape, everywhere)
    first = (data, groups[0], orders(groups[0], np.int32(0)), np.int32(0), (initial[0], zero()))
    one_by_one = one_call_a_step(setup.mesh)
    program, seconds = compile_program(
        step if one_by_one else many_steps,
        first if one_by_one else (*first, np.int32(1)),
        (placement, everywhere),
        carry=4,
    )

    def run(seeds: int, states: States, step: int, count: int) -> tuple[States, Progress]:
        epoch, offset = divmod(step * batch, n)
        carries = []
        for seed, state in zip(groups, states, strict=True):
            order, carry = orders(seed, np.int32(epoch)), (state, zero())
            if one_by_one:
                for i in range(count):
                    carry = program(data, seed, order, np.int32(offset + i * batch), carry)
                    devices.limit_in_flight(i, carry)
                jax.block_until_ready(carry)  # or the calls of the next group would wait beside this one's
            else:
                carry = program(data, seed, order, np.int32(offset), carry, np.int32(count))
            carries.append(carry)
        return tuple(state for state, _ in carries), _read([progress for _, progress in carries], seeds)

    return run, seconds


def local_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
    """The rows of a batch that lie on devices of this process, in ascending order, whatever the order of the mesh."""
    indices = devices.sharded(mesh).addressable_devices_indices_map((batch_size,))
    rows = [np.arange(batch_size)[index] for index in indices.values() if index is not None]
    return np.unique(np.concatenate(rows))


def streamed_trainer(setup: Setup, normalisation: tuple[Array, Array], batches_from: BatchesFrom, seed: int) -> Trainer:
    """A trainer that is handed the `local_rows` of every batch; `normalisation` is mean and std of the pixels."""
    everywhere, divided = devices.replicated(setup.mesh), devices.sharded(setup.mesh)
    group = jax.device_put(np.asarray(seed, np.uint32), everywhere)
    mean, std = jax.device_put(normalisation, everywhere)
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
        return Batch(images, labels, mean, std)

    def step(seed: Array, batch: Batch, carry: Carry) -> Carry:
        return take_step(setup, seed, batch, carry)

    initial = _initial(setup, [group])
    zero = partial(_no_progress, (), everywhere)
    example = to_devices(np.zeros((len(rows), *setup.image_shape), np.uint8), np.zeros(len(rows), np.int32))
    program, seconds = compile_program(step, (group, example, (initial[0], zero())), (everywhere, everywhere), carry=2)
    position: int | None = None
    batches: Iterator[tuple[np.ndarray, np.ndarray]] = iter(())

    def run(states: States, step: int, count: int) -> tuple[States, Progress]:
        nonlocal position, batches
        if position != step:
            batches = batches_from(step)
        carry = (states[0], zero())
        for i in range(count):
            carry = program(group, to_devices(*next(batches)), carry)
            devices.limit_in_flight(i, carry)
        position = step + count
        return (carry[0],), _read([carry[1]], 1)

    return Trainer(initial, run, lambda states, i: states[0], tuple, seconds)


def take_step(setup: Setup, seed: Array, batch: Batch, carry: Carry) -> Carry:
    """Takes one step, and adds to the progress; traced."""
    state, sums = carry
    state, now = train_step(setup.network, setup.tx, setup.objective, setup.augmentation, seed, state, batch)
    return state, sums.then(now)


def _divided(one_seed: Callable[..., Carry], mesh: Mesh) -> Callable[..., Carry]:
    """`one_seed` of many seeds, divided over the devices; data and offset are the same for all."""
    same, divided = PartitionSpec(), PartitionSpec("data")

    def on_one_device(data: Batch, seed: Array, order: Array, offset: Array, carry: Carry) -> Carry:
        if len(seed) > 1:
            return jax.vmap(one_seed, in_axes=(None, 0, 0, None, 0))(data, seed, order, offset, carry)
        seed, order, carry = jax.tree.map(lambda x: x[0], (seed, order, carry))
        return jax.tree.map(lambda x: x[None], one_seed(data, seed, order, offset, carry))

    return jax.shard_map(
        on_one_device,
        mesh=mesh,
        in_specs=(same, divided, divided, same, divided),
        out_specs=divided,
        check_vma=False,
    )


def _grouped(seeds: Sequence[int], mesh: Mesh) -> list[np.ndarray]:
    """The seeds in groups of one width, filled up with repeats."""
    width = mesh.size if one_call_a_step(mesh) else -(-len(seeds) // mesh.size) * mesh.size
    return list(np.resize(np.asarray(seeds, np.uint32), (-(-len(seeds) // width), width)))


def _initial(setup: Setup, groups: Sequence[Array]) -> States:
    """The states at the start, of single seeds or of groups of them."""

    def initial(seed: Array) -> TrainState:
        return initial_state(setup.network, setup.tx, seed, setup.image_shape)

    make = jax.jit(jax.vmap(initial) if groups[0].ndim else initial, out_shardings=groups[0].sharding)
    return tuple(make(group) for group in groups)


def _no_progress(shape: tuple[int, ...], everywhere: NamedSharding) -> Progress:
    nothing: Any = (np.zeros(shape, np.float32), np.zeros(shape, np.int32), np.full(shape, -1, np.int32))
    return Progress(*jax.device_put(nothing, everywhere))


def _read(parts: list[Progress], seeds: int) -> Progress:
    """Progress of the seeds that were asked for, on the host."""
    return jax.tree.map(lambda *arrays: np.concatenate([np.atleast_1d(a) for a in arrays])[:seeds], *parts)


def _one_of(width: int, everywhere: NamedSharding, states: States, i: int) -> TrainState:
    return _take(states[i // width], np.int32(i % width), everywhere)


@partial(jax.jit, static_argnames="placement")
def _take(group: TrainState, i: Array, placement: NamedSharding) -> TrainState:
    return jax.tree.map(lambda a: jax.lax.with_sharding_constraint(a[i], placement), group)


def _join(width: int, groups: int, placement: NamedSharding, seeds: Sequence[TrainState]) -> States:
    chosen = np.resize(np.arange(len(seeds)), (groups, width))
    stack = jax.jit(lambda *parts: jax.tree.map(lambda *arrays: jnp.stack(arrays), *parts), out_shardings=placement)
    return tuple(stack(*(seeds[i] for i in group)) for group in chosen)
