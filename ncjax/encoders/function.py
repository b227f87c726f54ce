"""Encoders that are NumPy functions."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from ncjax.classifier import Classifier, pixel_statistics
from ncjax.models.encoder import EagerEncoder, EncoderOutput
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
    """Wraps any function of NumPy arrays as an encoder, such as ONNX Runtime, TensorFlow or a web service.

    Runs it batch by batch, without compilation. Within a compiled call, as for augmented support, JAX calls it back. A
    function that JAX can trace is faster with `Classifier.from_callable`.

    Args:
        fn: `fn(images) -> features`; images float32 [n, h, w, c], pixels in 0..1 minus `mean`, over `std`; features an
            array of floats [n, d] of any precision, converted to float32.
        image_size: The size of the encoder's images, one number or (height, width): resizes the shorter side,
            antialiased, then crops the centre; None keeps the size.
        mean: Mean of pixels in 0..1, a scalar or one number per channel.
        std: Standard deviation of pixels in 0..1, a scalar or one number per channel.
        resize: The size before the centre of `image_size` is cropped, if it differs.
        interpolation: "bicubic", "bilinear" or "lanczos".
        channels: 3 repeats grey images; defaults to the channels of `mean` and `std`.
        name: Name for tables; defaults to the name of the function.

    Returns:
        A Classifier that has features but no logits.

    Raises:
        InputError: A size, mean or std is invalid.
    """
    preprocessing = make_preprocessing(
        image_size=image_size, resize=resize, interpolation=interpolation, channels=channels, mean=mean, std=std
    )

    def run(
        images: UInt8[np.ndarray, "n h w c"], preprocessing: Preprocessing, mean: np.ndarray, std: np.ndarray
    ) -> EncoderOutput:
        pixels = preprocessing.apply_in_numpy(images)
        return EncoderOutput(np.asarray(fn(((pixels / 255 - mean) / std).astype(np.float32, copy=False))))

    encoder = EagerEncoder(run, name or str(getattr(fn, "__name__", type(fn).__name__)))
    return Classifier({}, *pixel_statistics(mean, std), network=encoder, preprocessing=preprocessing)
