"""The compiled step: order of images, agreement over devices, the loop in one call, the schedule, the penalty."""

import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import make_mesh
from jax.sharding import Mesh
from tiny import benchmark
from tiny import network as tiny_network

from ncjax.models import Network
from ncjax.train import Config, streaming
from ncjax.train.losses import Objective
from ncjax.train.step import Batch, TrainState, epoch_order, initial_state, optimizer, schedule, train_step
from ncjax.train.trainer import _OPTIONS, Setup, local_rows, resident_trainer, step_flops, streamed_trainer

CONFIG = Config(learning_rate=0.05, schedule="constant", batch_size=16)


def training_data(dtype: jnp.dtype = jnp.float32) -> Batch:
    train = benchmark().source_train
    return Batch(
        jnp.asarray(train.images), jnp.asarray(train.labels), jnp.asarray([0.4], dtype), jnp.asarray([0.3], dtype)
    )


class _Float64(Network):
    """A network whose parameters are float64, from the float32 numbers that it is initialised with."""

    def init(self, key: jax.Array, image_shape: tuple[int, int, int]) -> dict:
        return jax.tree.map(lambda a: a.astype(jnp.float64), super().init(key, image_shape))


def network_of(dtype: jnp.dtype) -> Network:
    network = tiny_network(dtype=dtype)
    return network if dtype == jnp.float32 else _Float64(network.name, network.num_classes, network.module)


def setup(mesh: Mesh, dtype: jnp.dtype = jnp.float32, tx: optax.GradientTransformation | None = None) -> Setup:
    return Setup(
        network=network_of(dtype),
        tx=tx or optimizer(CONFIG, 100),
        objective=Objective(),
        augmentation="shift",
        batch_size=16,
        num_images=126,
        image_shape=(12, 12, 1),
        mesh=mesh,
    )


def run_steps(
    mesh: Mesh, count: int, dtype: jnp.dtype = jnp.float32, seeds: tuple[int, ...] = (0,)
) -> list[TrainState]:
    """The state of every seed after `count` steps."""
    with jax.set_mesh(mesh):
        trainer = resident_trainer(setup(mesh, dtype), training_data(dtype), seeds)
        states, step = trainer.initial, 0
        while step < count:
            taken = min(count - step, -(-(126 - step * 16 % 126) // 16))
            states, _ = trainer.run(states, step, taken)
            step += taken
        return [jax.device_get(trainer.one_seed(states, i)) for i in range(len(seeds))]


@cache
def alone(count: int, dtype: jnp.dtype = jnp.float32, seed: int = 0) -> TrainState:
    """One seed on one device, in float64 inside `jax.enable_x64` only."""
    return run_steps(make_mesh(1), count, dtype, (seed,))[0]


def test_every_image_once_an_epoch_across_epochs() -> None:
    n, batch = 126, 16
    make = jax.jit(epoch_order, static_argnums=(2, 3))
    stream = []
    for step in range(126):  # 16 epochs, to the image
        epoch, offset = divmod(step * batch, n)
        stream.append(np.asarray(make(jnp.uint32(3), jnp.int32(epoch), n, batch))[offset : offset + batch])
    epochs = np.concatenate(stream).reshape(-1, n)
    assert len(epochs) == batch
    for order in epochs:
        np.testing.assert_array_equal(np.sort(order), np.arange(n))
    assert len({tuple(order) for order in epochs}) == len(epochs)
    other_seed = np.asarray(make(jnp.uint32(4), jnp.int32(0), n, batch))
    assert not np.array_equal(other_seed[:n], epochs[0])


def test_a_step_is_sgd_with_momentum_and_penalty_in_float64() -> None:
    """Two steps against the update rule written out, with gradients of the plain loss."""
    with jax.enable_x64(True):
        network = network_of(jnp.float64)
        tx = optimizer(CONFIG, 100)
        state = initial_state(network, tx, 0, (12, 12, 1))
        data = training_data(jnp.float64)
        params, batch_stats = state.variables["params"], state.variables["batch_stats"]
        velocity = jax.tree.map(jnp.zeros_like, params)
        take_step = jax.jit(partial(train_step, network, tx, Objective(), "none"))
        for step in range(2):
            chosen = jnp.arange(16, dtype=jnp.int32) + 16 * step
            images = (data.images[chosen].astype(jnp.float64) / 255 - data.mean) / data.std

            def loss(params: dict, batch_stats: dict = batch_stats, images: jax.Array = images, rows=chosen) -> tuple:
                out, moved = network.apply({"params": params, "batch_stats": batch_stats}, images, train=True)
                scores = jax.nn.log_softmax(out.logits)
                return -jnp.mean(scores[jnp.arange(16), data.labels[rows]]), moved

            grads, batch_stats = jax.jit(jax.grad(loss, has_aux=True))(params)
            velocity = jax.tree.map(lambda v, g, p: 0.9 * v + g + 5e-4 * p, velocity, grads, params)
            params = jax.tree.map(lambda p, v: p - 0.05 * v, params, velocity)
            batch = Batch(data.images[chosen], data.labels[chosen], data.mean, data.std)
            state, _ = take_step(jnp.uint32(0), state, batch)
        assert int(state.step) == 2
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12),
            state.variables,
            {"params": params, "batch_stats": batch_stats},
        )


@pytest.mark.parametrize("count", [2, 8])
def test_devices_agree_to_rounding_after_20_steps_in_float64(count: int, on_devices: Callable[[int], Mesh]) -> None:
    with jax.enable_x64(True):
        one, (many,) = alone(20, jnp.float64), run_steps(on_devices(count), 20, jnp.float64)
    assert int(many.step) == 20
    assert_close_in_float64(one, many)


def assert_close_in_float64(one: TrainState, other: TrainState) -> None:
    assert {leaf.dtype for leaf in jax.tree.leaves(one.variables)} == {np.dtype(np.float64)}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10), one.variables, other.variables)


def assert_first_step_close(one: TrainState, other: TrainState) -> None:
    def close(a: np.ndarray, b: np.ndarray) -> None:
        assert np.linalg.norm(a - b) <= 1e-5 * np.linalg.norm(a)

    # after one step the momentum is the gradient and its penalty
    jax.tree.map(close, one.optimizer, other.optimizer)
    jax.tree.map(close, one.variables["batch_stats"], other.variables["batch_stats"])


@pytest.mark.parametrize("count", [2, 8])
def test_first_step_agrees_in_float32(count: int, on_devices: Callable[[int], Mesh]) -> None:
    one, (many,) = alone(1), run_steps(on_devices(count), 1)
    assert_first_step_close(one, many)


@pytest.mark.parametrize(("count", "loop"), [(2, False), (4, False), (8, False), (2, True)])
def test_seeds_trained_together_agree_with_each_alone(
    count: int, loop: bool, on_devices: Callable[[int], Mesh], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three seeds: as on a CPU two of them on a device each, then one on both; a group filled up to four; or one after
    another, each on eight. Or vmapped in one loop as on accelerators."""
    seeds = (3, 4, 7)
    monkeypatch.setattr("ncjax.train.trainer.one_call_a_step", lambda mesh: not loop)
    together = run_steps(on_devices(count), 1, seeds=seeds)
    with jax.enable_x64(True):
        together64 = run_steps(on_devices(count), 20, jnp.float64, seeds)
    monkeypatch.undo()
    for i, seed in enumerate(seeds):
        assert_first_step_close(alone(1, seed=seed), together[i])
        with jax.enable_x64(True):
            assert_close_in_float64(alone(20, jnp.float64, seed), together64[i])
    heads = [state.variables["params"]["head"]["kernel"] for state in together]
    assert not np.allclose(heads[0], heads[1])


def test_operations_are_those_of_a_whole_batch_on_any_mesh(
    on_devices: Callable[[int], Mesh], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same number that XLA gives for the step itself, whatever devices train: GPUs and TPUs give none."""
    one, four = setup(on_devices(1)), setup(on_devices(4))
    with jax.set_mesh(on_devices(4)):
        flops = step_flops(four)
    assert flops == step_flops(one)
    data = training_data()
    state = initial_state(one.network, one.tx, 0, one.image_shape)
    batch = Batch(data.images[:16], data.labels[:16], data.mean, data.std)
    step = partial(train_step, one.network, one.tx, one.objective, one.augmentation)
    assert flops == pytest.approx(jax.jit(step).lower(jnp.uint32(0), state, batch).cost_analysis()["flops"], rel=1e-3)

    def no_cpu(backend: str) -> list[jax.Device]:
        raise RuntimeError

    monkeypatch.setattr(jax, "local_devices", no_cpu)
    assert step_flops(one) is None


def test_compile_options_are_the_users_where_he_sets_them(
    on_devices: Callable[[int], Mesh], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Options of ours that XLA_FLAGS names are left out; those that a jaxlib lacks do not stop a run."""
    seen = []
    compile_ = jax.stages.Lowered.compile

    def recorded(self: jax.stages.Lowered, compiler_options: dict | None = None, **kwargs) -> jax.stages.Compiled:
        seen.append(compiler_options)
        return compile_(self, compiler_options, **kwargs)

    monkeypatch.setattr(jax.stages.Lowered, "compile", recorded)
    ours = dict(_OPTIONS["cpu"])
    (name,) = ours
    run_steps(on_devices(1), 1)
    assert seen.pop() == ours
    monkeypatch.setenv("XLA_FLAGS", f"--another=1 --{name}=LIBRARY_FUSION_TYPE_DOT")
    run_steps(on_devices(1), 1)
    assert seen == [{}]
    monkeypatch.delenv("XLA_FLAGS")
    for unknown in ({name: "NOPE"}, {"xla_nope": "1"}):
        monkeypatch.setitem(_OPTIONS, "cpu", unknown)
        seen.clear()
        run_steps(on_devices(1), 1)
        assert seen == [unknown, None]


def test_many_steps_in_one_compiled_call_are_the_same_steps(
    on_devices: Callable[[int], Mesh], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop that accelerators run, here on a CPU, against one call a step."""
    with jax.enable_x64(True):
        monkeypatch.setattr("ncjax.train.trainer.one_call_a_step", lambda mesh: False)
        (in_one_call,) = run_steps(on_devices(1), 20, jnp.float64)
        monkeypatch.undo()
        assert_close_in_float64(alone(20, jnp.float64), in_one_call)


def test_streamed_batches_are_the_resident_ones(on_devices: Callable[[int], Mesh]) -> None:
    """The same steps, bit for bit, over the end of an epoch and from the middle of the stream."""
    (resident,) = run_steps(on_devices(2), 12)
    mesh = on_devices(2)
    with jax.set_mesh(mesh):
        data = training_data()
        batches = streaming.batches(benchmark().source_train, 0, 16, local_rows(mesh, 16))
        first = streamed_trainer(setup(mesh), (data.mean, data.std), batches, 0)
        states, _ = first.run(first.initial, 0, 5)
        second = streamed_trainer(setup(mesh), (data.mean, data.std), batches, 0)
        states, progress = second.run(states, 5, 7)
    assert progress.first_bad_step.tolist() == [-1]
    jax.tree.map(np.testing.assert_array_equal, resident, jax.device_get(states[0]))


def test_hundreds_of_steps_between_two_looks_of_the_host() -> None:
    """On as many devices as cores, XLA ends the process after a minute where too many calls wait for each other."""
    root = Path(__file__).parent.parent
    subprocess.run(
        [sys.executable, str(root / "benchmarks" / "training.py"), "--host"],
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "2"},
        check=True,
        capture_output=True,
        timeout=300,
    )


def test_seeds_that_take_turns_do_not_wait_for_each_other() -> None:
    """Calls of four groups, fifteen each, are more than CPU devices can hold back: they waited for ever."""
    program = (
        "import dataclasses, jax, test_train_step as t; from ncjax import devices; mesh = devices.data_mesh(); "
        "setup = dataclasses.replace(t.setup(mesh), batch_size=8); "
        "trainer = t.resident_trainer(setup, t.training_data(), range(4)); "
        "states, seen = trainer.run(trainer.initial, 0, 15); states, seen = trainer.run(states, 15, 1); "
        "print(mesh.size, len(states), int(states[3].step))"
    )
    tests = Path(__file__).parent
    paths = os.pathsep.join([str(tests), str(tests.parent)])
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "8", "PYTHONPATH": paths},
        check=True,
        stdout=subprocess.PIPE,
        timeout=300,
    )
    assert done.stdout == b"8 4 16\n"


def test_the_first_step_that_is_not_finite_is_named(on_devices: Callable[[int], Mesh]) -> None:
    tx = optax.chain(optax.scale_by_schedule(lambda step: jnp.where(step == 2, jnp.inf, -0.01)))
    trainer = resident_trainer(setup(on_devices(1), tx=tx), training_data(), [0])
    _, progress = trainer.run(trainer.initial, 0, 6)
    assert progress.first_bad_step.tolist() == [2]  # its update is infinite, though its loss is not


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("constant", {0: 1.0, 50: 1.0, 99: 1.0}),
        ("cosine", {0: 1.0, 50: 0.5, 100: 0.0}),
        ("step", {0: 1.0, 59: 1.0, 61: 0.1, 79: 0.1, 81: 0.01}),
    ],
)
def test_schedules(kind: str, expected: dict[int, float]) -> None:
    rate = schedule(Config(learning_rate=0.2, schedule=kind), 100)
    for step, share in expected.items():
        assert float(rate(step)) == pytest.approx(0.2 * share, abs=1e-7)


@jax.numpy_dtype_promotion("standard")  # optax relies on it in Adam
def test_adamw_warms_up_and_follows_the_schedule():
    config = Config(optimizer="adamw", learning_rate=1e-3, schedule="step", weight_decay=0.0)
    tx = optimizer(config, 100)
    params = {"w": jnp.ones(3)}
    state, sizes = tx.init(params), []
    for _ in range(100):
        updates, state = tx.update({"w": jnp.full(3, 7.0)}, state, params)  # a constant gradient: Adam takes its sign
        sizes.append(-float(updates["w"][0]))
    expected = [1e-3 * min(1, (i + 1) / 5) * (1 if i < 60 else 0.1 if i < 80 else 0.01) for i in range(100)]
    np.testing.assert_allclose(sizes, expected, rtol=1e-4)


@jax.numpy_dtype_promotion("standard")  # optax relies on it in Adam
def test_adamw_shrinks_parameters_apart_from_the_gradient():
    config = Config(optimizer="adamw", learning_rate=0.5, schedule="constant", weight_decay=0.1)
    tx = optimizer(config, 20)  # one step of warm-up
    updates, _ = tx.update({"w": jnp.zeros(2)}, tx.init({"w": jnp.ones(2)}), {"w": jnp.ones(2)})
    np.testing.assert_allclose(updates["w"], -0.05, rtol=1e-6)
