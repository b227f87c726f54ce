"""Loads vision models of Hugging Face's transformers with the preprocessing of their image processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ncjax.encoders.pretrained import (
    Loaded,
    ModelRequest,
    check_interpolation,
    import_library,
    weights_from,
    without_waiting_for_a_network,
)
from ncjax.errors import InputError, first_line
from ncjax.progress import remark

_RESAMPLING = {1: "lanczos", 2: "bilinear", 3: "bicubic"}


def load(name: str, request: ModelRequest) -> Loaded:
    """Loads the model of that name or in that folder; for models of images and text, the image tower.

    Raises:
        InputError: transformers is not installed, there is no such model, it does not take images, or its files are
            neither here nor can be downloaded.
    """
    transformers = import_library("transformers", "hf")
    with without_waiting_for_a_network():
        return _load(transformers, name, request)


def _load(transformers: Any, name: str, request: ModelRequest) -> Loaded:
    spec = f"hf:{name}"
    place = None if Path(name).is_dir() else f"https://huggingface.co/{name}"
    try:
        config = transformers.AutoConfig.from_pretrained(name)
        processor = transformers.AutoImageProcessor.from_pretrained(name)
    except Exception as error:
        where = f"is the folder complete, and of images? {name}" if place is None else f"download {place}"
        raise InputError(
            f"{spec} has no configuration or no image processor here ({first_line(error)[:160]}): {where}"
        ) from error
    # masked autoencoders hide random patches, even in evaluation mode
    changes = {"mask_ratio": 0.0} if hasattr(config, "mask_ratio") else {}
    if request.random_weights:
        for key, value in changes.items():
            setattr(config, key, value)
        module, missing = transformers.AutoModel.from_config(config), []
    else:
        with weights_from(spec, place):
            module, info = transformers.AutoModel.from_pretrained(name, output_loading_info=True, **changes)
        missing = sorted(info["missing_keys"])
    if hasattr(config, "vision_config"):
        if not hasattr(module, "vision_model"):
            raise InputError(f"{spec} is a {type(module).__name__} without a vision_model: load only the image tower")
        module = module.vision_model
        missing = [key.removeprefix("vision_model.") for key in missing if key.startswith("vision_model.")]
    settings = read_processor(processor, request, spec)
    settings["channels"] = getattr(getattr(config, "vision_config", config), "num_channels", 3)
    pooler = [key for key in missing if key.startswith("pooler.")]
    if pooler:
        remark(f"{spec}: its pooler has no weights in the files; features are the class token")
        settings["output"] = _class_token
    if len(missing) > len(pooler):
        others = [key for key in missing if key not in pooler]
        remark(f"{spec}: {len(others)} weights are not in the files, and are random: {', '.join(others[:3])}")
    return Loaded(module, settings)


def _class_token(returned: Any) -> Any:
    return returned.last_hidden_state[:, 0]


def read_processor(processor: Any, request: ModelRequest, spec: str) -> dict[str, Any]:
    """Converts an image processor to arguments of `from_torch`.

    Raises:
        InputError: ncjax does not support one of its steps.
    """
    image_size, resize = _sizes(processor, spec)
    if request.image_size and image_size is not None:
        whole = request.image_size
        if isinstance(resize, tuple):
            resize = (resize[0] * whole // image_size[0], resize[1] * whole // image_size[1])
        else:
            resize = resize * whole // image_size[0]
        image_size = (whole, whole)
    # (x f - mean) / std for pixels x in 0..255, rewritten for x / 255
    factor = 255 * (processor.rescale_factor if processor.do_rescale else 1.0)
    mean = processor.image_mean if processor.do_normalize else 0.0
    std = processor.image_std if processor.do_normalize else 1.0
    method = int(processor.resample) if processor.do_resize else 3
    return {
        "image_size": image_size,
        "resize": resize,
        "interpolation": check_interpolation(spec, _RESAMPLING.get(method, f"method {method} of Pillow")),
        "mean": _over(mean, factor),
        "std": _over(std, factor),
    }


def _over(value: Any, factor: float) -> Any:
    if isinstance(value, list | tuple):
        return tuple(float(entry) / factor for entry in value)
    return float(value) / factor


def _sizes(processor: Any, spec: str) -> tuple[tuple[int, int] | None, Any]:
    """Returns the size of the encoder's images, and the size before the crop.

    Raises:
        InputError: The processor resizes or crops in an unsupported way.
    """
    crop = _side_lengths(processor.crop_size) if getattr(processor, "do_center_crop", False) else {}
    centre = (crop["height"], crop["width"]) if crop else None
    if not processor.do_resize:
        if centre is not None:
            raise InputError(f"{spec} crops images without resizing them, which ncjax does not support")
        return None, None
    size = _side_lengths(processor.size)
    if {"height", "width"} <= size.keys():
        exact = size["height"], size["width"]
        return centre or exact, exact
    if set(size) != {"shortest_edge"}:
        raise InputError(f"{spec} resizes images to {size}; ncjax has height and width, and shortest_edge")
    edge = size["shortest_edge"]
    if centre is not None:
        return centre, edge
    part = getattr(processor, "crop_pct", None)
    if part is not None and edge >= 384:  # as ConvNeXt's processor, which squeezes large images
        return (edge, edge), (edge, edge)
    return (edge, edge), edge if part is None else int(edge / part)


def _side_lengths(size: Any) -> dict[str, int]:
    names = ("height", "width", "shortest_edge", "longest_edge", "max_height", "max_width")
    if isinstance(size, int):
        return {"height": size, "width": size}
    given = {
        name: size[name] if isinstance(size, dict) else getattr(size, name, None)
        for name in names
        if not isinstance(size, dict) or name in size
    }
    return {name: int(value) for name, value in given.items() if value}
