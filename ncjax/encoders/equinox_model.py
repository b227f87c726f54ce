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
from ncjax.models.encoder import Encoded, TracedEncoder, explained
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
    """An Equinox model as an encoder: traced by JAX, in inference mode, with no state changed.

    Args:
        model: Called on one image float32 [c, h, w], as Equinox's layers take them, pixels in 0..1 less `mean`, over
            `std`; mapped over images. Returns features [d], or [d, h, w], which is averaged over space.
        state: Of `equinox.nn.make_with_state`, where the model has one; it is then called as `model(image, state)`, and
            the state that it returns is dropped.
        image_size: As of `from_function`.
        mean: As of `from_function`.
        std: As of `from_function`.
        forward: `forward(model, image)` in the place of the call, for one image [c, h, w]; it is mapped over images.
        stages: As of `from_nnx`.
        resize: As of `from_function`.
        interpolation: As of `from_function`.
        channels: As of `from_function`.

    Returns:
        A Classifier that has features but no logits; its `variables` are the model's arrays.

    Raises:
        InputError: Equinox is not installed, `model` is none of its modules, an inner module is not there, or a size,
            mean or std is none.
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
        """Calls an inner module, and puts what it returns on a list."""

        inner: Any
        returned: list[Any] = eqx.field(static=True)

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            result = self.inner(*args, **kwargs)
            self.returned.append(result)
            return result

    arrays, rest = eqx.partition((eqx.nn.inference_mode(model), state), eqx.is_array)

    def of_one(variables: Any, image: Array) -> tuple[Any, list[Any]]:
        live, state = eqx.combine(variables, rest)
        returned: list[list[Any]] = [[] for _ in stages]
        for stage, found in zip(stages, returned, strict=True):
            live = eqx.tree_at(partial(_inner, stage=stage), live, replace_fn=partial(Recorder, returned=found))
        if forward is not None:
            features = forward(live, image)
        elif state is not None:
            features, _ = live(image, state)
        else:
            features = live(image)
        for stage, found in zip(stages, returned, strict=True):
            if not found:
                raise InputError(f"stages: the model does not call its inner module {stage!r}")
        last = [found[-1][0] if isinstance(found[-1], tuple) else found[-1] for found in returned]
        return features, last

    def encode(variables: Any, images: Array) -> Encoded:
        with explained(images.shape[1:]):
            planes = jnp.moveaxis(images, -1, 1)
            features, returned = jax.vmap(of_one, in_axes=(None, 0))(variables, planes)
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
