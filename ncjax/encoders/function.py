"""Encoders that are plain functions from NumPy to NumPy."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from ncjax.classifier import Classifier, pixel_statistics
from ncjax.models.encoder import EagerEncoder, Encoded
from ncjax.preprocessing import Preprocessing, make_preprocessing


def from_function(
    fn: Callable[[Float[np.ndarray, "n h w c"]], Any],
    *,
    image_size: int | tuple[int, int] | None = None,
    mean: Any = 0.0,
    std: Any = 1.0,
    resize: int | tuple[int, int] | None = None,
    interpolation: str = "bicubic",
    channels: int | None = None,
    name: str | None = None,
) -> Classifier:
    """An encoder that is any function of NumPy arrays: ONNX Runtime, TensorFlow, a web service.

    It is run batch by batch, as it is. Inside a compiled call, as of augmented support, JAX calls it back. A function
    that JAX can trace is faster through `Classifier.from_callable`.

    Args:
        fn: `fn(images) -> features`; images float32 [n, h, w, c], pixels in 0..1 less `mean`, over `std`; features one
            array of floats [n, d], also of half precision, returned as float32.
        image_size: What images are resized to, one number or (height, width): the shorter side, antialiased, then the
            centre; None leaves them as they are.
        mean: Of the pixels in 0..1, a scalar or one number a channel.
        std: Likewise.
        resize: What images are resized to before the centre of `image_size` is cut out, where that is not the same.
        interpolation: "bicubic", "bilinear" or "lanczos".
        channels: 3 repeats grey images; by default what `mean` and `std` have.
        name: For tables; the function's by default.

    Returns:
        A Classifier that has features but no logits.

    Raises:
        InputError: A size, mean or std that is none.
    """
    preprocessing = make_preprocessing(
        image_size=image_size, resize=resize, interpolation=interpolation, channels=channels, mean=mean, std=std
    )

    def run(
        images: UInt8[np.ndarray, "n h w c"], preprocessing: Preprocessing, mean: np.ndarray, std: np.ndarray
    ) -> Encoded:
        pixels = preprocessing.apply_in_numpy(images)
        return Encoded(np.asarray(fn(((pixels / 255 - mean) / std).astype(np.float32, copy=False))))

    encoder = EagerEncoder(run, name or str(getattr(fn, "__name__", type(fn).__name__)))
    return Classifier({}, *pixel_statistics(mean, std), network=encoder, preprocessing=preprocessing)
