"""Geometric complexity beside known and whole Jacobians."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.sharding import Mesh

import ncjax
from ncjax import keys
from ncjax.classifier import normalize
from ncjax.errors import InputError

IMAGES = tiny.split(6, 2, seed=1).images
WEIGHTS = np.random.default_rng(0).normal(size=(144, 5)).astype(np.float32)


def linear(weights: jax.Array, images: jax.Array) -> jax.Array:
    return images.reshape(len(images), -1) @ weights


def constant(weights: jax.Array, images: jax.Array) -> jax.Array:
    return jnp.ones((len(images), 3)) + 0 * images.sum()


@pytest.fixture(scope="module")
def network() -> ncjax.Classifier:
    made = tiny.network()
    variables = made.init(keys.root(0), (12, 12, 1))
    return ncjax.Classifier(variables, jnp.asarray([0.4]), jnp.asarray([0.2]), network=made)


def whole_jacobian(params: ncjax.Classifier, images: np.ndarray) -> np.ndarray:
    """‖J‖² of each image, from every entry of J."""

    def encode(pixels: jax.Array) -> jax.Array:
        return params.network.apply(params.variables, pixels[None], train=False)[0].features[0]

    jacobian = jax.vmap(jax.jacobian(encode))(normalize(images, params.mean, params.std))
    return np.sum(np.asarray(jacobian, np.float64) ** 2, axis=(1, 2, 3, 4))


def test_a_linear_network_has_the_norm_of_its_weights() -> None:
    squares = float(np.sum(np.square(WEIGHTS, dtype=np.float64)))
    gram = WEIGHTS.astype(np.float64) @ WEIGHTS.T
    exact_error = np.sqrt(2 * (np.sum(gram**2) - np.sum(np.diag(gram) ** 2)) / (12 * 64))
    params = ncjax.Classifier.from_callable(linear, WEIGHTS, mean=0.5, std=0.25)
    found = ncjax.geometric_complexity(params, IMAGES, probes=64)
    assert found.probe_error == pytest.approx(exact_error, rel=0.15)  # an estimate from 12 x 64 probes
    assert abs(found.value - squares) < 3 * exact_error
    of_pixels = ncjax.geometric_complexity(params, IMAGES, probes=64, variable="pixels")
    assert of_pixels.value == pytest.approx(16 * found.value, rel=1e-5)  # the same probes
    assert np.ptp(found.per_image) > 0
    assert found.ci95 > 0


def test_orthogonal_columns_leave_no_error_of_the_probes() -> None:
    params = ncjax.Classifier.from_callable(linear, np.eye(144, dtype=np.float32) * 3)
    found = ncjax.geometric_complexity(params, IMAGES, probes=2)
    assert found.value == pytest.approx(9 * 144, rel=1e-6)
    assert found.probe_error == pytest.approx(0, abs=1e-3)


def test_a_network_beside_its_whole_jacobian(network: ncjax.Classifier, on_devices: Callable[[int], Mesh]) -> None:
    exact = whole_jacobian(network, IMAGES)
    found = ncjax.geometric_complexity(network, IMAGES, probes=64)
    assert abs(found.value - exact.mean()) < 4 * found.probe_error
    assert found.probe_error < 0.05 * exact.mean()
    np.testing.assert_allclose(found.per_image, exact, rtol=0.5)
    assert np.corrcoef(found.per_image, exact)[0, 1] > 0.5
    again = ncjax.geometric_complexity(network, tiny.split(6, 2, seed=1), probes=64, batch_size=5)
    np.testing.assert_allclose(again.per_image, found.per_image, rtol=1e-4)  # the probes do not follow the batches
    with jax.set_mesh(on_devices(8)):
        np.testing.assert_allclose(
            ncjax.geometric_complexity(network, IMAGES, probes=64).per_image, found.per_image, rtol=1e-4
        )
    other = ncjax.geometric_complexity(network, IMAGES, probes=64, seed=1)
    assert other.value != found.value
    assert abs(other.value - exact.mean()) < 4 * other.probe_error


def test_collapsed_features_have_none() -> None:
    found = ncjax.geometric_complexity(ncjax.Classifier.from_callable(constant, WEIGHTS), IMAGES)
    assert found.value == found.probe_error == found.ci95 == 0
    assert "8 probes an image" in str(found)


def test_mistakes_are_one_line(network: ncjax.Classifier) -> None:
    eager = ncjax.encoders.from_function(lambda images: images.reshape(len(images), -1), name="eager")
    for params, images, changes, message in (
        (eager, IMAGES, {}, "eager runs outside of JAX, which cannot differentiate it"),
        (network, IMAGES / 255, {}, "not float64"),
        (network, IMAGES[:0], {}, "one image or more"),
        (network, IMAGES, {"probes": 1}, "probes=1: give 2 or more"),
        (network, IMAGES, {"batch_size": 0}, "batch_size=0"),
        (network, IMAGES, {"variable": "features"}, "variable='features': give"),
    ):
        with pytest.raises(InputError, match=message):
            ncjax.geometric_complexity(params, images, **changes)
    broken = ncjax.Classifier.from_callable(linear, WEIGHTS * np.float32(1e30))
    with pytest.raises(InputError, match="image 0 is not finite or too large"):
        ncjax.geometric_complexity(broken, IMAGES)
