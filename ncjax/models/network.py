"""A network as a pair of pure functions, `init` and `apply`."""

from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.errors import InvalidRngError
from jaxtyping import Array, Float

from ncjax.errors import InputError


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
        module: The Flax module, called as `module(images, train) -> Output`; its linear layer is named "head".
    """

    name: str
    num_classes: int
    module: nn.Module

    def init(self, key: Array, image_shape: tuple[int, int, int]) -> dict[str, Any]:
        """Draws the parameters for images of shape (h, w, c); returns ``{"params": …, "batch_stats": …}``."""
        images = jnp.zeros((1, *image_shape))
        return {"batch_stats": {}} | dict(self.module.init({"params": key}, images, train=False))

    def apply(
        self,
        variables: dict[str, Any],
        images: Float[Array | np.ndarray, "n h w c"],
        *,
        train: bool = False,
        key: Array | None = None,
    ) -> tuple[Output, dict[str, Any]]:
        """Runs the network on normalised images.

        Args:
            variables: The result of `init`, or a later state.
            images: [n, h, w, c], pixels already centred and scaled.
            train: Whether batch norm uses the batch's statistics and drop-block is active.
            key: Key for drop-block; used in training only.

        Returns:
            The output, and the batch statistics after this batch (unchanged if `train` is False).

        Raises:
            InputError: The network needs a key in training, and has none.
        """
        if not train:
            return cast(Output, self.module.apply(variables, images, train=False)), variables["batch_stats"]
        try:
            output, updated = self.module.apply(
                variables,
                images,
                train=True,
                mutable=["batch_stats"],
                rngs=None if key is None else {"dropout": key},
            )
        except InvalidRngError as error:
            if key is not None:
                raise
            raise InputError(f"{self.name} draws random numbers in training; pass key=jax.random.key(0)") from error
        return cast(Output, output), dict(updated).get("batch_stats", {})

    def head(self, variables: dict[str, Any]) -> tuple[Float[Array, "k d"], Float[Array, " k"]]:
        """Returns weights [k, d] and bias [k] of the linear layer from features to logits."""
        dense = variables["params"]["head"]
        return dense["kernel"].T, dense["bias"]


def num_parameters(variables: dict[str, Any]) -> int:
    """Counts the entries of a network's parameters, without running statistics."""
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
