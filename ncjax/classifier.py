"""The trained classifier that users pass about as `params`, and its features and logits."""

import dataclasses
from collections.abc import Callable
from functools import partial
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
from ncjax.models.layers import at_least_float32
from ncjax.progress import progress


@dataclasses.dataclass(frozen=True)
class _Encoder:
    """A user's own function in the place of a network; static under jit."""

    encode: Callable[[Any, Array], Array]
    name: str = "callable"

    def apply(
        self, variables: Any, images: Array, *, train: bool = False, key: Array | None = None
    ) -> tuple[Output, dict[str, Any]]:
        try:
            features = self.encode(variables, images)
        except jax.errors.TracerArrayConversionError as error:
            raise InputError(
                "the encoder computes in NumPy or another library, and JAX cannot trace it; extract the features "
                "yourself, and give them to ncjax.eval.feature_episodes and ncjax.collapse.measure"
            ) from error
        dtype = getattr(features, "dtype", None)
        if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
            found = f"a {type(features).__name__}" if dtype is None else f"an array of {dtype}"
            raise InputError(f"the encoder made {found}; it must make one array of floats [{images.shape[0]}, d]")
        if features.ndim != 2 or features.shape[0] != images.shape[0] or features.shape[1] == 0:
            raise InputError(
                f"the encoder made an array of shape {features.shape} of {images.shape[0]} images; "
                f"it must make [{images.shape[0]}, d]: pool or flatten its output"
            )
        features = features.astype(at_least_float32(features.dtype))
        return Output(jnp.zeros((images.shape[0], 0)), features, (features,)), {}

    def head(self, variables: Any) -> tuple[Array, Array]:
        raise InputError("this encoder was made by Classifier.from_callable: it has features, but no logits")


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
    """

    variables: Any
    mean: Float[Array, "..."]
    std: Float[Array, "..."]
    feature_mean: Float[Array, "d"] | None = None
    network: Network | _Encoder = struct.field(pytree_node=False, kw_only=True)
    augmentation: str = struct.field(pytree_node=False, default="none", kw_only=True)

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
        wrapped = cls(variables, jnp.asarray(mean), jnp.asarray(std), network=_Encoder(fn))
        for name, value in (("mean", wrapped.mean), ("std", wrapped.std)):
            if value.ndim > 1 or not jnp.isfinite(value).all() or (name == "std" and not (value > 0).all()):
                found = value.tolist() if value.ndim < 2 else f"of shape {value.shape}"
                above = ", above 0" if name == "std" else ""
                raise InputError(f"{name} is {found}; give a scalar or one finite number a channel{above}")
        return wrapped


def normalize(images: UInt8[Array, "n h w c"], mean: Array, std: Array) -> Float[Array, "n h w c"]:
    """Raw pixels 0..255 to centred and scaled ones: (x / 255 - mean) / std.

    Raises:
      InputError: if mean or std is of another number of channels, where it would broadcast to more.
    """
    for value in (mean, std):
        if value.ndim and value.shape[-1] not in (1, images.shape[-1]):
            raise InputError(f"mean or std is of {value.shape[-1]} channels, the images have {images.shape[-1]}")
    return (images.astype(mean.dtype) / 255 - mean) / std


def apply(params: Classifier, images: UInt8[Array, "n h w c"]) -> Output:
    """The whole output for raw images in evaluation mode, in float32 at the highest precision.

    A pure function, for use inside jit and vmap.
    """
    with jax.default_matmul_precision("highest"):
        output, _ = params.network.apply(params.variables, normalize(images, params.mean, params.std), train=False)
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
    mesh = devices.data_mesh()
    batch_size = -(-min(batch_size, len(images)) // mesh.size) * mesh.size
    params = jax.device_put(params, devices.replicated(mesh))
    parts = []
    for start in progress(range(0, len(images), batch_size), "features", "batch"):
        batch = np.asarray(images[start : start + batch_size])
        count = len(batch)
        if count < batch_size:
            batch = np.concatenate([batch, np.zeros((batch_size - count, *batch.shape[1:]), np.uint8)])
        out = _compiled(params, jax.device_put(batch, devices.sharded(mesh)), fields, mesh)
        parts.append(jax.tree.map(lambda a, count=count: a[:count], out))
        # read with a delay, so that the devices never wait for the host; without it, results would fill their memory,
        # and programs that exchange values between CPU devices hang once more than 32 of them wait (jaxlib 0.10)
        if len(parts) > 4:
            parts[-5] = jax.tree.map(np.asarray, parts[-5])
    return jax.tree.map(lambda *arrays: np.concatenate([np.asarray(a) for a in arrays]), *parts)


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
