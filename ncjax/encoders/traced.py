"""Helpers of encoders that JAX traces: recorded inner modules, and pooling."""

import difflib
from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from ncjax.errors import InputError
from ncjax.models.encoder import EncoderOutput
from ncjax.models.layers import at_least_float32


def stage_names(stages: str | Iterable[str]) -> tuple[str, ...]:
    """Returns the names of stages as a tuple; a single name may be a string."""
    return (stages,) if isinstance(stages, str) else tuple(stages)


def step_into(node: Any, part: str) -> Any:
    """Returns the inner module of that name, or of that index in a sequence.

    Raises:
        InputError: It does not exist.
    """
    try:
        return node[int(part)] if part.isdigit() else getattr(node, part)
    except (AttributeError, IndexError, KeyError, TypeError):
        raise InputError(f"the model has no inner module {part!r} in its {type(node).__name__}") from None


def check_stages(stages: Iterable[str], names: Iterable[str]) -> tuple[str, ...]:
    """Returns the names of inner modules as a tuple.

    Raises:
        InputError: A name is not among `names`.
    """
    chosen, known = stage_names(stages), list(names)
    for stage in chosen:
        if stage not in known:
            near = difflib.get_close_matches(stage, known, 3, 0.4) or known[:8]
            raise InputError(f"stages: the model has no inner module {stage!r}; it has {', '.join(near)}, for example")
    return chosen


def encoded(features: Any, stages: Iterable[Any], *, channels_first: bool) -> EncoderOutput:
    """Returns features and stages, averaged over space or tokens."""
    return EncoderOutput(
        _features(features, channels_first), tuple(pool_stage(stage, channels_first) for stage in stages)
    )


def _features(value: Any, channels_first: bool) -> Any:
    return pool_stage(value, channels_first) if getattr(value, "ndim", 0) == 4 else value


def pool_stage(value: Any, channels_first: bool) -> Float[Array, "n d"]:
    """Averages [n, c, h, w] or [n, h, w, c] over space, [n, t, d] over tokens; returns [n, d] unchanged.

    Raises:
        InputError: The value has another shape.
    """
    value = value[0] if isinstance(value, tuple) and value else value
    ndim = getattr(value, "ndim", 0)
    if ndim not in (2, 3, 4):
        actual = f"shape {value.shape}" if ndim else f"type {type(value).__name__}"
        raise InputError(f"a stage's output has {actual}; it must be [n, d], tokens [n, t, d], or an image of features")
    axes = {2: (), 3: (1,), 4: (2, 3) if channels_first else (1, 2)}[ndim]
    mean: Array = jnp.mean(value.astype(at_least_float32(value.dtype)), axis=axes) if axes else value
    return mean
