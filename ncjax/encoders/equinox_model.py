"""Equinox models as encoders."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ncjax.classifier import Classifier, pixel_statistics
from ncjax.encoders.traced import encoded, stage_names, step_into
from ncjax.errors import InputError
from ncjax.models.encoder import EncoderOutput, TracedEncoder, explained
from ncjax.preprocessing import make_preprocessing


def from_equinox(
    model: Any,
    state: Any = None,
    *,
    image_size: int | tuple[int, int] | None = None,
    mean: Any = 0.0,
    std: Any = 1.0,
    forward: Callable[[Any, Array], Any] | None = None,
    stages: Sequence[str] = (),
    resize: int | tuple[int, int] | None = None,
    interpolation: str = "bicubic",
    channels: int | None = None,
) -> Classifier:
    """Wraps an Equinox model as an encoder, which JAX traces, in inference mode, without changes of state.

    Args:
        model: Called on an image float32 [c, h, w], as Equinox's layers are, pixels in 0..1 minus `mean`, over `std`;
            mapped over images. Returns features [d], or [d, h, w], which are averaged over space.
        state: The state of `equinox.nn.make_with_state`, if the model has one: it is then called as
            `model(image, state)`, and the state that it returns is dropped.
        image_size: As in `from_function`.
        mean: As in `from_function`.
        std: As in `from_function`.
        forward: `forward(model, image)` instead of the call, for an image [c, h, w]; mapped over images.
        stages: As in `from_nnx`.
        resize: As in `from_function`.
        interpolation: As in `from_function`.
        channels: As in `from_function`.

    Returns:
        A Classifier that has features but no logits; its `variables` are the model's arrays.

    Raises:
        InputError: Equinox is not installed, `model` is not an Equinox module, an inner module does not exist, or a
            size, mean or std is invalid.
    """
    try:
        import equinox as eqx
    except ImportError as error:
        raise InputError("from_equinox needs Equinox: pip install equinox") from error
    if not isinstance(model, eqx.Module):
        raise InputError(f"model is a {type(model).__name__}, not an equinox.Module; see ncjax.encoders for others")
    preprocessing = make_preprocessing(
        image_size=image_size, resize=resize, interpolation=interpolation, channels=channels, mean=mean, std=std
    )
    stages = stage_names(stages)
    for stage in stages:
        _inner(model, stage)

    class Recorder(eqx.Module):
        """Calls an inner module, and appends its result to a list."""

        inner: Any
        returned: list[Any] = eqx.field(static=True)

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            result = self.inner(*args, **kwargs)
            self.returned.append(result)
            return result

    arrays, rest = eqx.partition((eqx.nn.inference_mode(model), state), eqx.is_array)

    def encode_image(variables: Any, image: Array) -> tuple[Any, list[Any]]:
        live, state = eqx.combine(variables, rest)
        returned: list[list[Any]] = [[] for _ in stages]
        for stage, results in zip(stages, returned, strict=True):
            live = eqx.tree_at(partial(_inner, stage=stage), live, replace_fn=partial(Recorder, returned=results))
        if forward is not None:
            features = forward(live, image)
        elif state is not None:
            features, _ = live(image, state)
        else:
            features = live(image)
        for stage, results in zip(stages, returned, strict=True):
            if not results:
                raise InputError(f"stages: the model does not call its inner module {stage!r}")
        last = [results[-1][0] if isinstance(results[-1], tuple) else results[-1] for results in returned]
        return features, last

    def encode(variables: Any, images: Array) -> EncoderOutput:
        with explained(images.shape[1:]):
            planes = jnp.moveaxis(images, -1, 1)
            features, returned = jax.vmap(encode_image, in_axes=(None, 0))(variables, planes)
        return encoded(features, returned, channels_first=True)

    return Classifier(
        arrays,
        *pixel_statistics(mean, std),
        network=TracedEncoder(encode, type(model).__name__),
        preprocessing=preprocessing,
    )


def _inner(model: Any, stage: str) -> Any:
    for part in stage.split("."):
        model = step_into(model, part)
    return model
