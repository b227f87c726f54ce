"""Every random number from (seed, the name of its stream, an index), so that a run can be replayed from anywhere."""

import zlib

import jax
from jaxtyping import Array, Int, Key


def stream(seed: int | Int[Array, ""], name: str, index: int | Int[Array, ""] = 0) -> Key[Array, ""]:
    """The typed key of entry `index` of the stream `name` under `seed`; `seed` and `index` may be traced."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode())), index)
