"""Published few-shot accuracy on the standard benchmarks, with sources, and how each protocol differs from ncjax's.

Compared with what their authors publish beside the paper: SMKD and COSOC (tables of their repositories), SKD's five
augmented copies (its commands). Compared with public listings of results: SKD distilled, inv-equ on CIFAR-FS, PAL. The
other rows are as these papers are cited, and have not been compared with the papers.
"""

from __future__ import annotations

from dataclasses import dataclass

Accuracy = tuple[float, float | None]
"""Percent, and the published 95 % half width over episodes, None where none is at hand."""


@dataclass(frozen=True)
class Published:
    """A row of a published table.

    Attributes:
      method: its name.
      network: what computes the features.
      source: where the numbers are from.
      one_shot: 5-way 1-shot.
      five_shot: 5-way 5-shot.
      differs: what the protocol does that ncjax's table does not; all draw episodes of target classes with 15 queries
        a class.
    """

    method: str
    network: str
    source: str
    one_shot: Accuracy
    five_shot: Accuracy
    differs: str = ""


_PROTONET = "Snell et al. 2017, arXiv 1703.05175, as reported by later work"
_RFS = "Tian et al. 2020, arXiv 2003.11539"
_SKD = "Rajasegaran et al. 2020, arXiv 2006.09785"
_INV_EQU = "Rizve et al. 2021, arXiv 2103.01315"
_SMKD = "Lin et al. 2023, arXiv 2303.15466, prototypes, as its authors' repository lists them"
_PAL = "Ma et al. 2021, arXiv 2109.07607"
_COSOC = "Luo et al. 2021, arXiv 2107.07746"
_FIVE_COPIES = "five augmented copies of each support image"
_LARGE = "images scaled up to 224 pixels, self-supervised pretraining on the source before"
_CROPS = "crops of foreground objects, in training and evaluation"

PUBLISHED: dict[str, tuple[Published, ...]] = {
    "cifar_fs": (
        Published("ProtoNet", "4 layers", f"{_PROTONET} (Bertinetto et al. 2019, arXiv 1805.08136)",
                  (55.5, None), (72.0, None), "trained on episodes"),
        Published("RFS", "ResNet-12", _RFS, (71.5, 0.8), (86.0, 0.5), _FIVE_COPIES),
        Published("SKD", "ResNet-12", _SKD, (74.5, None), (88.0, None), _FIVE_COPIES),
        Published("SKD, distilled", "ResNet-12", _SKD, (76.9, None), (88.9, None), _FIVE_COPIES),
        Published("inv-equ, distilled", "ResNet-12", _INV_EQU, (77.9, None), (89.7, None), _FIVE_COPIES),
        Published("SMKD", "ViT-S/16", _SMKD, (80.08, None), (90.63, None), _LARGE),
    ),
    "fc100": (
        Published("ProtoNet", "4 layers", _PROTONET, (35.3, None), (48.6, None), "trained on episodes"),
        Published("RFS", "ResNet-12", _RFS, (42.6, 0.7), (59.1, 0.6), _FIVE_COPIES),
        Published("SKD", "ResNet-12", _SKD, (45.3, None), (62.2, None), _FIVE_COPIES),
        Published("SKD, distilled", "ResNet-12", _SKD, (46.5, None), (63.1, None), _FIVE_COPIES),
        Published("PAL", "ResNet-12", _PAL, (47.2, None), (64.0, None), "a second encoder in training"),
        Published("inv-equ, distilled", "ResNet-12", _INV_EQU, (47.8, None), (65.3, None), _FIVE_COPIES),
        Published("SMKD", "ViT-S/16", _SMKD, (50.38, None), (68.37, None), _LARGE),
    ),
    "mini_imagenet": (
        Published("RFS", "ResNet-12", _RFS, (62.02, 0.63), (79.64, 0.44), _FIVE_COPIES),
        Published("PAL", "ResNet-12", _PAL, (69.37, None), (84.40, None), "a second encoder in training"),
        Published("COSOC", "ResNet-12", _COSOC, (69.28, 0.49), (85.16, 0.42), _CROPS),
        Published("SMKD", "ViT-S/16", _SMKD, (74.28, None), (88.82, None), _LARGE),
    ),
}  # fmt: skip
