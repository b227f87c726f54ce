"""Resizing, cropping and grey images, beside Pillow's own resizing."""

import jax
import numpy as np
import pytest
from PIL import Image

from ncjax.errors import InputError
from ncjax.preprocessing import Preprocessing, make_preprocessing, resizing_weights

pytestmark = pytest.mark.cheap_compilation

PILLOW = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def photographs(height: int, width: int, channels: int = 3) -> np.ndarray:
    """Smooth shapes, edges and noise, uint8 [2, h, w, c]."""
    y, x = np.mgrid[:height, :width] / min(height, width)
    smooth = 128 + 100 * np.sin(9 * x + 4 * y)
    edges = 255 * ((x * 5).astype(int) + (y * 5).astype(int) & 1)
    noise = np.random.default_rng(0).uniform(0, 255, (height, width))
    planes = np.stack([smooth, edges, noise], -1)[..., :channels]
    return np.stack([planes, planes[::-1]]).astype(np.uint8)


@pytest.mark.parametrize("interpolation", PILLOW)
@pytest.mark.parametrize("new", [(96, 128), (17, 23), (40, 50), (45, 30)])
def test_resizing_is_pillows(interpolation: str, new: tuple[int, int]) -> None:
    images = photographs(40, 50)
    theirs = np.stack(
        [np.asarray(Image.fromarray(image).resize(new[::-1], PILLOW[interpolation])) for image in images]
    ).astype(np.float32)
    ours = Preprocessing(new, new, interpolation).apply_in_numpy(images)
    assert np.abs(ours - theirs).max() < 1.5  # Pillow rounds twice


def test_jax_and_numpy_see_the_same_pixels() -> None:
    images = photographs(40, 50)
    for size, resize in ((64, None), (20, 24), ((30, 28), (36, 30)), (None, None)):
        preprocessing = make_preprocessing(image_size=size, resize=resize)
        ours = jax.jit(preprocessing.apply)(images)
        np.testing.assert_allclose(ours, preprocessing.apply_in_numpy(images), atol=2e-3)
        assert ours.shape[1:] == preprocessing.shape((40, 50, 3))


def test_the_shorter_side_is_resized_and_the_centre_cut_out() -> None:
    images = photographs(40, 60)
    preprocessing = make_preprocessing(image_size=24, resize=30)
    assert preprocessing.resized(40, 60) == (30, 45)
    assert preprocessing.resized(61, 40) == (45, 30)  # rounded down, as torchvision does
    whole = Preprocessing((30, 45), (30, 45)).apply_in_numpy(images)
    np.testing.assert_allclose(preprocessing.apply_in_numpy(images), whole[:, 3:27, 10:34], atol=1e-3)


def test_images_of_the_right_size_are_left_alone() -> None:
    images = photographs(24, 24)
    np.testing.assert_array_equal(make_preprocessing(image_size=24).apply_in_numpy(images), images)
    np.testing.assert_array_equal(make_preprocessing(image_size=16, resize=24).apply(images), images[:, 4:20, 4:20])


def test_without_a_resize_the_shorter_side_fills_the_crop() -> None:
    preprocessing = make_preprocessing(image_size=(24, 32))
    assert preprocessing.resized(48, 48) == (32, 32)
    assert preprocessing.resized(48, 128) == (24, 64)
    assert preprocessing.apply_in_numpy(photographs(48, 48)).shape == (2, 24, 32, 3)


def test_grey_images_are_repeated() -> None:
    grey = photographs(12, 12, 1)
    for preprocessing in (make_preprocessing(image_size=None, mean=np.zeros(3)), Preprocessing(channels=3)):
        repeated = preprocessing.apply(grey)
        assert repeated.shape == (2, 12, 12, 3)
        np.testing.assert_array_equal(repeated, np.repeat(grey, 3, -1))
        np.testing.assert_array_equal(preprocessing.apply_in_numpy(grey), repeated)
    with pytest.raises(InputError, match="takes images of 3 channels, these have 2"):
        Preprocessing(channels=3).apply(photographs(12, 12, 2))


def test_rows_of_weights_sum_to_one_and_shrinking_is_antialiased() -> None:
    weights = resizing_weights(100, 10, "bicubic")
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-6)
    assert (np.count_nonzero(weights, axis=1) >= 20).all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"image_size": 0}, "give whole numbers above 0"),
        ({"image_size": 2.5}, "give whole numbers above 0"),
        ({"image_size": 32, "interpolation": "cubic"}, "unknown interpolation 'cubic'; choose one of bilinear"),
        ({"image_size": None, "resize": 40}, "resize=40 needs image_size="),
        ({"image_size": 32, "resize": 30}, "is smaller than image_size"),
    ],
)
def test_sizes_that_are_none(given: dict, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        make_preprocessing(**given)
    assert "\n" not in str(raised.value)


def test_what_it_says() -> None:
    assert str(make_preprocessing(image_size=224, resize=256, channels=3)) == (
        "224 x 224 pixels, bicubic, the centre of a shorter side of 256, 3 channels"
    )
    assert str(make_preprocessing(image_size=224, resize=(224, 224))) == "224 x 224 pixels, bicubic, squeezed"
    assert str(Preprocessing()) == "images as they are"
