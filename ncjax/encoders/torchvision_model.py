"""Loads torchvision's classifiers without their last layer, with the transforms of their default weights."""

from __future__ import annotations

from typing import Any

from ncjax.encoders.pretrained import Loaded, ModelRequest, check_interpolation, import_library, unknown, weights_from
from ncjax.errors import InputError


def load(name: str, request: ModelRequest) -> Loaded:
    """Loads the model of that name; it returns the input of its last linear layer.

    Raises:
        InputError: torchvision is not installed, has no such classifier, or its weights cannot be downloaded.
    """
    torchvision = import_library("torchvision", "timm")
    spec = f"torchvision:{name}"
    known = torchvision.models.list_models(torchvision.models)
    if name not in known:
        raise unknown(spec, name, known)
    weights = torchvision.models.get_model_weights(name).DEFAULT
    with weights_from(spec, weights.url):
        module = torchvision.models.get_model(name, weights=None if request.random_weights else weights)
    _cut_off_classifier(module, len(weights.meta["categories"]), spec)
    transforms = weights.transforms()
    size, resize = transforms.crop_size[0], transforms.resize_size[0]
    if request.image_size:
        size, resize = request.image_size, resize * request.image_size // size
    return Loaded(
        module,
        {
            "image_size": size,
            "resize": resize,
            "interpolation": check_interpolation(spec, transforms.interpolation.value),
            "mean": tuple(transforms.mean),
            "std": tuple(transforms.std),
            "channels": 3,
        },
    )


def _cut_off_classifier(module: Any, categories: int, spec: str) -> None:
    """Replaces the last linear layer by the identity.

    Raises:
        InputError: The model does not end with a linear layer of that many outputs.
    """
    torch = import_library("torch", "timm")
    linear = [name for name, inner in module.named_modules() if isinstance(inner, torch.nn.Linear)]
    if not linear or module.get_submodule(linear[-1]).out_features != categories:
        raise InputError(f"{spec} does not end with a linear layer; load it yourself and use from_torch")
    parent, _, last = linear[-1].rpartition(".")
    setattr(module.get_submodule(parent), last, torch.nn.Identity())
