"""Random crops, flips and shifts of a batch of images, for use inside a compiled training step."""

import jax
import jax.numpy as jnp

from ncjax.errors import InputError

KINDS = ("none", "crop_flip", "shift")


def augment(key: jax.Array, images: jax.Array, kind: str) -> jax.Array:
    """Makes a random variant of each image.

    Args:
      key: a typed PRNG key.
      images: uint8 [n, h, w, c].
      kind: "none"; "shift", a crop of the image padded with h // 8 black pixels on every side (4 for 32 x 32), all
        (2(h // 8) + 1)² crops equally likely; "crop_flip", the same, then mirrored left to right with probability 1/2.

    Returns:
      uint8 [n, h, w, c].

    Raises:
      InputError: if the kind is unknown.
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
    # On a CPU, two batched gathers are over ten times faster than dynamic_slice under vmap; unlike a loop over images,
    # they are parallel on a GPU and over a sharded batch.
    padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    cropped = jnp.take_along_axis(padded, rows[:, :, None, None], axis=1)
    return jnp.take_along_axis(cropped, columns[:, None, :, None], axis=2)
