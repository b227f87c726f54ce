"""Figures of runs, of few-shot accuracy, and of theory beside measurement."""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TextIO

import numpy as np

from ncjax.errors import InputError
from ncjax.eval.intervals import COVERS
from ncjax.files import expand, make_parent, write_atomically
from ncjax.measures import spoken
from ncjax.train.records import few_shot_keys

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

    from ncjax.collapse import Collapse, Theory
    from ncjax.data import Split
    from ncjax.eval import AccuracyCurve, EpisodeReport
    from ncjax.runs import Configuration
    from ncjax.train.measurement import Record

SETS = {
    "source_train": "source, training images",
    "source_test": "source, new images",
    "target": "target, new classes",
}
"""Labels of the three sets in figures."""
SET_COLORS = {"source_train": "#0072B2", "source_test": "#D55E00", "target": "#009E73"}
"""Okabe and Ito's palette: distinct with any kind of colour vision, contrast of 3:1 or better on white."""
SHOT_COLORS = ("#CC6677", "#332288", "#44AA99", "#999933")
"""Tol's muted palette, for numbers of shots in ascending order."""
CONFIGURATION_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
"""Okabe and Ito's palette without its yellow."""
SET_MARKERS = {"source_train": "o", "source_test": "s", "target": "^"}


def new_figure(width: float, height: float, title: str = "") -> Figure:
    """Makes an empty figure, in inches, that no window shows; a `$` in its title starts no mathematics."""
    _import_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    printable = title.encode("utf-8", "replace").decode()  # paths may hold bytes that are not UTF-8
    figure.suptitle(printable, parse_math=False)
    return figure


def _import_matplotlib() -> None:
    """Imports matplotlib under any MPLBACKEND; matplotlib itself refuses to be imported under an unknown one.

    These figures need no backend. Where the variable was set for another program, as in a process that a notebook
    started, the user cannot change it.
    """
    if "matplotlib" in sys.modules:
        return
    backend = os.environ.pop("MPLBACKEND", "")
    try:
        import matplotlib
    finally:
        if backend:
            os.environ["MPLBACKEND"] = backend
    if backend:
        try:
            matplotlib.rcParams["backend"] = backend
        except ValueError:
            print(f"MPLBACKEND={backend} is not a backend of matplotlib: ignored; unset it", file=sys.stderr)


def plot_run(records: Sequence[Record], title: str = "") -> Figure:
    """Plots CDNV of the three sets over epochs, beside few-shot accuracy on the target classes.

    Args:
      records: the records of a run, as `ncjax.train.read_records` returns them; infinite values leave a gap.
      title: of the whole figure.

    Returns:
      A figure of two panels; save it with `figure.savefig(path)`.
    """
    figure = new_figure(11, 4.4, title)
    from matplotlib.ticker import NullLocator

    left, right = figure.subplots(1, 2)
    epochs = [float(record["epoch"] or 0) for record in records]
    first = min((epoch for epoch in epochs if epoch > 0), default=1.0)
    for name, label in SETS.items():
        key = f"{name}/cdnv"
        if key in records[0]:
            values = [float("nan") if record[key] is None else record[key] for record in records]
            left.plot(epochs, values, color=SET_COLORS[name], marker=SET_MARKERS[name], markersize=4, label=label)
    log_axis(left, "y")
    left.set_ylabel("CDNV (mean over pairs of classes)")
    left.legend()
    keys = few_shot_keys(records[0])
    kinds = list(dict.fromkeys(key.split("/")[2] for key in keys))
    for key in keys:
        _, head, kind = key.split("/")
        accuracy = [100 * float(record[key] or 0) for record in records]
        interval = [100 * float(record[f"{key}/ci95"] or 0) for record in records]
        right.errorbar(
            epochs,
            accuracy,
            interval,
            fmt="o-" if head == "ncc" else "s--",
            color=SHOT_COLORS[kinds.index(kind) % len(SHOT_COLORS)],
            markersize=4,
            capsize=2,
            label=f"{head}, {spoken(kind)}",
        )
    right.set_ylabel("few-shot accuracy on target classes (%)")
    right.legend(title="± 95 % over episodes")
    for axes in (left, right):
        # linear up to the first measured epoch, so that initialisation has a place on the axis
        axes.set_xscale("symlog", linthresh=first, linscale=0.5)
        axes.set_xlim(left=-0.1 * first)
        axes.set_xticks(epochs, [f"{epoch:.3g}" for epoch in epochs])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("epoch")
        plain_axes(axes)
    return figure


def plot_configurations(configurations: Sequence[Configuration]) -> Figure:
    """Plots target CDNV and few-shot accuracy over epochs, a color for each configuration, a column for each data set.

    Args:
      configurations: results of `ncjax.runs.configurations`; a line for each of their runs.
    """
    data = list(dict.fromkeys(configuration.data for configuration in configurations))
    names = list(dict.fromkeys(configuration.name for configuration in configurations))
    figure = new_figure(5.5 * len(data), 7.5)
    panels = figure.subplots(2, len(data), squeeze=False)
    for column, label in zip(panels.T, data, strict=True):
        column[0].set_title(label, parse_math=False, fontsize=10)
        for configuration in configurations:
            if configuration.data != label:
                continue
            for number, run in enumerate(configuration.runs):
                epochs = [float(record["epoch"] or 0) for record in run.records]
                key = _most_shots(few_shot_keys(run.records[-1]))
                color = CONFIGURATION_COLORS[names.index(configuration.name) % len(CONFIGURATION_COLORS)]
                cdnv = [float("nan") if (v := record["target/cdnv"]) is None else v for record in run.records]
                name = configuration.name if number == 0 else None
                column[0].plot(epochs, cdnv, "o-", color=color, markersize=3, label=name)
                column[1].plot(epochs, [100 * float(r[key] or 0) for r in run.records], "o-", color=color, markersize=3)
                column[1].set_ylabel(
                    f"{spoken(key.split('/')[2])}, {key.split('/')[1]}: accuracy on target classes (%)"
                )
        log_axis(column[0], "y")
        column[0].set_ylabel("target CDNV")
        for axes in column:
            axes.set_xlabel("epoch")
            plain_axes(axes)
    legend = {
        label: handle for axes in panels[0] for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(legend.values(), legend.keys(), loc="outside lower center", title="a line for each seed")
    return figure


def _most_shots(keys: Sequence[str]) -> str:
    """The last key of the first head, which has the most shots."""
    head = keys[0].split("/")[1]
    return [key for key in keys if key.split("/")[1] == head][-1]


def plot_curves(curves: Sequence[AccuracyCurve], title: str = "") -> Figure:
    """Plots accuracy against shots, ways or both, in a panel each.

    The bars cover other episodes from the same images; the band covers new classes and images from the same population.

    Args:
      curves: results of `ncjax.eval.curve` or `feature_curve`.
      title: of the whole figure.
    """
    figure = new_figure(5.5 * len(curves), 4.4, title)
    for axes, curve in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves, strict=True):
        accuracy, narrow = 100 * curve.accuracy, 100 * curve.ends("ci95").T
        bars = np.maximum([accuracy - narrow[0], narrow[1] - accuracy], 0.0)  # matplotlib refuses a rounding below 0
        axes.errorbar(curve.values, accuracy, bars, fmt="o-", capsize=2, label="95 %, " + COVERS["ci95"])
        wide = 100 * curve.ends("target_ci95").T
        axes.fill_between(curve.values, *wide, alpha=0.2, label="95 %, " + COVERS["target_ci95"])
        settings = curve.reports[0].settings
        fixed = f"{settings.ways} ways" if curve.over == "shots" else f"{settings.shots} shots"
        axes.set_xlabel(f"{curve.over} ({fixed})")
        axes.set_ylabel("few-shot accuracy (%)")
        log_axis(axes, "x", curve.values)
        plain_axes(axes)
        axes.legend(fontsize="small")
    return figure


def show_pair(split: Split, measured: Collapse | EpisodeReport, *, pairs: int = 3, images: int = 6) -> Figure:
    """Shows images of the pairs of classes that are hardest to tell apart, beside their CDNV or confusion.

    Args:
      split: the images, in memory.
      measured: result of `ncjax.collapse.measure` or `ncjax.eval.episodes` on these classes.
      pairs: how many pairs, the hardest first.
      images: how many images of each class.

    Raises:
      InputError: if `measured` is of other classes.
    """
    from ncjax.pairs import as_rgb, example_rows, hardest_pairs  # imports JAX

    hardest = hardest_pairs(measured, split.class_names, pairs)
    figure = new_figure(1.1 * (2 * images + 1), 1.5 * len(hardest))
    grid = figure.subplots(len(hardest), 2 * images + 1, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for row, pair in zip(grid, hardest, strict=True):
        names = split.class_names[pair.first], split.class_names[pair.second]
        row[images].text(0.5, 0.5, pair.text.replace(" ", "\n", 1), ha="center", va="center", fontsize="small")
        for label, name, places in zip(pair[:2], names, (row[:images], row[images + 1 :]), strict=True):
            places[0].set_title(str(name), fontsize="small", loc="left", parse_math=False)
            for axes, number in zip(places, example_rows(split.labels, label, images), strict=False):
                axes.imshow(as_rgb(split.images[number]))
    return figure


def plot_theory(theory: Theory, measured: Sequence[float], title: str = "") -> Figure:
    """Plots bounds, prediction and measured NCC error against the number of shots.

    Args:
      theory: result of `ncjax.collapse.theory`.
      measured: the measured error, a fraction for each number of shots.
      title: of the panel.
    """
    figure = new_figure(9.5, 4.8, title)
    axes = figure.subplots()
    for number, (name, values) in enumerate(theory.bounds().items(), 2):
        axes.plot(theory.shots, values, ".--", color=f"C{number}", label=f"bound: {name.strip()}")
    axes.plot(theory.shots, theory.predicted, "s-", color="C1", label="predicted from second moments (no bound)")
    axes.plot(theory.shots, measured, "o-", color="C0", label="measured")
    mark_vacuous(axes, theory.shots[0])
    axes.set_yscale("log")
    axes.set_xlabel(f"shots ({theory.ways} ways)")
    axes.set_ylabel("NCC error")
    log_axis(axes, "x", theory.shots)
    plain_axes(axes)
    axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def mark_vacuous(axes: Axes, x: float) -> None:
    """Draws a line at an error of 1, above which a bound says nothing, with a note at `x`."""
    axes.axhline(1, color="C3", linewidth=1)
    axes.annotate("vacuous above", (x, 1), xytext=(2, 3), textcoords="offset points", color="C3")


def plain_axes(axes: Axes) -> None:
    """Draws a faint grid, and no frame above or to the right."""
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def log_axis(axes: Axes, which: Literal["x", "y"], ticks: Iterable[float] | None = None) -> None:
    """Makes an axis logarithmic, with plain numbers at its ticks.

    Args:
      axes: a panel.
      which: the axis.
      ticks: values with a tick; by default 1, 2 and 5 times powers of ten.
    """
    from matplotlib.ticker import LogLocator, NullLocator

    getattr(axes, f"set_{which}scale")("log")
    axis: Axis = getattr(axes, f"{which}axis")
    if ticks is None:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("")
    else:
        values = sorted(set(ticks))
        axis.set_ticks(values, [f"{value:g}" for value in values])
        axis.set_minor_locator(NullLocator())


def save(figure: Figure, path: str | Path, messages: TextIO | None = None) -> None:
    """Writes a figure and makes the folders above it; the format is the suffix of the path, or PNG without one.

    Its path is printed to `messages`, by default standard output.

    Raises:
      InputError: matplotlib has no such format, or the file cannot be written.
    """
    path = expand(path)
    image = io.BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")  # a title may hold names in any script
            figure.savefig(image, dpi=150, format=path.suffix.removeprefix(".") or "png")
    except ValueError as error:
        raise InputError(f"{path} cannot be drawn: {error}; let its name end in .png") from None
    try:
        make_parent(path)
        write_atomically(path, image.getvalue())
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.filename}: {error.strerror}") from None
    print(f"figure  {path}", file=messages)
