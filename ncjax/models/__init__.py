"""Networks by name, each a pair of pure functions `init` and `apply`."""

from typing import Any

import jax.numpy as jnp

from ncjax.errors import InputError
from ncjax.models import convnet, mlp, own_network, resnet12, vit, wide_resnet
from ncjax.models.encoder import EncoderOutput
from ncjax.models.network import Network, Output, num_parameters
from ncjax.user_functions import load_function

__all__ = ["EncoderOutput", "Network", "Output", "check_name", "create", "num_parameters"]

_FAMILIES = {
    "wrn-N-k[-s2]": wide_resnet.from_name,
    "conv-N-k[-s2]": wide_resnet.from_name,
    "conv4": convnet.from_name,
    "resnet12": resnet12.from_name,
    "resnet12-dropblock": resnet12.from_name,
    "mlp-depth-width": mlp.from_name,
    "vit-depth-width-patch": vit.from_name,
    "package.module:function": own_network.from_name,
}


def check_name(name: str) -> None:
    """Checks that there is such a network, without making it.

    Raises:
        InputError: No network has this name, or the function that it names cannot be imported.
    """
    if ":" in name:
        load_function(name, "network")
    else:
        create(name, 2)


def create(name: str, num_classes: int, *, dtype: Any = jnp.float32) -> Network:
    """Makes the network called `name`.

    Args:
        name: `wrn-28-4` (wide residual network of depth 28 and width 4), `conv-28-4` (the same without shortcuts),
            either with `-s2` (a first convolution of stride 2: a quarter of the work), `conv4`, `resnet12`,
            `resnet12-dropblock`, `mlp-4-256` (depth, width), `vit-6-192-4` (depth, width, patch), or
            `package.module:function`, a function of yours (`ncjax.models.own_network`).
        num_classes: The number of classes.
        dtype: The type of convolutions; parameters, batch statistics, features and logits stay float32.

    Raises:
        InputError: No network has this name, or `num_classes` is less than 2.

    Examples:
        >>> import jax
        >>> network = create("mlp-2-16", num_classes=64)
        >>> variables = network.init(jax.random.key(0), (28, 28, 1))
        >>> output, _ = network.apply(variables, jnp.zeros((3, 28, 28, 1)))
        >>> output.features.shape, output.logits.shape
        ((3, 16), (3, 64))
    """
    if num_classes < 2:
        raise InputError(f"network {name!r} for {num_classes} classes: a classifier needs at least 2")
    for from_name in _FAMILIES.values():
        module = from_name(name, num_classes, dtype)
        if module is not None:
            return Network(name, num_classes, module)
    raise InputError(f"no network is called {name!r}; known: {', '.join(_FAMILIES)} (for example wrn-28-4)")
