"""A network as a pair of pure functions, `init` and `apply`."""

from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.errors import InvalidRngError
from jaxtyping import Array, Float

from ncjax.errors import InputError


class Output(NamedTuple):
    """What a network computes of n images.

    Attributes:
      logits: [n, num_classes], float32 or wider.
      features: [n, d], the penultimate layer, float32 or wider.
      stages: the activations after each stage, pooled over space: a tuple of [n, d_s], from the input's side to the
        features, which are the last.
    """

    logits: Float[Array, "n k"]
    features: Float[Array, "n d"]
    stages: tuple[Float[Array, "n _"], ...]


@dataclass(frozen=True)
class Network:
    """A network's description and its pure functions; hashable, so that it may be static under jit.

    Attributes:
      name: what `ncjax.models.create` makes it from.
      num_classes: the width of its logits.
      module: the Flax module, called as `module(images, train) -> Output`; its linear layer is named "head".
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
        images: Float[Array, "n h w c"],
        *,
        train: bool = False,
        key: Array | None = None,
    ) -> tuple[Output, dict[str, Any]]:
        """Runs the network on normalised images.

        Args:
          variables: what `init` returned, or a later state of it.
          images: [n, h, w, c], pixels already centred and scaled.
          train: whether batch norm takes the batch's statistics and drop-block drops.
          key: for drop-block; used in training only.

        Returns:
          The output, and the batch statistics after this batch (unchanged where `train` is False).

        Raises:
          InputError: for training without a key of a network that needs one.
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

    def head(self, variables: dict[str, Any]) -> tuple[Float[Array, "k d"], Float[Array, "k"]]:
        """Weights and bias of the linear layer that makes logits of features."""
        dense = variables["params"]["head"]
        return dense["kernel"].T, dense["bias"]


def num_parameters(variables: dict[str, Any]) -> int:
    """How many numbers a network learns: the entries of its parameters, running statistics not counted."""
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
