"""Collapse during training, on training images, on new images and on new classes.

Claim: while a classifier is trained, class-distance normalized variance (CDNV) falls on the training images, on new
images of the source classes, and on target classes that were never seen; few-shot accuracy on these rises with it.
Paper: Galanti, György, Hutter (ICLR 2022, arXiv 2112.15121), the figures of CDNV and accuracy over epochs.
Plotted: CDNV of the three sets and few-shot accuracy of the nearest class centre over steps, mean and 95 % t interval
over seeds. CDNV is the plain (plug-in) value, since the debiased value is infinite in an untrained network, where some
class means cannot be told apart; the JSON has both.
Expect: all three fall; source-train <= source-test < target; accuracy rises.

Command: python experiments/collapse_during_training.py [--preset=small|paper --data_dir=PATH]
Time: smoke 90 s on two CPU cores; paper, CIFAR-FS with wrn-28-4, not yet run.
Results, and estimates for small, which is not yet run either: RESULTS.md.
"""

from common import drawing, grids, sweep
from ncjax.plots import SET_COLORS, SETS, log_axis
from ncjax.runs import number
from ncjax.statistics import Mean


def grid(options: sweep.Options) -> list[sweep.Point]:
    """Makes the reference alone."""
    return [sweep.Point("reference", grids.reference(options))]


def draw(figures: sweep.Figures) -> None:
    """Draws CDNV and accuracy over steps."""
    runs = figures.runs
    steps = [int(record["step"] or 0) for record in runs[0].records]

    def curve(key: str) -> list[Mean]:
        return [Mean.of(number(run.records[i][key]) for run in runs) for i in range(len(steps))]

    figure, (left, right) = drawing.row_of_panels(2)
    sets = [name for name in SETS if f"{name}/cdnv" in runs[0].records[0]]
    curves = {f"{name}/{kind}": curve(f"{name}/{kind}") for name in sets for kind in ("cdnv", "debiased_cdnv")}
    for name in sets:
        drawing.plot_means(left, steps, curves[f"{name}/cdnv"], SETS[name], color=SET_COLORS[name])
    log_axis(left, "y")
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
