"""Depth, width, shortcuts, and other kinds of network.

Claim: collapse on new images and new classes does not depend on one architecture; networks with lower target CDNV have
higher few-shot accuracy.
Paper: Galanti, György, Hutter (ICLR 2022, arXiv 2112.15121), which shows wide residual networks with and without
shortcuts; resnet12, vit and mlp are additions.
Plotted: debiased CDNV of the three sets, and few-shot accuracy of the nearest class centre, for each network; mean and
95 % t interval over seeds.
Expect: deeper and wider networks have lower CDNV on the source; target CDNV ranks networks as few-shot error does.

Command: python experiments/architectures.py [--preset=small|paper --data_dir=PATH]
Time: smoke 386 s on two CPU cores, and 108 s for the reference (wrn-10-1) if no other figure has trained it; paper, on
CIFAR-FS, not yet run.
Results, and estimates for small, which is not yet run either: RESULTS.md.
resnet12 takes about 0.9 s a step on two cores: only the paper preset has it, and wide residual networks of other
widths; in the smoke preset the mlp varies in width. vit and mlp train with AdamW, the others with SGD.
"""

from common import drawing, grids, sweep

NETWORKS = {
    "smoke": ("wrn-10-1", "wrn-16-1", "conv-10-1", "mlp-3-64", "mlp-3-256", "vit-2-64-4"),
    "small": ("wrn-10-1", "wrn-16-1", "conv-10-1", "mlp-3-256"),
    "paper": (
        "wrn-10-4", "wrn-16-4", "wrn-28-1", "wrn-28-4", "wrn-28-10", "conv-16-4", "conv-28-4", "conv4", "resnet12",
        "mlp-4-512", "vit-6-192-4",
    ),
}  # fmt: skip


def grid(options: sweep.Options) -> list[sweep.Point]:
    """Varies the network of the reference."""
    return [sweep.Point(name, grids.reference(options, network=name)) for name in NETWORKS[options.preset]]


def draw(figures: sweep.Figures) -> None:
    """Draws CDNV and accuracy of each network."""
    drawing.draw_settings(figures, "Architectures")


if __name__ == "__main__":
    sweep.main(__doc__, grid, draw)
