"""Random crops, flips and shifts of a batch of images, for use inside a compiled training step."""

import jax
import jax.numpy as jnp

from ncjax.errors import InputError

KINDS = ("none", "crop_flip", "shift")


def augment(key: jax.Array, images: jax.Array, kind: str) -> jax.Array:
    """One random variant of each image.

    key: a typed PRNG key. images: uint8 [n, h, w, c]; the result has the same shape and type.
    kind: "none"; "shift", a crop of the image padded with h // 8 black pixels on every side (4 for 32 x 32), all
    (2(h // 8) + 1)² crops equally likely; "crop_flip", the same, then mirrored left to right with probability 1/2.
    Raises InputError for another kind.
    """
    if kind not in KINDS:
        raise InputError(f"unknown augmentation {kind!r}; choose one of {', '.join(KINDS)}")
    if kind == "none":
        return images
    n, height, width, _ = images.shape
    pad = height // 8
    crop_key, flip_key = jax.random.split(key)
    offset = jax.random.randint(crop_key, (n, 2), 0, 2 * pad + 1, jnp.int32)
    column = jnp.broadcast_to(jnp.arange(width, dtype=jnp.int32), (n, width))
    if kind == "crop_flip":
        column = jnp.where(jax.random.bernoulli(flip_key, jnp.float32(0.5), (n, 1)), column[:, ::-1], column)
    rows = offset[:, :1] + jnp.arange(height, dtype=jnp.int32)
    columns = offset[:, 1:] + column
    # Two batched gathers: on CPU over ten times faster than dynamic_slice under vmap, and they stay parallel on a
    # GPU and over a sharded batch, unlike a loop over images.
    padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    cropped = jnp.take_along_axis(padded, rows[:, :, None, None], axis=1)
    return jnp.take_along_axis(cropped, columns[:, None, :, None], axis=2)
