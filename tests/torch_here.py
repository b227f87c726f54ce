"""torch, and what is built on it, for the tests that need them; these are skipped where they are not installed."""

import importlib.util
from typing import Any

import pytest

_OPERATORS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_library: list[Any] = []


def require(name: str) -> Any:
    """The library, or the test is skipped.

    torchvision, which timm and transformers import, may be built for another torch than the one that is here. Its
    operators are then missing, none of which these tests call: they are declared, so that it can be imported.
    """
    torch = pytest.importorskip("torch")
    if importlib.util.find_spec("torchvision") is not None and not _library:
        try:
            import torchvision  # noqa: F401
        except RuntimeError:
            _library.append(torch.library.Library("torchvision", "DEF"))
            for operator, signature in _OPERATORS.items():
                _library[0].define(operator + signature)
    return pytest.importorskip(name)
