"""Flax NNX models as encoders."""

from collections.abc import Callable, Sequence
from typing import Any

from flax import nnx
from jaxtyping import Array

from ncjax.classifier import Classifier, pixel_statistics
from ncjax.encoders.traced import check_stages, encoded, step_into
from ncjax.errors import InputError
from ncjax.models.encoder import EncoderOutput, TracedEncoder, explained
from ncjax.preprocessing import make_preprocessing


class _Recorder(nnx.Module):
    """Calls an inner module, and appends its result to a list."""

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
    """Wraps a Flax NNX model as an encoder, which JAX traces, in evaluation mode, without changes of state.

    Copies the model, but shares its weights: batch norm uses running statistics, dropout is off, and the given model
    stays in its mode. Later changes of the model's weights have no effect.

    Args:
        model: Called on images float32 [n, h, w, c], pixels in 0..1 minus `mean`, over `std`. Returns features [n, d],
            or [n, h, w, d], which are averaged over space.
        image_size: As in `from_function`.
        mean: As in `from_function`.
        std: As in `from_function`.
        forward: `forward(model, images)` with the copy, if the model does not return features.
        stages: Names of inner modules, such as "layer1" or "blocks.3", whose outputs, averaged over space or tokens,
            become `Output.stages`, for collapse through the layers. The features are added as the last stage.
        resize: As in `from_function`.
        interpolation: As in `from_function`.
        channels: As in `from_function`.

    Returns:
        A Classifier that has features but no logits; its `variables` are the model's state.

    Raises:
        InputError: `model` is not an NNX model, an inner module does not exist, or a size, mean or std is invalid.
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

    def encode(variables: Any, images: Array) -> EncoderOutput:
        with explained(images.shape[1:]):
            live = nnx.merge(graph, variables)
            returned = [_record(live, stage) for stage in stages]
            features = live(images) if forward is None else forward(live, images)
            for stage, results in zip(stages, returned, strict=True):
                if not results:
                    raise InputError(f"stages: the model does not call its inner module {stage!r}")
            return encoded(features, (results[-1] for results in returned), channels_first=False)

    return Classifier(
        state,
        *pixel_statistics(mean, std),
        network=TracedEncoder(encode, type(model).__name__),
        preprocessing=preprocessing,
    )


def _record(model: Any, stage: str) -> list[Any]:
    """Replaces an inner module by a recorder, and returns the list of its results."""
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
