"""Depth, width, shortcuts, and other kinds of network.

Claim: collapse on new images and new classes is no matter of one architecture; networks whose target CDNV is lower have
the higher few-shot accuracy.
Paper: Galanti, György, Hutter (ICLR 2022, arXiv 2112.15121), which shows wide residual networks with and without
shortcuts; resnet12, vit and mlp are additions.
Plotted: debiased CDNV of the three sets, and few-shot accuracy of the nearest class centre, for each network; mean and
95 % t interval over seeds.
Expect: deeper and wider is lower on the source; the order of target CDNV is the order of few-shot error.

Command: python experiments/architectures.py [--preset=paper --data_dir=PATH]
resnet12 takes about 0.9 s a step on two cores and is left to the paper preset, as are wide residual networks of other
widths; in the smoke preset the mlp varies in width. vit and mlp train with AdamW, the others with SGD.
smoke: 386 s on two idle cores of an AMD EPYC, the reference (wrn-10-1) re-used, which takes 108 s more (2026-11-26).
Target CDNV (plug-in), 1-shot and 5-shot accuracy over 3 seeds: wrn-16-1 0.23 ± 0.05, 86.6 ± 1.8, 94.6 ± 0.4 %;
conv-10-1, without shortcuts, 0.28 ± 0.03, 84.1 ± 3.8, 93.3 ± 2.7 %; wrn-10-1 0.30 ± 0.02, 81.9 ± 2.2, 91.8 ± 1.8 %;
mlp-3-256 1.20 ± 0.03, 62.0 ± 1.4, 81.3 ± 1.9 %; mlp-3-64 1.68 ± 0.17, 46.9 ± 1.1, 64.5 ± 2.1 %; vit-2-64-4 3.5 ± 1.5,
32.0 ± 6.3, 40.0 ± 7.6 %, which has hardly begun to learn. The order of CDNV is that of error. Depth and, of the mlp,
width lower CDNV on the source too; shortcuts made no difference that three seeds show.
paper: CIFAR-FS: not yet run.
"""

import drawing
import sweep

NETWORKS = {
    "smoke": ("wrn-10-1", "wrn-16-1", "conv-10-1", "mlp-3-64", "mlp-3-256", "vit-2-64-4"),
    "paper": (
        "wrn-10-4", "wrn-16-4", "wrn-28-1", "wrn-28-4", "wrn-28-10", "conv-16-4", "conv-28-4", "conv4", "resnet12",
        "mlp-4-512", "vit-6-192-4",
    ),
}  # fmt: skip


def grid(options: sweep.Options) -> list[sweep.Point]:
    """The reference with other networks."""
    return [sweep.Point(name, sweep.reference(options, network=name)) for name in NETWORKS[options.preset]]


def draw(figures: sweep.Figures) -> None:
    """CDNV and accuracy of each network."""
    drawing.draw_settings(figures, "Architectures")


if __name__ == "__main__":
    sweep.main(__doc__, grid, draw)
