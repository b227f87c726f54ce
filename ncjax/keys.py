"""Derives every random number from (seed, stream name, index), so that a run can be replayed from anywhere.

Only this module pins the generator: the same seed gives the same bits whatever `jax_threefry_partitionable`,
`jax_default_prng_impl`, `jax_random_seed_offset` and `jax_enable_x64` are. Draws of `jax.random` whose default type
x64 widens (normal, randint, bernoulli, beta) state their type, so that their numbers are the same too.
"""

import math
import zlib
from functools import partial

import jax
import jax.extend.random
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Integer, Key, UInt32

from ncjax.errors import InputError

WholeNumber = int | np.integer | Integer[Array | np.ndarray, ""]

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


def _threefry(
    key: UInt32[Array, "2"], x0: UInt32[Array, "*s"], x1: UInt32[Array, "*s"]
) -> tuple[UInt32[Array, "*s"], UInt32[Array, "*s"]]:
    """Computes both words of Threefry-2x32 with 20 rounds (Salmon, Moraes, Dror, Shaw 2011) for counters (x0, x1).

    Unrolls the rounds: on a CPU, the loop of JAX's own implementation takes six times as long to compile and eight
    times as long to run (benchmarks/keys.py).
    """
    schedule = (key[0], key[1], key[0] ^ key[1] ^ np.uint32(0x1BD11BDA))
    x0, x1 = x0 + schedule[0], x1 + schedule[1]
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            x0 = x0 + x1
            x1 = x0 ^ ((x1 << np.uint32(rotation)) | (x1 >> np.uint32(32 - rotation)))
        x0, x1 = x0 + schedule[(group + 1) % 3], x1 + schedule[(group + 2) % 3] + np.uint32(group + 1)
    return x0, x1


def _words(key: UInt32[Array, "2"], shape: tuple[int, ...]) -> tuple[UInt32[Array, "*s"], UInt32[Array, "*s"]]:
    """Computes both words for the counters 0, 1, 2, … in an array of this shape."""
    if math.prod(shape) > 2**32:
        raise InputError(f"{math.prod(shape)} random numbers at once: at most {2**32}")
    # not a reshaped range, which would be gathered if the array is divided over devices
    count = jnp.zeros(shape, jnp.uint32)
    for axis in range(len(shape)):
        stride = np.uint32(math.prod(shape[axis + 1 :]))
        count = count + jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * stride
    return _threefry(key, jnp.zeros(shape, jnp.uint32), count)


@partial(jax.jit, static_argnums=(1, 2), inline=True)
def _random_bits(key: UInt32[Array, "2"], width: int, shape: tuple[int, ...]) -> Array:
    high, low = _words(key, shape)
    if width == 64:
        return high.astype(jnp.uint64) << np.uint64(32) | low.astype(jnp.uint64)
    return (high ^ low).astype({8: jnp.uint8, 16: jnp.uint16, 32: jnp.uint32}[width])


@partial(jax.jit, static_argnums=1, inline=True)
def _split(key: UInt32[Array, "2"], shape: tuple[int, ...]) -> UInt32[Array, "*s 2"]:
    return jnp.stack(_words(key, shape), axis=-1)


@partial(jax.jit, inline=True)
def _fold_in(key: UInt32[Array, "2"], number: Integer[Array, ""]) -> UInt32[Array, "2"]:
    return jnp.stack(_threefry(key, jnp.uint32(0), number.astype(jnp.uint32)))


def _seed(seed: Integer[Array, ""]) -> UInt32[Array, "2"]:
    return jnp.stack([jnp.uint32(0), seed.astype(jnp.uint32)])


GENERATOR = jax.extend.random.define_prng_impl(
    key_shape=(2,),
    seed=_seed,
    split=_split,
    random_bits=_random_bits,
    fold_in=_fold_in,
    name="ncjax_threefry2x32",
    tag="ncjax",
)
"""JAX's default generator at its default settings; keys carry it."""


def root(seed: WholeNumber) -> Key[Array, ""]:
    """Returns the key of `seed`, 0 to 2**32 - 1, which may be traced."""
    # not jax.random.key, which adds jax_random_seed_offset
    return jax.random.wrap_key_data(jnp.stack([jnp.uint32(0), jnp.uint32(seed)]), impl=GENERATOR)


def named(seed: WholeNumber, name: str) -> Key[Array, ""]:
    """Returns the key of the stream `name` under `seed`; its entry i is ``fold_in(key, i)``."""
    return jax.random.fold_in(root(seed), zlib.crc32(name.encode()))


def stream(seed: WholeNumber, name: str, index: WholeNumber = 0) -> Key[Array, ""]:
    """Returns the key of entry `index` of the stream `name` under `seed`; both numbers may be traced."""
    return jax.random.fold_in(named(seed, name), index)
