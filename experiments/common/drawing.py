"""Panels that figures share: means over runs with their intervals, and the same numbers as tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from common.sweep import Figures, Outcome
from ncjax import plots
from ncjax.measures import spoken
from ncjax.plots import SET_COLORS, SETS, SHOT_COLORS, log_axis, plain_axes
from ncjax.statistics import Mean
from ncjax.tables import aligned
from ncjax.train.records import few_shot_keys

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ncjax.train.measurement import Record


def row_of_panels(count: int, width: float = 5.2, height: float = 4.2) -> tuple[Figure, list[Axes]]:
    """Makes a figure with panels in a row, each of `width` and `height` inches."""
    figure = plots.new_figure(width * count, height)
    panels = list(figure.subplots(1, count, squeeze=False)[0])
    for axes in panels:
        plain_axes(axes)
    return figure, panels


def legend_below(axes: Axes) -> None:
    """Adds a legend below a panel, where it hides neither points nor their intervals."""
    axes.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.18))


def plot_means(
    axes: Axes, x: Sequence[float], means: Sequence[Mean], label: str, scale: float = 1.0, **style: Any
) -> None:
    """Plots means over x with their intervals over seeds, which single seeds do not have."""
    bars = [0.0 if math.isnan(mean.ci95) else scale * mean.ci95 for mean in means]
    options: dict[str, Any] = {"fmt": "o-", "markersize": 4, "capsize": 3} | style
    axes.errorbar(x, [scale * mean.value for mean in means], bars, label=label, **options)


def plot_means_across(
    axes: Axes, y: np.ndarray, means: Sequence[Mean], label: str, *, color: str, scale: float = 1.0
) -> None:
    """Plots means along x with their intervals, a row each; no bar reaches 0, for logarithmic axes."""
    value = scale * np.asarray([mean.value for mean in means])
    half = np.nan_to_num(scale * np.asarray([mean.ci95 for mean in means]))
    axes.errorbar(
        value, y, xerr=[np.minimum(half, 0.999 * value), half], fmt="o", markersize=4, capsize=2, label=label,
        color=color,
    )  # fmt: skip


def plot_collapse(axes: Axes, outcomes: Sequence[Outcome], x: Sequence[float]) -> None:
    """Plots debiased CDNV of the three sets, with plug-in CDNV dotted."""
    infinite = 0
    for name in _measured_sets(outcomes):
        means = [outcome.mean(f"{name}/debiased_cdnv") for outcome in outcomes]
        plot_means(axes, x, means, SETS[name], color=SET_COLORS[name])
        infinite += sum(math.isinf(value) for outcome in outcomes for value in outcome.values(f"{name}/debiased_cdnv"))
        plug_in = [outcome.mean(f"{name}/cdnv").value for outcome in outcomes]
        axes.plot(x, plug_in, ":", color=SET_COLORS[name], linewidth=1)
    axes.plot([], [], ":", color="grey", linewidth=1, label="plug-in")
    if infinite:
        axes.plot([], [], " ", label=f"no mean where debiased is infinite: {infinite} values")
    log_axis(axes, "y")
    axes.set_ylabel("CDNV, debiased (mean over pairs of classes)")


def plot_few_shot(axes: Axes, outcomes: Sequence[Outcome], x: Sequence[float]) -> None:
    """Plots few-shot accuracy of the nearest class centre on the target classes."""
    for key, label, color in few_shot(outcomes[0].runs[0].records[0]):
        plot_means(axes, x, [outcome.mean(key) for outcome in outcomes], label, scale=100, color=color)
    axes.set_ylabel("accuracy on target classes (%), NCC")


def few_shot(record: Record) -> list[tuple[str, str, str]]:
    """Returns key, name and colour of each few-shot accuracy of the nearest class centre in a record."""
    keys = [key for key in few_shot_keys(record) if key.startswith("target/ncc/")]
    return [
        (key, spoken(key.removeprefix("target/ncc/")), SHOT_COLORS[i % len(SHOT_COLORS)]) for i, key in enumerate(keys)
    ]


def draw_against(figures: Figures, x_label: str, title: str) -> None:
    """Draws CDNV and few-shot accuracy against the values `x` of the points, a row of panels for each group."""
    groups = figures.groups()
    figure = plots.new_figure(10.4, 5.2 * len(groups))
    for row, (name, outcomes) in zip(figure.subplots(len(groups), 2, squeeze=False), groups.items(), strict=True):
        x = [outcome.point.x for outcome in outcomes]
        plot_collapse(row[0], outcomes, x)
        plot_few_shot(row[1], outcomes, x)
        for axes in row:
            log_axis(axes, "x", x)
            axes.set_xlabel(x_label)
            axes.set_title(name)
            plain_axes(axes)
            legend_below(axes)
    seeds = sorted(len(outcome.runs) for outcome in figures.finished)
    number = " to ".join(str(n) for n in dict.fromkeys((seeds[0], seeds[-1])))
    figure.suptitle(f"{title}, ± 95 % over {number} seeds")
    print(table(figures.finished))
    figures.save(figure, summary(figures.finished))


def cdnv_kind(outcomes: Sequence[Outcome]) -> tuple[str, str]:
    """Returns key and name of the CDNV to compare: debiased, or plug-in if debiased is infinite in some run."""
    runs = [run for outcome in outcomes for run in outcome.runs]
    keys = [key for key in runs[0].records[-1] if key.endswith("/debiased_cdnv")]
    infinite = sum(any(math.isinf(run.final(key)) for key in keys) for run in runs)
    if infinite:
        return "cdnv", f"CDNV, plug-in (debiased is infinite in {infinite} of {len(runs)} runs)"
    return "debiased_cdnv", "CDNV, debiased"


def draw_settings(
    figures: Figures,
    title: str,
    *,
    outcomes: Sequence[Outcome] | None = None,
    scatter: bool = False,
    more: dict[str, Any] | None = None,
) -> None:
    """Draws CDNV of the three sets and few-shot accuracy, a line for each point, and saves the figure.

    Args:
      figures: the figure's runs and files.
      title: of the whole figure.
      outcomes: the points; by default all that are finished.
      scatter: adds a panel of accuracy against CDNV, of source-train and target in every run.
      more: numbers to add to those that are saved.
    """
    outcomes = figures.finished if outcomes is None else outcomes
    figure = plots.new_figure(15.6 if scatter else 10.4, max(4.2, 2.4 + 0.36 * len(outcomes)))
    panels = list(figure.subplots(1, 3 if scatter else 2))
    shots = few_shot(outcomes[0].runs[0].records[0])
    kind, kind_label = cdnv_kind(outcomes)
    rows = np.arange(len(outcomes))
    for i, name in enumerate(_measured_sets(outcomes)):
        means = [outcome.mean(f"{name}/{kind}") for outcome in outcomes]
        plot_means_across(panels[0], rows + 0.15 * (i - 1), means, SETS[name], color=SET_COLORS[name])
    log_axis(panels[0], "x")
    panels[0].set_xlabel(kind_label)
    for i, (key, label, color) in enumerate(shots):
        means = [outcome.mean(key) for outcome in outcomes]
        plot_means_across(panels[1], rows + 0.15 * (i - 0.5), means, label, scale=100, color=color)
    panels[1].set_xlabel("accuracy on target classes (%), NCC")
    labels = [outcome.point.label for outcome in outcomes]
    for axes, names in zip(panels[:2], (labels, [""] * len(labels)), strict=True):
        axes.set_yticks(rows, names)
        axes.set_ylim(len(outcomes) - 0.5, -0.5)
    if scatter:
        key, label, _ = shots[0]
        runs = [run for outcome in outcomes for run in outcome.runs]
        accuracy = [100 * run.final(key) for run in runs]
        for name in ("source_train", "target"):
            x = [run.final(f"{name}/{kind}") for run in runs]
            panels[2].plot(x, accuracy, "o", color=SET_COLORS[name], alpha=0.6, label=SETS[name])
        log_axis(panels[2], "x")
        panels[2].set_xlabel(f"{kind_label}, of each run")
        panels[2].set_ylabel(f"accuracy (%), NCC, {label}")
    for axes in panels:
        plain_axes(axes)
        legend_below(axes)
    figure.suptitle(f"{title}, ± 95 % over runs")
    print(table(outcomes))
    figures.save(figure, {"points": summary(outcomes), **(more or {})})


def summary(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Collects the last values of each point, and their mean with its interval over seeds."""
    points = []
    for outcome in outcomes:
        record = outcome.runs[0].records[-1]
        keys = [f"{name}/{kind}" for name in SETS for kind in ("cdnv", "debiased_cdnv", "accuracy")]
        keys += few_shot_keys(record)
        points.append(
            {
                "label": outcome.point.label,
                "x": outcome.point.x,
                "group": outcome.point.group,
                "failed": outcome.failed,
                "means": {key: outcome.mean(key)._asdict() for key in keys if key in record},
                "values": {key: outcome.values(key) for key in keys if key in record},
            }
        )
    return points


def table(outcomes: Sequence[Outcome]) -> str:
    """Tabulates CDNV of the three sets and few-shot accuracy of each point, ± the 95 % t interval over runs."""
    kind, kind_label = cdnv_kind(outcomes)
    sets = _measured_sets(outcomes)
    shots = few_shot(outcomes[0].runs[0].records[0])
    rows = [["", *(f"CDNV {name}" for name in sets), *(f"{name} (%)" for _, name, _ in shots), "runs"]]
    for outcome in outcomes:
        cdnv = [str(outcome.mean(f"{name}/{kind}")) for name in sets]
        accuracy = [outcome.mean(key).percent() for key, _, _ in shots]
        rows.append([outcome.point.label, *cdnv, *accuracy, str(len(outcome.runs))])
    note = f"{kind_label}; accuracy of NCC on target classes; ± 95 % t interval over these runs, none for a single run."
    return "\n".join([*aligned(rows), note])


def _measured_sets(outcomes: Sequence[Outcome]) -> list[str]:
    return [name for name in SETS if f"{name}/cdnv" in outcomes[0].runs[0].records[0]]
