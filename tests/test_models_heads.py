"""The heads that a network may have, and mixing within it, against float64 NumPy."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ncjax import keys, models
from ncjax.models.mixing import Mixing

RNG = np.random.default_rng(0)
MLP = models.create("mlp-2-8", 3)
IMAGES = jnp.asarray(RNG.normal(size=(6, 4, 4, 1)), jnp.float32)


@pytest.fixture(scope="module")
def variables() -> dict[str, Any]:
    return MLP.init(keys.root(0), (4, 4, 1))


def forward(variables: dict[str, Any], mixing: Mixing | None) -> tuple[np.ndarray, np.ndarray]:
    """Features and logits of the two-layer network in training, in float64."""
    params = jax.tree.map(lambda a: np.asarray(a, np.float64), variables["params"])

    def mixed(point: int, x: np.ndarray) -> np.ndarray:
        if mixing is None or point != int(mixing.point):
            return x
        weight = float(mixing.weight)
        return weight * x + (1 - weight) * x[np.asarray(mixing.order)]

    x = mixed(0, np.asarray(IMAGES, np.float64)).reshape(6, -1)
    for layer in range(2):
        x = x @ params[f"Dense_{layer}"]["kernel"]
        x = np.maximum((x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5), 0)  # scale 1, offset 0
        x = mixed(layer + 1, x)
    return x, x @ params["head"]["kernel"] + params["head"]["bias"]


@pytest.mark.parametrize("point", [None, 0, 1, 2])
def test_images_are_mixed_at_the_point(variables: dict[str, Any], point: int | None) -> None:
    mixing = None
    if point is not None:
        mixing = Mixing(jnp.float32(0.3), jnp.asarray([3, 0, 5, 1, 2, 4]), jnp.int32(point))
    output, _ = MLP.apply(variables, IMAGES, train=True, mixing=mixing)
    features, logits = forward(variables, mixing)
    np.testing.assert_allclose(output.features, features, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(output.logits, logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["conv4", *(pytest.param(name, marks=pytest.mark.slow) for name in ("wrn-10-1", "resnet12", "vit-1-64-8"))]
)
def test_every_network_mixes_at_each_of_its_points(name: str) -> None:
    network = models.create(name, 3)
    images = jnp.asarray(RNG.normal(size=(4, 16, 16, 1)), jnp.float32)
    variables = jax.jit(lambda: network.init(keys.root(0), (16, 16, 1)))()

    @jax.jit
    def logits(weight: jax.Array, point: jax.Array) -> jax.Array:
        mixing = Mixing(weight, jnp.asarray([1, 2, 3, 0]), point)
        return network.apply(variables, images, train=True, key=keys.root(1), mixing=mixing)[0].logits

    plain = logits(jnp.float32(1), jnp.int32(0))
    np.testing.assert_allclose(logits(jnp.float32(0), jnp.int32(0)), plain[jnp.asarray([1, 2, 3, 0])], atol=1e-5)
    of_points = [np.asarray(logits(jnp.float32(0.4), jnp.int32(i))) for i in range(network.mixing_points)]
    assert len({np.round(values, 4).tobytes() for values in [*of_points, np.asarray(plain)]}) == len(of_points) + 1
    # no such point: nothing is mixed
    np.testing.assert_allclose(logits(jnp.float32(0.4), jnp.int32(network.mixing_points)), plain, atol=1e-5)


def test_mixing_is_drawn_from_beta_and_from_all_points() -> None:
    draw = jax.jit(jax.vmap(lambda i: Mixing.draw(keys.stream(0, "test", i), 5, 4, 2.0)))
    mixing = draw(jnp.arange(3000, dtype=jnp.uint32))
    weight = np.asarray(mixing.weight, np.float64)
    assert weight.mean() == pytest.approx(0.5, abs=5 * np.sqrt(0.05 / 3000))  # Beta(2, 2): variance 1/20
    assert weight.var() == pytest.approx(0.05, rel=0.12)
    np.testing.assert_array_equal(np.sort(mixing.order, axis=1), np.tile(np.arange(5), (3000, 1)))
    counts = np.bincount(np.asarray(mixing.point), minlength=4)
    assert np.abs(counts - 750).max() < 5 * np.sqrt(3000 * 3 / 16)


def test_the_cosine_classifier() -> None:
    network = dataclasses.replace(MLP, classifier="cosine")
    variables = network.init(keys.root(0), (4, 4, 1))
    assert set(variables["params"]["head"]) == {"kernel", "scale"}
    output, _ = network.apply(variables, IMAGES, train=True)
    features, _ = forward(
        {"params": variables["params"] | {"head": MLP.init(keys.root(0), (4, 4, 1))["params"]["head"]}}, None
    )
    weights = np.asarray(variables["params"]["head"]["kernel"], np.float64).T
    cosine = features @ weights.T
    cosine /= np.linalg.norm(features, axis=1)[:, None] * np.linalg.norm(weights, axis=1)
    np.testing.assert_allclose(output.logits, 10 * cosine, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(network.classify(variables, output.features), output.logits, atol=1e-5)
    found, bias = network.head(variables)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 10, rtol=1e-5)
    np.testing.assert_array_equal(bias, 0)
    # features of other lengths have the same logits; of length 0, logits 0 with a finite gradient
    np.testing.assert_allclose(network.classify(variables, 1e-6 * output.features), output.logits, rtol=1e-3, atol=1e-4)
    gradient = jax.grad(lambda x: jnp.sum(network.classify(variables, x)))(jnp.zeros((2, 8)))
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(network.classify(variables, jnp.zeros((2, 8))), 0)


def test_the_rotation_head_leaves_all_other_parameters_as_they_were(variables: dict[str, Any]) -> None:
    network = dataclasses.replace(MLP, rotation_head=True)
    turning = network.init(keys.root(0), (4, 4, 1))
    head = turning["params"].pop("rotation_head")
    jax.tree.map(np.testing.assert_array_equal, turning, variables)
    assert head["kernel"].shape == (8, 4)
    turning["params"]["rotation_head"] = head | {"bias": jnp.arange(4.0)}
    features = RNG.normal(size=(5, 8))
    expected = features @ np.asarray(head["kernel"], np.float64) + np.arange(4)
    np.testing.assert_allclose(
        network.rotation_logits(turning, jnp.asarray(features, jnp.float32)), expected, rtol=1e-5, atol=1e-5
    )
    output, _ = network.apply(turning, IMAGES)
    np.testing.assert_array_equal(output.logits, MLP.apply(variables, IMAGES)[0].logits)
