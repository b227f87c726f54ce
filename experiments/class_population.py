"""Source and target classes of one population, against a shifted one.

Claim: the theory takes source and target classes for independent draws from one population of classes; where they are
not, target CDNV stays higher than source CDNV leads one to expect, and transfer is lost.
Paper: Galanti, György, Hutter (ICLR 2022, arXiv 2112.15121), which assumes it; FC100 (Oreshkin et al.,
NeurIPS 2018, arXiv 1805.10123) divides CIFAR-100 along superclasses for this very reason.
Plotted: CDNV of the three sets, debiased where that is finite in all runs, and few-shot accuracy of the nearest class
centre, for class splits drawn at random (several seeds of the split) and for FC100's split by superclass, all with 60
source and 20 target classes of CIFAR-100; mean and 95 % t interval over splits for the random ones (other draws of the
classes, one seed of training each) and over seeds of training for FC100, whose split is one.
What this does not separate: FC100's 20 target classes lie in four superclasses, so that they resemble each other and
may be harder in themselves, for any network. "Lost to the shift" includes that.
Expect: FC100's ratio of target to source-test CDNV is larger, its accuracy lower.

Command: python experiments/class_population.py [--preset=paper] [--data_dir=PATH]
Both presets are of CIFAR-100, for glyphs have no superclasses to shift along; the archive (161 MB) is downloaded unless
--data_dir names it. The smoke preset takes 150 images a class, wrn-10-1 and 500 steps.
smoke: 499 s on two idle cores of an AMD EPYC, the archive at hand and nothing re-used (2026-11-26). The shift costs 5.5
[-0.4, 11.4] points in 5 shots (48.1 ± 6.0 against 42.6 ± 0.6 %) and 3.3 [-1.4, 8.1] in 1 shot: three splits do not
exclude that it costs nothing. Target / source-test CDNV is 1.72 [1.41, 2.11] times as large (Welch's t over runs;
plug-in CDNV, since after four epochs some class means cannot yet be told apart).
paper: wrn-28-4: not yet run.
"""

import dataclasses
from typing import Any

import drawing
import numpy as np
import sweep
from stats import welch

SOURCE_CLASSES = 60


def grid(options: sweep.Options) -> list[sweep.Point]:
    """FC100, whose runs are the seeds; and as many random splits, of one run each."""
    sizes: dict[str, Any] = {"num_source_classes": SOURCE_CLASSES, "data_dir": options.data_dir}
    if options.preset == "smoke":
        sizes |= {"samples_per_class": 150, "min_steps": 500, "batch_size": 64}
    points = [sweep.Point("fc100", sweep.reference(options, dataset="fc100", **sizes), group="shifted")]
    for seed in range(options.seeds):
        config = sweep.reference(options, dataset="cifar100", split_seed=seed, **sizes)
        points.append(sweep.Point(f"random {seed}", config, group="random", seeds=1))
    return points


def draw(figures: sweep.Figures) -> None:
    """CDNV and accuracy of both populations, and the difference."""
    runs = {name: [run for o in group for run in o.runs] for name, group in figures.groups().items()}
    if len(runs) < 2:
        print(f"finished so far: {', '.join(runs)} only")
    merged = [
        sweep.Outcome(dataclasses.replace(figures.groups()[name][0].point, label=label), runs[name])
        for name, label in (("random", "random classes"), ("shifted", "FC100, by superclass"))
        if name in runs
    ]
    differences = {}
    if len(merged) == 2:
        for key, name, _ in drawing.few_shot(figures.runs[0].records[0]):
            lost = welch(*(np.asarray(o.values(key)) for o in merged))
            differences[key] = list(lost)
            print(f"lost to the shift, {name}: {100 * lost[0]:.2f} [{100 * lost[1]:.2f}, {100 * lost[2]:.2f}] points")
        kind, kind_label = drawing.cdnv_kind(merged)
        logs = [np.log(o.values(f"target/{kind}")) - np.log(o.values(f"source_test/{kind}")) for o in merged]
        ratio = [float(np.exp(value)) for value in welch(logs[1], logs[0])]
        differences["target / source_test CDNV, shifted over random"] = ratio
        print(
            f"target / source-test, shifted over random: {ratio[0]:.3f} [{ratio[1]:.3f}, {ratio[2]:.3f}]; {kind_label}"
        )
    drawing.draw_settings(figures, "Class population", outcomes=merged, more={"differences": differences})


if __name__ == "__main__":
    sweep.main(__doc__, grid, draw)
