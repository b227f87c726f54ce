"""Networks of the user's own, named `package.module:function`.

The function makes an encoder of normalised images [n, h, w, c] to features [n, d]; ncjax adds the linear head over the
classes. It returns a Flax Linen module, or it takes `flax.nnx.Rngs` and returns a Flax NNX model.
"""

import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array

from ncjax.errors import InputError
from ncjax.models.encoder import as_encoder_output
from ncjax.models.network import Output
from ncjax.user_functions import load_function


class EncoderWithHead(nn.Module):
    """A user's Linen encoder, and a linear layer from its features to logits.

    Attributes:
        encoder: Called as `encoder(images, train=...)`, or as `encoder(images)` if it takes no `train`.
        num_classes: Width of the logits.
        dtype: Type that images are converted to.
    """

    encoder: nn.Module
    num_classes: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Array, train: bool) -> Output:
        """Returns logits, features and stages of normalised images [n, h, w, c].

        Raises:
            InputError: The encoder returns no features of these images.
        """
        mode = {"train": train} if "train" in inspect.signature(type(self.encoder).__call__).parameters else {}
        encoded = as_encoder_output(self.encoder(images.astype(self.dtype), **mode), len(images))
        logits = nn.Dense(self.num_classes, dtype=encoded.features.dtype, name="head")(encoded.features)
        return Output(logits, encoded.features, (*encoded.stages, encoded.features))


def from_name(name: str, num_classes: int, dtype: Any) -> Any:
    """Makes the module that `package.module:function` names; None for a name without a colon.

    Modules are looked for as Python does, and then in the current folder.

    Raises:
        InputError: The function is not there, or makes neither a Linen module nor an NNX model.
    """
    if ":" not in name:
        return None
    return _with_head(name, load_function(name, "network"), num_classes, dtype)


@lru_cache(maxsize=16)  # a module that holds a lambda equals no other, and would be compiled again
def _with_head(name: str, make: Callable[..., Any], num_classes: int, dtype: Any) -> Any:
    if _takes_an_argument(make):
        from ncjax.models.own_nnx_network import NnxEncoderWithHead

        return NnxEncoderWithHead(make, num_classes, dtype)
    encoder = make()
    if not isinstance(encoder, nn.Module):
        raise InputError(
            f"network {name}: the function returned a {type(encoder).__name__}; it must return a flax.linen module, or "
            "take flax.nnx.Rngs and return a flax.nnx model"
        )
    return EncoderWithHead(encoder, num_classes, dtype)


def _takes_an_argument(make: Callable[..., Any]) -> bool:
    parameters = inspect.signature(make).parameters.values()
    return any(parameter.default is parameter.empty for parameter in parameters)
