"""Recipes in a step: the loss against float64 NumPy, the average of weights, the teacher; and across devices."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import steps
from conftest import make_mesh
from jax.sharding import Mesh
from steps import CONFIG, network_of, training_data

from ncjax import keys
from ncjax.classifier import Classifier
from ncjax.models.mixing import Mixing
from ncjax.train import losses, trainer
from ncjax.train.losses import Objective, Targets
from ncjax.train.optimizer import optimizer
from ncjax.train.recipe import Recipe
from ncjax.train.step import Batch, TrainState, initial_state, moving_average, train_step
from ncjax.train.trainer import resident_trainer

RNG = np.random.default_rng(0)


def log_softmax(z: np.ndarray) -> np.ndarray:
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def softmax(z: np.ndarray) -> np.ndarray:
    return np.exp(log_softmax(z))


def test_the_total_loss_and_its_gradient() -> None:
    """With labels, a teacher and turns; the gradient by the formulas of the parts, all in float64."""
    logits, teacher, turning = RNG.normal(size=(6, 5)), RNG.normal(size=(6, 5)), RNG.normal(size=(6, 4))
    labels, turns = RNG.integers(0, 5, 6), np.arange(6) % 4
    weight, t = 0.3, 4.0
    p = softmax(teacher / t)
    of_labels = -log_softmax(logits)[np.arange(6), labels].mean()
    of_teacher = t**2 * (p * (np.log(p) - log_softmax(logits / t))).sum(-1).mean()
    of_turns = -log_softmax(turning)[np.arange(6), turns].mean()
    expected = 0.5 * ((1 - weight) * of_labels + weight * of_teacher) + 0.5 * of_turns
    by_logits = (1 - weight) * (softmax(logits) - np.eye(5)[labels]) + weight * t * (softmax(logits / t) - p)

    def loss(logits: jax.Array, turning: jax.Array) -> jax.Array:
        targets = Targets(None, jax.nn.one_hot(turns, 4), jnp.asarray(p, jnp.float32))
        objective = Objective(distill_weight=weight, distill_temperature=t)
        return losses.total(objective, jnp.asarray(labels), targets, logits, turning)

    found, (g, h) = jax.jit(jax.value_and_grad(loss, (0, 1)))(*(jnp.asarray(z, jnp.float32) for z in (logits, turning)))
    assert float(found) == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(g, by_logits / 12, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(h, (softmax(turning) - np.eye(4)[turns]) / 12, rtol=1e-4, atol=1e-6)


def test_a_student_that_agrees_with_its_teacher_has_no_loss_of_distillation() -> None:
    logits = jnp.asarray([[1000.0, 0, -1000], [1, 2, 3]])  # also where probabilities are 0
    value, gradient = jax.value_and_grad(losses.distillation)(logits, jax.nn.softmax(logits / 4), 4.0)
    assert float(value) == pytest.approx(0, abs=1e-5)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


def test_the_average_is_tensorflows_with_num_updates() -> None:
    values = RNG.normal(size=(40, 3))
    average, found = values[0], {"w": jnp.asarray(values[0], jnp.float32), "count": jnp.int32(0)}
    move = jax.jit(moving_average, static_argnums=3)
    for t, value in enumerate(values[1:]):
        decay = min(0.8, (1 + t) / (10 + t))
        average = decay * average + (1 - decay) * value
        found = move(found, {"w": jnp.asarray(value, jnp.float32), "count": jnp.int32(t)}, jnp.int32(t), 0.8)
    np.testing.assert_allclose(found["w"], average, rtol=1e-5, atol=1e-6)
    assert int(found["count"]) == 38


RECIPE = Recipe(Objective(manifold_mixup=2.0, label_smoothing=0.1), "shift", ema_decay=0.9)


def teacher() -> Classifier:
    network = network_of(jnp.float64)
    return Classifier(
        network.init(jax.random.key(7), (12, 12, 1)), jnp.asarray([0.5]), jnp.asarray([0.2]), network=network
    )


@pytest.mark.slow
def test_a_step_is_the_recipe_written_out_in_float64() -> None:
    """The same step from NumPy's turns, the teacher's logits and one draw of mixing, by automatic differentiation."""
    with jax.enable_x64(True):
        network = dataclasses.replace(network_of(jnp.float64), rotation_head=True)
        tx, recipe = optimizer(CONFIG, 100), dataclasses.replace(RECIPE, augmentation="none")
        state = jax.jit(lambda: initial_state(network, tx, 0, (12, 12, 1), averaged=True))()
        before = jax.device_get(state.variables)
        data, taught = jax.tree.map(np.asarray, training_data(jnp.float64)), teacher()
        raw, labels = data.images[:16], data.labels[:16]
        turned = np.stack([np.rot90(image, i % 4) for i, image in enumerate(raw)])
        of_teacher = taught.network.apply(taught.variables, jnp.asarray((turned / 255 - 0.5) / 0.2))[0].logits
        mixing = Mixing.draw(keys.stream(0, "manifold mixup", 0), 16, 2, 2.0)
        w, order = float(mixing.weight), np.asarray(mixing.order)

        def mix(x: np.ndarray) -> np.ndarray:
            return w * x + (1 - w) * x[order]

        classes = mix(0.9 * np.eye(6)[labels] + 0.1 / 6)
        turns, p = mix(np.eye(4)[np.arange(16) % 4]), mix(softmax(np.asarray(of_teacher) / 4))

        def loss(params: Any) -> tuple[jax.Array, Any]:
            variables = {"params": params, "batch_stats": before["batch_stats"]}
            pixels = jnp.asarray((turned / 255 - data.mean) / data.std)
            output, stats = network.apply(variables, pixels, train=True, mixing=mixing)
            log_q, log_q4 = jax.nn.log_softmax(output.logits), jax.nn.log_softmax(output.logits / 4)
            of_turns = jax.nn.log_softmax(network.rotation_logits(variables, output.features))
            cross = -(classes * log_q).sum(-1).mean()
            divergence = 16 * (p * (np.log(p) - log_q4)).sum(-1).mean()
            return 0.25 * cross + 0.25 * divergence - 0.5 * (turns * of_turns).sum(-1).mean(), stats

        grads, stats = jax.device_get(jax.jit(jax.grad(loss, has_aux=True))(before["params"]))
        params = jax.tree.map(lambda v, g: v - 0.05 * (g + 5e-4 * v), before["params"], grads)
        batch = Batch(raw, labels, data.mean, data.std, taught)
        state, _ = jax.jit(partial(train_step, network, tx, recipe))(jnp.uint32(0), state, batch)
        after = {"params": params, "batch_stats": stats}
        close = partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-8)  # one-hot targets are float32 draws' mixtures
        jax.tree.map(close, state.variables, after)
        jax.tree.map(close, state.average, jax.tree.map(lambda a, v: 0.1 * a + 0.9 * v, before, after))


def run_steps(mesh: Mesh, count: int, seeds: tuple[int, ...] = (0,)) -> list[TrainState]:
    """Returns the state of every seed after `count` steps of an epoch under the recipe, in float64."""
    plain = steps.setup(mesh, jnp.float64)
    setup = dataclasses.replace(plain, network=dataclasses.replace(plain.network, rotation_head=True), recipe=RECIPE)
    with jax.set_mesh(mesh):
        data = dataclasses.replace(training_data(jnp.float64), teacher=teacher())
        trained = resident_trainer(setup, data, seeds)
        states, _ = trained.run(trained.initial, 0, count)
        return [jax.device_get(trained.one_seed(states, i)) for i in range(len(seeds))]


@pytest.mark.slow
@pytest.mark.parametrize("loop", [False, True])
def test_devices_and_seeds_agree_in_float64(
    loop: bool, on_devices: Callable[[int], Mesh], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seeds take turns as on CPUs, or are vmapped in one loop as on accelerators."""
    with jax.enable_x64(True):
        alone = [run_steps(make_mesh(1), 6, (seed,))[0] for seed in (0, 1)]
        if loop:
            monkeypatch.setattr(trainer, "one_call_a_step", lambda mesh: False)
        together = run_steps(on_devices(2), 6, (0, 1))
    for one, other in zip(alone, together, strict=True):
        assert int(other.step) == 6
        for a, b in ((one.variables, other.variables), (one.average, other.average)):
            # the weight of mixing is drawn in float32, and programs differ in its last digit
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), a, b)
