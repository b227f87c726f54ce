"""Encoders from other libraries instead of a `Network`: functions that JAX traces, and programs that it calls."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from ncjax.errors import InputError, first_line
from ncjax.models.layers import at_least_float32
from ncjax.models.network import Output
from ncjax.preprocessing import Preprocessing


class EncoderOutput(NamedTuple):
    """An encoder's features [n, d] for n images, and its stages [n, d_s] without the features."""

    features: Any
    stages: tuple[Any, ...] = ()


class _WithoutHead:
    """Base of encoders, which have no classes."""

    def head(self, variables: Any) -> tuple[Array, Array]:
        raise InputError("this encoder has features, but no logits: it was made without a head of classes")


@dataclasses.dataclass(frozen=True)
class TracedEncoder(_WithoutHead):
    """A user's function instead of a network; static under jit.

    Attributes:
        encode: `encode(variables, images)`, images float32 [n, h, w, c], returns features [n, d] or `EncoderOutput`.
        name: Name for tables and messages.
    """

    encode: Callable[[Any, Array], Any]
    name: str = "callable"

    def apply(
        self, variables: Any, images: Array, *, train: bool = False, key: Array | None = None
    ) -> tuple[Output, dict[str, Any]]:
        """Runs the encoder as `Network.apply` does; encoders are not trained.

        Raises:
            InputError: The function does not return features of these images, or JAX cannot trace it.
        """
        try:
            made = self.encode(variables, images)
        except jax.errors.TracerArrayConversionError as error:
            raise InputError(
                "the encoder computes in NumPy or another library, and JAX cannot trace it; give the function to "
                "ncjax.encoders.from_function, or a torch module to from_torch"
            ) from error
        features, stages = as_encoder_output(made, len(images))
        return Output(jnp.zeros((len(images), 0)), features, (*stages, features)), {}


def as_encoder_output(made: Any, count: int) -> EncoderOutput:
    """Converts the result of a traced encoder to features and stages of float32 or wider.

    Args:
        made: Features [count, d], or `EncoderOutput`.
        count: Number of images.

    Raises:
        InputError: It is neither.
    """
    encoded = made if isinstance(made, EncoderOutput) else EncoderOutput(made)
    arrays = [_checked(array, count, jnp.issubdtype) for array in (encoded.features, *encoded.stages)]
    features, *stages = (array.astype(at_least_float32(array.dtype)) for array in arrays)
    return EncoderOutput(features, tuple(stages))


def _checked(features: Any, count: int, is_subtype: Callable[[Any, Any], bool]) -> Any:
    """Returns the features; raises InputError unless they are floats [count, d]."""
    dtype = getattr(features, "dtype", None)
    if dtype is None or not is_subtype(dtype, np.floating if is_subtype is np.issubdtype else jnp.floating):
        actual = f"a {type(features).__name__}" if dtype is None else f"an array of {dtype}"
        raise InputError(f"the encoder made {actual}; it must make one array of floats [{count}, d]")
    if features.ndim != 2 or features.shape[0] != count or features.shape[1] == 0:
        raise InputError(
            f"the encoder made an array of shape {features.shape} for {count} images; "
            f"it must make [{count}, d]: pool or flatten its output"
        )
    return features


@dataclasses.dataclass(frozen=True, eq=False)
class EagerEncoder(_WithoutHead):
    """A program that JAX cannot trace, instead of a network; static under jit.

    Outside of compiled calls it runs batch by batch on raw images. Within them JAX calls it back on the same raw
    images, which gives the same numbers.

    Attributes:
        run: `run(images, preprocessing, mean, std)`, in NumPy, returns `EncoderOutput` of NumPy arrays.
        name: Name for tables and messages.
    """

    run: Callable[[UInt8[np.ndarray, "n h w c"], Preprocessing, np.ndarray, np.ndarray], EncoderOutput]
    name: str

    def outputs(
        self, images: UInt8[np.ndarray, "n h w c"], preprocessing: Preprocessing, mean: np.ndarray, std: np.ndarray
    ) -> Output:
        """Computes the output for raw images, on the host.

        Raises:
            InputError: The encoder fails, or does not return features of these images.
        """
        seen = preprocessing.shape(cast(tuple[int, int, int], images.shape[1:]))
        check_channels(seen[2], mean, std)
        with explained(seen):
            encoded = self.run(images, preprocessing, mean, std)
        arrays = [_checked(array, len(images), np.issubdtype) for array in (encoded.features, *encoded.stages)]
        features, *stages = (array.astype(np.float32, copy=False) for array in arrays)
        return Output(np.zeros((len(images), 0), np.float32), features, (*stages, features))  # type: ignore[arg-type]

    def _of_batches(
        self, preprocessing: Preprocessing, images: np.ndarray, mean: np.ndarray, std: np.ndarray
    ) -> Output:
        """Computes rows [b n] for images [b, n, h, w, c] with b means and stds; in one call if these are all equal."""
        if (mean == mean[:1]).all() and (std == std[:1]).all():
            return self.outputs(images.reshape(-1, *images.shape[2:]), preprocessing, mean[0], std[0])
        each = [self.outputs(images[i], preprocessing, mean[i], std[i]) for i in range(len(images))]
        return cast(Output, jax.tree.map(lambda *arrays: np.concatenate(arrays), *each))

    def call_back(
        self,
        images: UInt8[Array | np.ndarray, "n h w c"],
        preprocessing: Preprocessing,
        mean: Float[Array, "..."],
        std: Float[Array, "..."],
    ) -> Output:
        """Computes the output for raw images within a compiled call: the host runs the encoder while the device waits.

        Runs the encoder on a black image during tracing, to learn the widths of its outputs. JAX's CPU devices hang if
        several call back at once (jaxlib 0.10): callers use one device.
        """
        black = np.zeros((1, *images.shape[1:]), np.uint8)
        like = self.outputs(black, preprocessing, np.zeros(mean.shape, np.float32), np.ones(std.shape, np.float32))
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct((len(images), *x.shape[1:]), x.dtype), like)
        ranks = 4, mean.ndim, std.ndim

        def on_host(*given: Any) -> Output:
            # vmap adds axes in front, of length 1 where an array is not mapped; JAX is not called in here
            pairs = [(np.asarray(x), rank) for x, rank in zip(given, ranks, strict=True)]
            mapped = np.broadcast_shapes(*(x.shape[: x.ndim - rank] for x, rank in pairs))
            shapes = [x.shape[x.ndim - rank :] for x, rank in pairs]
            flat = [np.broadcast_to(x, mapped + y).reshape(-1, *y) for (x, _), y in zip(pairs, shapes, strict=True)]
            found = self._of_batches(preprocessing, *flat)
            rows = (*mapped, shapes[0][0])
            return cast(Output, jax.tree.map(lambda x: x.reshape(*rows, x.shape[-1]), found))

        return cast(Output, jax.pure_callback(on_host, shapes, images, mean, std, vmap_method="expand_dims"))


def check_channels(channels: int, *statistics: Any) -> None:
    """Raises InputError if mean or std has another number of channels, so that it would broadcast."""
    for value in statistics:
        if value.ndim and value.shape[-1] not in (1, channels):
            raise InputError(f"mean or std has {value.shape[-1]} channels, the images have {channels}")


@contextmanager
def explained(shape: tuple[int, ...]) -> Iterator[None]:
    """Turns an encoder's exceptions into an InputError that names the size of its images.

    Raises:
        InputError: Anything was raised inside.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {first_line(error)[:300]}"
        if "out of memory" in str(error).lower():
            raise InputError(f"the encoder ran out of memory ({reason}); give a smaller batch_size") from error
        size = " x ".join(map(str, shape))
        raise InputError(
            f"the encoder fails on images of {size} ({reason}); if they are too small or too large, give image_size=; "
            "if they have too few channels, give channels=3"
        ) from error
