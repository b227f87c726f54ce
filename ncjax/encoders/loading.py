"""Loads pretrained encoders by name: from timm, Hugging Face or torchvision, or made by a user's function."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from ncjax.classifier import Classifier
from ncjax.encoders import hugging_face, timm_model, torchvision_model
from ncjax.encoders.nnx_model import from_nnx
from ncjax.encoders.pretrained import Loaded, ModelRequest
from ncjax.encoders.torch_module import from_torch, import_torch
from ncjax.encoders.traced import stage_names
from ncjax.errors import InputError
from ncjax.user_functions import load_function

if TYPE_CHECKING:
    import torch

SPECS = "timm:NAME, hf:NAME_OR_FOLDER, torchvision:NAME or package.module:function"

_LOADERS: dict[str, Callable[[str, ModelRequest], Loaded]] = {
    "timm": timm_model.load,
    "hf": hugging_face.load,
    "torchvision": torchvision_model.load,
}


def load(
    spec: str,
    *,
    random_weights: bool = False,
    image_size: int | None = None,
    stages: Sequence[str] = (),
    precision: Literal["float32", "bfloat16"] = "float32",
    device: str | torch.device | None = None,
) -> Classifier:
    """Loads a pretrained encoder by name, with the preprocessing of its configuration.

    Size, mean, std, crop and interpolation come from timm's `pretrained_cfg`, Hugging Face's image processor, or the
    transforms of torchvision's weights. Features are the input of the model's own head: the pooled output for timm and
    torchvision; for Hugging Face `pooler_output`, or the class token if there is no pooler or its weights are not in
    the files. For models of images and text, loads the image tower.

    Args:
        spec: "timm:NAME", "hf:NAME_OR_FOLDER", "torchvision:NAME", or "package.module:function", a function that
            returns a Classifier, a torch module or an NNX model. It is called with those of `random_weights`,
            `image_size` and `stages` that it takes.
        random_weights: Whether to draw the weights from seed 0 instead; reads only the configuration.
        image_size: Size of the encoder's images, instead of the configuration's; the relative crop is the same.
        stages: As in `from_torch`.
        precision: As in `from_torch`.
        device: The torch device; defaults to a GPU if there is one.

    Returns:
        A Classifier that has features but no logits; `str(params.preprocessing)` describes its preprocessing, and
        `params.network.name` names it.

    Raises:
        InputError: The library is not installed, there is no such model, its weights are neither here nor can be
            downloaded, or ncjax does not support its preprocessing.
    """
    kind, colon, name = spec.partition(":")
    if not colon or not kind or not name:
        raise InputError(f"encoder {spec!r}: give {SPECS}")
    request = ModelRequest(random_weights, image_size, stage_names(stages), precision)
    if kind in _LOADERS:
        with seeded():
            loaded = _LOADERS[kind](name, request)
        params = from_torch(
            loaded.module.eval().to(_device(device)), stages=request.stages, precision=precision, **loaded.settings
        )
    else:
        params = _of_function(kind, name, request)
    label = f"{spec}, random weights" if random_weights else spec
    return dataclasses.replace(params, network=dataclasses.replace(params.network, name=label))


@contextmanager
def seeded() -> Iterator[None]:
    """Draws torch's random weights from seed 0, then restores torch's generator."""
    torch = import_torch()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def _device(device: Any) -> Any:
    torch = import_torch()
    return device or ("cuda" if torch.cuda.is_available() else "cpu")


def _of_function(package: str, function: str, request: ModelRequest) -> Classifier:
    """Returns the classifier that a user's function makes.

    Raises:
        InputError: The function cannot be imported, does not take the requested settings, or returns no model.
    """
    spec = f"{package}:{function}"
    make = load_function(spec, "encoder", f"give {SPECS}")
    takes = inspect.signature(make).parameters
    requested = {"random_weights": request.random_weights, "image_size": request.image_size, "stages": request.stages}
    result = make(**{key: value for key, value in requested.items() if value and key in takes})
    left = {key: value for key, value in requested.items() if value and key not in takes}
    if left.pop("random_weights", False):
        raise InputError(f"encoder {spec}: the function takes no random_weights, and so has no untrained baseline")
    if isinstance(result, Classifier):
        if left:
            raise InputError(f"encoder {spec}: the function takes no {' and no '.join(left)}; set it there")
        return result
    from flax import nnx

    settings: dict[str, Any] = {"image_size": left.get("image_size"), "stages": left.get("stages", ())}
    if isinstance(result, nnx.Module):
        return from_nnx(result, **settings)
    if hasattr(result, "named_modules") and hasattr(result, "state_dict"):
        return from_torch(result, precision=request.precision, **settings)  # type: ignore[arg-type]
    raise InputError(
        f"encoder {spec}: the function returned a {type(result).__name__}; it must return an ncjax.Classifier, a torch "
        "module or an NNX model"
    )
