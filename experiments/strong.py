"""The strong preset on CIFAR-FS and FC100, without and with distillation, beside published numbers.

Claim: recipes of the field, put together, bring plain pretraining near the best published accuracy of small networks.
Paper: beyond Galanti, György, Hutter (ICLR 2022, arXiv 2112.15121); the pieces of --preset=strong have their sources
in recipes.py, published numbers in common/published.py. The strong preset was not yet chosen on validation classes.
Plotted: as in few_shot_table.py, whose heads are tuned on validation classes: resnet12 with --preset=strong, the same
distilled from its own seed 0, and wrn-28-4 with --preset=paper on CIFAR-FS; mean and 95 % t interval over seeds, which
for distilled runs leaves the teacher's seed out. The table also gives intervals over episodes and over classes.
Expect: at least 74.5 and 88.0 % on CIFAR-FS (1-shot, 5-shot), 77 and 89 % distilled; 45 and 62 % on FC100.

Command: python experiments/strong.py --data_dir=PATH --preset=paper --seeds=1
for a GPU, in bfloat16. The same command continues after an interruption, and adds the distilled runs once their
teachers are finished. small trains wrn-10-1 for 4,000 steps instead, smoke for 150 steps on 20 images a class.
Time: see RESULTS.md, with estimates for small; neither small nor paper has been run yet.
"""

from __future__ import annotations

from typing import Any

from common import grids, sweep
from few_shot_table import Options, draw
from ncjax.train import Config

DATASETS: tuple[grids.DataSet, ...] = ("cifar_fs", "fc100")


def strong(options: Options, dataset: grids.DataSet, **changes: Any) -> Config:
    """Makes the strong preset's configuration for a data set, reduced outside of the paper preset."""
    sizes: dict[str, Any] = {"precision": "bfloat16"}
    if options.preset == "small":
        sizes = {"network": "wrn-10-1", "epochs": 1, "min_steps": grids.SMALL_STEPS, "measurements": 0}
    elif options.preset == "smoke":
        sizes = {"network": "wrn-10-1", "epochs": 1, "min_steps": 150, "batch_size": 32, "measurements": 0}
        sizes |= {"samples_per_class": 20, "measure_episodes": 1000}
    folder = grids.data_folder(options, dataset)
    return Config(preset="strong", dataset=dataset, data_dir=folder, **sizes, **changes)


def grid(options: Options) -> list[sweep.Point]:
    """Makes the strong preset for each data set, and in the paper preset wrn-28-4 on CIFAR-FS."""
    points = [sweep.Point(f"{name}, strong", strong(options, name)) for name in DATASETS]
    if options.preset == "paper":
        points.append(sweep.Point("cifar_fs, wrn-28-4", grids.reference(options)))
    return points


def grid_with_distilled(options: Options) -> list[sweep.Point]:
    """Trains this machine's part of the grid first, so that teachers are finished."""
    points = grid(options)
    sweep.sweep(points, options)
    for name, teacher in zip(DATASETS, points, strict=False):
        points += grids.distilled(f"{name}, distilled", teacher, options)
    return points


if __name__ == "__main__":
    sweep.main(__doc__, grid_with_distilled, draw, options=Options)
