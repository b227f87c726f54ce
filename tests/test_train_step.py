"""The compiled step: order of images, agreement over devices, the loop in one call, the schedule, the penalty."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh
from tiny import benchmark
from tiny import network as tiny_network

from ncjax import devices
from ncjax.train import Config
from ncjax.train.step import (
    TrainData,
    TrainState,
    epoch_order,
    initial_state,
    make_trainer,
    optimizer,
    schedule,
    train_step,
)

CONFIG = Config(learning_rate=0.05, schedule="constant", batch_size=16)


def training_data(dtype: jnp.dtype = jnp.float32) -> TrainData:
    train = benchmark().source_train
    return TrainData(
        jnp.asarray(train.images), jnp.asarray(train.labels), jnp.asarray([0.4], dtype), jnp.asarray([0.3], dtype)
    )


def as_dtype(state: TrainState, dtype: jnp.dtype) -> TrainState:
    return jax.tree.map(lambda a: a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a, state)


def run_steps(mesh: Mesh, count: int, dtype: jnp.dtype = jnp.float32) -> TrainState:
    with jax.set_mesh(mesh):
        return _run_steps(mesh, count, dtype)


def _run_steps(mesh: Mesh, count: int, dtype: jnp.dtype) -> TrainState:
    network = tiny_network(dtype=dtype)
    tx = optimizer(CONFIG, 100)
    state = as_dtype(initial_state(network, tx, 0, (12, 12, 1)), dtype)
    state = jax.device_put(state, devices.replicated(mesh))
    trainer = make_trainer(network, tx, mesh, training_data(dtype), "shift", CONFIG.batch_size, 0)
    order = jnp.concatenate([trainer.order(epoch)[:126] for epoch in range(4)])
    state, _ = trainer.run(state, order, 0, count)
    return jax.device_get(state)


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


def test_a_step_is_sgd_with_momentum_and_penalty_in_float64(on_devices: Callable[[int], Mesh]) -> None:
    """Two steps against the update rule written out, with gradients of the plain loss."""
    with jax.enable_x64(True):
        mesh = on_devices(1)
        network = tiny_network(dtype=jnp.float64)
        tx = optimizer(CONFIG, 100)
        state = as_dtype(initial_state(network, tx, 0, (12, 12, 1)), jnp.float64)
        data = training_data(jnp.float64)
        params, batch_stats = state.variables["params"], state.variables["batch_stats"]
        velocity = jax.tree.map(jnp.zeros_like, params)
        take_step = jax.jit(partial(train_step, network, tx, mesh, "none"))
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
            state, _ = take_step(jnp.uint32(0), data, state, chosen)
        assert int(state.step) == 2
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12),
            state.variables,
            {"params": params, "batch_stats": batch_stats},
        )


@pytest.mark.parametrize("count", [2, 8])
def test_devices_agree_to_rounding_after_20_steps_in_float64(count: int, on_devices: Callable[[int], Mesh]) -> None:
    with jax.enable_x64(True):
        one, many = run_steps(on_devices(1), 20, jnp.float64), run_steps(on_devices(count), 20, jnp.float64)
    assert int(many.step) == 20
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10), one.variables, many.variables)


@pytest.mark.parametrize("count", [2, 8])
def test_first_step_agrees_in_float32(count: int, on_devices: Callable[[int], Mesh]) -> None:
    one, many = run_steps(on_devices(1), 1), run_steps(on_devices(count), 1)

    def close(a: np.ndarray, b: np.ndarray) -> None:
        assert np.linalg.norm(a - b) <= 1e-5 * np.linalg.norm(a)

    # after one step the momentum is the gradient and its penalty
    jax.tree.map(close, one.optimizer, many.optimizer)
    jax.tree.map(close, one.variables["batch_stats"], many.variables["batch_stats"])


def test_many_steps_in_one_compiled_call_are_the_same_steps(
    on_devices: Callable[[int], Mesh], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop that accelerators run, here on a CPU, against one call a step."""
    with jax.enable_x64(True):
        one_by_one = run_steps(on_devices(1), 5, jnp.float64)
        monkeypatch.setattr("ncjax.train.step.one_call_a_step", lambda mesh: False)
        in_one_call = run_steps(on_devices(1), 5, jnp.float64)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10),
        one_by_one.variables,
        in_one_call.variables,
    )


def test_the_first_step_that_is_not_finite_is_named(on_devices: Callable[[int], Mesh]) -> None:
    mesh = on_devices(1)
    network = tiny_network()
    tx = optax.chain(optax.scale_by_schedule(lambda step: jnp.where(step == 2, jnp.inf, -0.01)))
    state = initial_state(network, tx, 0, (12, 12, 1))
    trainer = make_trainer(network, tx, mesh, training_data(), "none", 16, 0)
    _, progress = trainer.run(state, trainer.order(0), 0, 6)
    assert int(progress.first_bad_step) == 2  # its update is infinite, though its loss is not


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
