"""Learning rate, batch size, weight decay and schedule.

Claim: the relation of target CDNV and few-shot error holds whatever the settings of training; settings that collapse
the source more need not transfer better.
Paper: Galanti, György, Hutter (ICLR 2022, arXiv 2112.15121), which shows several learning rates; the rest are
additions.
Plotted: debiased CDNV of the three sets and few-shot accuracy of the nearest class centre, one setting varied at a time
from the reference; mean and 95 % t interval over seeds. Settings under which the loss stopped being finite are named.
In the smoke preset all take as many steps, so that a batch twice as large sees twice as many images; in the paper
preset all take as many epochs, so that it takes half as many steps.
Expect: rates that are too low leave CDNV high everywhere.

Command: python experiments/optimization.py [--preset=paper --data_dir=PATH]
smoke: 449 s on two idle cores of an AMD EPYC, the reference re-used, which takes 108 s more (2026-11-26). Target CDNV
(plug-in), 1-shot and 5-shot accuracy over 3 seeds: reference 0.30 ± 0.02, 81.9 ± 2.2, 91.8 ± 1.8 %; batches of 64,
twice as many images, 0.26 ± 0.04, 86.2 ± 3.5, 94.9 ± 1.8 %; learning rate 0.4 0.29 ± 0.13, 82.9 ± 10.2, 92.0 ± 7.7 %;
learning rate 0.01 2.1 ± 0.5, 38.5 ± 8.0, 47.8 ± 7.2 %; weight decay 0.005 0.29 ± 0.02, 81.5 ± 0.2, 90.7 ± 1.4 %;
constant schedule 0.33 ± 0.07, 80.8 ± 6.0, 91.8 ± 5.3 %. But for batches of 64 and the low rate no difference stands out
from that between seeds.
paper: CIFAR-FS, wrn-28-4: not yet run.
"""

from typing import Any

import drawing
import sweep

VARIED: dict[str, dict[str, tuple[Any, ...]]] = {
    "smoke": {
        "learning_rate": (0.01, 0.4),
        "batch_size": (64,),
        "weight_decay": (5e-3,),
        "schedule": ("constant",),
    },
    "paper": {
        "learning_rate": (0.0125, 0.025, 0.1, 0.2),
        "batch_size": (32, 128, 256),
        "weight_decay": (0.0, 1e-4, 2e-3),
        "schedule": ("constant", "cosine"),
    },
}


def grid(options: sweep.Options) -> list[sweep.Point]:
    """The reference, and one setting at a time."""
    points = [sweep.Point("reference", sweep.reference(options))]
    for setting, values in VARIED[options.preset].items():
        for value in values:
            label = f"{setting} {value}"
            points.append(sweep.Point(label, sweep.reference(options, **{setting: value}), group=setting))
    return points


def draw(figures: sweep.Figures) -> None:
    """CDNV and accuracy of each setting."""
    drawing.draw_settings(figures, "Optimisation")


if __name__ == "__main__":
    sweep.main(__doc__, grid, draw)
