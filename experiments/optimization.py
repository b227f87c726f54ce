"""Learning rate, batch size, weight decay and schedule.

Claim: the relation of target CDNV and few-shot error holds whatever the settings of training; settings that collapse
the source more need not transfer better.
Paper: Galanti, György, Hutter (ICLR 2022, arXiv 2112.15121), which shows several learning rates; the rest are
additions.
Plotted: debiased CDNV of the three sets and few-shot accuracy of the nearest class centre, one setting varied at a time
from the reference; mean and 95 % t interval over seeds. Settings under which the loss stopped being finite are named.
The number of steps is that of the reference; with a batch half as large the network sees half as many images.
Expect: rates that are too low leave CDNV high everywhere.

Command: python experiments/optimization.py [--preset=paper --data_dir=PATH]
smoke: not yet run.
paper: CIFAR-FS, wrn-28-4: not yet run.
"""

from typing import Any

import sweep

VARIED: dict[str, dict[str, tuple[Any, ...]]] = {
    "smoke": {
        "learning_rate": (0.01, 0.4),
        "batch_size": (16,),
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
    sweep.draw_settings(figures, "Optimisation")


if __name__ == "__main__":
    sweep.main(__doc__, grid, draw)
