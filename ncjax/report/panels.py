"""Bokeh figures of one run's target classes: matrices, projections, and accuracy against shots."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from bokeh.models import (
    ColorBar,
    ColumnDataSource,
    FixedTicker,
    HoverTool,
    LegendItem,
    LinearColorMapper,
    LogColorMapper,
    Range1d,
)
from bokeh.palettes import Cividis256
from bokeh.plotting import figure

from ncjax.eval import COVERS, confusion_rates
from ncjax.pairs import as_rgb, example_rows, hardest_pairs
from ncjax.plots import SHOT_COLORS
from ncjax.report.detail import Detail, principal_components
from ncjax.report.figures import HEAD_MARKERS, add_legend, new_figure, plain_numbers, ticks_1_2_5
from ncjax.report.tables import format_number

_CLASS_COLORS = (  # Okabe and Ito's palette without its yellow
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000",
)  # fmt: skip
_SHOWN_PAIRS, _SHOWN_IMAGES, _THUMBNAIL = 3, 5, 48
_CLASS_MARKERS = ("circle", "triangle", "square")


def plot_panels(detail: Detail) -> dict[str, figure]:
    """Plots all panels of the target classes, by the names that the template gives them."""
    before = {} if detail.before is None else {"before": _plot_projection(detail, detail.before)}
    return before | {
        "matrix": _plot_pairs(detail),
        "hardest": _plot_hardest(detail),
        "after": _plot_projection(detail, detail.after),
        "confusion": _plot_confusion(detail),
        "shots": _plot_shots(detail),
    }


def _plot_pairs(detail: Detail) -> figure:
    shown = detail.shown_classes()
    pairs = detail.collapse.cdnv_pairs[np.ix_(shown, shown)]
    finite = pairs[np.isfinite(pairs) & (pairs > 0)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.1, 1.0)
    mapper = LogColorMapper(
        palette=Cividis256, low=low, high=max(high, 1.01 * low), high_color="#ff00ff", nan_color="#ffffff"
    )
    tooltips = [("", "@row and @column"), ("CDNV", "@text")]
    return _plot_matrix(pairs, _class_names(detail), mapper, tooltips, (None, None))


def _plot_hardest(detail: Detail) -> figure:
    """Shows images of the pairs of classes with the largest CDNV."""
    pairs = hardest_pairs(detail.collapse, detail.class_names, _SHOWN_PAIRS)
    width, height = 2 * _SHOWN_IMAGES + 0.5, 1.35 * len(pairs)
    plot = new_figure(
        x_range=Range1d(0, width), y_range=Range1d(0, height), height=None, aspect_ratio=width / height, tools="",
        toolbar_location=None,
    )  # fmt: skip
    plot.grid.visible = plot.axis.visible = False
    for row, pair in enumerate(pairs):
        bottom = height - 1.35 * (row + 1)
        for side, label in enumerate(pair[:2]):
            left = side * (_SHOWN_IMAGES + 0.5)
            text = detail.class_names[label] + (f"; {pair.text} with {detail.class_names[pair.second]}" * (side == 0))
            plot.text([left], [bottom + 1.03], text=[text], text_font_size="12px", text_color="#222222")
            for place, number in enumerate(example_rows(detail.labels, label, _SHOWN_IMAGES)):
                image = detail.images[number]
                step = -(-max(image.shape[:2]) // _THUMBNAIL)  # keeps the page small
                small = as_rgb(image[::step, ::step])[::-1]  # Bokeh's first row is the lowest
                pixels = np.dstack([small, np.full(small.shape[:2], 255, np.uint8)])
                packed = np.ascontiguousarray(pixels).view(np.uint32)[..., 0]
                plot.image_rgba([packed], x=left + place, y=bottom, dw=0.96, dh=0.96)
    return plot


def _plot_confusion(detail: Detail) -> figure:
    shown = detail.shown_classes()
    rates = confusion_rates(detail.confused)[np.ix_(shown, shown)]
    correct = rates.diagonal().copy()
    np.fill_diagonal(rates, np.nan)
    high = float(np.nanmax(rates)) if np.isfinite(rates).any() else 1.0
    mapper = LinearColorMapper(palette=Cividis256, low=0.0, high=max(high, 1e-3), nan_color="#ffffff")
    tooltips = [("", "@row, taken for @column"), ("share", "@text %")]
    return _plot_matrix(rates, _class_names(detail), mapper, tooltips, ("taken for", "class"), diagonal=correct)


def _class_names(detail: Detail) -> list[str]:
    return [detail.class_names[c] for c in detail.collapse.classes[detail.shown_classes()]]


def _plot_matrix(
    values: np.ndarray,
    names: Sequence[str],
    mapper: LinearColorMapper | LogColorMapper,
    tooltips: Any,
    labels: tuple[str | None, str | None],
    *,
    diagonal: np.ndarray | None = None,
) -> figure:
    """Plots a matrix [k, k] as colours, row 0 on top; `diagonal` [k] are the tooltips of a white diagonal."""
    k = len(names)
    numbers = values.copy()
    if diagonal is not None:
        np.fill_diagonal(numbers, diagonal)
    plot = new_figure(
        x_range=Range1d(-0.5, k - 0.5),
        y_range=Range1d(k - 0.5, -0.5),
        height=None,
        aspect_ratio=0.95,
        x_axis_label=labels[0],
        y_axis_label=labels[1],
    )
    row, column = np.divmod(np.arange(k * k), k)
    name_array = np.array(names, dtype=object)
    source = ColumnDataSource(
        {
            "x": column,
            "y": row,
            "value": values.ravel().astype(np.float32),
            "text": [format_number(v) for v in numbers.ravel()],
            "row": list(name_array[row]),
            "column": list(name_array[column]),
        }
    )
    fill = {"field": "value", "transform": mapper}
    cells = plot.rect("x", "y", 1, 1, source=source, fill_color=fill, line_color=None)
    plot.add_tools(HoverTool(renderers=[cells], tooltips=tooltips))
    plot.grid.visible = False
    for axis in plot.axis:
        axis.ticker = FixedTicker(ticks=list(range(k)))
        axis.major_label_overrides = dict(enumerate(names))
        axis.major_label_text_font_size = "11px" if k <= 25 else "8px"
        axis.major_tick_line_color = None
    plot.xaxis.major_label_orientation = math.pi / 2
    bar = ColorBar(color_mapper=mapper, height=10, formatter=plain_numbers(), padding=4)
    if isinstance(mapper, LogColorMapper):
        bar.ticker = FixedTicker(ticks=ticks_1_2_5(mapper.low, mapper.high))
    plot.add_layout(bar, "above")
    return plot


def _plot_projection(detail: Detail, features: np.ndarray) -> figure:
    classes, rows = detail.projected()
    labels = detail.labels[rows]
    points, share = principal_components(features[rows])
    plot = new_figure(
        height=420,
        x_axis_label=f"first component ({100 * share[0]:.0f} % of variance)",
        y_axis_label=f"second component ({100 * share[1]:.0f} %)",
        match_aspect=True,
    )
    dots = []
    for number, c in enumerate(classes):
        x, y = points[labels == c].astype(np.float32).T
        source = ColumnDataSource({"x": x, "y": y, "name": [detail.class_names[c]] * len(x)})
        color = _CLASS_COLORS[number % len(_CLASS_COLORS)]
        marker = _CLASS_MARKERS[number // len(_CLASS_COLORS) % len(_CLASS_MARKERS)]
        dots.append(plot.scatter("x", "y", source=source, size=5, marker=marker, color=color, alpha=0.45))
    means = np.stack([points[labels == c].mean(0) for c in classes])
    plot.text(
        means[:, 0],
        means[:, 1],
        text=[detail.class_names[c] for c in classes],
        text_align="center",
        text_baseline="middle",
        text_font_size="14px",
        text_font_style="bold",
        text_color="#111111",
        text_outline_color="#ffffff",
    )
    plot.add_tools(HoverTool(renderers=dots, tooltips=[("", "@name")]))
    return plot


def _plot_shots(detail: Detail) -> figure:
    plot = new_figure(x_axis_type="log", x_axis_label="shots", y_axis_label="few-shot accuracy (%)")
    items, dots = [], []
    for number, (head, curve) in enumerate(detail.curves.items()):
        accuracy = 100 * curve.accuracy
        narrow, wide = 100 * curve.ends("ci95"), 100 * curve.ends("target_ci95")
        source = ColumnDataSource(
            {
                "x": list(curve.values),
                "y": accuracy,
                "low": narrow[:, 0],
                "high": narrow[:, 1],
                "bottom": wide[:, 0],
                "top": wide[:, 1],
                "head": [head] * len(accuracy),
            }
        )
        color = (SHOT_COLORS[1], SHOT_COLORS[0])[number % 2]
        dash = "solid" if number == 0 else "dashed"
        band = [plot.varea("x", "bottom", "top", source=source, fill_color=color, fill_alpha=0.12)]
        line = plot.line("x", "y", source=source, color=color, line_width=1.8, line_dash=dash)
        bars = plot.segment("x", "low", "x", "high", source=source, color=color, line_width=1.4)
        dot = plot.scatter("x", "y", source=source, size=7, color=color, marker=HEAD_MARKERS[number % 2])
        dots.append(dot)
        items.append(LegendItem(label=head, renderers=[line, dot, bars, *band]))
    values = next(iter(detail.curves.values())).values
    plot.xaxis.ticker = FixedTicker(ticks=list(values))
    plot.xaxis.major_label_overrides = {value: str(value) for value in values}
    add_legend(plot, items, "hide", ncols=2)
    tooltips = [
        ("", "@head, @x shots"),
        ("accuracy", "@y{0.00} %"),
        (COVERS["ci95"], "@low{0.00} to @high{0.00} %"),
        (COVERS["target_ci95"], "@bottom{0.00} to @top{0.00} %"),
    ]
    plot.add_tools(HoverTool(renderers=dots, tooltips=tooltips))
    return plot
