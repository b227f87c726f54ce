"""The classifier that users pass about: features in order, encoders from elsewhere, mistakes."""

import os
import subprocess
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.sharding import AxisType, Mesh

import ncjax
from ncjax import keys
from ncjax.classifier import extract, outputs
from ncjax.errors import InputError

pytestmark = pytest.mark.cheap_compilation


@pytest.fixture(scope="module")
def params() -> ncjax.Classifier:
    network = tiny.network()
    variables = network.init(keys.root(0), (12, 12, 1))
    return ncjax.Classifier(variables, jnp.asarray([0.4]), jnp.asarray([0.2]), network=network, augmentation="shift")


def test_rows_stay_in_order_whatever_the_batch(params: ncjax.Classifier, on_devices: Callable[[int], Mesh]) -> None:
    images = tiny.split(6, 5, seed=1).images  # 30 images: no batch below divides them
    whole = ncjax.features(params, images)
    assert whole.shape == (30, 288)
    assert whole.dtype == np.float32
    np.testing.assert_allclose(jax.jit(extract)(params, images), whole, rtol=1e-5, atol=1e-6)
    for batch_size in (1, 7, 29, 1000):
        np.testing.assert_allclose(ncjax.features(params, images, batch_size=batch_size), whole, rtol=1e-5, atol=1e-6)
    with jax.set_mesh(on_devices(8)):
        np.testing.assert_allclose(ncjax.features(params, images, batch_size=7), whole, rtol=1e-5, atol=1e-6)


def test_a_mesh_of_explicit_axes_serves_too(params: ncjax.Classifier) -> None:
    """The type that jax.make_mesh gives where none is asked for."""
    images = tiny.split(2, 2, seed=1).images
    expected = ncjax.features(params, images)
    with jax.set_mesh(jax.make_mesh((1,), ("data",), axis_types=(AxisType.Explicit,))):
        np.testing.assert_array_equal(ncjax.features(params, jnp.asarray(images)), expected)


def test_pixels_are_centred_and_scaled(params: ncjax.Classifier) -> None:
    images = tiny.split(2, 2, seed=1).images
    normalised = (images.astype(np.float32) / 255 - 0.4) / 0.2
    output, _ = params.network.apply(params.variables, normalised)
    np.testing.assert_allclose(ncjax.logits(params, images), output.logits, rtol=1e-4, atol=1e-5)


def test_it_is_a_pytree(params: ncjax.Classifier) -> None:
    images = jnp.asarray(tiny.split(2, 2, seed=1).images)
    doubled = jax.tree.map(lambda a: jnp.stack([a, a]), params)
    both = jax.vmap(extract, in_axes=(0, None))(doubled, images)
    np.testing.assert_allclose(both[0], both[1])
    again = jax.tree.unflatten(jax.tree.structure(params), jax.tree.leaves(params))
    assert again.network == params.network
    assert again.augmentation == "shift"


def test_an_encoder_from_elsewhere() -> None:
    split = tiny.split(5, 20, seed=1)

    def encode(variables: jax.Array, images: jax.Array) -> jax.Array:
        return images.reshape(len(images), -1) @ variables

    projection = jax.random.normal(keys.root(0), (144, 10))
    params = ncjax.Classifier.from_callable(encode, projection, mean=0.5, std=0.25)
    expected = ((split.images.reshape(100, -1) / 255.0 - 0.5) / 0.25) @ np.asarray(projection, np.float64)
    np.testing.assert_allclose(ncjax.features(params, split), expected, rtol=1e-4, atol=1e-3)
    report = ncjax.eval.episodes(params, split, shots=5, queries=5, episodes=100)
    assert report.accuracy > 0.8
    with pytest.raises(InputError, match="no logits"):
        ncjax.logits(params, split)


def test_an_encoder_that_does_not_pool() -> None:
    params = ncjax.Classifier.from_callable(lambda variables, images: images * variables, jnp.ones(()))
    with pytest.raises(InputError, match=r"it must make \[4, d\]: pool or flatten"):
        ncjax.features(params, tiny.split(2, 2, seed=1))


@pytest.mark.parametrize(
    ("encode", "message"),
    [
        (lambda variables, images: (images.mean((1, 2)), images), "made a tuple; it must make one array of floats"),
        (lambda variables, images: {"features": images}, "made a dict; it must make"),
        (lambda variables, images: None, "made a NoneType; it must make"),
        (
            lambda variables, images: images.mean((1, 2)).astype(int),
            r"made an array of int.*; it must make .* floats \[4, d\]",
        ),
        (lambda variables, images: images.mean((1, 2)) > 0, "made an array of bool; it must make"),
        (lambda variables, images: images.mean(), r"of shape \(\) for 4 images; it must make \[4, d\]"),
        (lambda variables, images: images.mean((1, 2))[:3], r"of shape \(3, 1\) for 4 images"),
        (lambda variables, images: images.mean((1, 2))[:, :0], r"of shape \(4, 0\) for 4 images"),
    ],
)
def test_an_encoder_that_makes_no_features(encode: Callable, message: str) -> None:
    params = ncjax.Classifier.from_callable(encode, jnp.ones(()))
    with pytest.raises(InputError, match=message) as raised:
        ncjax.features(params, tiny.split(2, 2, seed=1))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((3, 12, 12, 1), np.float32), r"uint8 array \[n, h, w, c\] of pixels 0..255, not float32"),
        (np.zeros((12, 12, 1), np.uint8), "not uint8"),
        ([1, 2], "not list"),
        (np.zeros((0, 12, 12, 1), np.uint8), "no images"),
    ],
)
def test_images_of_another_kind(params: ncjax.Classifier, images: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ncjax.features(params, images)


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        (0.5, 0.0, "std is 0.0; give a scalar or one finite number a channel, above 0"),
        (np.nan, 1.0, "mean is nan; give a scalar or one finite number a channel"),
        (np.zeros((8, 8, 3)), 1.0, r"mean is of shape \(8, 8, 3\); give a scalar or one"),
        (np.zeros(3), np.ones(3), "mean or std has 3 channels, the images have 1"),
    ],
)
def test_pixel_statistics_of_another_kind(mean, std, message) -> None:
    def features() -> None:
        encoder = ncjax.Classifier.from_callable(lambda _, x: x.reshape(len(x), -1), {}, mean=mean, std=std)
        ncjax.features(encoder, np.zeros((4, 8, 8, 1), np.uint8))

    with pytest.raises(InputError, match=message):
        features()


def test_a_batch_of_nothing(params: ncjax.Classifier) -> None:
    with pytest.raises(InputError, match="batch_size=0"):
        outputs(params, tiny.split(2, 2, seed=1), ("features",), batch_size=0)


@pytest.mark.slow
def test_features_of_many_batches_on_as_many_devices_as_cores() -> None:
    """XLA ends the process after a minute where too many calls wait for each other."""
    program = (
        "import jax, numpy as np, jax.numpy as jnp, ncjax; from ncjax import models; net = models.create('conv4', 4); "
        "params = ncjax.Classifier(net.init(jax.random.key(0), (28, 28, 1)), jnp.zeros(1), jnp.ones(1), network=net); "
        "print(ncjax.features(params, np.zeros((4096, 28, 28, 1), np.uint8), batch_size=16).shape)"
    )
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "2"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True)
    assert done.stdout == "(4096, 64)\n"


def test_an_encoder_that_jax_cannot_trace_and_a_benchmark_are_one_line() -> None:
    params = ncjax.Classifier.from_callable(lambda _, x: np.asarray(x).reshape(len(x), -1), {})
    with pytest.raises(InputError, match="JAX cannot trace it; give the function to ncjax"):
        ncjax.features(params, np.zeros((4, 3, 3, 1), np.uint8))
    with pytest.raises(InputError, match=r"split is a Benchmark, .* for example benchmark\.target"):
        ncjax.eval.episodes(params, tiny.benchmark())
