"""Flax NNX models as encoders."""

from collections.abc import Callable, Sequence
from typing import Any

from flax import nnx
from jaxtyping import Array

from ncjax.classifier import Classifier, pixel_statistics
from ncjax.encoders.traced import check_stages, encoded, step_into
from ncjax.errors import InputError
from ncjax.models.encoder import Encoded, TracedEncoder, explained
from ncjax.preprocessing import make_preprocessing


class _Recorder(nnx.Module):
    """Calls an inner module, and puts what it returns on a list."""

    def __init__(self, inner: nnx.Module, returned: list[Any]):
        self.inner = inner
        self.returned = nnx.static(returned)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        result = self.inner(*args, **kwargs)
        self.returned.append(result)
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "inner"), name)


def from_nnx(
    model: nnx.Module,
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
    """A Flax NNX model as an encoder: traced by JAX, in evaluation mode, with no state changed.

    The model is copied as it is now, its weights not: batch norm takes its running statistics, dropout drops nothing,
    and the model itself stays in its mode. Weights that change later are not seen.

    Args:
        model: Called on images float32 [n, h, w, c], pixels in 0..1 less `mean`, over `std`. Returns features [n, d],
            or [n, h, w, d], which is averaged over space.
        image_size: As of `from_function`.
        mean: As of `from_function`.
        std: As of `from_function`.
        forward: `forward(model, images)`, where features are not what the model returns; the copy is handed to it.
        stages: Names of inner modules, such as "layer1" or "blocks.3", whose outputs, averaged over space or tokens,
            become `Output.stages`, for collapse through the layers. The features are the last of these by themselves.
        resize: As of `from_function`.
        interpolation: As of `from_function`.
        channels: As of `from_function`.

    Returns:
        A Classifier that has features but no logits; its `variables` are the model's state.

    Raises:
        InputError: `model` is no NNX model, an inner module is not there, or a size, mean or std is none.
    """
    if not isinstance(model, nnx.Module):
        raise InputError(f"model is a {type(model).__name__}, not a flax.nnx.Module; see ncjax.encoders for others")
    preprocessing = make_preprocessing(
        image_size=image_size, resize=resize, interpolation=interpolation, channels=channels, mean=mean, std=std
    )
    copy = nnx.merge(*nnx.split(model))
    copy.eval()
    names = [".".join(map(str, path)) for path, _ in nnx.iter_modules(copy) if path]
    stages = check_stages(stages, names)
    graph, state = nnx.split(copy)

    def encode(variables: Any, images: Array) -> Encoded:
        with explained(images.shape[1:]):
            live = nnx.merge(graph, variables)
            returned = [_record(live, stage) for stage in stages]
            features = live(images) if forward is None else forward(live, images)
            for stage, found in zip(stages, returned, strict=True):
                if not found:
                    raise InputError(f"stages: the model does not call its inner module {stage!r}")
            return encoded(features, (found[-1] for found in returned), channels_first=False)

    return Classifier(
        state,
        *pixel_statistics(mean, std),
        network=TracedEncoder(encode, type(model).__name__),
        preprocessing=preprocessing,
    )


def _record(model: Any, stage: str) -> list[Any]:
    """Puts a recorder in the place of an inner module; what it will have returned goes on the list."""
    *above, last = stage.split(".")
    parent = model
    for part in above:
        parent = step_into(parent, part)
    returned: list[Any] = []
    recorder = _Recorder(step_into(parent, last), returned)
    if last.isdigit():
        parent[int(last)] = recorder
    else:
        setattr(parent, last, recorder)
    return returned
