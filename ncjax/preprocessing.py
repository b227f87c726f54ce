"""Resizes and crops images, and repeats grey channels, before pixels are centred and scaled.

Resizing is two products with matrices of weights, which NumPy computes once. JAX, torch and NumPy multiply by the same
matrices, so that an encoder sees the same pixels in any of them. As in Pillow, which the transforms of torchvision and
timm call, lines are resized first, then columns, and values are clipped to 0..255 after each; Pillow also rounds, and
this does not. (Since version 13 Pillow resizes columns first if that is cheaper, as when heights shrink and widths
grow.)
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from ncjax.errors import InputError


def _bicubic(x: np.ndarray) -> np.ndarray:
    """Computes Keys' kernel with a = -1/2, as in Pillow, torch (antialiased) and JAX."""
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


_KERNELS: dict[str, tuple[float, Callable[[np.ndarray], np.ndarray]]] = {
    "bilinear": (1.0, lambda x: np.maximum(1 - x, 0)),
    "bicubic": (2.0, _bicubic),
    "lanczos": (3.0, lambda x: np.where(x < 3, np.sinc(x) * np.sinc(x / 3), 0.0)),
}
INTERPOLATIONS = tuple(_KERNELS)


def resizing_weights(size: int, new_size: int, interpolation: str) -> Float[np.ndarray, "new old"]:
    """Computes the matrix that resizes a line of `size` pixels to `new_size`, antialiased if it shrinks.

    Stretches the kernel by size / new_size if that is above 1; each row sums to 1, as in Pillow.
    """
    radius, kernel = _KERNELS[interpolation]
    scale = size / new_size
    stretch = max(scale, 1.0)
    centre = (np.arange(new_size) + 0.5) * scale
    first = np.maximum(np.floor(centre - radius * stretch + 0.5), 0)
    last = np.minimum(np.floor(centre + radius * stretch + 0.5), size)
    pixel = np.arange(size)
    weights = kernel(np.abs(pixel + 0.5 - centre[:, None]) / stretch)
    weights = np.where((pixel >= first[:, None]) & (pixel < last[:, None]), weights, 0.0)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


@dataclass(frozen=True)
class Preprocessing:
    """How raw images become an encoder's input; hashable, so that it may be static under jit.

    Attributes:
        image_size: (height, width) of the encoder's input; None keeps the size.
        resize: Size before the centre of `image_size` is cropped: the length of the shorter side, or (height, width),
            which may change the aspect ratio. None for the shorter side that just covers `image_size`.
        interpolation: "bicubic", "bilinear" or "lanczos", antialiased.
        channels: 3 repeats the channel of grey images; None keeps the channels.
    """

    image_size: tuple[int, int] | None = None
    resize: int | tuple[int, int] | None = None
    interpolation: str = "bicubic"
    channels: int | None = None

    def __post_init__(self) -> None:
        sizes = [self.image_size, self.resize, self.channels]
        flat = [n for size in sizes for n in (size if isinstance(size, tuple) else (size,)) if n is not None]
        pairs = [size for size in (self.image_size, self.resize) if isinstance(size, tuple)]
        wrong = any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in flat)
        if wrong or any(len(pair) != 2 for pair in pairs):
            raise InputError(
                f"image_size={self.image_size}, resize={self.resize}, channels={self.channels}: give whole numbers "
                "above 0, a size as one number or as (height, width)"
            )
        if self.interpolation not in _KERNELS:
            raise InputError(f"unknown interpolation {self.interpolation!r}; choose one of {', '.join(_KERNELS)}")
        if self.image_size is None and self.resize is not None:
            raise InputError(f"resize={self.resize} needs image_size=, the size of the crop")
        if self.image_size is not None and self.resize is not None:
            smaller = min(self.resize) if isinstance(self.resize, tuple) else self.resize
            if smaller < (min(self.image_size) if isinstance(self.resize, tuple) else max(self.image_size)):
                raise InputError(f"resize={self.resize} is smaller than image_size={self.image_size}: increase resize")

    def __str__(self) -> str:
        if self.image_size is None:
            size = "images as they are"
        else:
            size = " x ".join(map(str, self.image_size)) + f" pixels, {self.interpolation}"
            if isinstance(self.resize, tuple):
                size += f" from {self.resize[0]} x {self.resize[1]}" if self.resize != self.image_size else ", squeezed"
            elif self.resize is not None:
                size += f", the centre of a shorter side of {self.resize}"
            else:
                size += ", the centre"
        return size if self.channels is None else f"{size}, {self.channels} channels"

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Returns the (height, width) before the crop for images of that size."""
        if self.image_size is None:
            return height, width
        if isinstance(self.resize, tuple):
            return self.resize
        if self.resize is None:  # the shorter side covers the crop
            ratio = max(self.image_size[0] / height, self.image_size[1] / width)
            rounded = [int(side * ratio + 1e-9) for side in (height, width)]
            return max(rounded[0], self.image_size[0]), max(rounded[1], self.image_size[1])
        if height <= width:
            return self.resize, int(self.resize * width / height)
        return int(self.resize * height / width), self.resize

    def shape(self, image_shape: tuple[int, ...]) -> tuple[int, int, int]:
        """Returns the (height, width, channels) of the encoder's input for images of that shape.

        Raises:
            InputError: The images are not grey and have another number of channels.
        """
        height, width, channels = image_shape
        if self.channels is not None and channels not in (1, self.channels):
            raise InputError(f"the encoder takes images of {self.channels} channels, these have {channels}")
        return *(self.image_size or (height, width)), self.channels or channels

    def weights(
        self, height: int, width: int
    ) -> tuple[Float[np.ndarray, "H h"] | None, Float[np.ndarray, "W w"] | None]:
        """Returns the matrices that resize and crop columns and lines of that size; None if nothing changes."""
        if self.image_size is None:
            return None, None
        new = self.resized(height, width)
        rows, columns = (
            _cropped(size, resized, crop, self.interpolation)
            for size, resized, crop in zip((height, width), new, self.image_size, strict=True)
        )
        return rows, columns

    def apply(self, images: UInt8[Array | np.ndarray, "n h w c"]) -> Float[Array, "n H W C"] | UInt8[Array, "n H W C"]:
        """Computes the encoder's pixels, 0..255, before centring. Pure: for use inside jit and vmap."""
        channels = self.shape(images.shape[1:])[2]
        rows, columns = self.weights(*images.shape[1:3])
        pixels = jnp.asarray(images)
        if columns is not None:
            pixels = _resize(columns, pixels, "Ww,nhwc->nhWc")
        if rows is not None:
            pixels = _resize(rows, pixels, "Hh,nhwc->nHwc")
        return pixels if pixels.shape[-1] == channels else jnp.repeat(pixels, channels, axis=-1)

    def apply_in_numpy(self, images: UInt8[np.ndarray, "n h w c"]) -> Float[np.ndarray, "n H W C"]:
        """Computes `apply` in NumPy, as float32."""
        channels = self.shape(images.shape[1:])[2]
        rows, columns = self.weights(*images.shape[1:3])
        pixels = images.astype(np.float32)
        if rows is not None or columns is not None:
            planes = pixels.transpose(0, 3, 1, 2)
            planes = planes if columns is None else np.clip(np.matmul(planes, columns.T), 0, 255)
            planes = planes if rows is None else np.clip(np.matmul(rows, planes), 0, 255)
            pixels = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
        return pixels if pixels.shape[-1] == channels else np.repeat(pixels, channels, axis=-1)


def _resize(weights: Float[np.ndarray, "new old"], images: Array, axes: str) -> Float[Array, "n H W c"]:
    return jnp.clip(jnp.einsum(axes, weights, images.astype(jnp.float32), precision="highest"), 0, 255)


@lru_cache(maxsize=64)
def _cropped(size: int, resized: int, crop: int, interpolation: str) -> Float[np.ndarray, "new old"] | None:
    """Returns the rows of the resizing matrix for the centre `crop` of `resized` pixels; None if nothing changes."""
    if size == resized == crop:
        return None
    weights = np.eye(size, dtype=np.float32) if size == resized else resizing_weights(size, resized, interpolation)
    top = round((resized - crop) / 2)
    return weights[top : top + crop]


def make_preprocessing(
    *,
    image_size: int | tuple[int, int] | None,
    resize: int | tuple[int, int] | None = None,
    interpolation: str = "bicubic",
    channels: int | None = None,
    mean: Any = 0.0,
    std: Any = 1.0,
) -> Preprocessing:
    """Makes a `Preprocessing` from sizes of one or two numbers; `channels` defaults to those of mean and std.

    Raises:
        InputError: A size is not a whole number above 0, the interpolation is unknown, or the crop is larger than the
            resized image.
    """
    if channels is None:
        lengths = [len(value) for value in map(np.asarray, (mean, std)) if value.ndim == 1]
        channels = max(lengths, default=None)
    return Preprocessing(
        _pair(image_size) if image_size is None or isinstance(image_size, list | tuple) else (image_size, image_size),
        _pair(resize) if isinstance(resize, list | tuple) else resize,
        interpolation,
        None if channels == 1 else channels,
    )


def _pair(size: Any) -> Any:
    """Converts a size to a tuple."""
    return None if size is None else (*size,)
