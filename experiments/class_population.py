"""Source and target classes of one population, against a shifted population.

Claim: the theory assumes that source and target classes are independent draws from one population of classes; where
they are not, target CDNV stays higher than source CDNV suggests, and transfer suffers.
Paper: Galanti, György, Hutter (ICLR 2022, arXiv 2112.15121), which assumes it; FC100 (Oreshkin et al.,
NeurIPS 2018, arXiv 1805.10123) divides CIFAR-100 along superclasses for this very reason.
Plotted: CDNV of the three sets, debiased if that is finite in all runs, and few-shot accuracy of the nearest class
centre, for class splits drawn at random (several seeds of the split) and for FC100's split by superclass, all with 60
source and 20 target classes of CIFAR-100; mean and 95 % t interval over splits for the random splits (other draws of
the classes, one seed of training each) and over seeds of training for FC100, which has one split.
Not separated: FC100's 20 target classes lie in four superclasses, so that they resemble each other and may be harder in
themselves, for any network. "Lost to the shift" includes that.
Expect: FC100's ratio of target to source-test CDNV is larger, its accuracy lower.

Command: python experiments/class_population.py [--preset=small|paper] [--data_dir=PATH]
Time: smoke 499 s on two CPU cores with the archive at hand; paper, wrn-28-4, not yet run.
Results, and estimates for small, which is not yet run either: RESULTS.md.
All presets use CIFAR-100, since glyphs have no superclasses to shift along; the archive (161 MB) is downloaded unless
--data_dir names it. The smoke preset takes 150 images a class, wrn-10-1 and 500 steps.
"""

import dataclasses
from typing import Any

import numpy as np

from common import drawing, grids, sweep
from ncjax.statistics import welch


def grid(options: sweep.Options) -> list[sweep.Point]:
    """Makes FC100, whose runs are the seeds of training, and as many random splits with one run each."""
    sizes: dict[str, Any] = {"num_source_classes": grids.FC100_SOURCE_CLASSES, "data_dir": options.data_dir}
    if options.preset == "smoke":
        sizes |= {"samples_per_class": 150, "min_steps": 500, "batch_size": 64}
    shifted = grids.reference(options, dataset="fc100", **sizes)
    if options.preset == "small":  # the reference of other figures, to share its runs
        shifted = grids.reference(dataclasses.replace(options, dataset="fc100"))
    points = [sweep.Point("fc100", shifted, group="shifted")]
    for seed in range(options.seeds):
        config = grids.reference(options, dataset="cifar100", split_seed=seed, **sizes)
        points.append(sweep.Point(f"random {seed}", config, group="random", seeds=1))
    return points


def draw(figures: sweep.Figures) -> None:
    """Draws CDNV and accuracy of both populations, and prints the difference."""
    groups = figures.groups()
    if len(groups) < 2:
        print(f"finished so far: {', '.join(groups)} only")
    merged = [
        sweep.Outcome(
            dataclasses.replace(groups[name][0].point, label=label),
            [run for outcome in groups[name] for run in outcome.runs],
        )
        for name, label in (("random", "random classes"), ("shifted", "FC100, by superclass"))
        if name in groups
    ]
    differences = {}
    if len(merged) == 2:
        for key, name, _ in drawing.few_shot(figures.runs[0].records[0]):
            lost = welch(*(np.asarray(outcome.values(key)) for outcome in merged))
            differences[key] = list(lost)
            print(f"lost to the shift, {name}: {100 * lost[0]:.2f} [{100 * lost[1]:.2f}, {100 * lost[2]:.2f}] points")
        kind, kind_label = drawing.cdnv_kind(merged)
        random, shifted = (
            np.log(outcome.values(f"target/{kind}")) - np.log(outcome.values(f"source_test/{kind}"))
            for outcome in merged
        )
        ratio = [float(np.exp(value)) for value in welch(shifted, random)]
        differences["target / source_test CDNV, shifted over random"] = ratio
        print(
            f"target / source-test, shifted over random: {ratio[0]:.3f} [{ratio[1]:.3f}, {ratio[2]:.3f}]; {kind_label}"
        )
    drawing.draw_settings(figures, "Class population", outcomes=merged, more={"differences": differences})


if __name__ == "__main__":
    sweep.main(__doc__, grid, draw)
