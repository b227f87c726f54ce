"""A network as a pair of pure functions, `init` and `apply`."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.errors import InvalidRngError
from jaxtyping import Array, Float

from ncjax.errors import InputError
from ncjax.models.mixing import Mixing


class Output(NamedTuple):
    """The output of a network for n images.

    Attributes:
        logits: [n, num_classes], float32 or wider.
        features: [n, d], the penultimate layer, float32 or wider.
        stages: The activations after each stage, pooled over space: a tuple of [n, d_s], from the input's side to the
            features, which are the last.
    """

    logits: Float[Array, "n k"]
    features: Float[Array, "n d"]
    stages: tuple[Float[Array, "n _"], ...]


@dataclass(frozen=True)
class Network:
    """A network's description and its pure functions; hashable, so that it may be static under jit.

    Attributes:
        name: The name that `ncjax.models.create` makes it from.
        num_classes: The width of its logits.
        module: The Flax module, called as `module(images, train) -> Output`; its linear layer is named "head". A module
            that can mix images also takes `mixing`, and says at how many points in its `mixing_points`.
        classifier: "linear", logits Wf + b; or "cosine", a learned scale times the cosine of f and each row of W, which
            have neither length nor bias (Gidaris & Komodakis 2018, https://arxiv.org/abs/1804.09458).
        rotation_head: Whether there is another linear layer from features to the four quarter turns of an image
            (`rotation_logits`), which only training uses.
    """

    name: str
    num_classes: int
    module: nn.Module
    classifier: Literal["linear", "cosine"] = "linear"
    rotation_head: bool = False

    @property
    def mixing_points(self) -> int:
        """The number of points at which it can mix images; 0 for a network of the user's."""
        return getattr(self.module, "mixing_points", 0)

    def init(self, key: Array, image_shape: tuple[int, int, int]) -> dict[str, Any]:
        """Draws the parameters for images of shape (h, w, c); returns ``{"params": …, "batch_stats": …}``."""
        images = jnp.zeros((1, *image_shape))
        variables: dict[str, Any] = {"batch_stats": {}} | dict(self.module.init({"params": key}, images, train=False))
        params = dict(variables["params"])
        kernel = params["head"]["kernel"]
        if self.rotation_head:
            features = jnp.zeros((1, len(kernel)), kernel.dtype)
            params["rotation_head"] = nn.Dense(4).init(jax.random.fold_in(key, 1), features)["params"]
        if self.classifier == "cosine":
            params["head"] = {"kernel": kernel, "scale": jnp.asarray(_COSINE_SCALE, kernel.dtype)}
        return variables | {"params": params}

    def apply(
        self,
        variables: dict[str, Any],
        images: Float[Array | np.ndarray, "n h w c"],
        *,
        train: bool = False,
        key: Array | None = None,
        mixing: Mixing | None = None,
    ) -> tuple[Output, dict[str, Any]]:
        """Runs the network on normalised images.

        Args:
            variables: The result of `init`, or a later state.
            images: [n, h, w, c], pixels already centred and scaled.
            train: Whether batch norm uses the batch's statistics and drop-block is active.
            key: Key for drop-block; used in training only.
            mixing: Mixes the images at one depth; used in training only, by a network that has `mixing_points`.

        Returns:
            The output, and the batch statistics after this batch (unchanged if `train` is False).

        Raises:
            InputError: The network needs a key in training, and has none.
        """
        own = self._of_module(variables)
        if not train:
            return self._classified(variables, self.module.apply(own, images, train=False)), variables["batch_stats"]
        mix: dict[str, Any] = {} if mixing is None else {"mixing": mixing}
        try:
            output, updated = self.module.apply(
                own,
                images,
                train=True,
                **mix,
                mutable=["batch_stats"],
                rngs=None if key is None else {"dropout": key},
            )
        except InvalidRngError as error:
            if key is not None:
                raise
            raise InputError(f"{self.name} draws random numbers in training; pass key=jax.random.key(0)") from error
        return self._classified(variables, output), dict(updated).get("batch_stats", {})

    def _of_module(self, variables: dict[str, Any]) -> dict[str, Any]:
        """Returns the variables that the module expects: its linear layer has a bias, whatever the classifier."""
        if self.classifier == "linear":
            return variables
        kernel = variables["params"]["head"]["kernel"]
        head = {"kernel": kernel, "bias": jnp.zeros(kernel.shape[1], kernel.dtype)}
        return variables | {"params": variables["params"] | {"head": head}}

    def _classified(self, variables: dict[str, Any], output: Any) -> Output:
        if self.classifier == "linear":
            return cast(Output, output)
        return cast(Output, output._replace(logits=self.classify(variables, output.features)))

    def classify(self, variables: dict[str, Any], features: Float[Array, "n d"]) -> Float[Array, "n k"]:
        """Computes the logits of features, as `apply` does."""
        weights, bias = self.head(variables)
        if self.classifier == "cosine":
            features = _unit(features)
        return features @ weights.T + bias

    def head(self, variables: dict[str, Any]) -> tuple[Float[Array, "k d"], Float[Array, " k"]]:
        """Returns weights [k, d] and bias [k] of the linear layer from features to logits.

        Of a cosine classifier, the rows of W at unit length times the scale, and 0: its logits are those of this layer
        for features of unit length, so that the class of the largest one is the same for the features themselves.
        """
        head = variables["params"]["head"]
        if self.classifier == "cosine":
            weights = head["scale"] * _unit(head["kernel"].T)
            return weights, jnp.zeros(len(weights), weights.dtype)
        return head["kernel"].T, head["bias"]

    def rotation_logits(self, variables: dict[str, Any], features: Float[Array, "n d"]) -> Float[Array, "n 4"]:
        """Computes the scores of 0, 1, 2 and 3 quarter turns, where there is a rotation head."""
        head = variables["params"]["rotation_head"]
        return features @ head["kernel"] + head["bias"]


_COSINE_SCALE = 10.0


def _unit(rows: Float[Array, "n d"]) -> Float[Array, "n d"]:
    """Divides rows by their norm; a row of zeros stays zero, with a finite gradient."""
    square = jnp.sum(jnp.square(rows), -1, keepdims=True)
    return rows * jax.lax.rsqrt(jnp.where(square > 0, square, 1))


def num_parameters(variables: dict[str, Any]) -> int:
    """Counts the entries of a network's parameters, without running statistics."""
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
