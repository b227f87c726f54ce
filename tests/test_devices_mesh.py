"""Meshes with Explicit axes, as in JAX's documentation, and absent backends."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import ncjax
from ncjax import devices
from ncjax.errors import InputError


def blobs() -> tuple[np.ndarray, np.ndarray]:
    labels = np.repeat(np.arange(4), 10)
    return (np.random.default_rng(0).normal(size=(40, 6)) + 2 * np.eye(4, 6)[labels]).astype(np.float32), labels


@pytest.mark.parametrize(
    ("names", "types"),
    [
        (("data",), None),  # JAX's default, which is Explicit
        (("data", "model"), (AxisType.Auto, AxisType.Explicit)),
        (("x", "y"), None),
        (("x", "y"), (AxisType.Auto, AxisType.Auto)),
    ],
)
def test_a_front_door_runs_on_the_devices_of_any_mesh(names: tuple[str, ...], types: Any) -> None:
    shape = (2,) if len(names) == 1 else (2, 1)
    mesh = jax.make_mesh(shape, names, axis_types=types, devices=jax.devices()[:2])

    @devices.on_data_mesh
    def inside(array: jax.Array) -> jax.Array:
        used = devices.data_mesh()
        assert jax.sharding.get_mesh() == used
        assert set(used.axis_types) == {AxisType.Auto}
        assert list(used.devices.flat) == jax.devices()[:2]
        return array + 1

    with jax.set_mesh(mesh):
        divided = jax.device_put(jnp.arange(4.0), NamedSharding(mesh, PartitionSpec(names[0])))
        np.testing.assert_array_equal(inside(divided) + 1, np.arange(2, 6))  # the caller computes with it
        assert jax.sharding.get_mesh() == mesh


@pytest.mark.slow
def test_every_front_door_gives_the_same_numbers_under_explicit_axes(tmp_path) -> None:
    features, labels = blobs()
    network = tiny.network(3)
    variables = network.init(jax.random.key(0), (12, 12, 1))
    params = ncjax.Classifier(variables, jnp.asarray([0.4]), jnp.asarray([0.2]), network=network, augmentation="shift")
    split = tiny.split(4, 6, seed=1)
    few = {"ways": 3, "shots": 1, "queries": 4, "episodes": 20}

    def numbers() -> list[np.ndarray]:
        moments = ncjax.collapse.ClassMoments.empty(4, 6).update(jnp.asarray(features), jnp.asarray(labels))
        found = [
            ncjax.collapse.measure(jnp.asarray(features), labels).cdnv,
            ncjax.collapse.measure_stream(lambda: iter([(features, labels)])).cdnv,
            ncjax.collapse.theory(features, labels, ways=3, shots=[1]).predicted,
            ncjax.collapse.through_layers((features,), labels).stages[0].cdnv,
            ncjax.collapse.intervals(features, labels, over="classes").cdnv.high,
            ncjax.collapse.cdnv(jnp.asarray(features), jnp.asarray(labels), 4),
            moments.mean,
            ncjax.eval.EpisodePlan.sample(labels, seed=1, **few).support_index,
            ncjax.eval.feature_episodes(features, labels, head="logistic", **few).accuracy,
            ncjax.eval.episodes(params, split, **few).accuracy,
            ncjax.features(params, split),
            ncjax.logits(params, split),
        ]
        return [np.asarray(value) for value in found]

    expected = numbers()
    with jax.set_mesh(jax.make_mesh((1,), ("data",), devices=jax.devices()[:1])):
        for value, wanted in zip(numbers(), expected, strict=True):
            np.testing.assert_array_equal(value, wanted)


@pytest.fixture
def platforms() -> Iterator[None]:
    before = jax.config.values["jax_platforms"]
    jax.config.update("jax_platforms", "cuda")
    yield
    jax.config.update("jax_platforms", before)


@pytest.mark.parametrize("error", [AssertionError(), RuntimeError("Unable to initialize backend 'cuda': no plugin")])
def test_a_backend_that_is_not_here_is_one_line(
    error: Exception, platforms: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def device_count() -> int:
        raise error

    monkeypatch.setattr(jax, "device_count", device_count)
    reason = " (Unable to initialize backend 'cuda': no plugin)" if str(error) else ""
    message = f"JAX_PLATFORMS=cuda asks for devices that JAX does not find here{reason}; unset it to run on what is"
    with pytest.raises(InputError) as raised:
        devices.data_mesh()
    assert str(raised.value).startswith(message)
