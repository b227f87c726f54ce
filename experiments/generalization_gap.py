"""How fast collapse generalises: to new images, and to new classes.

Claim: CDNV on new images and on new classes exceeds CDNV on the training images by a gap that falls with the number of
samples of each class (new images), and also with the number of source classes (new classes); the bounds fall as one
over the square root of each.
Paper: Galanti, György, Hutter (ICLR 2022, arXiv 2112.15121), its first contribution.
Plotted: debiased CDNV of source-test, and of target, less that of source-train, against samples of each class and
against the number of source classes, on logarithmic axes; beside them a line of slope -1/2. The legend has the
least-squares slope of log gap on log number, mean and 95 % t interval over seeds, where each seed has its own line.
Gaps that are not positive have no logarithm: lines and plot leave them out, and the legend counts them. Since the slope
of a seed's other gaps alone would be biased, a seed with such a gap has no slope. The slope over the other seeds
("2 of 3 seeds") is still biased, because their gaps select them: too flat if the lost gaps are at large numbers, where
small gaps usually are, too steep if they are at small numbers.
Expect: slopes at or below -1/2, since a bound is no prediction: the gap may fall faster, or be small throughout.

Command: python experiments/generalization_gap.py [--preset=small|paper --data_dir=PATH]
Time: smoke 3 s, since it needs no other runs than samples_per_class.py and number_of_classes.py; paper, CIFAR-FS with
wrn-28-4, not yet run.
Results, and estimates for small, which is not yet run either: RESULTS.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from common import drawing, grids, sweep
from ncjax.plots import SET_COLORS, log_axis
from ncjax.statistics import Mean

if TYPE_CHECKING:
    from matplotlib.axes import Axes

X_LABELS = {"samples": "source-train images a class", "classes": "source classes"}


def grid(options: sweep.Options) -> list[sweep.Point]:
    """Makes the grids over samples and over classes, which share the reference."""
    return grids.by_samples(options, "samples") + grids.by_classes(options, "classes")


def gaps(outcomes: list[sweep.Outcome], name: str) -> dict[int, dict[float, float]]:
    """Returns, for each seed, the gap at each number; NaN where a debiased CDNV is infinite."""
    by_seed: dict[int, dict[float, float]] = {}
    for outcome in outcomes:
        for run in outcome.runs:
            gap = run.final(f"{name}/debiased_cdnv") - run.final("source_train/debiased_cdnv")
            by_seed.setdefault(run.config.seed, {})[outcome.point.x] = gap if np.isfinite(gap) else np.nan
    return by_seed


def slopes(by_seed: dict[int, dict[float, float]], count: int) -> list[float]:
    """Returns the slope of each seed that has a positive gap at all `count` numbers."""
    complete = [gap for gap in by_seed.values() if len(gap) == count and all(value > 0 for value in gap.values())]
    return [float(np.polyfit(np.log(list(gap)), np.log(list(gap.values())), 1)[0]) for gap in complete if count > 1]


def draw(figures: sweep.Figures) -> None:
    """Draws gaps on logarithmic axes, a panel each for samples and classes."""
    groups = figures.groups()
    figure, panels = drawing.row_of_panels(len(groups), height=6.0)
    numbers = {}
    for axes, (group, outcomes) in zip(panels, groups.items(), strict=True):
        x = [outcome.point.x for outcome in outcomes]
        highest = 0.0
        for name in ("source_test", "target"):
            numbers[f"{group}/{name}"], top = draw_gaps(axes, group, name, outcomes)
            highest = max(highest, top)
        if highest:
            axes.plot(x, highest * np.sqrt(x[0] / np.asarray(x)), "k--", linewidth=1, label="slope -1/2, as the bounds")
        log_axis(axes, "x", x)
        log_axis(axes, "y")
        axes.set_xlabel(X_LABELS[group])
        axes.set_ylabel("debiased CDNV minus source-train CDNV")
        drawing.legend_below(axes)
    figure.suptitle("Generalisation gap of CDNV; slopes ± 95 % over seeds")
    figures.save(figure, numbers)


def draw_gaps(axes: Axes, group: str, name: str, outcomes: list[sweep.Outcome]) -> tuple[dict[str, Any], float]:
    """Draws the gaps of one set, and prints their slope.

    Returns:
      The numbers of the figure, and the largest positive gap or 0.
    """
    x = [outcome.point.x for outcome in outcomes]
    by_seed = gaps(outcomes, name)
    array = np.asarray([[gap.get(value, np.nan) for value in x] for gap in by_seed.values()])
    not_positive = int((~(array > 0) & ~np.isnan(array)).sum())
    infinite = sum(int(np.isnan(list(gap.values())).sum()) for gap in by_seed.values())
    slope = Mean.of(slopes(by_seed, len(x)))
    slope_text = f"slope {slope.value:.2f} ± {slope.ci95:.2f}" if slope.runs > 1 else "no slope with interval"
    positive = np.where(array > 0, array, np.nan)
    for row in positive:
        axes.plot(x, row, "o", color=SET_COLORS[name], markersize=4, alpha=0.6)
    mean = [float(np.exp(np.log(column).mean())) if (column > 0).all() else np.nan for column in array.T]
    label = f"{name.replace('_', '-')}: {slope_text} ({slope.runs} of {len(by_seed)} seeds)"
    axes.plot(x, mean, "-", color=SET_COLORS[name], label=label)
    note = f"{not_positive} of {sum(map(len, by_seed.values()))} gaps <= 0, {infinite} infinite"
    axes.plot([], [], " ", label=note)
    print(f"{group}, {name} less source_train: {slope_text} over {slope.runs} of {len(by_seed)} seeds; {note}")
    numbers = {
        "x": x, "gaps": {str(seed): [gap.get(value) for value in x] for seed, gap in by_seed.items()},
        "slope": slope._asdict(), "not_positive": not_positive, "infinite": infinite,
    }  # fmt: skip
    return numbers, float(np.nanmax(positive, initial=0.0))


if __name__ == "__main__":
    sweep.main(__doc__, grid, draw)
