"""Probes with a penalty chosen on held-out rows, and fine-tuning of a run's whole network."""

import dataclasses
import warnings
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from ncjax import Classifier, devices, keys, models
from ncjax.classifier import normalize
from ncjax.data.augment import augment
from ncjax.eval.heads import Linear, fit_logistic, fit_ridge

ridge = jax.jit(fit_ridge, static_argnames="ways")


@partial(jax.jit, static_argnames="ways")
def _logistic(x: Array, y: Array, ways: int, C: Array) -> tuple[Linear, Array]:
    classifier, info = fit_logistic(x, y, ways, C)
    return classifier, info["converged"]


def logistic(x: np.ndarray, y: np.ndarray, ways: int, C: Array) -> Linear:
    """Fits logistic regression, and warns if it did not converge."""
    classifier, converged = _logistic(x, y, ways, C)
    if not converged:
        warnings.warn(f"the logistic regression of {len(y)} images did not converge at C={C:g}", stacklevel=2)
    return classifier


def probe(fit: Any, values: tuple[float, ...], x: np.ndarray, y: np.ndarray, ways: int) -> tuple[Linear, float]:
    """Fits a classifier with the penalty that is best on the last fifth of rows when fitted to the others.

    `fit` takes features [n, d], labels [n], the number of classes and one of `values`. Returns classifier and penalty.
    """
    cut = 4 * len(y) // 5
    accuracy = [
        float(np.mean(np.asarray(fit(x[:cut], y[:cut], ways, jnp.float32(value))(x[cut:])).argmax(-1) == y[cut:]))
        for value in values
    ]
    best = values[int(np.argmax(accuracy))]
    return fit(x, y, ways, jnp.float32(best)), best


def fine_tune(
    params: Classifier, images: np.ndarray, labels: np.ndarray, start: Linear, *, epochs: int, batch: int, rate: float
) -> Classifier:
    """Trains the whole network on new classes by SGD, from the run's weights and the head `start`."""
    assert isinstance(params.network, models.Network)
    network = models.create(params.network.name, len(start.offset))
    mesh = devices.data_mesh()
    before = jax.tree.map(jnp.array, params.variables)  # a copy: the step donates it
    head = {"kernel": start.weights.T, "bias": start.bias}
    variables = {"params": {**before["params"], "head": head}, "batch_stats": before["batch_stats"]}
    batches = len(labels) // batch
    cosine = optax.cosine_decay_schedule(rate, epochs * batches)
    tx = optax.sgd(lambda count: cosine(jnp.asarray(count, jnp.float32)), momentum=0.9)

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(variables: Any, state: Any, mean: Array, std: Array, x: Array, y: Array, key: Array) -> tuple[Any, Any]:
        for_crops, for_dropout = jax.random.split(key)
        x = normalize(augment(for_crops, x, params.augmentation), mean, std)

        def loss(weights: Any) -> tuple[Array, Any]:
            output, stats = network.apply({**variables, "params": weights}, x, train=True, key=for_dropout)
            return optax.softmax_cross_entropy_with_integer_labels(output.logits, y).mean(), stats

        grads, stats = jax.grad(loss, has_aux=True)(variables["params"])
        updates, state = tx.update(grads, state, variables["params"])
        return {"params": optax.apply_updates(variables["params"], updates), "batch_stats": stats}, state

    rng = np.random.default_rng(0)
    variables, state, mean, std = jax.device_put(
        (variables, tx.init(variables["params"]), params.mean, params.std), devices.replicated(mesh)
    )
    for epoch in range(epochs):
        order = rng.permutation(len(labels))[: batches * batch].reshape(batches, batch)
        for i, rows in enumerate(order):
            x, y = jax.device_put((images[rows], labels[rows]), devices.sharded(mesh))
            variables, state = step(variables, state, mean, std, x, y, keys.root(epoch * batches + i))
            devices.limit_in_flight(epoch * batches + i, variables)
    return dataclasses.replace(params, variables=variables, network=network, feature_mean=None)
