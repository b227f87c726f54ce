"""Random crops, flips, shifts, colours and turns of a batch of images, for use inside a compiled training step."""

import jax
import jax.numpy as jnp

from ncjax.errors import InputError

KINDS = ("none", "crop_flip", "shift", "resized_crop_flip")

_AREA = (0.08, 1.0)
_RATIO = (3 / 4, 4 / 3)
_TRIES = 10
_GREY = (0.2989, 0.587, 0.114)


def augment(key: jax.Array, images: jax.Array, kind: str) -> jax.Array:
    """Makes a random variant of each image.

    Args:
      key: a typed PRNG key.
      images: uint8 [n, h, w, c].
      kind: "none"; "shift", a crop of the image padded with h // 8 black pixels on every side (4 for 32 x 32), all
        (2(h // 8) + 1)² crops equally likely; "crop_flip", the same, then mirrored left to right with probability 1/2;
        "resized_crop_flip", `resized_crop`, then mirrored likewise.

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
    crop_key, flip_key = jax.random.split(key)
    if kind == "resized_crop_flip":
        cropped = resized_crop(crop_key, images)
        flipped = jax.random.bernoulli(flip_key, jnp.float32(0.5), (n, 1, 1, 1))
        return jnp.where(flipped, cropped[:, :, ::-1], cropped)
    pad = height // 8
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


def resized_crop(key: jax.Array, images: jax.Array) -> jax.Array:
    """Cuts a random rectangle out of each image and resizes it to the whole, bilinearly.

    Its area is uniform between 8 % and 100 % of the image's, and the logarithm of its ratio of width to height uniform
    between those of 3/4 and 4/3; a rectangle that does not fit is drawn again, up to ten times, after which the whole
    image is taken (Szegedy et al. 2015, https://arxiv.org/abs/1409.4842, as torchvision's RandomResizedCrop).

    Args:
      key: a typed PRNG key.
      images: uint8 [n, h, w, c].

    Returns:
      uint8 [n, h, w, c].
    """
    top, left, height, width = crop_boxes(key, len(images), images.shape[1], images.shape[2])
    return crop_and_resize(images, top, left, height, width)


def crop_boxes(key: jax.Array, n: int, height: int, width: int) -> tuple[jax.Array, ...]:
    """Draws n rectangles inside an image of height x width, as `resized_crop` says.

    Returns:
      top, left, height and width in pixels, int32 [n].
    """
    area_key, ratio_key, top_key, left_key = jax.random.split(key, 4)
    area = jax.random.uniform(area_key, (n, _TRIES), jnp.float32, *_AREA) * (height * width)
    log_ratio = jnp.log(jnp.asarray(_RATIO, jnp.float32))
    ratio = jnp.exp(jax.random.uniform(ratio_key, (n, _TRIES), jnp.float32, log_ratio[0], log_ratio[1]))
    box_width = jnp.round(jnp.sqrt(area * ratio)).astype(jnp.int32)
    box_height = jnp.round(jnp.sqrt(area / ratio)).astype(jnp.int32)
    fits = (box_width >= 1) & (box_width <= width) & (box_height >= 1) & (box_height <= height)
    first = jnp.argmax(fits, axis=1, keepdims=True)
    none_fits = ~jnp.any(fits, axis=1)
    h, w = (
        jnp.where(none_fits, whole, jnp.take_along_axis(sides, first, axis=1)[:, 0])
        for sides, whole in ((box_height, height), (box_width, width))
    )
    top = jax.random.randint(top_key, (n,), 0, height - h + 1, jnp.int32)
    left = jax.random.randint(left_key, (n,), 0, width - w + 1, jnp.int32)
    return top, left, h, w


def crop_and_resize(
    images: jax.Array, top: jax.Array, left: jax.Array, height: jax.Array, width: jax.Array
) -> jax.Array:
    """Resizes the rectangle of each image to the size of the image; rectangles int32 [n], images uint8 [n, h, w, c].

    Bilinear, with the centres of pixels at half-integers and the rectangle's edge repeated outwards, which is what
    resizing the rectangle alone gives. The two axes are products with a matrix each.
    """

    def weights(start: jax.Array, length: jax.Array, size: int) -> jax.Array:
        start, length = start.astype(jnp.float32)[:, None], length.astype(jnp.float32)[:, None]
        index = jnp.arange(size, dtype=jnp.float32)
        position = jnp.clip((index + 0.5) * (length / size) - 0.5, 0, length - 1)
        pixels = index - start
        return jnp.maximum(1 - jnp.abs(position[:, :, None] - pixels[:, None, :]), 0)

    pixels = images.astype(jnp.float32)
    with jax.default_matmul_precision("highest"):
        pixels = jnp.einsum("nab,nbwc->nawc", weights(top, height, images.shape[1]), pixels)
        pixels = jnp.einsum("nab,nhbc->nhac", weights(left, width, images.shape[2]), pixels)
    return jnp.clip(jnp.round(pixels), 0, 255).astype(jnp.uint8)


def color_jitter(key: jax.Array, images: jax.Array, strength: float) -> jax.Array:
    """Changes brightness, contrast and saturation of each image by factors in 1 - strength to 1 + strength.

    The three factors are independent and uniform, and the three changes come in a random order for each image, as in
    torchvision's ColorJitter, which the few-shot field uses at 0.4 (Lee et al. 2019, https://arxiv.org/abs/1904.03758).

    Args:
      key: a typed PRNG key.
      images: uint8 [n, h, w, 3], red, green and blue.
      strength: 0 to 1; 0 changes nothing.

    Returns:
      uint8 [n, h, w, 3].
    """
    factor_key, order_key = jax.random.split(key)
    factors = jax.random.uniform(factor_key, (len(images), 3), jnp.float32, 1 - strength, 1 + strength)
    order = jnp.argsort(jax.random.uniform(order_key, (len(images), 3), jnp.float32), axis=1)
    return change_colors(images, factors, order)


def change_colors(images: jax.Array, factors: jax.Array, order: jax.Array) -> jax.Array:
    """Blends each image with black (change 0), its mean grey (1) and its own grey (2): f x + (1 - f) y, clipped.

    Args:
      images: uint8 [n, h, w, 3].
      factors: f of brightness, contrast and saturation, float32 [n, 3].
      order: the changes in the order in which they are made, a permutation of 0, 1, 2 for each image, [n, 3].

    Returns:
      uint8 [n, h, w, 3], rounded once at the end.
    """
    x = images.astype(jnp.float32)
    for i in range(3):
        change = order[:, i, None, None, None]
        grey = jnp.sum(x * jnp.asarray(_GREY, jnp.float32), axis=-1, keepdims=True)
        mean = jnp.mean(grey, axis=(1, 2, 3), keepdims=True)
        other = jnp.where(change == 0, 0, jnp.where(change == 1, mean, grey))
        factor = jnp.take_along_axis(factors, order[:, i, None], axis=1)[:, :, None, None]
        x = jnp.clip(factor * x + (1 - factor) * other, 0, 255)
    return jnp.round(x).astype(jnp.uint8)


def turn(images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Turns image i of a batch by i mod 4 quarter turns, counterclockwise: a quarter of the batch each way.

    Args:
      images: [n, h, h, c], in random order.

    Returns:
      The turned images, and the number of quarter turns of each, int32 [n].
    """
    turns = jnp.arange(len(images), dtype=jnp.int32) % 4
    turned = [jnp.rot90(images, quarter, axes=(1, 2)) for quarter in range(4)]
    return jax.lax.select_n(jnp.broadcast_to(turns[:, None, None, None], images.shape), *turned), turns
