"""augment: the shape, type and distribution of crops, flips and shifts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ncjax import keys
from ncjax.data import augment as module
from ncjax.errors import InputError

augment = jax.jit(module.augment, static_argnums=2)


def _variants(kind, height, width, count=4000):
    """Many variants of one image whose pixels are all different and not black, as a set of offsets and flips."""
    image = 1 + np.arange(height * width, dtype=np.uint8).reshape(height, width, 1) % 251
    out = np.asarray(augment(keys.root(3), image[None].repeat(count, 0), kind))
    pad = height // 8
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
    expected = {}
    for top in range(2 * pad + 1):
        for left in range(2 * pad + 1):
            crop = padded[top : top + height, left : left + width]
            expected[crop.tobytes()] = (top, left, False)
            expected[crop[:, ::-1].tobytes()] = (top, left, True)
    return [expected[variant.tobytes()] for variant in out], pad  # a KeyError means an image that no crop gives


@pytest.mark.parametrize("kind", ["crop_flip", "shift"])
def test_every_crop_is_equally_likely(kind):
    seen, pad = _variants(kind, 16, 14)
    counts = np.zeros((2 * pad + 1, 2 * pad + 1, 2))
    for top, left, flipped in seen:
        counts[top, left, int(flipped)] += 1
    share = counts.sum(2) / counts.sum()
    assert np.abs(share - 1 / 25).max() < 5 * np.sqrt(1 / 25 / len(seen))
    flips = counts[:, :, 1].sum() / len(seen)
    if kind == "crop_flip":
        assert abs(flips - 0.5) < 5 * 0.5 / np.sqrt(len(seen))
    else:
        assert flips == 0


def test_pads_four_pixels_at_thirty_two():
    image = np.full((2000, 32, 32, 3), 255, np.uint8)
    black_rows = (np.asarray(augment(keys.root(0), image, "shift"))[:, :, 16, 0] == 0).sum(1)
    assert black_rows.max() == 4
    assert black_rows.min() == 0


@pytest.mark.parametrize("kind", module.KINDS)
def test_keeps_shape_and_type_and_repeats_by_key(kind):
    images = np.random.default_rng(1).integers(0, 256, (5, 28, 28, 3), np.uint8)
    first, again = augment(keys.root(7), images, kind), augment(keys.root(7), images, kind)
    assert first.shape == images.shape
    assert first.dtype == jnp.uint8
    np.testing.assert_array_equal(first, again)
    assert (kind == "none") == bool((augment(keys.root(8), images, kind) == first).all())


def test_images_of_a_batch_move_independently():
    images = np.random.default_rng(1).integers(1, 256, (1, 32, 32, 1), np.uint8).repeat(64, 0)
    out = np.asarray(augment(keys.root(0), images, "shift"))
    assert len({image.tobytes() for image in out}) > 32


def test_unknown_kind_is_named():
    with pytest.raises(InputError, match="unknown augmentation 'flip'; choose one of none, crop_flip, shift"):
        augment(keys.root(0), np.zeros((1, 8, 8, 1), np.uint8), "flip")
