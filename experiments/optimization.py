"""Learning rate, batch size, weight decay and schedule.

Claim: target CDNV and few-shot error are related in the same way whatever the settings of training; settings that
collapse the source more need not transfer better.
Paper: Galanti, György, Hutter (ICLR 2022, arXiv 2112.15121), which shows several learning rates; the other settings are
additions.
Plotted: debiased CDNV of the three sets and few-shot accuracy of the nearest class centre, varying one setting of the
reference at a time; mean and 95 % t interval over seeds. The figure names settings whose loss stopped being finite.
In the smoke and small presets all runs take as many steps, so that a batch twice as large sees twice as many images; in
the paper preset all take as many epochs, so that it takes half as many steps.
Expect: learning rates that are too low leave CDNV high everywhere.

Command: python experiments/optimization.py [--preset=small|paper --data_dir=PATH]
Time: smoke 449 s on two CPU cores, and 108 s for the reference if no other figure has trained it; paper, CIFAR-FS with
wrn-28-4, not yet run.
Results, and estimates for small, which is not yet run either: RESULTS.md.
"""

from typing import Any

from common import drawing, grids, sweep

VARIED: dict[str, dict[str, tuple[Any, ...]]] = {
    "smoke": {
        "learning_rate": (0.01, 0.4),
        "batch_size": (64,),
        "weight_decay": (5e-3,),
        "schedule": ("constant",),
    },
    "small": {
        "learning_rate": (0.01, 0.4),
        "batch_size": (128,),
        "weight_decay": (0.0, 2e-3),
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
    """Varies one setting at a time."""
    return grids.one_at_a_time(options, VARIED[options.preset])


def draw(figures: sweep.Figures) -> None:
    """Draws CDNV and accuracy of each setting."""
    drawing.draw_settings(figures, "Optimisation")


if __name__ == "__main__":
    sweep.main(__doc__, grid, draw)
