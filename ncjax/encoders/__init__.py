"""Classifiers from other libraries: PyTorch, Flax NNX, Equinox, plain functions, and pretrained models by name.

Imports none of these libraries until it needs them; torch, timm and transformers are extras of the package.
"""

from ncjax.encoders.equinox_model import from_equinox
from ncjax.encoders.function import from_function
from ncjax.encoders.loading import load
from ncjax.encoders.nnx_model import from_nnx
from ncjax.encoders.torch_module import from_torch

__all__ = ["from_equinox", "from_function", "from_nnx", "from_torch", "load"]
