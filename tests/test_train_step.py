"""The step: order of images, update rule, schedules, and steps that are not finite."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from steps import CONFIG, network_of, training_data

from ncjax.train import Config
from ncjax.train.optimizer import optimizer, schedule
from ncjax.train.recipe import Recipe
from ncjax.train.step import Batch, epoch_order, initial_state, train_step


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
    """Compares two steps with the update rule written out, with gradients of the plain loss."""
    with jax.enable_x64(True):
        network = network_of(jnp.float64)
        tx = optimizer(CONFIG, 100)
        state = jax.jit(lambda: initial_state(network, tx, 0, (12, 12, 1)))()
        data = jax.tree.map(np.asarray, training_data(jnp.float64))
        params, batch_stats = jax.device_get((state.variables["params"], state.variables["batch_stats"]))
        velocity = jax.tree.map(np.zeros_like, params)

        @jax.jit
        @partial(jax.grad, has_aux=True)
        def gradient(params: dict, batch_stats: dict, images: jax.Array, labels: jax.Array) -> tuple:
            out, moved = network.apply({"params": params, "batch_stats": batch_stats}, images, train=True)
            scores = jax.nn.log_softmax(out.logits)
            return -jnp.mean(scores[jnp.arange(16), labels]), moved

        take_step = jax.jit(partial(train_step, network, tx, Recipe()))
        for step in range(2):
            chosen = slice(16 * step, 16 * step + 16)
            images = (data.images[chosen] / 255 - data.mean) / data.std
            grads, batch_stats = jax.device_get(gradient(params, batch_stats, images, data.labels[chosen]))
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


@jax.numpy_dtype_promotion("standard")  # Adam in optax needs it
def test_adamw_warms_up_and_follows_the_schedule():
    config = Config(optimizer="adamw", learning_rate=1e-3, schedule="step", weight_decay=0.0)
    tx = optimizer(config, 100)
    params = {"w": jnp.ones(3)}
    state, sizes = tx.init(params), []
    for _ in range(100):
        updates, state = tx.update({"w": jnp.full(3, 7.0)}, state, params)  # Adam takes the sign of a constant gradient
        sizes.append(-float(updates["w"][0]))
    expected = [1e-3 * min(1, (i + 1) / 5) * (1 if i < 60 else 0.1 if i < 80 else 0.01) for i in range(100)]
    np.testing.assert_allclose(sizes, expected, rtol=1e-4)


@jax.numpy_dtype_promotion("standard")  # Adam in optax needs it
def test_adamw_shrinks_parameters_apart_from_the_gradient():
    config = Config(optimizer="adamw", learning_rate=0.5, schedule="constant", weight_decay=0.1)
    tx = optimizer(config, 20)  # one step of warm-up
    updates, _ = tx.update({"w": jnp.zeros(2)}, tx.init({"w": jnp.ones(2)}), {"w": jnp.ones(2)})
    np.testing.assert_allclose(updates["w"], -0.05, rtol=1e-6)
