"""Figures of runs, of few-shot accuracy, and of theory beside measurement."""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ncjax.collapse import Theory
from ncjax.errors import InputError
from ncjax.eval import COVERS, AccuracyCurve
from ncjax.files import expand, make_parent, write_atomically
from ncjax.train.measurement import Record
from ncjax.train.records import few_shot_keys

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SETS = {
    "source_train": "source, training images",
    "source_test": "source, new images",
    "target": "target, new classes",
}
"""The three sets as figures name them."""
SET_COLORS = {"source_train": "#0072B2", "source_test": "#D55E00", "target": "#009E73"}
"""Of Okabe and Ito's palette, which people with any kind of colour vision tell apart; 3:1 on white or better."""
SHOT_COLORS = ("#CC6677", "#332288", "#44AA99", "#999933")
"""Of Tol's muted palette, for numbers of shots in ascending order."""
SET_MARKERS = {"source_train": "o", "source_test": "s", "target": "^"}


def new_figure(width: float, height: float, title: str = "") -> Figure:
    """An empty figure that no window shows, of these inches; its title is no mathematics, whatever `$` it holds."""
    _import_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    printable = title.encode("utf-8", "replace").decode()  # paths may hold bytes that are no text
    figure.suptitle(printable, parse_math=False)
    return figure


def _import_matplotlib() -> None:
    """Imports matplotlib under any MPLBACKEND: of one that it does not know it would refuse to be imported.

    These figures need no backend, and where the variable was meant for another program, as in a process that a notebook
    started, nobody can be asked to change it.
    """
    if "matplotlib" in sys.modules:
        return
    chosen = os.environ.pop("MPLBACKEND", "")
    try:
        import matplotlib
    finally:
        if chosen:
            os.environ["MPLBACKEND"] = chosen
    if chosen:
        try:
            matplotlib.rcParams["backend"] = chosen
        except ValueError:
            print(f"MPLBACKEND={chosen} is no backend of matplotlib's: ignored; unset it", file=sys.stderr)


def plot_run(records: Sequence[Record], title: str = "") -> Figure:
    """CDNV on the three sets over epochs, beside few-shot accuracy on the target classes.

    Args:
      records: the records of a run, as `ncjax.train.read_records` returns them; infinite values leave a gap.
      title: what stands above both panels.

    Returns:
      A figure of two panels; save it with `figure.savefig(path)`.
    """
    figure = new_figure(11, 4.4, title)
    from matplotlib.ticker import LogLocator, NullLocator

    left, right = figure.subplots(1, 2)
    epochs = [float(record["epoch"] or 0) for record in records]
    linear = min((e for e in epochs if e > 0), default=1.0)
    for name, label in SETS.items():
        key = f"{name}/cdnv"
        if key in records[0]:
            values = [float("nan") if record[key] is None else record[key] for record in records]
            left.plot(epochs, values, color=SET_COLORS[name], marker=SET_MARKERS[name], markersize=4, label=label)
    left.set_yscale("log")
    left.set_ylabel("CDNV (mean over pairs of classes)")
    left.legend()
    shown = few_shot_keys(records[0])
    kinds = list(dict.fromkeys(key.split("/")[2] for key in shown))
    for key in shown:
        _, head, kind = key.split("/")
        accuracy = [100 * float(record[key] or 0) for record in records]
        interval = [100 * float(record[f"{key}/ci95"] or 0) for record in records]
        style = "-" if head == "ncc" else "--"
        right.errorbar(
            epochs,
            accuracy,
            interval,
            fmt=("o" if head == "ncc" else "s") + style,
            color=SHOT_COLORS[kinds.index(kind) % len(SHOT_COLORS)],
            markersize=4,
            capsize=2,
            label=f"{head}, {spoken(kind)}",
        )
    right.set_ylabel("few-shot accuracy on target classes (%)")
    right.legend(title="± 95 % over episodes")
    left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    left.yaxis.set_major_formatter("{x:g}")
    left.yaxis.set_minor_formatter("")
    for axes in (left, right):
        # linear up to the first measured epoch, so that initialisation has a place on the axis
        axes.set_xscale("symlog", linthresh=linear, linscale=0.5)
        axes.set_xlim(left=-0.1 * linear)
        axes.set_xticks(epochs, [f"{e:.3g}" for e in epochs])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def plot_curves(curves: Sequence[AccuracyCurve], title: str = "") -> Figure:
    """Accuracy against shots, ways or both, a panel each.

    The inner bars cover other episodes from the same images, the band new classes and images from the same population.

    Args:
      curves: what `ncjax.eval.curve` or `feature_curve` returns.
      title: what stands above the panels.
    """
    figure = new_figure(5.5 * len(curves), 4.4, title)
    for axes, curve in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves, strict=True):
        accuracy, narrow = 100 * curve.accuracy, 100 * curve.ends("ci95").T
        bars = np.maximum([accuracy - narrow[0], narrow[1] - accuracy], 0.0)  # matplotlib refuses a rounding below 0
        axes.errorbar(curve.values, accuracy, bars, fmt="o-", capsize=2, label="95 %, " + COVERS["ci95"])
        wide = 100 * curve.ends("target_ci95").T
        axes.fill_between(curve.values, *wide, alpha=0.2, label="95 %, " + COVERS["target_ci95"])
        fixed = curve.reports[0].settings
        other = f"{fixed.ways} ways" if curve.over == "shots" else f"{fixed.shots} shots"
        axes.set_xlabel(f"{curve.over} ({other})")
        axes.set_ylabel("few-shot accuracy (%)")
        _log_axis(axes, curve.values)
        axes.legend(fontsize="small")
    return figure


def plot_theory(theory: Theory, measured: Sequence[float], title: str = "") -> Figure:
    """Bounds, prediction and measured NCC error against the number of shots.

    Args:
      theory: what `ncjax.collapse.theory` returns.
      measured: the measured error, a fraction for each number of shots.
      title: what stands above the panel.
    """
    figure = new_figure(9.5, 4.8, title)
    axes = figure.subplots()
    for number, (name, values) in enumerate(theory.bounds().items(), 2):
        axes.plot(theory.shots, values, ".--", color=f"C{number}", label=f"bound: {name.strip()}")
    axes.plot(theory.shots, theory.predicted, "s-", color="C1", label="predicted from second moments (no bound)")
    axes.plot(theory.shots, measured, "o-", color="C0", label="measured")
    axes.axhline(1, color="C3", linewidth=1)
    axes.annotate("vacuous above", (theory.shots[0], 1), xytext=(2, 3), textcoords="offset points", color="C3")
    axes.set_yscale("log")
    axes.set_xlabel(f"shots ({theory.ways} ways)")
    axes.set_ylabel("NCC error")
    _log_axis(axes, theory.shots)
    axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def save(figure: Figure, path: str | Path) -> None:
    """Writes a figure, a PNG unless the path ends in another of matplotlib's formats, and the folder that it goes to.

    Raises:
      InputError: it cannot be written, or there is no such format.
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
    print(f"figure  {path}")


def _log_axis(axes: Axes, values: Sequence[int] | np.ndarray) -> None:
    from matplotlib.ticker import NullLocator

    axes.set_xscale("log")
    axes.set_xticks(values, [str(value) for value in values])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def spoken(kind: str) -> str:
    """The kind of episode in a record's key: "5w1s" as "5-way 1-shot"."""
    ways, shots = kind.removesuffix("s").split("w")
    return f"{ways}-way {shots}-shot"
