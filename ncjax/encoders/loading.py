"""Pretrained encoders by name: of timm, Hugging Face, torchvision, or made by a function of one's own."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from ncjax.classifier import Classifier
from ncjax.encoders import hugging_face, timm_model, torchvision_model
from ncjax.encoders.nnx_model import from_nnx
from ncjax.encoders.pretrained import Loaded, Request
from ncjax.encoders.torch_module import from_torch, import_torch
from ncjax.encoders.traced import stage_names
from ncjax.errors import InputError, first_line

if TYPE_CHECKING:
    import torch

SPECS = "timm:NAME, hf:NAME_OR_FOLDER, torchvision:NAME or package.module:function"

_LOADERS: dict[str, Callable[[str, Request], Loaded]] = {
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
    """A pretrained encoder by its name, with the preprocessing of its own configuration.

    Size, mean, std, crop and interpolation come from timm's `pretrained_cfg`, Hugging Face's image processor, or the
    transforms of torchvision's weights. Features are what the model's own head is put on: the pooled output of timm
    and torchvision, and `pooler_output` of Hugging Face, or the class token where there is no pooler or its weights are
    not in the files. Of models of images and text it is the image tower.

    Args:
        spec: "timm:NAME", "hf:NAME_OR_FOLDER", "torchvision:NAME", or "package.module:function", a function that
            returns a Classifier, a torch module or an NNX model. It is called with those of `random_weights`,
            `image_size` and `stages` that it takes.
        random_weights: The same architecture, untrained; nothing but its configuration is read. Drawn from seed 0.
        image_size: Of what the encoder sees, in the place of its configuration's; the crop is as large a part as there.
        stages: As of `from_torch`.
        precision: As of `from_torch`.
        device: Of torch; its GPU by default, where there is one.

    Returns:
        A Classifier that has features but no logits; `str(params.preprocessing)` says what it does to images, and
        `params.network.name` what it is.

    Raises:
        InputError: The library is not installed, there is no such model, its weights are neither here nor to be
            downloaded, or its preprocessing is one that ncjax does not have.
    """
    kind, colon, name = spec.partition(":")
    if not colon or not kind or not name:
        raise InputError(f"encoder {spec!r}: give {SPECS}")
    request = Request(random_weights, image_size, stage_names(stages), precision)
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
    """Draws torch's random weights from seed 0, and leaves its generator as it was."""
    torch = import_torch()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def _device(device: Any) -> Any:
    torch = import_torch()
    return device or ("cuda" if torch.cuda.is_available() else "cpu")


def _of_function(package: str, function: str, request: Request) -> Classifier:
    """What a user's function makes.

    Raises:
        InputError: It cannot be imported, does not take what is asked for, or returns something else.
    """
    spec = f"{package}:{function}"
    try:
        made = getattr(importlib.import_module(package), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"encoder {spec!r}: {first_line(error)}; give {SPECS}") from error
    takes = inspect.signature(made).parameters
    asked = {"random_weights": request.random_weights, "image_size": request.image_size, "stages": request.stages}
    given = {key: value for key, value in asked.items() if value and key in takes}
    result = made(**given)
    left = {key: value for key, value in asked.items() if value and key not in takes}
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
