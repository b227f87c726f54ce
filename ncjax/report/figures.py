"""Bokeh figures of the course of training: CDNV and few-shot accuracy of each run over epochs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from bokeh.models import (
    ColumnDataSource,
    CustomJSTickFormatter,
    FixedTicker,
    GlyphRenderer,
    HoverTool,
    Legend,
    LegendItem,
)
from bokeh.plotting import figure

from ncjax.measures import spoken
from ncjax.plots import SET_COLORS, SETS, SHOT_COLORS
from ncjax.report.tables import entry
from ncjax.runs import Run
from ncjax.train.records import few_shot_keys

HEAD_MARKERS = ("circle", "square")
_SET_MARKERS = {"source_train": "circle", "source_test": "square", "target": "triangle"}
_SET_DASHES = {"source_train": "dotted", "source_test": "dashed", "target": "solid"}
"""Where colors are those of configurations."""


def new_figure(**options: Any) -> figure:
    """Makes an empty figure in the style of the page; `options` are Bokeh's."""
    settings: dict[str, Any] = {
        "height": 380,
        "sizing_mode": "stretch_width",
        "max_width": 680,  # the width of a printed page, for which canvases are not drawn again
        "tools": "pan,box_zoom,wheel_zoom,reset,save",
        "active_drag": None,  # so that a finger on a figure still scrolls the page
        "active_scroll": None,
        "toolbar_location": "above",
        "background_fill_color": "#ffffff",
        "outline_line_color": None,
    }
    plot = figure(**(settings | options))
    plot.toolbar.logo = None
    for axis in plot.axis:
        axis.axis_label_text_font_style = "normal"
        axis.axis_label_text_color = axis.major_label_text_color = "#222222"
        axis.axis_label_text_font_size = axis.major_label_text_font_size = "13px"
    plot.grid.grid_line_color = "#e4e4e4"
    return plot


def add_legend(plot: figure, items: list[LegendItem], click_policy: str, **options: Any) -> None:
    """Adds a legend below a figure."""
    legend = Legend(
        items=items,
        click_policy=click_policy,
        label_text_font_size="13px",
        label_text_color="#222222",
        border_line_color=None,
        location="left",
        spacing=8,
        padding=2,
        margin=2,
        title_text_font_style="normal",
        title_text_font_size="12px",
        title_text_color="#444444",
        **options,
    )
    plot.add_layout(legend, "below")


def ticks_1_2_5(low: float, high: float) -> list[float]:
    """Ticks of a logarithmic axis: 1, 2 and 5 times the powers of ten from `low` to `high`."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [mantissa * 10.0**power for power in powers for mantissa in (1, 2, 5)]


def plain_numbers() -> CustomJSTickFormatter:
    """Formats ticks without exponents."""
    return CustomJSTickFormatter(code="return String(Number(tick.toPrecision(3)))")


@dataclass(frozen=True)
class Course:
    """A run in a figure.

    Attributes:
      run: the run.
      name: its name, in tooltips.
      group: its name in the legend, which several runs may share.
      color: the group's color; None where colors tell the series apart.
    """

    run: Run
    name: str
    group: str
    color: str | None = None


def plot_cdnv(courses: Sequence[Course]) -> figure:
    """Plots CDNV of the three sets of each run, on a logarithmic axis."""
    runs = [course.run for course in courses]
    series = {
        f"{name}/cdnv": {
            "label": label,
            "color": SET_COLORS[name],
            "marker": _SET_MARKERS[name],
            "dash": "solid",
            "dash_of_group": _SET_DASHES[name],
        }
        for name, label in SETS.items()
        if any(f"{name}/cdnv" in run.records[-1] for run in runs)
    }
    plot = _plot_series(courses, series, percent=False, y_axis_type="log", y_axis_label="CDNV")
    values = [float(v) for run in runs for key in series if (v := run.records[-1].get(key) or run.records[0].get(key))]
    plot.yaxis.ticker = FixedTicker(ticks=ticks_1_2_5(min(values, default=1.0) / 10, max(values, default=1.0) * 100))
    plot.yaxis.formatter = plain_numbers()
    return plot


def plot_accuracy(courses: Sequence[Course]) -> figure:
    """Plots few-shot accuracy of each run, head and kind of episode."""
    runs = [course.run for course in courses]
    keys = list(dict.fromkeys(key for run in runs for key in few_shot_keys(run.records[-1])))
    kinds = list(dict.fromkeys(key.split("/")[2] for key in keys))
    heads = list(dict.fromkeys(key.split("/")[1] for key in keys))
    series = {}
    for key in keys:
        _, head, kind = key.split("/")
        number = heads.index(head)
        series[key] = {
            "label": f"{spoken(kind)}, {head}",
            "color": SHOT_COLORS[kinds.index(kind) % len(SHOT_COLORS)],
            "marker": HEAD_MARKERS[number % len(HEAD_MARKERS)],
            "dash": "solid" if number == 0 else "dashed",
            "dash_of_group": ("solid", "dashed", "dotted", "dotdash")[(2 * number + kinds.index(kind)) % 4],
        }
    return _plot_series(courses, series, percent=True, y_axis_label="few-shot accuracy (%)")


def _plot_series(
    courses: Sequence[Course], series: dict[str, dict[str, Any]], *, percent: bool, **options: Any
) -> figure:
    """Plots a line for each run and series; a click in a legend hides a series, or fades a group."""
    groups = list(dict.fromkeys(course.group for course in courses))
    columns = 7 if max(map(len, groups)) < 5 else 1
    plot = new_figure(height=360 + (24 * -(-len(groups) // columns) if len(groups) > 1 else 0), **options)
    unit = _epoch_axis(plot, [course.run for course in courses])
    by_series: dict[str, list[GlyphRenderer]] = {key: [] for key in series}
    by_group: dict[str, list[GlyphRenderer]] = {group: [] for group in groups}
    dots: list[GlyphRenderer] = []
    for course in courses:
        for key, style in series.items():
            source = _series_source(course, key, style["label"], unit, 100.0 if percent else 1.0)
            color = course.color or style["color"]
            paint = {"color": color, "muted_color": color, "muted_alpha": 0.06}
            dash = style["dash"] if course.color is None else style["dash_of_group"]
            lines = [plot.line("x", "y", source=source, line_width=1.6, line_dash=dash, **paint)]
            if percent:
                lines.append(plot.segment("x", "low", "x", "high", source=source, line_width=1.2, **paint))
            dot = plot.scatter("x", "y", source=source, size=6, marker=style["marker"], **paint)
            dots.append(dot)
            by_series[key] += [*lines, dot]
            by_group[course.group] += [*lines, dot]
    items = [LegendItem(label=series[key]["label"], renderers=renderers) for key, renderers in by_series.items()]
    add_legend(plot, items, "hide", ncols=1 if len(series) < 4 else 2)
    if len(groups) > 1:
        items = [LegendItem(label=group, renderers=renderers) for group, renderers in by_group.items()]
        title = "runs, by number: click to fade" if courses[0].color is None else "configurations: click to fade"
        add_legend(plot, items, "mute", ncols=min(len(groups), columns), title=title, glyph_width=8)
    tooltips = [("", "@run"), ("", "@series"), ("epoch, step", "@epoch{0.[00]}, @step")]
    if percent:
        tooltips.append(("accuracy", "@y{0.00} ± @half{0.00} %"))
    else:
        tooltips += [("CDNV", "@y{0.0000}"), ("debiased", "@debiased")]
    plot.add_tools(HoverTool(renderers=dots, tooltips=tooltips))
    return plot


def _series_source(course: Course, key: str, label: str, unit: float, scale: float) -> ColumnDataSource:
    records = [record for record in course.run.records if key in record]
    # null stands for infinity, which has no place on the axis: NaN leaves a gap, where a line would bridge it
    value = scale * np.array([math.nan if (v := record[key]) is None else float(v) for record in records])
    half = scale * np.array([float(record.get(f"{key}/ci95") or 0) for record in records])
    epoch = np.array([float(record["epoch"] or 0) for record in records])
    return ColumnDataSource(
        {
            "x": np.log2(1 + epoch / unit),
            "y": value,
            "low": value - half,
            "high": value + half,
            "half": half,
            "epoch": epoch,
            "step": [int(record["step"] or 0) for record in records],
            "debiased": [entry(record, key.replace("/cdnv", "/debiased_cdnv")) for record in records],
            "run": [course.name] * len(records),
            "series": [label] * len(records),
        }
    )


def _epoch_axis(plot: figure, runs: Sequence[Run]) -> float:
    """Labels an axis of log2(1 + epoch / unit), on which epoch 0 has a place.

    Returns:
      The unit: the first measured epoch after 0.
    """
    epochs = sorted({float(record["epoch"] or 0) for run in runs for record in run.records})
    unit = min((epoch for epoch in epochs if epoch > 0), default=1.0)
    ticks = [tick for tick in ticks_1_2_5(unit, max(epochs[-1], unit)) if unit <= tick <= epochs[-1]]
    ticks = [0.0, *ticks[:: 1 + len(ticks) // 8]]
    places = [float(np.log2(1 + tick / unit)) for tick in ticks]
    plot.xaxis.ticker = FixedTicker(ticks=places)
    plot.xaxis.major_label_overrides = {x: f"{tick:.3g}" for x, tick in zip(places, ticks, strict=True)}
    plot.xaxis.axis_label = "epoch"
    return unit
