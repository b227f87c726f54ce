"""Recipes: do they raise few-shot accuracy through lower target CDNV, or beside it?

Question, open: the pieces that raised few-shot accuracy in the literature were not made to lower CDNV. Does each of
them move runs along the line of CDNV and accuracy, or off it?
Paper: Galanti, György, Hutter (ICLR 2022, arXiv 2112.15121) relates the two; the pieces are the rotation head and the
distillation of SKD (Rajasegaran et al. 2020, arXiv 2006.09785), colour jitter (Lee et al. 2019, arXiv 1904.03758),
random resized crops (Szegedy et al. 2015, arXiv 1409.4842), manifold mixup (Mangla et al. 2020, arXiv 1907.12087), an
average of the weights, and a cosine classifier (Gidaris & Komodakis 2018, arXiv 1804.09458).
Plotted: debiased CDNV of the three sets and few-shot accuracy of the nearest class centre for the reference, each piece
added alone, and the pieces of --preset=strong together, without and with distillation from seed 0 of the run without;
and 1-shot accuracy against target CDNV, where each piece is an arrow from the reference, beside the line of error and
CDNV through the reference: log error = a + b log CDNV, with b fitted over all runs. Mean and 95 % t interval over
seeds; those of the distilled point share one teacher, so that its interval leaves the teacher's seed out. The table has
differences from the reference with Welch's 95 % t interval, not corrected for their number.
Expect: no direction in advance.

Command: python experiments/recipes.py --data_dir=PATH [--preset=small|paper]
The data is CIFAR-FS, since characters cannot be turned; smoke takes 20 images a class. The distilled point appears once
its teacher is finished: with --shard, run the command once more at the end.
Time: see RESULTS.md, with estimates for small; neither small nor paper has been run yet.
"""

from typing import Any

import numpy as np

from common import drawing, grids, sweep
from ncjax import plots
from ncjax.errors import InputError
from ncjax.plots import log_axis, plain_axes
from ncjax.statistics import welch

TOGETHER = {"rotation_head": True, "color_jitter": 0.4, "ema_decay": 0.999}
"""The pieces of --preset=strong."""
PIECES: dict[str, dict[str, Any]] = {
    "rotation head": {"rotation_head": True},
    "colour jitter": {"color_jitter": 0.4},
    "resized crops": {"augmentation": "resized_crop_flip"},
    "manifold mixup": {"manifold_mixup": 2.0},
    "averaged weights": {"ema_decay": 0.999},
    "cosine classifier": {"classifier": "cosine"},
    "together": TOGETHER,
}
DISTILLED = "together, distilled"


def reference(options: sweep.Options, **changes: Any) -> Any:
    """Makes the configuration that the pieces are added to; of the other figures' reference in small and paper."""
    if options.preset == "smoke":
        data = {"dataset": "cifar_fs", "data_dir": grids.data_folder(options, "cifar_fs"), "samples_per_class": 20}
        return grids.reference(options, **data, num_source_classes=None, min_steps=150, **changes)
    return grids.reference(options, **changes)


def grid(options: sweep.Options) -> list[sweep.Point]:
    """Adds each piece alone, and those of the strong preset together.

    Raises:
      InputError: the images are characters.
    """
    if options.preset == "small" and options.dataset == "emnist":
        raise InputError("recipes.py turns and colours images, which characters do not allow: give --dataset=fc100")
    points = [sweep.Point("reference", reference(options))]
    return points + [sweep.Point(name, reference(options, **piece)) for name, piece in PIECES.items()]


def grid_in_two_parts(options: sweep.Options) -> list[sweep.Point]:
    """Trains this machine's part of the pieces, so that the teacher of the distilled point is finished."""
    points = grid(options)
    sweep.sweep(points, options)
    return points + grids.distilled(DISTILLED, points[-1], options)


def draw(figures: sweep.Figures) -> None:
    """Draws CDNV and accuracy of each piece, and the arrows from the reference in a figure of their own."""
    differences = print_differences(figures)
    draw_arrows(figures)
    drawing.draw_settings(figures, "Recipes", more={"differences": differences})


def print_differences(figures: sweep.Figures) -> dict[str, dict[str, list[float]]]:
    """Prints and returns accuracy and log CDNV of target minus those of the reference, with Welch's intervals."""
    base = next((outcome for outcome in figures.finished if outcome.point.label == "reference"), None)
    if base is None:
        return {}
    kind, kind_label = drawing.cdnv_kind(figures.finished)
    shots = drawing.few_shot(figures.runs[0].records[0])
    differences: dict[str, dict[str, list[float]]] = {}
    print(f"minus the reference: accuracy in percentage points; target CDNV in percent ({kind_label})")
    for outcome in figures.finished:
        if outcome is base:
            continue
        rows = {key: welch(np.asarray(outcome.values(key)), np.asarray(base.values(key))) for key, _, _ in shots}
        key = f"target/{kind}"
        logs = welch(np.log(outcome.values(key)), np.log(base.values(key)))
        differences[outcome.point.label] = {name: list(row) for name, row in rows.items()} | {f"log {key}": list(logs)}
        cells = [f"{name} {_interval(100 * np.asarray(rows[key]))}" for key, name, _ in shots]
        cells.append(f"CDNV {_interval(100 * np.expm1(logs))}")
        print(f"  {outcome.point.label:<22} {'   '.join(cells)}")
    return differences


def _interval(values: np.ndarray) -> str:
    value, low, high = values
    return f"{value:+.2f}" if np.isnan(low) else f"{value:+.2f} [{low:+.2f}, {high:+.2f}]"


def draw_arrows(figures: sweep.Figures) -> None:
    """Draws 1-shot error against target CDNV, an arrow from the reference to each piece, and the line through it."""
    base = next((outcome for outcome in figures.finished if outcome.point.label == "reference"), None)
    if base is None or len(figures.finished) < 2:
        return
    kind, kind_label = drawing.cdnv_kind(figures.finished)
    (key, shot, _), *_ = drawing.few_shot(figures.runs[0].records[0])
    figure, (axes,) = drawing.row_of_panels(1, 7.5, 5.5)
    x, y = (
        np.log([run.final(f"target/{kind}") for run in figures.runs]),
        np.log1p([-run.final(key) for run in figures.runs]),
    )
    slope = np.polyfit(x, y, 1)[0] if np.ptp(x) > 0 else float("nan")
    start = base.mean(f"target/{kind}").value, 100 * (1 - base.mean(key).value)
    ends = np.exp([x.min(), x.max()])
    axes.plot(ends, start[1] * (ends / start[0]) ** slope, ":", color="grey", label=f"error ∝ CDNV^{slope:.2f}")
    axes.plot(*start, "o", color="black")
    for i, outcome in enumerate(outcome for outcome in figures.finished if outcome is not base):
        end = outcome.mean(f"target/{kind}").value, 100 * (1 - outcome.mean(key).value)
        axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": f"C{i}"})
        axes.plot(*end, "o", color=f"C{i}", label=outcome.point.label)
    log_axis(axes, "x")
    log_axis(axes, "y")
    axes.set_xlabel(f"target {kind_label}")
    axes.set_ylabel(f"error on target classes (%), NCC, {shot}")
    plain_axes(axes)
    drawing.legend_below(axes)
    figure.suptitle("Each piece from the reference: along the line, or off it")
    _, picture = figures.files
    plots.save(figure, picture.with_name(f"{picture.stem}-arrows.png"))


if __name__ == "__main__":
    sweep.main(__doc__, grid_in_two_parts, draw)
