"""Collapse during training, on training images, on new images and on new classes.

Claim: while a classifier is trained, class-distance normalized variance (CDNV) falls on the training images, on new
images of the source classes, and on target classes that were never seen; few-shot accuracy on these rises with it.
Paper: Galanti, György, Hutter (ICLR 2022, arXiv 2112.15121), the figures of CDNV and accuracy over epochs.
Plotted: CDNV of the three sets and few-shot accuracy of the nearest class centre over steps, mean and 95 % t interval
over seeds. Over steps the plain (plug-in) CDNV is drawn, since the debiased one is infinite in an untrained network,
where some class means cannot be told apart; both are in the JSON.
Expect: all three fall; source-train <= source-test < target; accuracy rises.

Command: python experiments/collapse_during_training.py [--preset=paper --data_dir=PATH]
smoke: 90 s on two idle cores of an AMD EPYC with AVX-512, with the data, nothing re-used (2026-11-27). Over 400 steps
and 3 seeds CDNV falls from about 5.5 on all three sets to 0.215 ± 0.051 (source-train), 0.211 ± 0.056 (source-test) and
0.319 ± 0.045 (target, all debiased); accuracy rises from 27 to 81.9 ± 4.5 % (1-shot) and from 33 to 91.7 ± 4.1 %
(5-shot). So short a training shows no difference between old and new images of the source classes.
paper: CIFAR-FS, wrn-28-4: not yet run.
"""

import drawing
import stats
import sweep

from ncjax.plots import SET_COLORS, SETS
from ncjax.runs import number


def grid(options: sweep.Options) -> list[sweep.Point]:
    """The reference run alone."""
    return [sweep.Point("reference", sweep.reference(options))]


def draw(figures: sweep.Figures) -> None:
    """Curves over steps."""
    runs = figures.runs
    steps = [int(record["step"] or 0) for record in runs[0].records]

    def curve(key: str) -> list[stats.Mean]:
        return [stats.Mean.of(number(run.records[i][key]) for run in runs) for i in range(len(steps))]

    figure, (left, right) = drawing.panels(2)
    shown = [name for name in SETS if f"{name}/cdnv" in runs[0].records[0]]
    curves = {f"{name}/{kind}": curve(f"{name}/{kind}") for name in shown for kind in ("cdnv", "debiased_cdnv")}
    for name in shown:
        drawing.plot_means(left, steps, curves[f"{name}/cdnv"], SETS[name], color=SET_COLORS[name])
    drawing.log_scale(left, "y")
    left.set_ylabel("CDNV (mean over pairs of classes)")
    for key, label, color in drawing.few_shot(runs[0].records[0]):
        curves[key] = curve(key)
        drawing.plot_means(right, steps, curves[key], label, scale=100, color=color)
    right.set_ylabel("accuracy on target classes (%), NCC")
    for axes in (left, right):
        axes.set_xlabel("step")
        axes.legend()
    figure.suptitle(f"Collapse during training, ± 95 % over {len(runs)} seeds")
    print(drawing.table(figures.finished))
    figures.save(figure, {"steps": steps, **{key: [m._asdict() for m in means] for key, means in curves.items()}})


if __name__ == "__main__":
    sweep.main(__doc__, grid, draw)
