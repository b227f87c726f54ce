"""Networks of the user's own, in Linen and in NNX: trained, resumed by name, refused in one line."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import linen as nn, nnx

import ncjax
from ncjax import keys, models
from ncjax.errors import InputError
from ncjax.models import EncoderOutput

pytestmark = pytest.mark.cheap_compilation


class Linen(nn.Module):
    """Convolution, batch norm and dropout; its stages are the convolution's."""

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> EncoderOutput:
        x = nn.Conv(8, (3, 3), strides=2)(images)
        stage = x.mean((1, 2))
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        x = nn.Dropout(0.2, deterministic=not train)(x)
        return EncoderOutput(x.mean((1, 2)), (stage,))


class Nnx(nnx.Module):
    """The same in NNX."""

    def __init__(self, rngs: nnx.Rngs):
        self.conv = nnx.Conv(1, 8, (3, 3), strides=2, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        return self.dropout(nnx.relu(self.norm(self.conv(images)))).mean((1, 2))


def linen() -> nn.Module:
    return Linen()


def plain() -> nn.Module:
    """A module that takes no `train`."""
    return nn.Sequential([nn.Dense(5), lambda x: x.mean((1, 2))])


def images_again() -> nn.Module:
    return nn.Dense(3)


def no_module() -> str:
    return "net"


HERE = "test_models_own"


@pytest.mark.parametrize("name", ["linen", "Nnx"])
def test_modes_statistics_and_head(name: str) -> None:
    network = models.create(f"{HERE}:{name}", 4)
    variables = network.init(keys.root(0), (9, 9, 1))
    images = jax.random.normal(keys.root(1), (6, 9, 9, 1))
    output, unchanged = network.apply(variables, images)
    assert output.features.shape == (6, 8)
    assert output.logits.shape == (6, 4)
    assert unchanged is variables["batch_stats"]
    weights, bias = network.head(variables)
    np.testing.assert_allclose(output.features @ weights.T + bias, output.logits, rtol=1e-5, atol=1e-5)
    one, stats = network.apply(variables, images, train=True, key=keys.root(2))
    two, _ = network.apply(variables, images, train=True, key=keys.root(3))
    assert not np.allclose(one.features, two.features)  # dropout
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), stats, dict(variables["batch_stats"]))
    assert all(jax.tree.leaves(changed))
    assert output.stages[-1] is output.features


def test_stages_of_ones_own() -> None:
    network = models.create(f"{HERE}:linen", 4)
    output, _ = network.apply(network.init(keys.root(0), (9, 9, 1)), jnp.ones((2, 9, 9, 1)))
    assert len(output.stages) == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["linen", "plain", "Nnx"])
def test_a_run_is_trained_and_read_back(name: str, tmp_path: Path) -> None:
    """In another process only the name in config.json is left."""
    benchmark = tiny.benchmark()
    config = tiny.config(tmp_path / "run", network=f"{HERE}:{name}")
    params = ncjax.pretrain(config, benchmark=benchmark)
    again = ncjax.restore(tmp_path / "run")
    np.testing.assert_array_equal(ncjax.features(params, benchmark.target), ncjax.features(again, benchmark.target))
    assert ncjax.pretrain(config, benchmark=benchmark).network == again.network
    assert ncjax.eval.episodes(again, benchmark.target, ways=2, shots=1, queries=3, episodes=20).accuracy > 0


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no_such_module:net", "No module named 'no_such_module'; run from the folder"),
        (f"{HERE}:net", "has no attribute 'net'"),
        (f"{HERE}:HERE", "is a str: give a function"),
        (f"{HERE}:no_module", "returned a str; it must return a flax.linen module"),
        (":net", "Empty module name"),
    ],
)
def test_what_is_no_network_is_one_line(name: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        models.create(name, 4)


def test_a_network_without_features_is_one_line() -> None:
    network = models.create(f"{HERE}:images_again", 4)
    with pytest.raises(InputError, match=r"shape \(1, 9, 9, 3\) for 1 images; it must make \[1, d\]"):
        network.init(keys.root(0), (9, 9, 1))
