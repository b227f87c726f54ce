"""A user's Flax NNX model as a network: pure functions of its state."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn, nnx
from jaxtyping import Array

from ncjax.errors import InputError
from ncjax.models.encoder import EncoderOutput, as_encoder_output
from ncjax.models.network import Output


@dataclass(frozen=True)
class NnxEncoderWithHead:
    """An NNX encoder, and a linear layer from its features to logits.

    It has the two methods of a Linen module that `ncjax.models.Network` calls. "params" holds the model's `nnx.Param`
    and the head, "batch_stats" all other state but that of random generators, whose keys are drawn from `rngs`.

    Attributes:
        make: Makes the model, called with `nnx.Rngs`.
        num_classes: Width of the logits.
        dtype: Type that images are converted to.
    """

    make: Callable[[nnx.Rngs], Any]
    num_classes: int
    dtype: Any = jnp.float32

    def init(self, rngs: dict[str, Array], images: Array, *, train: bool = False) -> dict[str, Any]:
        """Draws the parameters for images [n, h, w, c].

        Raises:
            InputError: The function makes no NNX model, or the model returns no features.
        """
        model_key, head_key = jax.random.split(rngs["params"])
        _, params, _, stats = _split(self._model(nnx.Rngs(model_key)))
        encoder, batch_stats = nnx.to_pure_dict(params), nnx.to_pure_dict(stats)
        encoded, _ = self._encode(encoder, batch_stats, images, train=False, key=head_key)
        head = self._head().init(head_key, encoded.features)["params"]
        return {"params": {"encoder": encoder, "head": head}, "batch_stats": batch_stats}

    def apply(
        self,
        variables: dict[str, Any],
        images: Array,
        *,
        train: bool,
        mutable: Any = False,
        rngs: dict[str, Array] | None = None,
    ) -> Any:
        """Runs model and head on normalised images; returns "batch_stats" too if they are mutable."""
        key = jax.random.key(0) if rngs is None else rngs["dropout"]
        params = variables["params"]
        encoded, stats = self._encode(params["encoder"], variables["batch_stats"], images, train=train, key=key)
        logits: Any = self._head().apply({"params": params["head"]}, encoded.features)
        output = Output(logits, encoded.features, (*encoded.stages, encoded.features))
        return (output, {"batch_stats": stats}) if mutable else output

    def _head(self) -> nn.Dense:
        return nn.Dense(self.num_classes)

    def _model(self, rngs: nnx.Rngs) -> nnx.Module:
        model = self.make(rngs)
        if not isinstance(model, nnx.Module):
            raise InputError(f"the network's function returned a {type(model).__name__}, not a flax.nnx model")
        return model

    def _encode(
        self, params: dict[str, Any], batch_stats: dict[str, Any], images: Array, *, train: bool, key: Array
    ) -> tuple[EncoderOutput, dict[str, Any]]:
        graph, parameters, generators, rest = _split(nnx.eval_shape(lambda: self._model(nnx.Rngs(0))))
        nnx.replace_by_pure_dict(parameters, params)
        nnx.replace_by_pure_dict(rest, batch_stats)
        model = nnx.merge(graph, parameters, _seeded(generators, key), rest)
        if train:
            model.train()
        else:
            model.eval()
        encoded = as_encoder_output(model(images.astype(self.dtype)), len(images))
        return encoded, nnx.to_pure_dict(_split(model)[3])


def _split(model: nnx.Module) -> tuple[Any, nnx.State, nnx.State, nnx.State]:
    """Splits a model into its graph, parameters, states of random generators, and all other state."""
    parts: Any = nnx.split(model, nnx.Param, nnx.RngState, ...)
    graph, params, generators, rest = parts
    return graph, params, generators, rest


def _seeded(generators: nnx.State, key: Array) -> nnx.State:
    """Gives each generator a key of its own and a count of 0."""
    leaves, tree = jax.tree.flatten(generators)
    return jax.tree.unflatten(
        tree,
        [
            jax.random.fold_in(key, i)
            if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
            else jnp.zeros(leaf.shape, leaf.dtype)
            for i, leaf in enumerate(leaves)
        ],
    )
