"""The trained classifier, which users pass about as `params`, and its features and logits."""

from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import Mesh
from jaxtyping import Array, Float, UInt8

from ncjax import devices
from ncjax.data import Split
from ncjax.errors import InputError
from ncjax.models import Network, Output
from ncjax.models.encoder import EagerEncoder, TracedEncoder, check_channels
from ncjax.preprocessing import Preprocessing
from ncjax.progress import progress_bar


@struct.dataclass
class Classifier:
    """A network with its weights and preprocessing, for raw images; a pytree.

    Attributes:
        variables: The network's parameters and running statistics.
        mean: Mean of pixels in 0..1, subtracted from them; [c] or a scalar.
        std: Standard deviation of pixels in 0..1, which then divides them; [c] or a scalar.
        feature_mean: [d], the mean of the source-train features, None before the end of training; the centre of the
            "centered_l2" transform of few-shot episodes.
        network: The description of the network (static).
        augmentation: The augmentation of its training (static), for augmented support images.
        preprocessing: How images are resized and cropped before pixels are centred and scaled (static); by default not
            at all.
    """

    variables: Any
    mean: Float[Array, "..."]
    std: Float[Array, "..."]
    feature_mean: Float[Array, " d"] | None = None
    network: Network | TracedEncoder | EagerEncoder = struct.field(pytree_node=False, kw_only=True)
    augmentation: str = struct.field(pytree_node=False, default="none", kw_only=True)
    preprocessing: Preprocessing = struct.field(pytree_node=False, default=Preprocessing(), kw_only=True)

    @classmethod
    def from_callable(
        cls,
        fn: Callable[[Any, Array], Array],
        variables: Any,
        *,
        mean: float | Array = 0.0,
        std: float | Array = 1.0,
    ) -> "Classifier":
        """Wraps any JAX encoder, for `ncjax.features` and `ncjax.eval.episodes`.

        Args:
            fn: `fn(variables, images) -> features`; images float32 [n, h, w, c], pixels in 0..1 minus `mean`, over
                `std`; features an array of floats [n, d]. Traced by JAX. Pass the same function object each time: it is
                the key of the compilation cache.
            variables: Any pytree of arrays.
            mean: Mean of pixels in 0..1, a scalar or one number per channel.
            std: Standard deviation of pixels in 0..1, a scalar or one number per channel.

        Returns:
            A Classifier that has features but no logits.

        Raises:
            InputError: Mean or std have another shape or are not finite, or std is not positive.
        """
        return cls(variables, *pixel_statistics(mean, std), network=TracedEncoder(fn))


def pixel_statistics(mean: Any, std: Any) -> tuple[Array, Array]:
    """Returns mean and std of pixels as arrays.

    Raises:
        InputError: Their shape is not [c] or (), they are not finite, or std is not positive.
    """
    statistics = tuple(
        array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(jnp.float32)
        for array in (jnp.asarray(mean), jnp.asarray(std))
    )
    for name, value in zip(("mean", "std"), statistics, strict=True):
        if value.ndim > 1 or not jnp.isfinite(value).all() or (name == "std" and not (value > 0).all()):
            actual = value.tolist() if value.ndim < 2 else f"of shape {value.shape}"
            above = ", above 0" if name == "std" else ""
            raise InputError(f"{name} is {actual}; give a scalar or one finite number a channel{above}")
    return statistics[0], statistics[1]


def normalize(images: Array, mean: Array, std: Array) -> Float[Array, "n h w c"]:
    """Centres and scales pixels 0..255 [n, h, w, c]: (x / 255 - mean) / std.

    Raises:
        InputError: Mean or std has another number of channels than the images.
    """
    check_channels(images.shape[-1], mean, std)
    return (images.astype(mean.dtype) / 255 - mean) / std


def apply(params: Classifier, images: UInt8[Array | np.ndarray, "n h w c"]) -> Output:
    """Computes the output for raw images in evaluation mode, in float32 at the highest precision.

    Pure: for use inside jit and vmap.
    """
    if isinstance(params.network, EagerEncoder):
        return params.network.call_back(images, params.preprocessing, params.mean, params.std)
    with jax.default_matmul_precision("highest"):
        pixels = normalize(params.preprocessing.apply(images), params.mean, params.std)
        output, _ = params.network.apply(params.variables, pixels, train=False)
    return output


def extract(params: Classifier, images: UInt8[Array | np.ndarray, "n h w c"]) -> Float[Array, "n d"]:
    """Computes the features of raw images in evaluation mode. Pure: for use inside jit and vmap."""
    return apply(params, images).features


@partial(jax.jit, static_argnames=("fields", "mesh"))
def _compiled(
    params: Classifier, images: UInt8[Array | np.ndarray, "n h w c"], fields: tuple[str, ...], mesh: Mesh
) -> tuple[Any, ...]:
    output = apply(params, images)
    # gathered, so that every host can read all rows
    return jax.lax.with_sharding_constraint(tuple(getattr(output, field) for field in fields), devices.replicated(mesh))


def _pixels(images_or_split: Split | np.ndarray | Array) -> np.ndarray | Array:
    images = images_or_split.images if isinstance(images_or_split, Split) else images_or_split
    if getattr(images, "ndim", 0) != 4 or images.dtype != np.uint8:
        actual = f"{images.dtype} {images.shape}" if hasattr(images, "dtype") else type(images).__name__
        raise InputError(f"images must be a Split or a uint8 array [n, h, w, c] of pixels 0..255, not {actual}")
    return images


@devices.on_data_mesh
def outputs(
    params: Classifier,
    images_or_split: Split | np.ndarray | Array,
    fields: tuple[str, ...],
    *,
    batch_size: int = 256,
) -> tuple[Any, ...]:
    """Computes fields of `Output` ("logits", "features", "stages") for all images, batch by batch.

    Args:
        params: The classifier.
        images_or_split: uint8 images [n, h, w, c], or a Split.
        fields: Names of the fields.
        batch_size: Images in a compiled call, rounded up to a multiple of the number of devices. The last batch is
            padded: in evaluation mode no image affects another.

    Returns:
        The fields as NumPy arrays, rows in the order of the images.

    Raises:
        InputError: Images have another type or shape, there are none, or the batch size is below 1.
    """
    images = _pixels(images_or_split)
    if len(images) == 0:
        raise InputError("there are no images: an array of length 0 has no features")
    if batch_size < 1:
        raise InputError(f"batch_size={batch_size}: it must be at least 1")
    batches = (_eager if isinstance(params.network, EagerEncoder) else _traced)(
        params, images, fields, min(batch_size, len(images))
    )
    first = next(batches)  # compiles, and may write remarks, before there is a progress bar
    results: tuple[Any, ...] = jax.tree.map(lambda rows: np.empty((len(images), *rows.shape[1:]), rows.dtype), first)
    done = 0
    with progress_bar("features", " images", total=len(images)) as bar:
        for output in chain([first], batches):
            if not isinstance(params.network, Network):
                _check_finite(output, done)
            count = len(jax.tree.leaves(output)[0])
            for array, rows in zip(jax.tree.leaves(results), jax.tree.leaves(output), strict=True):
                array[done : done + count] = rows
            done += count
            bar.update(count)
    return results


def _check_finite(output: Any, done: int) -> None:
    """Raises InputError if an encoder's outputs for the images from number `done` on are not finite."""
    for array in jax.tree.leaves(output):
        if not np.isfinite(array).all():
            bad = done + int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
            raise InputError(
                f"the encoder's output for image {bad} is not finite: half precision may have overflown (use float32), "
                "the image may be too small for it (give image_size=), or its weights are damaged"
            )


def _eager(params: Classifier, images: Any, fields: tuple[str, ...], batch_size: int) -> Iterator[tuple[Any, ...]]:
    """Yields the fields of each batch, for an encoder that JAX cannot trace."""
    assert isinstance(params.network, EagerEncoder)
    mean, std = np.asarray(params.mean), np.asarray(params.std)
    for start in range(0, len(images), batch_size):
        output = params.network.outputs(np.asarray(images[start : start + batch_size]), params.preprocessing, mean, std)
        yield tuple(getattr(output, field) for field in fields)


def _traced(params: Classifier, images: Any, fields: tuple[str, ...], batch_size: int) -> Iterator[tuple[Any, ...]]:
    """Yields the fields of each batch, for a network that JAX compiles."""
    mesh = devices.data_mesh()
    batch_size = -(-batch_size // mesh.size) * mesh.size
    params = jax.device_put(params, devices.replicated(mesh))
    # Reads with a delay, so that devices never wait for the host. Results that are not read would fill their memory,
    # and more than 32 pending programs that exchange values between CPU devices hang (jaxlib 0.10).
    waiting: deque[tuple[int, Any]] = deque()
    for start in range(0, len(images), batch_size):
        batch = np.asarray(images[start : start + batch_size])
        count = len(batch)
        if count < batch_size:
            batch = np.concatenate([batch, np.zeros((batch_size - count, *batch.shape[1:]), np.uint8)])
        waiting.append((count, _compiled(params, jax.device_put(batch, devices.sharded(mesh)), fields, mesh)))
        if len(waiting) > 4:
            yield _on_host(*waiting.popleft())
    while waiting:
        yield _on_host(*waiting.popleft())


def _on_host(count: int, output: Any) -> tuple[Any, ...]:
    """Copies the first `count` rows to the host, which leaves out the padding."""
    rows: tuple[Any, ...] = jax.tree.map(lambda array: np.asarray(array)[:count], output)
    return rows


def features(
    params: Classifier, images_or_split: Split | np.ndarray | Array, *, batch_size: int = 256
) -> Float[np.ndarray, "n d"]:
    """Computes the penultimate layer for all images, in evaluation mode, without augmentation.

    Args:
        params: The classifier.
        images_or_split: uint8 images [n, h, w, c], or a Split.
        batch_size: Images in a compiled call.

    Returns:
        float32 [n, d], rows in the order of the images.

    Raises:
        InputError: Images have another type or shape, or there are none.
    """
    return outputs(params, images_or_split, ("features",), batch_size=batch_size)[0]


@devices.on_data_mesh
def logits(
    params: Classifier, images_or_split: Split | np.ndarray | Array, *, batch_size: int = 256
) -> Float[np.ndarray, "n k"]:
    """Computes the scores of the source classes for all images.

    Args:
        params: The classifier.
        images_or_split: uint8 images [n, h, w, c], or a Split.
        batch_size: Images in a compiled call.

    Returns:
        float32 [n, k], rows in the order of the images.

    Raises:
        InputError: As in `features`; or the encoder has no classes (`Classifier.from_callable`).
    """
    params.network.head(params.variables)  # raises if there is no head
    return outputs(params, images_or_split, ("logits",), batch_size=batch_size)[0]
