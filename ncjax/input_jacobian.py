"""Geometric complexity: the size of the derivative of an encoder's features in its input."""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt8

from ncjax import devices, keys
from ncjax.checks import whole_number
from ncjax.classifier import Classifier, normalize
from ncjax.data import Split
from ncjax.equal_by_value import EqualByValue
from ncjax.errors import InputError
from ncjax.eval.intervals import mean_interval
from ncjax.models.encoder import EagerEncoder
from ncjax.progress import progress

Variable = Literal["input", "pixels"]


@dataclass(frozen=True, eq=False)
class GeometricComplexity(EqualByValue):
    """The mean of ‖∂f/∂x‖²_F over images, estimated with random probes.

    Attributes:
        value: The mean over images and probes.
        probe_error: Monte Carlo standard error of `value`, which more probes lower, for these same images.
        ci95: Half width of the 95 % t interval over images, for other images from the same population; it includes the
            error of the probes. NaN for one image.
        per_image: The mean over probes for each image [n].
        probes: Number of probes for each image.
        variable: "input" or "pixels", see `geometric_complexity`.
    """

    value: float
    probe_error: float
    ci95: float
    per_image: Float[np.ndarray, " n"]
    probes: int
    variable: Variable

    def __str__(self) -> str:
        return (
            f"geometric complexity {self.value:.4g} ± {self.ci95:.2g} (95 % over {len(self.per_image)} images), "
            f"Monte Carlo error {self.probe_error:.2g} ({self.probes} probes an image)"
        )


@devices.on_data_mesh
def geometric_complexity(
    params: Classifier,
    images_or_split: Split | np.ndarray | Array,
    *,
    probes: int = 8,
    variable: Variable = "input",
    batch_size: int = 64,
    seed: int = 0,
) -> GeometricComplexity:
    """Estimates the geometric complexity of an encoder's features, the mean of ‖∂f/∂x‖²_F over images.

    Munn, Dherin, Gonzalvo (NeurIPS 2024, arXiv 2405.15706) define it for the features f of a network and its input x:
    the network's own, after resizing, centring and scaling. That is `variable="input"`. It therefore depends on the
    encoder's pixel statistics and resolution, and grows with the square of the features' scale.

    Hutchinson's estimator: ‖J‖²_F = E ‖Jv‖² for entries of v independently ±1, each Jv a Jacobian-vector product. The
    variance of one probe is 2 Σ_{a≠b} (JᵀJ)²_ab. Runs in evaluation mode in float32 at the highest precision, as
    `ncjax.features` does. Image i has the same probes whatever the batch size and the number of devices.

    Args:
        params: A classifier, or an encoder that JAX traces (Flax NNX, Equinox, `Classifier.from_callable`).
        images_or_split: uint8 images [n, h, w, c], or a Split.
        probes: Random vectors for each image, at least 2, so that their error can be told.
        variable: "input", the normalised input of the network; "pixels", the same resized images in 0..1, before
            centring and scaling: with one standard deviation s for all channels, that is the former over s².
        batch_size: Images in a compiled call.
        seed: Seed of the probes.

    Raises:
        InputError: The encoder runs outside of JAX; images have another type or shape, or there are none; a number is
            out of range; or the derivative is not finite.
    """
    images = images_or_split.images if isinstance(images_or_split, Split) else images_or_split
    _check(params, images, probes, variable, batch_size)
    mesh = devices.data_mesh()
    batch_size = -(-min(batch_size, len(images)) // mesh.size) * mesh.size
    placed = jax.device_put((params, keys.named(seed, "geometric complexity")), devices.replicated(mesh))
    squares = np.empty((len(images), probes))
    for start in progress(range(0, len(images), batch_size), "geometric complexity"):
        batch = np.asarray(images[start : start + batch_size])
        padded = np.concatenate([batch, np.zeros((batch_size - len(batch), *batch.shape[1:]), np.uint8)])
        numbers = np.arange(start, start + batch_size, dtype=np.uint32)
        rows = jax.device_put((padded, numbers), devices.sharded(mesh))
        squares[start : start + len(batch)] = np.asarray(_squares(*placed, *rows, probes, variable))[: len(batch)]
    bad = np.flatnonzero(~np.isfinite(squares).all(axis=1))
    if len(bad):
        raise InputError(
            f"the derivative of the features of image {bad[0]} is not finite or too large for squares in float32: are "
            "the weights damaged, or is a function of the encoder without a derivative there?"
        )
    per_image = squares.mean(axis=1)
    spread = squares.var(axis=1, ddof=1)
    return GeometricComplexity(
        value=float(per_image.mean()),
        probe_error=float(np.sqrt(spread.sum() / probes)) / len(images),
        ci95=mean_interval(per_image),
        per_image=per_image,
        probes=probes,
        variable=variable,
    )


def _check(params: Classifier, images: Any, probes: Any, variable: Any, batch_size: Any) -> None:
    if isinstance(params.network, EagerEncoder):
        raise InputError(
            f"{params.network.name} runs outside of JAX, which cannot differentiate it: give a run of ncjax, or an "
            "encoder made by from_nnx, from_equinox or Classifier.from_callable"
        )
    if getattr(images, "ndim", 0) != 4 or images.dtype != np.uint8 or len(images) == 0:
        actual = f"{images.dtype} {images.shape}" if hasattr(images, "dtype") else type(images).__name__
        raise InputError(f"images must be a Split or a uint8 array [n, h, w, c] of one image or more, not {actual}")
    if whole_number("probes", probes) < 2:
        raise InputError(f"probes={probes}: give 2 or more, since one does not tell its error")
    if whole_number("batch_size", batch_size) < 1:
        raise InputError(f"batch_size={batch_size}: it must be at least 1")
    if variable not in get_args(Variable):
        raise InputError(f"variable={variable!r}: give 'input' or 'pixels'")


@partial(jax.jit, static_argnames=("probes", "variable"))
def _squares(
    params: Classifier,
    key: Key[Array, ""],
    images: UInt8[Array, "n h w c"],
    numbers: Int[Array, " n"] | Any,
    probes: int,
    variable: Variable,
) -> Float[Array, "n p"]:
    """Computes ‖Jv‖² of each image and probe; `numbers` are the images' places among all."""
    with jax.default_matmul_precision("highest"):
        inputs = normalize(params.preprocessing.apply(images), params.mean, params.std)
        scale = 1 / params.std if variable == "pixels" else jnp.ones_like(params.std)

        def encode(x: Float[Array, "n h w c"]) -> Float[Array, "n d"]:
            output, _ = params.network.apply(params.variables, x, train=False)  # type: ignore[union-attr]
            return output.features

        _, product = jax.linearize(encode, inputs)

        def square(probe: Int[Array, ""]) -> Float[Array, " n"]:
            def draw(number: Array) -> Array:
                own = jax.random.fold_in(jax.random.fold_in(key, number), probe)
                return jax.random.rademacher(own, inputs.shape[1:], inputs.dtype)

            return jnp.sum(jnp.square(product(jax.vmap(draw)(numbers) * scale)), axis=-1)

        return jax.lax.map(square, jnp.arange(probes, dtype=jnp.uint32)).T
