"""Every random number from (seed, the name of its stream, an index), so that a run can be replayed from anywhere.

The generator is pinned here and nowhere else: the same seed gives the same bits whatever `jax_threefry_partitionable`,
`jax_default_prng_impl`, `jax_random_seed_offset` and `jax_enable_x64` say. Draws of `jax.random` whose default type
x64 widens (normal, randint, bernoulli, beta) name their type where they are made, for the numbers to be the same too.
"""

import functools
import zlib
from collections.abc import Callable

import jax
import jax.extend.random
import jax.numpy as jnp
from jaxtyping import Array, Int, Key


def _partitionable(draw: Callable[..., Array]) -> Callable[..., Array]:
    """`draw` as under `jax_threefry_partitionable=True`, JAX's default."""

    @functools.wraps(draw)
    def pinned(*arguments: Array | int | tuple[int, ...]) -> Array:
        with jax.threefry_partitionable(True):
            return draw(*arguments)

    return pinned


_threefry = jax.extend.random.threefry_prng_impl
GENERATOR = jax.extend.random.define_prng_impl(
    key_shape=_threefry.key_shape,
    seed=_threefry.seed,
    split=_partitionable(_threefry.split),
    random_bits=_partitionable(_threefry.random_bits),
    fold_in=_threefry.fold_in,
    name="ncjax_threefry2x32",
    tag="ncjax",
)
"""Threefry-2x32 (Salmon et al. 2011) as JAX has it by default. A key carries it to whatever draws from the key."""


def root(seed: int | Int[Array, ""]) -> Key[Array, ""]:
    """The key of `seed`, from 0 to 2**32 - 1; it may be traced."""
    # not jax.random.key, which adds jax_random_seed_offset
    return jax.random.wrap_key_data(jnp.stack([jnp.uint32(0), jnp.uint32(seed)]), impl=GENERATOR)


def named(seed: int | Int[Array, ""], name: str) -> Key[Array, ""]:
    """The key of the stream `name` under `seed`; its entry i is ``fold_in(key, i)``."""
    return jax.random.fold_in(root(seed), zlib.crc32(name.encode()))


def stream(seed: int | Int[Array, ""], name: str, index: int | Int[Array, ""] = 0) -> Key[Array, ""]:
    """The key of entry `index` of the stream `name` under `seed`; `seed` and `index` may be traced."""
    return jax.random.fold_in(named(seed, name), index)
