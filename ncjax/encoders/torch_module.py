"""PyTorch modules as encoders: they run in PyTorch and return arrays."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float, UInt8

from ncjax.classifier import Classifier, pixel_statistics
from ncjax.encoders.traced import check_stages
from ncjax.errors import InputError
from ncjax.models.encoder import EagerEncoder, EncoderOutput
from ncjax.preprocessing import Preprocessing, make_preprocessing
from ncjax.progress import remark

if TYPE_CHECKING:
    import torch


def from_torch(
    module: torch.nn.Module,
    *,
    image_size: int | tuple[int, int] | None = None,
    mean: Any = 0.0,
    std: Any = 1.0,
    output: Callable[[Any], torch.Tensor] | None = None,
    stages: Sequence[str] = (),
    resize: int | tuple[int, int] | None = None,
    interpolation: str = "bicubic",
    channels: int | None = None,
    precision: Literal["float32", "bfloat16"] = "float32",
    name: str | None = None,
) -> Classifier:
    """Wraps a PyTorch module as an encoder. It runs in PyTorch, on its own device, in evaluation and inference mode.

    Raw images go to its device as bytes, and are resized, centred and scaled there. The module is called on
    [n, c, h, w] of the type of its weights, in batches. Submodules in training mode are set to evaluation mode and
    back. Within a compiled call, as for augmented support, JAX calls it back.

    Args:
        module: Returns features [n, d]; or [n, d, h, w], which are averaged over space; or the output of a Hugging Face
            model, whose `pooler_output` is used, or else its class token. A remark says once what is used, unless it is
            [n, d].
        image_size: As in `from_function`.
        mean: As in `from_function`.
        std: As in `from_function`.
        output: `output(returned) -> features` [n, d] or [n, d, h, w], for other return values of the module.
        stages: Names of inner modules, as of `module.named_modules()`, whose outputs, averaged over space or tokens,
            become `Output.stages`, for collapse through the layers. The features are added as the last stage.
        resize: As in `from_function`.
        interpolation: As in `from_function`.
        channels: 3 repeats grey images; defaults to those of `mean` and `std`, or of the module's first convolution.
        precision: "bfloat16" runs the module under torch's autocast.
        name: Name for tables; defaults to the class of the module.

    Returns:
        A Classifier that has features but no logits, and no arrays: the weights stay in the module.

    Raises:
        InputError: torch is not installed, `module` is no module of it, or has no such inner modules; a size, mean or
            std is invalid.
    """
    torch = import_torch()
    if not isinstance(module, torch.nn.Module):
        raise InputError(f"module is a {type(module).__name__}, not a torch.nn.Module; see ncjax.encoders for others")
    if precision not in ("float32", "bfloat16"):
        raise InputError(f"precision={precision!r}: choose float32 or bfloat16")
    statistics = pixel_statistics(mean, std)
    if channels is None and not any(value.ndim for value in statistics):
        channels = _input_channels(torch, module)
    preprocessing = make_preprocessing(
        image_size=image_size, resize=resize, interpolation=interpolation, channels=channels, mean=mean, std=std
    )
    chosen = check_stages(stages, [inner for inner, _ in module.named_modules() if inner])
    runner = _Runner(module, output, chosen, precision)
    encoder = EagerEncoder(runner, name or type(module).__name__)
    return Classifier({}, *statistics, network=encoder, preprocessing=preprocessing)


def import_torch() -> Any:
    """Imports torch.

    Raises:
        InputError: It is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise InputError('torch is not installed: pip install -e ".[torch]" (or ".[timm]", ".[hf]")') from error
    return torch


def _input_channels(torch: Any, module: torch.nn.Module) -> int | None:
    """Returns the input channels of the first convolution in the module's definition; None without one."""
    first = next((inner for inner in module.modules() if isinstance(inner, torch.nn.Conv2d)), None)
    return None if first is None else first.in_channels


@dataclass(eq=False)
class _Runner:
    """Runs the module on raw images, in one thread at a time."""

    module: torch.nn.Module
    output: Callable[[Any], torch.Tensor] | None
    stages: tuple[str, ...]
    precision: str
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    said: set[str] = field(default_factory=set, repr=False)

    def __call__(
        self, images: UInt8[np.ndarray, "n h w c"], preprocessing: Preprocessing, mean: np.ndarray, std: np.ndarray
    ) -> EncoderOutput:
        torch = import_torch()
        device, dtype = self._device_and_dtype(torch)
        with ExitStack() as modes:
            modes.enter_context(self.lock)
            modes.enter_context(torch.inference_mode())
            modes.enter_context(self._evaluation())
            if self.precision == "bfloat16":
                modes.enter_context(torch.autocast(device.type, torch.bfloat16))
            pixels = _pixels(torch, images, preprocessing, mean, std, device)
            returned: dict[str, Any] = {}
            modes.enter_context(self._recorded(returned))
            result = self.module(pixels if pixels.dtype == dtype else pixels.to(dtype))
            features = self._features(result)
            if (
                self.precision == "float32"
                and dtype == torch.float32
                and features.dtype in (torch.float16, torch.bfloat16)
            ):
                self._say(f"its features are {str(features.dtype).removeprefix('torch.')}, and are kept as float32")
            stages = tuple(self._stage(torch, name, returned) for name in self.stages)
            return EncoderOutput(_as_numpy(features), tuple(map(_as_numpy, stages)))

    def _device_and_dtype(self, torch: Any) -> tuple[Any, Any]:
        """Returns those of the first floating-point weights; the CPU and float32 without weights."""
        weights = [*self.module.parameters(), *self.module.buffers()]
        floating = next((tensor for tensor in weights if tensor.is_floating_point()), None)
        if floating is None:
            return (weights[0].device if weights else torch.device("cpu")), torch.float32
        if floating.dtype != torch.float32:
            self._say(f"its weights are {str(floating.dtype).removeprefix('torch.')}, and so are its computations")
        return floating.device, floating.dtype

    @contextmanager
    def _evaluation(self) -> Iterator[None]:
        """Sets the module to evaluation mode, then restores training mode."""
        training = [inner for inner in self.module.modules() if inner.training]
        if not training:
            yield
            return
        self._say("it is in training mode; it runs in evaluation mode, and is set back after each batch")
        self.module.eval()
        try:
            yield
        finally:
            for inner in training:
                inner.training = True

    @contextmanager
    def _recorded(self, returned: dict[str, Any]) -> Iterator[None]:
        """Stores the outputs of the stages' modules by name."""

        def keep(name: str) -> Callable[..., None]:
            return lambda module, arguments, result: returned.__setitem__(name, result)

        handles = [self.module.get_submodule(name).register_forward_hook(keep(name)) for name in self.stages]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _features(self, result: Any) -> torch.Tensor:
        """Returns the features [n, d] in the module's result."""
        if self.output is not None:
            return self._over_space(self.output(result), "what output= returned")
        if (pooled := getattr(result, "pooler_output", None)) is not None:
            self._say("its pooler_output is taken for features")
            return self._over_space(pooled, "its pooler_output")
        hidden = getattr(result, "last_hidden_state", None)
        if hidden is None:
            return self._over_space(result, "what it returned")
        if hidden.ndim == 3:
            if not self._has_class_token():
                raise InputError(
                    f"the module returns tokens of shape {tuple(hidden.shape)} and has no class token; give "
                    "output=lambda returned: returned.last_hidden_state.mean(1), or another function"
                )
            self._say("its class token, the first of last_hidden_state, is taken for features")
            return hidden[:, 0]
        return self._over_space(hidden, "its last_hidden_state")

    def _over_space(self, value: Any, source: str) -> Any:
        """Averages [n, d, h, w] over space, and checks [n, d]; `source` names the value in messages."""
        if getattr(value, "ndim", 0) == 4:
            if value.shape[2:] != (1, 1):
                self._say(f"{source}, {list(value.shape[1:])} an image, is averaged over space")
            return value.float().mean((2, 3))
        if hasattr(value, "ndim") and hasattr(value, "detach") and value.ndim == 2:
            return value
        actual = f"a tensor of shape {tuple(value.shape)}" if hasattr(value, "shape") else f"a {type(value).__name__}"
        raise InputError(
            f"{source} is {actual}, and features are [n, d]; give output=, a function of what the module returns"
        )

    def _has_class_token(self) -> bool:
        names = (name.rpartition(".")[2] for name, _ in self.module.named_parameters())
        return any("cls" in name or "class_embedding" in name for name in names)

    def _stage(self, torch: Any, name: str, returned: dict[str, Any]) -> torch.Tensor:
        """Returns the output of an inner module, averaged over space or tokens."""
        if name not in returned:
            raise InputError(f"stages: the module does not call its inner module {name!r}")
        value = returned[name]
        while isinstance(value, tuple | list) and len(value):
            value = value[0]
        value = getattr(value, "last_hidden_state", value)
        if not isinstance(value, torch.Tensor) or value.ndim not in (2, 3, 4):
            actual = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
            raise InputError(f"stages: {name!r} returns {actual}; it must be [n, d], [n, t, d] or [n, d, h, w]")
        if value.ndim == 2:
            return value
        if value.ndim == 3:
            self._say(f"stage {name!r} is the mean of {value.shape[1]} tokens")
            return value.float().mean(1)
        # models such as Swin have channels last, which is visible if space is square
        last = value.shape[1] == value.shape[2] != value.shape[3]
        return value.float().mean((1, 2) if last else (2, 3))

    def _say(self, text: str) -> None:
        if text not in self.said:
            self.said.add(text)
            remark(f"{type(self.module).__name__}: {text}")


def _pixels(
    torch: Any,
    images: UInt8[np.ndarray, "n h w c"],
    preprocessing: Preprocessing,
    mean: np.ndarray,
    std: np.ndarray,
    device: Any,
) -> torch.Tensor:
    """Computes `Preprocessing.apply`, centred and scaled, in torch on `device`: float32 [n, c, h, w]."""
    channels = preprocessing.shape(images.shape[1:])[2]
    rows, columns = preprocessing.weights(*images.shape[1:3])
    writable = np.require(images, requirements=["C", "W"])  # torch warns about other arrays
    pixels = torch.from_numpy(writable).to(device).permute(0, 3, 1, 2).to(torch.float32)
    with torch.autocast(device.type, enabled=False):
        if columns is not None:
            pixels = torch.matmul(pixels, torch.from_numpy(columns).to(device).T).clamp_(0, 255)
        if rows is not None:
            pixels = torch.matmul(torch.from_numpy(rows).to(device), pixels).clamp_(0, 255)
        centre, scale = (torch.from_numpy(np.array(x, np.float32).reshape(-1, 1, 1)).to(device) for x in (mean, std))
        pixels = ((pixels / 255 - centre) / scale).expand(-1, channels, -1, -1)
        # the memory layout of images, with which the convolutions of EfficientNet-Lite0 are twice as fast on a CPU
        return pixels.contiguous(memory_format=torch.channels_last)


def _as_numpy(tensor: torch.Tensor) -> Float[np.ndarray, "n d"]:
    """Copies a tensor to the host as float32."""
    array: np.ndarray = tensor.detach().float().cpu().numpy()
    return array
