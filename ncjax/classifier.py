"""The trained classifier that users pass about as `params`, and its features and logits."""

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
    """A network with its weights and all that is needed to use it on raw images; any pytree transformation applies.

    Attributes:
      variables: the network's parameters and running statistics.
      mean: what is subtracted from pixels in 0..1, [c] or a scalar.
      std: what they are divided by afterwards, [c] or a scalar.
      feature_mean: [d], the mean of the features of source-train, or None before the end of training; the centre of the
        "centered_l2" transform of few-shot episodes.
      network: the description of the network (static).
      augmentation: the augmentation it was trained under (static), for augmented support images.
      preprocessing: how images are resized and cropped before their pixels are centred and scaled (static); by default
        not at all.
    """

    variables: Any
    mean: Float[Array, "..."]
    std: Float[Array, "..."]
    feature_mean: Float[Array, "d"] | None = None
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
        """Wraps an encoder from elsewhere, for `ncjax.features` and `ncjax.eval.episodes`.

        Args:
          fn: `fn(variables, images) -> features`; images float32 [n, h, w, c], pixels in 0..1 less `mean`, over `std`;
            features one array of floats [n, d]. Traced by JAX. Pass the same function object each time: it is the key
            of the compilation cache.
          variables: any pytree of arrays.
          mean: of the pixels in 0..1, a scalar or one number a channel.
          std: likewise.

        Returns:
          A Classifier that has features but no logits.

        Raises:
          InputError: for a mean or std of another shape, one that is not finite, a std that is not positive.
        """
        return cls(variables, *pixel_statistics(mean, std), network=TracedEncoder(fn))


def pixel_statistics(mean: Any, std: Any) -> tuple[Array, Array]:
    """Mean and std of pixels as arrays.

    Raises:
      InputError: for one of another shape than [c] or (), one that is not finite, a std that is not positive.
    """
    statistics = tuple(
        array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(jnp.float32)
        for array in (jnp.asarray(mean), jnp.asarray(std))
    )
    for name, value in zip(("mean", "std"), statistics, strict=True):
        if value.ndim > 1 or not jnp.isfinite(value).all() or (name == "std" and not (value > 0).all()):
            found = value.tolist() if value.ndim < 2 else f"of shape {value.shape}"
            above = ", above 0" if name == "std" else ""
            raise InputError(f"{name} is {found}; give a scalar or one finite number a channel{above}")
    return statistics[0], statistics[1]


def normalize(images: Array, mean: Array, std: Array) -> Float[Array, "n h w c"]:
    """Pixels 0..255 [n, h, w, c] to centred and scaled ones: (x / 255 - mean) / std.

    Raises:
      InputError: if mean or std is of another number of channels, where it would broadcast to more.
    """
    check_channels(images.shape[-1], mean, std)
    return (images.astype(mean.dtype) / 255 - mean) / std


def apply(params: Classifier, images: UInt8[Array, "n h w c"]) -> Output:
    """The whole output for raw images in evaluation mode, in float32 at the highest precision.

    A pure function, for use inside jit and vmap.
    """
    if isinstance(params.network, EagerEncoder):
        return params.network.call_back(images, params.preprocessing, params.mean, params.std)
    with jax.default_matmul_precision("highest"):
        pixels = normalize(params.preprocessing.apply(images), params.mean, params.std)
        output, _ = params.network.apply(params.variables, pixels, train=False)
    return output


def extract(params: Classifier, images: UInt8[Array, "n h w c"]) -> Float[Array, "n d"]:
    """The features of raw images in evaluation mode; a pure function, for use inside jit and vmap."""
    return apply(params, images).features


@partial(jax.jit, static_argnames=("fields", "mesh"))
def _compiled(
    params: Classifier, images: UInt8[Array, "n h w c"], fields: tuple[str, ...], mesh: Mesh
) -> tuple[Any, ...]:
    output = apply(params, images)
    # gathered, so that every host can read all of it
    return jax.lax.with_sharding_constraint(tuple(getattr(output, field) for field in fields), devices.replicated(mesh))


def _pixels(images_or_split: Split | np.ndarray | Array) -> np.ndarray | Array:
    images = images_or_split.images if isinstance(images_or_split, Split) else images_or_split
    if getattr(images, "ndim", 0) != 4 or images.dtype != np.uint8:
        found = f"{images.dtype} {images.shape}" if hasattr(images, "dtype") else type(images).__name__
        raise InputError(f"images must be a Split or a uint8 array [n, h, w, c] of pixels 0..255, not {found}")
    return images


@devices.on_data_mesh
def outputs(
    params: Classifier,
    images_or_split: Split | np.ndarray | Array,
    fields: tuple[str, ...],
    *,
    batch_size: int = 256,
) -> tuple[Any, ...]:
    """Some fields of `Output` ("logits", "features", "stages") for all images, computed batch by batch.

    Args:
      params: the classifier.
      images_or_split: uint8 images [n, h, w, c], or a Split of them.
      fields: which fields.
      batch_size: images a compiled call, rounded up to a multiple of the number of devices. The last batch is padded to
        the same size and the padding cut off: in evaluation mode no image depends on its batch mates.

    Returns:
      The fields as NumPy, rows in the order of the images.

    Raises:
      InputError: for images of another type or shape, none at all, or a batch size below 1.
    """
    images = _pixels(images_or_split)
    if len(images) == 0:
        raise InputError("there are no images: an array of length 0 has no features")
    if batch_size < 1:
        raise InputError(f"batch_size={batch_size}: it must be at least 1")
    batches = (_eager if isinstance(params.network, EagerEncoder) else _traced)(
        params, images, fields, min(batch_size, len(images))
    )
    first = next(batches)  # compiles, or says what the encoder takes for features: before there is a bar
    whole = jax.tree.map(lambda rows: np.empty((len(images), *rows.shape[1:]), rows.dtype), first)
    done = 0
    with progress_bar("features", " images", total=len(images)) as bar:
        for output in chain([first], batches):
            if not isinstance(params.network, Network):
                _check_finite(output, done)
            count = len(jax.tree.leaves(output)[0])
            for array, rows in zip(jax.tree.leaves(whole), jax.tree.leaves(output), strict=True):
                array[done : done + count] = rows
            done += count
            bar.update(count)
    found: tuple[Any, ...] = whole
    return found


def _check_finite(output: Any, done: int) -> None:
    """Raises InputError where an encoder's outputs for the images from number `done` on are not finite."""
    for array in jax.tree.leaves(output):
        if not np.isfinite(array).all():
            bad = done + int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
            raise InputError(
                f"the encoder's output for image {bad} is not finite: half precision may have overflown (use float32), "
                "the image may be too small for it (give image_size=), or its weights are damaged"
            )


def _eager(params: Classifier, images: Any, fields: tuple[str, ...], batch_size: int) -> Iterator[tuple[Any, ...]]:
    """The fields of one batch after the other, of an encoder that JAX cannot trace."""
    assert isinstance(params.network, EagerEncoder)
    mean, std = np.asarray(params.mean), np.asarray(params.std)
    for start in range(0, len(images), batch_size):
        output = params.network.outputs(np.asarray(images[start : start + batch_size]), params.preprocessing, mean, std)
        yield tuple(getattr(output, field) for field in fields)


def _traced(params: Classifier, images: Any, fields: tuple[str, ...], batch_size: int) -> Iterator[tuple[Any, ...]]:
    """The fields of one batch after the other, of a network that JAX compiles."""
    mesh = devices.data_mesh()
    batch_size = -(-batch_size // mesh.size) * mesh.size
    params = jax.device_put(params, devices.replicated(mesh))
    # read with a delay, so that the devices never wait for the host; without it, results would fill their memory,
    # and programs that exchange values between CPU devices hang once more than 32 of them wait (jaxlib 0.10)
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
    """The first rows, the padding left out."""
    rows: tuple[Any, ...] = jax.tree.map(lambda array: np.asarray(array)[:count], output)
    return rows


def features(
    params: Classifier, images_or_split: Split | np.ndarray | Array, *, batch_size: int = 256
) -> Float[np.ndarray, "n d"]:
    """The penultimate layer of all images, in evaluation mode, without augmentation.

    Args:
      params: the classifier.
      images_or_split: uint8 images [n, h, w, c], or a Split of them.
      batch_size: images a compiled call.

    Returns:
      float32 [n, d], rows in the order of the images.

    Raises:
      InputError: for images of another type or shape, or none at all.
    """
    return outputs(params, images_or_split, ("features",), batch_size=batch_size)[0]


@devices.on_data_mesh
def logits(
    params: Classifier, images_or_split: Split | np.ndarray | Array, *, batch_size: int = 256
) -> Float[np.ndarray, "n k"]:
    """The scores of the source classes for all images, as `features` computes features.

    Raises:
      InputError: also for an encoder that has no classes (`Classifier.from_callable`).
    """
    params.network.head(params.variables)  # an encoder without one says so
    return outputs(params, images_or_split, ("logits",), batch_size=batch_size)[0]
