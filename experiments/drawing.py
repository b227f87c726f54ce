"""What the figures draw: panels of means over runs with their intervals, and the same as tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from stats import Mean
from sweep import Figures, Outcome

from ncjax import plots
from ncjax.plots import SET_COLORS, SETS, SHOT_COLORS
from ncjax.train.measurement import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure


def panels(count: int, width: float = 5.2, height: float = 4.2) -> tuple[Figure, list[Axes]]:
    """A figure of panels in a row."""
    figure = plots.new_figure(width * count, height)
    axes = list(figure.subplots(1, count, squeeze=False)[0])
    for one in axes:
        _plain_axes(one)
    return figure, axes


def _plain_axes(axes: Axes) -> None:
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def legend_below(axes: Axes) -> None:
    """Where it hides neither points nor their intervals."""
    axes.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.18))


def log_ticks(axes: Axes, values: Sequence[float]) -> None:
    """A logarithmic x axis with ticks at these values."""
    from matplotlib.ticker import NullLocator

    axes.set_xscale("log")
    axes.set_xticks(sorted(set(values)), [f"{v:g}" for v in sorted(set(values))])
    axes.xaxis.set_minor_locator(NullLocator())


def log_scale(axes: Axes, which: str) -> None:
    """Makes axis "x" or "y" logarithmic, with plain numbers at 1, 2 and 5 times powers of ten."""
    from matplotlib.ticker import LogLocator

    getattr(axes, f"set_{which}scale")("log")
    axis: Axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter("")


def plot_means(
    axes: Axes, x: Sequence[float], means: Sequence[Mean], label: str, scale: float = 1.0, **style: Any
) -> None:
    """Means with their intervals over seeds; where there is one seed, without."""
    bars = [0.0 if math.isnan(mean.ci95) else scale * mean.ci95 for mean in means]
    drawn: dict[str, Any] = {"fmt": "o-", "markersize": 4, "capsize": 3} | style
    axes.errorbar(x, [scale * mean.value for mean in means], bars, label=label, **drawn)


def plot_means_across(
    axes: Axes, y: np.ndarray, means: Sequence[Mean], label: str, *, color: str, scale: float = 1.0
) -> None:
    """Means with their intervals along x; on a logarithmic axis no bar reaches 0."""
    value = scale * np.asarray([mean.value for mean in means])
    half = np.nan_to_num(scale * np.asarray([mean.ci95 for mean in means]))
    axes.errorbar(
        value, y, xerr=[np.minimum(half, 0.999 * value), half], fmt="o", markersize=4, capsize=2, label=label,
        color=color,
    )  # fmt: skip


def plot_collapse(axes: Axes, outcomes: Sequence[Outcome], x: Sequence[float]) -> None:
    """Debiased CDNV on the three sets, and plug-in CDNV dotted."""
    infinite = 0
    for name, label in SETS.items():
        if f"{name}/cdnv" not in outcomes[0].runs[0].records[0]:
            continue
        plot_means(axes, x, [o.mean(f"{name}/debiased_cdnv") for o in outcomes], label, color=SET_COLORS[name])
        infinite += sum(math.isinf(value) for o in outcomes for value in o.values(f"{name}/debiased_cdnv"))
        plug_in = [o.mean(f"{name}/cdnv").value for o in outcomes]
        axes.plot(x, plug_in, ":", color=SET_COLORS[name], linewidth=1)
    axes.plot([], [], ":", color="grey", linewidth=1, label="plug-in")
    if infinite:
        axes.plot([], [], " ", label=f"no mean where debiased is infinite: {infinite} values")
    log_scale(axes, "y")
    axes.set_ylabel("CDNV, debiased (mean over pairs of classes)")


def plot_few_shot(axes: Axes, outcomes: Sequence[Outcome], x: Sequence[float]) -> None:
    """Few-shot accuracy of the nearest class centre on the target classes."""
    for key, label, color in few_shot(outcomes[0].runs[0].records[0]):
        plot_means(axes, x, [o.mean(key) for o in outcomes], label, scale=100, color=color)
    axes.set_ylabel("accuracy on target classes (%), NCC")


def few_shot(record: Record) -> list[tuple[str, str, str]]:
    """Key, name and colour of each few-shot accuracy of the nearest class centre in a record."""
    keys = [key for key in record if key.startswith("target/ncc/") and not key.endswith("ci95")]
    return [
        (key, plots.spoken(key.removeprefix("target/ncc/")), SHOT_COLORS[i % len(SHOT_COLORS)])
        for i, key in enumerate(keys)
    ]


def draw_against(figures: Figures, x_label: str, title: str) -> None:
    """CDNV of the three sets and few-shot accuracy against the numbers `x` of the points, a row for each group."""
    groups = figures.groups()
    figure = plots.new_figure(10.4, 5.2 * len(groups))
    for row, (name, outcomes) in zip(figure.subplots(len(groups), 2, squeeze=False), groups.items(), strict=True):
        x = [o.point.x for o in outcomes]
        plot_collapse(row[0], outcomes, x)
        plot_few_shot(row[1], outcomes, x)
        for axes in row:
            log_ticks(axes, x)
            axes.set_xlabel(x_label)
            axes.set_title(name)
            _plain_axes(axes)
            legend_below(axes)
    seeds = sorted(len(outcome.runs) for outcome in figures.finished)
    number = " to ".join(str(n) for n in dict.fromkeys((seeds[0], seeds[-1])))
    figure.suptitle(f"{title}, ± 95 % over {number} seeds")
    print(table(figures.finished))
    figures.save(figure, summary(figures.finished))


def cdnv_kind(outcomes: Sequence[Outcome]) -> tuple[str, str]:
    """Key and name of the CDNV to compare: debiased, or plug-in where that is infinite in some run."""
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
    """CDNV of the three sets and few-shot accuracy, a line for each point; with `scatter` also accuracy against CDNV.

    Args:
        figures: what is drawn.
        title: above the panels.
        outcomes: in the place of the figure's own.
        scatter: of all runs, source-train and target.
        more: added to the numbers.
    """
    outcomes = figures.finished if outcomes is None else outcomes
    figure = plots.new_figure(15.6 if scatter else 10.4, max(4.2, 2.4 + 0.36 * len(outcomes)))
    axes = list(figure.subplots(1, 3 if scatter else 2))
    record = outcomes[0].runs[0].records[0]
    shots = few_shot(record)
    kind, kind_label = cdnv_kind(outcomes)
    places = np.arange(len(outcomes))
    for i, (name, label) in enumerate((n, text) for n, text in SETS.items() if f"{n}/cdnv" in record):
        means = [o.mean(f"{name}/{kind}") for o in outcomes]
        plot_means_across(axes[0], places + 0.15 * (i - 1), means, label, color=SET_COLORS[name])
    log_scale(axes[0], "x")
    axes[0].set_xlabel(kind_label)
    for i, (key, label, color) in enumerate(shots):
        means = [o.mean(key) for o in outcomes]
        plot_means_across(axes[1], places + 0.15 * (i - 0.5), means, label, scale=100, color=color)
    axes[1].set_xlabel("accuracy on target classes (%), NCC")
    for one in axes[:2]:
        one.set_yticks(places, [o.point.label for o in outcomes] if one is axes[0] else [""] * len(outcomes))
        one.set_ylim(len(outcomes) - 0.5, -0.5)
    if scatter:
        key, label, _ = shots[0]
        for name in ("source_train", "target"):
            runs = [run for o in outcomes for run in o.runs]
            x = [run.final(f"{name}/{kind}") for run in runs]
            axes[2].plot(
                x, [100 * run.final(key) for run in runs], "o", color=SET_COLORS[name], alpha=0.6, label=SETS[name]
            )
        log_scale(axes[2], "x")
        axes[2].set_xlabel(f"{kind_label}, of each run")
        axes[2].set_ylabel(f"accuracy (%), NCC, {label}")
    for one in axes:
        _plain_axes(one)
        legend_below(one)
    figure.suptitle(f"{title}, ± 95 % over runs")
    print(table(outcomes))
    figures.save(figure, {"points": summary(outcomes), **(more or {})})


def summary(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """For each point: the last value of everything that figures show, and its mean with interval over seeds."""
    shown = []
    for outcome in outcomes:
        record = outcome.runs[0].records[-1]
        keys = [f"{name}/{kind}" for name in SETS for kind in ("cdnv", "debiased_cdnv", "accuracy")]
        keys += [key for key in record if key.startswith("target/") and "w" in key and not key.endswith("ci95")]
        shown.append(
            {
                "label": outcome.point.label,
                "x": outcome.point.x,
                "group": outcome.point.group,
                "failed": outcome.failed,
                "means": {key: outcome.mean(key)._asdict() for key in keys if key in record},
                "values": {key: outcome.values(key) for key in keys if key in record},
            }
        )
    return shown


def table(outcomes: Sequence[Outcome]) -> str:
    """The points as text: CDNV on the three sets and few-shot accuracy, ± the 95 % t interval over runs."""
    kind, kind_label = cdnv_kind(outcomes)
    record = outcomes[0].runs[0].records[0]
    kept = [name for name in SETS if f"{name}/cdnv" in record]
    shots = [(key, name) for key, name, _ in few_shot(record)]
    rows = [["", *(f"CDNV {name}" for name in kept), *(f"{name} (%)" for _, name in shots), "runs"]]
    for o in outcomes:
        row = [o.point.label, *(str(o.mean(f"{name}/{kind}")) for name in kept)]
        row += [o.mean(key).percent() for key, _ in shots]
        rows.append([*row, str(len(o.runs))])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(
        [*lines, f"{kind_label}; accuracy of NCC on target classes; ± 95 % t interval over these runs, none for one."]
    )
