"""augment: the shape, type and distribution of crops, flips and shifts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance

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


def _resized(image, top, left, height, width):
    """A rectangle resized to the whole image, in float64: each axis by `np.interp` at the centres of pixels."""
    out = image[top : top + height, left : left + width].astype(np.float64)
    for axis, (length, size) in enumerate(((height, image.shape[0]), (width, image.shape[1]))):
        at = (np.arange(size) + 0.5) * length / size - 0.5
        out = np.apply_along_axis(lambda line, at=at: np.interp(at, np.arange(len(line)), line), axis, out)
    return out


def test_a_resized_crop_is_the_rectangle_resized():
    images = np.random.default_rng(2).integers(0, 256, (6, 16, 14, 3), np.uint8)
    boxes = np.int32([[0, 0, 16, 14], [3, 2, 5, 7], [15, 13, 1, 1], [0, 12, 16, 2], [4, 0, 12, 14], [7, 7, 8, 3]]).T
    found = np.asarray(module.crop_and_resize(images, *map(jnp.asarray, boxes)))
    np.testing.assert_array_equal(found[0], images[0])
    for image, box, out in zip(images, boxes.T, found, strict=True):
        assert np.abs(_resized(image, *box) - out).max() <= 0.5 + 1e-3  # rounded to whole numbers


@pytest.mark.slow
def test_rectangles_have_the_areas_and_ratios_of_torchvisions_resized_crop():
    """The first of ten draws that fits; compared with draws of NumPy by the same rule."""
    n, height, width = 20_000, 32, 24
    rng = np.random.default_rng(0)
    area = rng.uniform(0.08, 1, (n, 10)) * height * width
    ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3), (n, 10)))
    w, h = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
    fits = (w <= width) & (h <= height)
    first = fits.argmax(1)
    assert fits.any(1).all()
    w, h = w[np.arange(n), first], h[np.arange(n), first]
    top, left, box_h, box_w = map(
        np.asarray, jax.jit(module.crop_boxes, static_argnums=(1, 2, 3))(keys.root(1), n, 32, 24)
    )
    for found, expected in ((box_h, h), (box_w, w), (box_h * box_w, h * w)):
        error = 5 * np.hypot(expected.std(), found.std()) / np.sqrt(n)
        assert abs(found.mean() - expected.mean()) < error
        assert abs(np.quantile(found, 0.1) - np.quantile(expected, 0.1)) < 0.03 * expected.max()
    assert (top >= 0).all()
    assert (top + box_h <= height).all()
    assert (left >= 0).all()
    assert (left + box_w <= width).all()
    share = top[box_h < height] / (height - box_h[box_h < height])
    assert abs(share.mean() - 0.5) < 5 * share.std() / np.sqrt(share.size)


def test_colors_change_as_by_hand_in_float64():
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, (12, 5, 4, 3), np.uint8)
    factors = rng.uniform(0.6, 1.4, (12, 3)).astype(np.float32)
    order = np.stack([rng.permutation(3) for _ in range(12)])
    found = np.asarray(jax.jit(module.change_colors)(images, factors, order))
    for i in range(12):
        x = images[i].astype(np.float64)
        for change in order[i]:
            grey = (x @ np.array([0.2989, 0.587, 0.114]))[..., None]
            other = (0.0, grey.mean(), grey)[change]
            f = float(factors[i, change])
            x = np.clip(f * x + (1 - f) * other, 0, 255)
        assert np.abs(found[i] - x).max() <= 0.5 + 1e-3
    same = np.asarray(module.change_colors(jnp.asarray(images), jnp.ones((12, 3)), jnp.asarray(order)))
    np.testing.assert_array_equal(same, images)


def test_one_change_of_colors_is_pillows():
    images = np.random.default_rng(4).integers(0, 256, (3, 6, 5, 3), np.uint8)
    for change, enhance in enumerate((ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)):
        factors = np.ones((3, 3), np.float32)
        factors[:, change] = (0.6, 1.3, 0.0)
        found = np.asarray(module.change_colors(jnp.asarray(images), factors, jnp.tile(jnp.arange(3), (3, 1))))
        for i in range(3):
            theirs = np.asarray(enhance(Image.fromarray(images[i])).enhance(float(factors[i, change])))
            # Pillow's greys are whole numbers, and it cuts decimals where ncjax rounds
            assert np.abs(found[i].astype(int) - theirs.astype(int)).max() <= 1


@pytest.mark.slow
def test_jitter_draws_factors_of_its_strength_and_all_orders():
    grey = np.full((6000, 1, 1, 3), 100, np.uint8)  # grey has neither contrast nor saturation to change
    brightness = np.asarray(jax.jit(module.color_jitter, static_argnums=2)(keys.root(5), grey, 0.4))[:, 0, 0, 0] / 100
    assert brightness.min() == pytest.approx(0.6, abs=0.011)
    assert brightness.max() == pytest.approx(1.4, abs=0.011)
    assert brightness.mean() == pytest.approx(1, abs=5 * 0.8 / np.sqrt(12 * 6000))
    colored = np.tile(np.uint8([250, 30, 90]), (64, 2, 2, 1))
    assert len({image.tobytes() for image in np.asarray(module.color_jitter(keys.root(6), colored, 0.4))}) > 60
    np.testing.assert_array_equal(module.color_jitter(keys.root(6), jnp.asarray(colored), 0.0), colored)


def test_a_quarter_of_the_batch_is_turned_each_way():
    images = np.random.default_rng(7).integers(0, 256, (10, 4, 4, 2), np.uint8)
    turned, turns = jax.jit(module.turn)(images)
    np.testing.assert_array_equal(turns, np.arange(10) % 4)
    for image, number, out in zip(images, np.asarray(turns), np.asarray(turned), strict=True):
        np.testing.assert_array_equal(out, np.rot90(image, number))
