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
smoke: 505 s on two cores, nothing re-used, when vit and mlp still trained with SGD at a learning rate of 0.01; with
AdamW these are not yet run. Target CDNV (plug-in), 1-shot and 5-shot accuracy over 3 seeds: wrn-16-1
0.20 ± 0.03, 90.1 ± 3.0, 96.4 ± 2.6 %; conv-10-1, without shortcuts, 0.26 ± 0.03, 87.0 ± 2.9, 95.2 ± 1.5 %; wrn-10-1
0.27 ± 0.03, 85.4 ± 1.3, 94.4 ± 0.2 %; mlp-3-64 1.33 ± 0.26, 53.2 ± 2.5, 71.4 ± 2.8 %; mlp-3-256 1.37 ± 0.07,
60.2 ± 2.6, 81.1 ± 1.8 %; vit-2-64-4 3.8 ± 1.1, 30.4 ± 2.6, 38.6 ± 2.9 %, which has hardly begun to learn (8 % of the
source classes' own images). The order of CDNV is that of error but for the two mlp: the wider one transfers better with
no lower CDNV. Width did not lower the source's CDNV (0.91 and 1.00), depth did (0.16 and 0.10). Shortcuts made no
difference that three seeds show.
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
