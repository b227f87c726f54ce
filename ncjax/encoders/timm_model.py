"""Loads models of timm (PyTorch Image Models) with the preprocessing of their `pretrained_cfg`."""

from __future__ import annotations

import math
from typing import Any

from ncjax.encoders.pretrained import (
    Loaded,
    ModelRequest,
    check_interpolation,
    import_library,
    unknown,
    weights_from,
    without_waiting_for_a_network,
)
from ncjax.errors import InputError


def load(name: str, request: ModelRequest) -> Loaded:
    """Loads the model of that name without its classifier; it returns pooled features.

    Raises:
        InputError: timm is not installed or has no such model or weights, or they cannot be downloaded.
    """
    timm = import_library("timm", "timm")
    spec = f"timm:{name}"
    architecture, _, tag = name.partition(".")
    if ":" not in name and not timm.is_model(architecture):
        raise unknown(spec, architecture, timm.list_models())
    pretrained = timm.list_pretrained(f"{architecture}.*")
    if tag and ":" not in name and name not in pretrained:
        raise unknown(spec, name, pretrained)
    config = None if ":" in name else timm.models.get_pretrained_cfg(name, allow_unregistered=True)
    options: dict[str, Any] = {}
    if request.image_size and config is not None and config.fixed_input_size:
        options["img_size"] = request.image_size
    with without_waiting_for_a_network(), weights_from(spec, _place(config, name)):
        module = timm.create_model(name, pretrained=not request.random_weights, num_classes=0, **options)
    return Loaded(module, read_config(timm.data.resolve_model_data_config(module), request, spec))


def _place(config: Any, name: str) -> str | None:
    """Returns the address of the weights; None if there are none."""
    if config is None:
        return f"https://huggingface.co/{name.rpartition(':')[2]}"
    if config.hf_hub_id:
        return f"https://huggingface.co/{config.hf_hub_id}"
    return config.url or None


def read_config(config: dict[str, Any], request: ModelRequest, spec: str) -> dict[str, Any]:
    """Converts timm's evaluation transform to arguments of `from_torch`.

    Raises:
        InputError: ncjax does not support its crop or interpolation.
    """
    channels, *size = config["input_size"]
    size = [request.image_size] * 2 if request.image_size else size
    scaled = [math.floor(side / config["crop_pct"]) for side in size]
    mode = config["crop_mode"] or "center"
    if mode not in ("center", "squash"):
        raise InputError(f"{spec} crops images in the mode {mode!r}; ncjax has center and squash")
    return {
        "image_size": tuple(size),
        "resize": scaled[0] if mode == "center" and scaled[0] == scaled[1] else tuple(scaled),
        "interpolation": check_interpolation(spec, config["interpolation"]),
        "mean": config["mean"],
        "std": config["std"],
        "channels": channels,
    }
