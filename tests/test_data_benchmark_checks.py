"""Split and Benchmark check the caller's own data."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from ncjax.data import Benchmark, Split
from ncjax.errors import InputError

IMAGES = np.zeros((6, 5, 4, 1), np.uint8)
LABELS = np.array([0, 0, 1, 1, 2, 2], np.int32)
NAMES = ("a", "b", "c")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"labels": LABELS[:5]}, r"labels is int32 \[5\]; it must be \[6\], one for each image"),
        ({"labels": np.eye(6, 3)}, r"labels is float64 \[6, 3\]; it must be \[6\]"),
        ({"labels": [0, 0, 1, 1, 2, -1]}, "label -1 of image 5 is none of 0 to 2, as class_names has 3 names"),
        ({"labels": LABELS + 1}, "label 3 of image 4 is none of 0 to 2"),
        ({"labels": np.array([0, 0, 1, 1, 2, 2**64 - 1], np.uint64)}, "label 18446744073709551615 of image 5"),
        ({"labels": LABELS + 0.5}, "labels is float64 .*; it must be whole numbers"),
        ({"labels": [0, 0, 1, 1, 2, np.nan]}, "labels is float64 .*; it must be whole numbers"),
        ({"labels": [0, 0, 1, 1, 2, np.inf]}, "label inf of image 5"),
        ({"labels": list("aabbcc")}, "it must be whole numbers"),
        ({"labels": [[0], [0, 1]]}, "labels cannot be read as an array"),
        ({"labels": None}, r"labels is object \[\]"),
        ({"images": IMAGES.astype(np.float32)}, r"images is float32 \[6, 5, 4, 1\]; it must be uint8 \[n, h, w, c\]"),
        ({"images": IMAGES[..., 0]}, r"images is uint8 \[6, 5, 4\]; it must be"),
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, r"images is uint8 \[0, 5, 4, 1\]; it must be"),
        ({"images": [IMAGES[0], IMAGES[0, :3]]}, "images cannot be read as an array"),
        ({"class_names": "abc"}, "class_names is 'abc'; it must be a tuple"),
        ({"class_names": 3}, "class_names is 3; it must be a tuple"),
        ({"class_names": (0, 1, 2)}, "class_names has 0 at 0, a int; names must be strings"),
        ({"class_names": ("a", "b", "a")}, "class_names has 'a' more than once"),
    ],
)
def test_what_is_no_split_is_one_line(changed, message):
    with pytest.raises(InputError, match=message) as raised:
        Split(**({"images": IMAGES, "labels": LABELS, "class_names": NAMES} | changed))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("type_", [list, jnp.asarray, np.uint8, np.int64, ">i8", np.float32])
def test_a_split_holds_one_form_of_labels_and_images(type_):
    labels = type_(LABELS) if callable(type_) and not isinstance(type_, type) else LABELS.astype(type_)
    labels = LABELS.tolist() if type_ is list else labels
    split = Split(jnp.asarray(IMAGES), labels, list(NAMES))
    assert type(split.images) is type(split.labels) is np.ndarray
    assert split.labels.dtype == np.int32
    np.testing.assert_array_equal(split.labels, LABELS)
    assert split.class_names == NAMES
    assert Split(IMAGES, LABELS, NAMES).images is IMAGES  # not copied


def _split(**changed):
    return Split(**({"images": IMAGES, "labels": LABELS, "class_names": NAMES} | changed))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"name": None}, "a Benchmark's name is None"),
        ({"target": None}, "target of tiny is a NoneType; it must be an ncjax.data.Split"),
        ({"source_train": (IMAGES, LABELS)}, "source_train of tiny is a tuple; it must be an ncjax.data.Split"),
        (
            {"target": _split(images=IMAGES.repeat(3, -1))},
            r"are \[5, 4, 1\] in source_train and \[5, 4, 3\] in target; all must",
        ),
        ({"source_test": _split(images=IMAGES[:, :4])}, r"and \[4, 4, 1\] in source_test"),
        ({"validation": _split(images=IMAGES[:, :, 1:])}, r"and \[5, 3, 1\] in validation"),
        ({"source_test": _split(class_names=("a", "c", "b"))}, "source_test of tiny has other class_names"),
        ({"source_train": _split(labels=[0, 0, 1, 1, 1, 1])}, "class 'c' of tiny has 0 images in source_train"),
        ({"target": _split(labels=[0, 0, 1, 1, 1, 2])}, "class 'c' of tiny has 1 images in target; .* at least 2"),
        ({"target": _split(labels=LABELS * 0, class_names=("a",))}, "there are 1 target classes in tiny; at least 2"),
        ({"augmentation": "flip"}, "unknown augmentation 'flip'; choose one of none, crop_flip, shift"),
    ],
)
def test_splits_that_do_not_fit_are_one_line(changed, message):
    whole = Benchmark("tiny", _split(), _split(), None, _split())
    with pytest.raises(InputError, match=message) as raised:
        dataclasses.replace(whole, **changed)
    assert "\n" not in str(raised.value)


def test_what_tests_and_users_make_is_taken():
    assert tiny.benchmark().made_with == {}
    assert dataclasses.replace(tiny.benchmark(), source_test=None).source_test is None
