"""Steps of the tiny network on any mesh, for tests of the compiled programs of training."""

from functools import cache

import jax
import jax.numpy as jnp
import optax
from conftest import make_mesh
from jax.sharding import Mesh
from tiny import benchmark, network as tiny_network

from ncjax.models import Network
from ncjax.train import Config
from ncjax.train.optimizer import optimizer
from ncjax.train.recipe import Recipe
from ncjax.train.step import Batch, TrainState
from ncjax.train.trainer import Setup, resident_trainer

CONFIG = Config(learning_rate=0.05, schedule="constant", batch_size=16)


def training_data(dtype: jnp.dtype = jnp.float32) -> Batch:
    train = benchmark().source_train
    return Batch(
        jnp.asarray(train.images), jnp.asarray(train.labels), jnp.asarray([0.4], dtype), jnp.asarray([0.3], dtype)
    )


class _Float64(Network):
    """A network with float64 parameters that are initialised exactly.

    Normal float32 numbers differ in their last digit from one compilation to another.
    """

    def init(self, key: jax.Array, image_shape: tuple[int, int, int]) -> dict:
        variables = jax.tree.map(lambda a: a.astype(jnp.float64), super().init(key, image_shape))

        def exact(path: tuple, a: jax.Array) -> jax.Array:
            if path[-1].key != "kernel":
                return a  # zeros and ones
            bits = jax.random.bits(jax.random.fold_in(key, a.size), a.shape, jnp.uint32) >> jnp.uint32(8)
            return bits.astype(jnp.float64) / 2**25 - 0.25

        return jax.tree_util.tree_map_with_path(exact, variables)


def network_of(dtype: jnp.dtype) -> Network:
    network = tiny_network(dtype=dtype)
    return network if dtype == jnp.float32 else _Float64(network.name, network.num_classes, network.module)


def setup(mesh: Mesh, dtype: jnp.dtype = jnp.float32, tx: optax.GradientTransformation | None = None) -> Setup:
    return Setup(
        network=network_of(dtype),
        tx=tx or optimizer(CONFIG, 100),
        recipe=Recipe(augmentation="shift"),
        batch_size=16,
        num_images=126,
        image_shape=(12, 12, 1),
        mesh=mesh,
    )


def run_steps(
    mesh: Mesh, count: int, dtype: jnp.dtype = jnp.float32, seeds: tuple[int, ...] = (0,)
) -> list[TrainState]:
    """Returns the state of every seed after `count` steps."""
    with jax.set_mesh(mesh):
        trainer = resident_trainer(setup(mesh, dtype), training_data(dtype), seeds)
        states, step = trainer.initial, 0
        while step < count:
            taken = min(count - step, -(-(126 - step * 16 % 126) // 16))
            states, _ = trainer.run(states, step, taken)
            step += taken
        return [jax.device_get(trainer.one_seed(states, i)) for i in range(len(seeds))]


@cache
def alone(count: int, dtype: jnp.dtype = jnp.float32, seed: int = 0) -> TrainState:
    """Returns the state of one seed on one device; float64 needs `jax.enable_x64`."""
    return run_steps(make_mesh(1), count, dtype, (seed,))[0]
