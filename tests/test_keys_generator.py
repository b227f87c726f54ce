"""A seed means the same numbers under any setting of JAX."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ncjax import keys, models
from ncjax.data.augment import augment, color_jitter, resized_crop
from ncjax.errors import InputError
from ncjax.eval import EpisodePlan
from ncjax.models.mixing import Mixing
from ncjax.models.resnet12 import drop_block
from ncjax.train import losses
from ncjax.train.step import epoch_order

pytestmark = pytest.mark.cheap_compilation

SETTINGS = [
    {"jax_threefry_partitionable": False, "jax_default_prng_impl": "rbg", "jax_random_seed_offset": 3},
    {"jax_enable_x64": True},
]


@pytest.fixture(params=[SETTINGS[0], pytest.param(SETTINGS[1], marks=pytest.mark.slow)], ids=["generator", "x64"])
def settings(request: pytest.FixtureRequest) -> Iterator[dict[str, object]]:
    before = {name: getattr(jax.config, name) for name in request.param}
    yield request.param
    for name, value in before.items():
        jax.config.update(name, value)


def draws() -> list[jax.Array]:
    """From each kind of draw that the library makes."""
    key = keys.stream(5, "order", 3)
    pixels = jax.lax.broadcasted_iota(jnp.int32, (6, 16, 16, 1), 2)
    ones = jnp.ones((6, 8, 8, 2), jnp.float32)
    return [
        jax.random.bits(key, (5, 3), jnp.uint32),
        jax.random.key_data(jax.random.split(key, 3)),
        epoch_order(jnp.int32(7), jnp.int32(2), 40, 8),
        augment(key, pixels.astype(jnp.uint8), "crop_flip"),
        losses.dropout(key, ones[0, 0], 0.3),
        *jax.tree.leaves(Mixing.draw(key, len(pixels), 3, 0.4)),
        color_jitter(key, jnp.repeat(pixels, 3, axis=-1), 0.4),
        resized_crop(key, pixels),
        drop_block(key, ones, 0.2, 3),
        *jax.tree.leaves(models.create("mlp-2-8", 3).init(key, (4, 4, 1))),
    ]


def drawn() -> list[np.ndarray]:
    plan = EpisodePlan.sample(np.repeat(np.arange(6), 9), ways=3, shots=2, queries=4, episodes=20, seed=1)
    with jax.numpy_dtype_promotion("standard"):  # as users have it, under x64
        values = jax.jit(lambda: draws())()  # traced anew under each setting
    return [*map(np.asarray, values), plan.support_index, plan.query_index]


@pytest.fixture(scope="module")
def expected() -> list[np.ndarray]:
    return drawn()


def test_numbers_under_any_setting(expected, settings):
    for name, value in settings.items():
        jax.config.update(name, value)
    for one, other in zip(expected, drawn(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_numbers_are_those_of_jax_by_default():
    for seed in (0, 7, 2**32 - 1, np.int64(5)):
        own = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 4113142680), 4)  # the CRC-32 of "order"
        for key in (keys.stream(seed, "order", 4), jax.jit(lambda s: keys.stream(s, "order", 4))(np.uint32(seed))):
            np.testing.assert_array_equal(jax.random.key_data(key), jax.random.key_data(own))
            np.testing.assert_array_equal(
                jax.random.bits(key, (4, 3), jnp.uint32), jax.random.bits(own, (4, 3), jnp.uint32)
            )
    own, default = keys.root(7), jax.random.key(7)
    for draw in (
        *(lambda key, t=t: jax.random.bits(key, (3, 5, 2), t) for t in (jnp.uint8, jnp.uint16, jnp.uint32)),
        lambda key: jax.random.bits(key, (), jnp.uint32),
        lambda key: jax.random.key_data(jax.random.split(key, (3, 2))),
        lambda key: jax.random.key_data(jax.random.fold_in(key, np.uint32(2**32 - 1))),
        lambda key: jax.vmap(lambda one: jax.random.normal(one, (4,), jnp.float32))(jax.random.split(key, 6)),
    ):
        np.testing.assert_array_equal(jax.jit(draw)(own), jax.jit(draw)(default))
    with jax.enable_x64(True):
        np.testing.assert_array_equal(*(jax.random.bits(key, (5, 3), jnp.uint64) for key in (own, default)))
    with pytest.raises(InputError, match="8589934592 random numbers at once: at most 4294967296"):
        jax.jit(lambda: jax.random.bits(own, (2**17, 2**16), jnp.uint32)).lower()
    # the first bits of Threefry in JAX 0.10 by default, so that a change of JAX shows
    assert jax.random.bits(keys.root(0), (2,), jnp.uint32).tolist() == [4070199207, 4202968722]
