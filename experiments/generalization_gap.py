"""How fast collapse generalises: to new images, and to new classes.

Claim: CDNV on new images and on new classes exceeds that on the training images by a gap that falls with the number of
samples a class (new images), and with the number of source classes too (new classes); the bounds fall as one over the
square root of each.
Paper: Galanti, György, Hutter (ICLR 2022, arXiv 2112.15121), its first contribution.
Plotted: debiased CDNV of source-test, and of target, less that of source-train, against samples a class and against the
number of source classes, on logarithmic axes; beside them a line of slope -1/2. In the legend the least-squares slope
of log gap on log number, mean and 95 % t interval over seeds: each seed's own line.
Gaps that are not positive have no logarithm: they are left out of lines and plot, and counted. Since the slope of a
seed's other gaps alone would be biased, a seed that has such a gap has no slope. The slope over the other seeds
("2 of 3 seeds") is then still biased, for they are chosen by their gaps: too flat where the lost gaps are at large
numbers, the usual place of small ones, too steep where they are at small numbers.
Expect: slopes at or below -1/2, for a bound is no prediction: the gap may fall faster, or be small throughout.

Command: python experiments/generalization_gap.py [--preset=paper --data_dir=PATH]
The runs are those of samples_per_class.py and number_of_classes.py.
smoke: 3 s, all runs re-used (2026-11-27). Slopes: target against classes -0.78 ± 0.28 (3 seeds), steeper than -1/2;
against samples -0.16 ± 0.37 (the 2 seeds whose gaps are finite), flat, for with 64 classes the rest of the gap is
theirs. Source-test has no slope: every seed has a gap that is not positive or not finite, 3 and 1 of 9, and 6 of 12,
for with 100 images a class and 400 steps of 32 images there is hardly a gap.
paper: CIFAR-FS, wrn-28-4: not yet run.
"""

import dataclasses

import drawing
import number_of_classes
import numpy as np
import samples_per_class
import stats
import sweep

from ncjax.plots import SET_COLORS

GROUPS = {"samples": "source-train images a class", "classes": "source classes"}


def grid(options: sweep.Options) -> list[sweep.Point]:
    """Both grids, the reference in each."""
    return [
        dataclasses.replace(point, group=group)
        for group, points in zip(
            GROUPS, (samples_per_class.grid(options), number_of_classes.grid(options)), strict=True
        )
        for point in points
    ]


def gaps(outcomes: list[sweep.Outcome], name: str) -> dict[int, dict[float, float]]:
    """For each seed: the gap at each number; NaN where a debiased CDNV is infinite."""
    found: dict[int, dict[float, float]] = {}
    for outcome in outcomes:
        for run in outcome.runs:
            gap = run.final(f"{name}/debiased_cdnv") - run.final("source_train/debiased_cdnv")
            found.setdefault(run.config.seed, {})[outcome.point.x] = gap if np.isfinite(gap) else np.nan
    return found


def slopes(by_seed: dict[int, dict[float, float]], count: int) -> list[float]:
    """Of the seeds that have a positive gap at all `count` numbers."""
    whole = [gap for gap in by_seed.values() if len(gap) == count and all(value > 0 for value in gap.values())]
    return [float(np.polyfit(np.log(list(gap)), np.log(list(gap.values())), 1)[0]) for gap in whole if count > 1]


def draw(figures: sweep.Figures) -> None:
    """Gaps on log-log axes, a panel for each number."""
    groups = figures.groups()
    figure, panels = drawing.panels(len(groups), height=6.0)
    numbers = {}
    for axes, (group, outcomes) in zip(panels, groups.items(), strict=True):
        x = [o.point.x for o in outcomes]
        highest = 0.0
        for name in ("source_test", "target"):
            color = SET_COLORS[name]
            by_seed = gaps(outcomes, name)
            each = [[gap.get(value, np.nan) for value in x] for gap in by_seed.values()]
            array = np.asarray(each)
            lost = int((~(array > 0) & ~np.isnan(array)).sum())
            infinite = sum(int(np.isnan(list(gap.values())).sum()) for gap in by_seed.values())
            slope = stats.Mean.of(slopes(by_seed, len(x)))
            shown = f"slope {slope.value:.2f} ± {slope.ci95:.2f}" if slope.runs > 1 else "no slope with interval"
            label = f"{name.replace('_', '-')}: {shown} ({slope.runs} of {len(by_seed)} seeds)"
            positive = np.where(array > 0, array, np.nan)
            for row in positive:
                axes.plot(x, row, "o", color=color, markersize=4, alpha=0.6)
            mean = [float(np.exp(np.log(c).mean())) if (c > 0).all() else np.nan for c in array.T]
            axes.plot(x, mean, "-", color=color, label=label)
            if np.isfinite(positive).any():
                highest = max(highest, float(np.nanmax(positive)))
            count = sum(map(len, by_seed.values()))
            note = f"{lost} of {count} gaps <= 0, {infinite} infinite"
            print(f"{group}, {name} less source_train: {shown} over {slope.runs} of {len(by_seed)} seeds; {note}")
            axes.plot([], [], " ", label=note)
            numbers[f"{group}/{name}"] = {
                "x": x, "gaps": {str(s): [g.get(v) for v in x] for s, g in by_seed.items()},
                "slope": slope._asdict(), "not_positive": lost, "infinite": infinite,
            }  # fmt: skip
        if highest:
            axes.plot(x, highest * np.sqrt(x[0] / np.asarray(x)), "k--", linewidth=1, label="slope -1/2, as the bounds")
        drawing.log_ticks(axes, x)
        drawing.log_scale(axes, "y")
        axes.set_xlabel(GROUPS[group])
        axes.set_ylabel("debiased CDNV less that of source-train")
        drawing.legend_below(axes)
    figure.suptitle("Generalisation gap of CDNV; slopes ± 95 % over seeds")
    figures.save(figure, numbers)


if __name__ == "__main__":
    sweep.main(__doc__, grid, draw)
