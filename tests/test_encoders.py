"""Encoders from elsewhere that need nothing installed: plain functions and Flax NNX models."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from jax.sharding import Mesh

import ncjax
from ncjax import encoders
from ncjax.classifier import extract, outputs
from ncjax.errors import InputError

pytestmark = pytest.mark.cheap_compilation

SPLIT = tiny.split(5, 20, seed=1)
PROJECTION = np.random.default_rng(0).normal(size=(144, 10)).astype(np.float32)


def project(images: np.ndarray) -> np.ndarray:
    assert isinstance(images, np.ndarray)  # never a tracer, nor an array of JAX's
    assert images.dtype == np.float32
    return images.reshape(len(images), -1) @ PROJECTION


def normalised() -> np.ndarray:
    return (SPLIT.images / 255 - 0.5) / 0.25


@pytest.fixture(scope="module")
def eager() -> ncjax.Classifier:
    return encoders.from_function(project, mean=0.5, std=0.25)


@pytest.fixture(scope="module")
def traced() -> ncjax.Classifier:
    """The same, in JAX."""
    return ncjax.Classifier.from_callable(
        lambda w, x: jnp.matmul(x.reshape(len(x), -1), w, precision="highest"), PROJECTION, mean=0.5, std=0.25
    )


def test_features_of_a_function(eager: ncjax.Classifier, on_devices: Callable[[int], Mesh]) -> None:
    expected = normalised().reshape(100, -1) @ PROJECTION.astype(np.float64)
    for batch_size in (7, 256):
        found = ncjax.features(eager, SPLIT, batch_size=batch_size)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)
    with jax.set_mesh(on_devices(8)):
        np.testing.assert_array_equal(ncjax.features(eager, SPLIT), found)
    np.testing.assert_array_equal(outputs(eager, SPLIT, ("stages",))[0][-1], found)


def test_a_function_inside_compiled_calls(eager: ncjax.Classifier) -> None:
    images = jnp.asarray(SPLIT.images)
    expected = ncjax.features(eager, SPLIT)
    np.testing.assert_allclose(jax.jit(extract)(eager, images), expected, rtol=1e-5, atol=1e-4)
    halves = jax.jit(jax.vmap(extract, (None, 0)))(eager, images.reshape(2, 50, 12, 12, 1))
    np.testing.assert_allclose(halves.reshape(100, -1), expected, rtol=1e-5, atol=1e-4)
    # over classifiers too, which differ in how they centre pixels
    two = eager.replace(mean=jnp.asarray([0.5, 0.25]), std=jnp.asarray([0.25, 0.25]))
    both = jax.vmap(extract, (0, None))(two, images)
    np.testing.assert_allclose(both[0], expected, rtol=1e-5, atol=1e-4)
    other = ncjax.features(eager.replace(mean=jnp.asarray(0.25)), SPLIT)
    np.testing.assert_allclose(both[1], other, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    "how", [{"support_augmentations": 2}, pytest.param({"extract_per_episode": True}, marks=pytest.mark.slow)]
)
def test_episodes_that_call_a_function_back(
    eager: ncjax.Classifier, traced: ncjax.Classifier, on_devices: Callable[[int], Mesh], how: dict
) -> None:
    """The same accuracies in each episode as of the same function in JAX; several CPU devices do not hang."""
    settings = {"shots": 2, "queries": 5, "episodes": 40} | how
    expected = ncjax.eval.episodes(traced.replace(augmentation="crop_flip"), SPLIT, **settings)
    with jax.set_mesh(on_devices(2)):
        found = ncjax.eval.episodes(eager.replace(augmentation="crop_flip"), SPLIT, **settings)
    np.testing.assert_array_equal(found.per_episode, expected.per_episode)


@pytest.mark.slow
def test_episodes_tuning_and_curves_of_a_function(eager: ncjax.Classifier, traced: ncjax.Classifier) -> None:
    settings = {"shots": 2, "queries": 5, "episodes": 40}
    report = ncjax.eval.episodes(eager, SPLIT, **settings)
    assert report.accuracy == pytest.approx(ncjax.eval.episodes(traced, SPLIT, **settings).accuracy, abs=1e-3)
    assert str(ncjax.eval.tune(eager, SPLIT, **settings)) == str(ncjax.eval.tune(traced, SPLIT, **settings))
    curve = ncjax.eval.curve(eager, SPLIT, values=(1, 2), queries=5, episodes=40)
    assert curve.reports[1].accuracy == report.accuracy


def test_a_function_sees_resized_images_of_three_channels() -> None:
    seen = []

    def encode(images: np.ndarray) -> np.ndarray:
        seen.append(images)
        return images.mean((1, 2))

    params = encoders.from_function(encode, image_size=24, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 4.0))
    found = ncjax.features(params, SPLIT)
    assert seen[-1].shape == (100, 24, 24, 3)
    grey = params.preprocessing.apply_in_numpy(SPLIT.images)[..., 0].mean((1, 2)) / 255
    expected = (grey[:, None] - np.asarray([0.1, 0.2, 0.3])) / np.asarray([1, 2, 4])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_half_precision_comes_back_as_float32() -> None:
    params = encoders.from_function(lambda images: images.mean((1, 2)).astype(np.float16))
    assert ncjax.features(params, SPLIT).dtype == np.float32


def _fails(images: np.ndarray) -> np.ndarray:
    raise RuntimeError("kernel size can't be greater\nthan actual input size")


@pytest.mark.parametrize(
    ("encode", "message"),
    [
        (lambda x: x, r"made an array of shape \(100, 12, 12, 1\) for 100 images; it must make \[100, d\]"),
        (lambda x: x.mean((1, 2))[:3], r"of shape \(3, 1\) for 100 images"),
        (lambda x: x.mean((1, 2)).astype(int), "made an array of int"),
        (lambda x: [[{}]] * len(x), "made an array of object"),
        (lambda x: x.mean((1, 2)) / np.where(np.arange(len(x)) == 3, 0, 1)[:, None], "for image 3 is not finite"),
        (_fails, r"fails on images of 12 x 12 x 1 \(RuntimeError: kernel size can't .* give image_size="),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")
def test_functions_that_make_no_features(encode: Callable, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        ncjax.features(encoders.from_function(encode), SPLIT)
    assert "\n" not in str(raised.value)


def test_an_encoder_has_no_logits(eager: ncjax.Classifier) -> None:
    with pytest.raises(InputError, match="this encoder has features, but no logits"):
        ncjax.logits(eager, SPLIT)


class Model(nnx.Module):
    """Convolution, batch norm, dropout, two blocks; features are averaged over space."""

    def __init__(self, rngs: nnx.Rngs):
        self.conv = nnx.Conv(1, 8, (3, 3), (2, 2), rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.blocks = nnx.List([nnx.Conv(8, 8, (3, 3), rngs=rngs) for _ in range(2)])
        self.unused = nnx.Linear(2, 2, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.dropout(jax.nn.relu(self.norm(self.conv(x))))
        for block in self.blocks:
            x = jax.nn.relu(block(x))
        return x


@pytest.fixture(scope="module")
def model() -> Model:
    """In training mode, its running statistics those of some images."""
    made = Model(nnx.Rngs(0))
    made(jnp.asarray(normalised(), jnp.float32))
    return made


def by_hand(model: Model) -> tuple[np.ndarray, list[np.ndarray]]:
    """Features and the two stages asked for below, from the layers' arrays."""

    def conv(x: jax.Array, layer: nnx.Conv, stride: int) -> jax.Array:
        dimensions = ("NHWC", "HWIO", "NHWC")
        out = jax.lax.conv_general_dilated(
            x, layer.kernel[...], (stride, stride), "SAME", dimension_numbers=dimensions, precision="highest"
        )
        return out + layer.bias[...]

    x = conv(jnp.asarray(normalised(), jnp.float32), model.conv, 2)
    norm = model.norm
    x = (x - norm.mean[...]) / jnp.sqrt(norm.var[...] + norm.epsilon) * norm.scale[...] + norm.bias[...]
    first, x = x, jax.nn.relu(x)
    last = conv(jax.nn.relu(conv(x, model.blocks[0], 1)), model.blocks[1], 1)
    return np.asarray(jax.nn.relu(last).mean((1, 2))), [np.asarray(stage.mean((1, 2))) for stage in (first, last)]


def test_an_nnx_model_in_inference_mode(model: Model) -> None:
    before = jax.tree.map(jnp.copy, nnx.state(model, nnx.Not(nnx.RngKey)))
    params = encoders.from_nnx(model, mean=0.5, std=0.25, stages=("norm", "blocks.1"))
    expected, stages = by_hand(model)
    np.testing.assert_allclose(ncjax.features(params, SPLIT), expected, rtol=1e-4, atol=1e-5)
    (found,) = outputs(params, SPLIT, ("stages",), batch_size=30)
    assert len(found) == 3
    for ours, theirs in zip(found, [*stages, expected], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, before, nnx.state(model, nnx.Not(nnx.RngKey)))
    assert not model.norm.use_running_average
    assert not model.dropout.deterministic
    assert isinstance(model.norm, nnx.BatchNorm)


def test_an_nnx_model_is_a_pytree_and_traced(model: Model) -> None:
    params = encoders.from_nnx(model, mean=0.5, std=0.25)
    doubled = jax.tree.map(lambda x: x, params)
    np.testing.assert_array_equal(jax.jit(extract)(doubled, SPLIT.images), jax.jit(extract)(params, SPLIT.images))
    report = ncjax.eval.episodes(
        params.replace(augmentation="shift"), SPLIT, shots=1, queries=3, episodes=10, support_augmentations=2
    )
    assert 0 < report.accuracy <= 1


def test_an_nnx_model_with_a_forward_of_ones_own(model: Model) -> None:
    params = encoders.from_nnx(model, forward=lambda m, x: m.conv(x).max((1, 2)))
    assert ncjax.features(params, SPLIT).shape == (100, 8)


def test_nnx_models_that_cannot_serve(model: Model) -> None:
    with pytest.raises(InputError, match=r"is a function, not a flax\.nnx\.Module"):
        encoders.from_nnx(project)
    with pytest.raises(InputError, match="no inner module 'block'; it has blocks"):
        encoders.from_nnx(model, stages=("block",))
    with pytest.raises(InputError, match="does not call its inner module 'unused'"):
        ncjax.features(encoders.from_nnx(model, stages=("unused",)), SPLIT)
    with pytest.raises(InputError, match=r"fails on images of 12 x 12 x 3 .*channels"):
        ncjax.features(encoders.from_nnx(model, channels=3), SPLIT)
    with pytest.raises(InputError, match="a stage's output has type dict"):
        ncjax.features(encoders.from_nnx(Odd(), stages=("inner",)), SPLIT)


class _Inner(nnx.Module):
    def __call__(self, x: jax.Array) -> dict:
        return {"x": x.mean((1, 2))}


class Odd(nnx.Module):
    """Its inner module returns a dictionary."""

    def __init__(self) -> None:
        self.inner = _Inner()

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.inner(x)["x"]
