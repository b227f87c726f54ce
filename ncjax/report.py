"""One self-contained HTML page about one run or many: curves to hover over, panels of one run's target classes, tables.

Needs Bokeh, an extra of the package: `pip install -e ".[report]"`. Nothing else of ncjax imports this module.
"""

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jinja2
import numpy as np
from bokeh.embed import components
from bokeh.models import (
    ColorBar,
    ColumnDataSource,
    CustomJSTickFormatter,
    FixedTicker,
    GlyphRenderer,
    HoverTool,
    Legend,
    LegendItem,
    LinearColorMapper,
    LogColorMapper,
    Range1d,
)
from bokeh.palettes import Cividis256
from bokeh.plotting import figure
from bokeh.resources import Resources

from ncjax import collapse, keys
from ncjax.classifier import Classifier, features
from ncjax.data import Split
from ncjax.eval import COVERS, AccuracyCurve, EpisodeReport, feature_curve
from ncjax.eval.intervals import mean_interval
from ncjax.models import Network
from ncjax.plots import SET_COLORS, SETS, SHOT_COLORS, spoken
from ncjax.runs import Run, open_benchmark
from ncjax.runs import number as to_float
from ncjax.train import restore
from ncjax.train.measurement import Record
from ncjax.train.records import few_shot_keys

HEADS = ("ncc", "ridge")
"""The heads of the panel of accuracy against shots."""
SHOTS = (1, 2, 5, 20)
"""The numbers of shots there; each is a program to compile, and 1 and 5 are already known from training."""
MOST_CLASSES = 40
"""Most classes in the matrices; of more, those with the largest mean CDNV are shown."""
MOST_PROJECTED_CLASSES, MOST_PROJECTED_IMAGES = 20, 1500

_SET_GLYPHS = {"source_train": "circle", "source_test": "square", "target": "triangle"}
_CLASS_COLORS = (  # Okabe and Ito's, the yellow left out
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000",
)  # fmt: skip
_CLASS_GLYPHS = ("circle", "triangle", "square")
_HEAD_GLYPHS = ("circle", "square")
_MEASURES = {
    "cdnv": "CDNV",
    "cdnv_median": "CDNV, median pair",
    "debiased_cdnv": "CDNV, debiased",
    "debiased_cdnv/unresolved_pairs": "pairs too near to tell apart",
    "directional_cdnv": "CDNV, directional",
    "nc1": "NC1",
    "nc1_quotient": "NC1, quotient of traces",
    "nc2_equinorm": "NC2, equinorm",
    "nc2_equiangular": "NC2, equiangular",
    "nc3": "NC3",
    "nc4": "NC4",
    "ncc_accuracy": "nearest class mean, accuracy (each image in its own)",
    "accuracy": "classifier, accuracy",
}


@dataclass(frozen=True, eq=False)
class Detail:
    """What the panels of one run show.

    Attributes:
      run: the run.
      class_names: of its k target classes.
      labels: [n], of its target images.
      before: features [n, d] of the network at initialisation.
      after: features [n, d] at the newest checkpoint.
      collapse: of `after`.
      curves: accuracy against shots, by head.
      confused: of the ncc head with the most shots up to 5.
    """

    run: Run
    class_names: tuple[str, ...]
    labels: np.ndarray
    before: np.ndarray
    after: np.ndarray
    collapse: collapse.Collapse
    curves: dict[str, AccuracyCurve]
    confused: EpisodeReport


def initial(params: Classifier, run: Run) -> Classifier:
    """The classifier of a run as it was before the first step: drawn anew from the run's seed."""
    network = params.network
    assert isinstance(network, Network)  # a run's classifier is no encoder from elsewhere
    key = keys.stream(run.described["config"]["seed"], "init")
    variables = jax.jit(network.init, static_argnums=1)(key, tuple(run.described["data"]["image_shape"]))
    return dataclasses.replace(params, variables=variables, feature_mean=None)


def examine(run: Run, *, data_dir: str | None = None, episodes: int = 2000) -> Detail:
    """Computes what the panels of one run show, from its newest checkpoint and its data.

    Args:
      run: the run.
      data_dir: where its data is, if no longer where it was.
      episodes: few-shot episodes for each head and number of shots.

    Raises:
      InputError: the data or the checkpoint cannot be read.
    """
    params = restore(run.folder)
    target = open_benchmark(run.described, data_dir).target
    return examine_split(run, params, target, episodes=episodes)


def examine_split(run: Run, params: Classifier, target: Split, *, episodes: int = 2000) -> Detail:
    """`examine`, of a classifier and target images at hand."""
    after = features(params, target)
    fewest = int(np.bincount(target.labels).min())
    queries = max(1, min(15, fewest // 2))
    curves = {
        head: feature_curve(
            after,
            target.labels,
            over="shots",
            values=[shots for shots in SHOTS if shots + queries <= fewest],
            ways=min(5, target.num_classes),
            queries=queries,
            episodes=episodes,
            head=head,
        )
        for head in HEADS
    }
    few = [report for report in curves["ncc"].reports if report.settings.shots <= 5]
    return Detail(
        run=run,
        class_names=tuple(map(str, target.class_names)),
        labels=target.labels,
        before=features(initial(params, run), target),
        after=after,
        collapse=collapse.measure(after, target.labels, num_classes=target.num_classes),
        curves=curves,
        confused=few[-1],
    )


def page(runs: Sequence[Run], detail: Detail | None, *, missing: str = "") -> str:
    """The whole page as HTML text.

    Args:
      runs: at least one.
      detail: panels of one of them; None leaves them out.
      missing: why there is no detail, said in their place.
    """
    names = run_names(runs)
    plots = {"cdnv": _plot_cdnv(runs, names), "accuracy": _plot_accuracy(runs, names)}
    if detail is not None:
        shown = _shown_classes(detail.collapse)
        plots |= {
            "matrix": _plot_matrix(detail, shown),
            "before": _plot_projection(detail, detail.before),
            "after": _plot_projection(detail, detail.after),
            "confusion": _plot_confusion(detail, shown),
            "shots": _plot_shots(detail),
        }
    script, divs = components(plots)
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = environment.from_string(Path(__file__).with_name("report.html").read_text(encoding="utf-8"))
    style = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    settings, differing = _settings(runs)
    return template.render(
        style=style,
        bokeh="\n".join(Resources(mode="inline", components=["bokeh"]).js_raw),
        script=script,
        plots=divs,
        title=runs[0].folder.name if len(runs) == 1 else f"{len(runs)} runs",
        sets=[name for name in SETS if f"{name}/cdnv" in runs[0].records[-1]],
        set_names=SETS,
        summary=_summary(runs, names),
        seeds=_over_seeds(runs, names),
        course=_course(detail.run if detail is not None else runs[0]),
        course_name=names[runs.index(detail.run) if detail is not None else 0],
        detail=_about(detail, names[runs.index(detail.run)], shown) if detail is not None else None,
        missing=missing,
        covers=COVERS,
        settings=settings,
        differing=differing,
        names=names,
        version=version("ncjax"),
    )


def run_names(runs: Sequence[Run]) -> list[str]:
    """The folders without what all have in common before the last part that differs."""
    parts = [run.folder.absolute().parts for run in runs]
    shared = 0
    while all(len(p) > shared + 1 and p[shared] == parts[0][shared] for p in parts):
        shared += 1
    return ["/".join(p[shared:]) for p in parts]


def _figure(**options: Any) -> figure:
    settings: dict[str, Any] = {
        "height": 380,
        "sizing_mode": "stretch_width",
        "max_width": 680,  # a printed page's: canvases are not drawn anew for paper
        "tools": "pan,box_zoom,wheel_zoom,reset,save",
        "active_drag": None,  # so that a finger on a plot still scrolls the page
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


def _legend(plot: figure, items: list[LegendItem], click_policy: str, **options: Any) -> None:
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


def _epoch_axis(plot: figure, runs: Sequence[Run]) -> float:
    """Labels the axis of log2(1 + epoch / unit), on which epoch 0 has a place; returns the unit."""
    epochs = sorted({float(record["epoch"] or 0) for run in runs for record in run.records})
    unit = min((e for e in epochs if e > 0), default=1.0)
    marks = [mark for mark in _one_two_five(unit, max(epochs[-1], unit)) if unit <= mark <= epochs[-1]]
    marks = [0.0, *marks[:: 1 + len(marks) // 8]]
    at = [float(np.log2(1 + mark / unit)) for mark in marks]
    plot.xaxis.ticker = FixedTicker(ticks=at)
    plot.xaxis.major_label_overrides = {x: f"{mark:.3g}" for x, mark in zip(at, marks, strict=True)}
    plot.xaxis.axis_label = "epoch"
    return unit


def _plot_series(
    runs: Sequence[Run], names: Sequence[str], series: dict[str, dict[str, Any]], percent: bool, **options: Any
) -> figure:
    """A line for each run and series: clicking a series hides it, clicking a run fades it."""
    plot = _figure(height=360 + (24 * -(-len(runs) // 7) if len(runs) > 1 else 0), **options)
    unit = _epoch_axis(plot, runs)
    by_series: dict[str, list[GlyphRenderer]] = {name: [] for name in series}
    by_run: list[list[GlyphRenderer]] = [[] for _ in runs]
    dots: list[GlyphRenderer] = []
    scale = 100.0 if percent else 1.0
    for number, (run, name) in enumerate(zip(runs, names, strict=True)):
        for key, style in series.items():
            records = [record for record in run.records if key in record]
            # null stands for infinity, which has no place on the axis: NaN leaves a gap, where the line would bridge it
            value = scale * np.array([math.nan if (v := record[key]) is None else float(v) for record in records])
            half = scale * np.array([float(record.get(f"{key}/ci95") or 0) for record in records])
            epoch = np.array([float(record["epoch"] or 0) for record in records])
            source = ColumnDataSource(
                {
                    "x": np.log2(1 + epoch / unit),
                    "y": value,
                    "low": value - half,
                    "high": value + half,
                    "half": half,
                    "epoch": epoch,
                    "step": [int(record["step"] or 0) for record in records],
                    "debiased": [_entry(record, key.replace("/cdnv", "/debiased_cdnv")) for record in records],
                    "run": [name] * len(records),
                    "series": [style["label"]] * len(records),
                }
            )
            paint = {"color": style["color"], "muted_color": style["color"], "muted_alpha": 0.06}
            lines = [plot.line("x", "y", source=source, line_width=1.6, line_dash=style["dash"], **paint)]
            if percent:
                lines.append(plot.segment("x", "low", "x", "high", source=source, line_width=1.2, **paint))
            dot = plot.scatter("x", "y", source=source, size=6, marker=style["marker"], **paint)
            dots.append(dot)
            by_series[key] += [*lines, dot]
            by_run[number] += [*lines, dot]
    columns = 1 if len(series) < 4 else 2
    items = [LegendItem(label=series[key]["label"], renderers=found) for key, found in by_series.items()]
    _legend(plot, items, "hide", ncols=columns)
    if len(runs) > 1:
        numbered = [LegendItem(label=str(i + 1), renderers=found) for i, found in enumerate(by_run)]
        _legend(plot, numbered, "mute", ncols=min(len(runs), 7), title="runs, by number: click to fade", glyph_width=8)
    shown = [("", "@run"), ("", "@series"), ("epoch, step", "@epoch{0.[00]}, @step")]
    shown += (
        [("accuracy", "@y{0.00} ± @half{0.00} %")] if percent else [("CDNV", "@y{0.0000}"), ("debiased", "@debiased")]
    )
    plot.add_tools(HoverTool(renderers=dots, tooltips=shown))
    return plot


def _plot_cdnv(runs: Sequence[Run], names: Sequence[str]) -> figure:
    series = {
        f"{name}/cdnv": {"label": label, "color": SET_COLORS[name], "marker": _SET_GLYPHS[name], "dash": "solid"}
        for name, label in SETS.items()
        if any(f"{name}/cdnv" in run.records[-1] for run in runs)
    }
    plot = _plot_series(runs, names, series, False, y_axis_type="log", y_axis_label="CDNV")
    values = [float(v) for run in runs for key in series if (v := run.records[-1].get(key) or run.records[0].get(key))]
    plot.yaxis.ticker = FixedTicker(ticks=_one_two_five(min(values, default=1.0) / 10, max(values, default=1.0) * 100))
    plot.yaxis.formatter = _plain_numbers()
    return plot


def _one_two_five(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten between."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [mantissa * 10.0**power for power in powers for mantissa in (1, 2, 5)]


def _plain_numbers() -> CustomJSTickFormatter:
    return CustomJSTickFormatter(code="return String(Number(tick.toPrecision(3)))")


def _plot_accuracy(runs: Sequence[Run], names: Sequence[str]) -> figure:
    found = list(dict.fromkeys(key for run in runs for key in few_shot_keys(run.records[-1])))
    kinds = list(dict.fromkeys(key.split("/")[2] for key in found))
    heads = list(dict.fromkeys(key.split("/")[1] for key in found))
    series = {}
    for key in found:
        _, head, kind = key.split("/")
        number = heads.index(head)
        series[key] = {
            "label": f"{spoken(kind)}, {head}",
            "color": SHOT_COLORS[kinds.index(kind) % len(SHOT_COLORS)],
            "marker": _HEAD_GLYPHS[number % len(_HEAD_GLYPHS)],
            "dash": "solid" if number == 0 else "dashed",
        }
    return _plot_series(runs, names, series, True, y_axis_label="few-shot accuracy (%)")


def _shown_classes(found: collapse.Collapse) -> np.ndarray:
    """The rows of the matrices: all classes, or those that are hardest to tell from others."""
    if found.k <= MOST_CLASSES:
        return np.arange(found.k)
    return np.sort(np.argsort(-np.nanmean(found.cdnv_pairs, axis=1), kind="stable")[:MOST_CLASSES])


def _matrix(
    values: np.ndarray,
    names: Sequence[str],
    mapper: LinearColorMapper | LogColorMapper,
    tooltips: Any,
    labels: Any,
    *,
    diagonal: np.ndarray | None = None,
) -> figure:
    """A heatmap with a name at each row and column; row 0 on top; what is said of the white diagonal, if anything."""
    k = len(names)
    said = values.copy()
    if diagonal is not None:
        np.fill_diagonal(said, diagonal)
    size = "11px" if k <= 25 else "8px"
    plot = _figure(
        x_range=Range1d(-0.5, k - 0.5),
        y_range=Range1d(k - 0.5, -0.5),
        height=None,
        aspect_ratio=0.95,
        x_axis_label=labels[0],
        y_axis_label=labels[1],
    )
    row, column = np.divmod(np.arange(k * k), k)
    named = np.array(names, dtype=object)
    source = ColumnDataSource(
        {
            "x": column,
            "y": row,
            "value": values.ravel().astype(np.float32),
            "text": [_number(v) for v in said.ravel()],
            "row": list(named[row]),
            "column": list(named[column]),
        }
    )
    fill = {"field": "value", "transform": mapper}
    cells = plot.rect("x", "y", 1, 1, source=source, fill_color=fill, line_color=None)
    plot.add_tools(HoverTool(renderers=[cells], tooltips=tooltips))
    plot.grid.visible = False
    for axis in plot.axis:
        axis.ticker = FixedTicker(ticks=list(range(k)))
        axis.major_label_overrides = dict(enumerate(names))
        axis.major_label_text_font_size = size
        axis.major_tick_line_color = None
    plot.xaxis.major_label_orientation = math.pi / 2
    ticker = FixedTicker(ticks=_one_two_five(mapper.low, mapper.high)) if isinstance(mapper, LogColorMapper) else None
    bar = ColorBar(color_mapper=mapper, height=10, formatter=_plain_numbers(), padding=4)
    if ticker is not None:
        bar.ticker = ticker
    plot.add_layout(bar, "above")
    return plot


def _plot_matrix(detail: Detail, shown: np.ndarray) -> figure:
    pairs = detail.collapse.cdnv_pairs[np.ix_(shown, shown)]
    finite = pairs[np.isfinite(pairs) & (pairs > 0)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.1, 1.0)
    mapper = LogColorMapper(
        palette=Cividis256, low=low, high=max(high, 1.01 * low), high_color="#ff00ff", nan_color="#ffffff"
    )
    tooltips = [("", "@row and @column"), ("CDNV", "@text")]
    classes = detail.collapse.classes[shown]
    return _matrix(pairs, [detail.class_names[c] for c in classes], mapper, tooltips, (None, None))


def confusion_rates(report: EpisodeReport) -> np.ndarray:
    """[k, k]: of the queries of class i in episodes that also hold class j, the share taken for j; in %.

    NaN for two classes that no episode holds together. The diagonal is the share classified rightly.
    """
    k = len(report.class_names)
    held = np.zeros((len(report.classes), k), np.float64)
    np.put_along_axis(held, report.classes, 1.0, axis=1)
    together = held.T @ held
    # ways are balanced: every query is taken for some way, so that a row of counts sums to the class's queries
    drawn = np.diag(together)
    queries = np.divide(report.confusion.sum(1), drawn, out=np.zeros(k), where=drawn > 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return 100 * report.confusion / (together * queries[:, None])


def _plot_confusion(detail: Detail, shown: np.ndarray) -> figure:
    names = [detail.class_names[c] for c in detail.collapse.classes[shown]]
    rates = confusion_rates(detail.confused)[np.ix_(shown, shown)]
    right = rates.diagonal().copy()
    np.fill_diagonal(rates, np.nan)
    high = float(np.nanmax(rates)) if np.isfinite(rates).any() else 1.0
    mapper = LinearColorMapper(palette=Cividis256, low=0.0, high=max(high, 1e-3), nan_color="#ffffff")
    tooltips = [("", "@row, taken for @column"), ("share", "@text %")]
    return _matrix(rates, names, mapper, tooltips, ("taken for", "class"), diagonal=right)


def principal_components(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates [n, 2] along the two directions of largest variance, and the shares of the variance that they hold.

    The sign of a direction is fixed: its largest loading is positive.
    """
    centred = values.astype(np.float64) - values.mean(0, dtype=np.float64)
    variances, directions = np.linalg.eigh(centred.T @ centred)
    axes = directions[:, ::-1][:, :2]
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])])
    share = variances[::-1][:2] / max(float(variances.sum()), 1e-300)
    flat = centred @ axes
    if flat.shape[1] == 1:
        return np.column_stack([flat, np.zeros(len(flat))]), np.array([share[0], 0.0])
    return flat, share


def _projected(detail: Detail) -> tuple[np.ndarray, np.ndarray]:
    """The classes of the projection, and the rows of their images."""
    classes = detail.collapse.classes[:MOST_PROJECTED_CLASSES]
    most = max(1, MOST_PROJECTED_IMAGES // len(classes))
    rng = np.random.default_rng(0)
    rows = [np.flatnonzero(detail.labels == c) for c in classes]
    return classes, np.concatenate([np.sort(rng.permutation(r)[:most]) for r in rows])


def _plot_projection(detail: Detail, values: np.ndarray) -> figure:
    classes, rows = _projected(detail)
    labels = detail.labels[rows]
    points, share = principal_components(values[rows])
    plot = _figure(
        height=420,
        x_axis_label=f"first component ({100 * share[0]:.0f} % of variance)",
        y_axis_label=f"second component ({100 * share[1]:.0f} %)",
        match_aspect=True,
    )
    dots = []
    for number, c in enumerate(classes):
        of = points[labels == c]
        name = detail.class_names[c]
        source = ColumnDataSource(
            {"x": of[:, 0].astype(np.float32), "y": of[:, 1].astype(np.float32), "name": [name] * len(of)}
        )
        paint = _CLASS_COLORS[number % len(_CLASS_COLORS)]
        marker = _CLASS_GLYPHS[number // len(_CLASS_COLORS) % len(_CLASS_GLYPHS)]
        dots.append(plot.scatter("x", "y", source=source, size=5, marker=marker, color=paint, alpha=0.45))
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
    plot = _figure(x_axis_type="log", x_axis_label="shots", y_axis_label="few-shot accuracy (%)")
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
        paint = (SHOT_COLORS[1], SHOT_COLORS[0])[number % 2]
        dash = "solid" if number == 0 else "dashed"
        band = [plot.varea("x", "bottom", "top", source=source, fill_color=paint, fill_alpha=0.12)]
        line = plot.line("x", "y", source=source, color=paint, line_width=1.8, line_dash=dash)
        bars = plot.segment("x", "low", "x", "high", source=source, color=paint, line_width=1.4)
        dot = plot.scatter("x", "y", source=source, size=7, color=paint, marker=_HEAD_GLYPHS[number % 2])
        dots.append(dot)
        items.append(LegendItem(label=head, renderers=[line, dot, bars, *band]))
    values = next(iter(detail.curves.values())).values
    plot.xaxis.ticker = FixedTicker(ticks=list(values))
    plot.xaxis.major_label_overrides = {value: str(value) for value in values}
    _legend(plot, items, "hide", ncols=2)
    tooltips = [
        ("", "@head, @x shots"),
        ("accuracy", "@y{0.00} %"),
        (COVERS["ci95"], "@low{0.00} to @high{0.00} %"),
        (COVERS["target_ci95"], "@bottom{0.00} to @top{0.00} %"),
    ]
    plot.add_tools(HoverTool(renderers=dots, tooltips=tooltips))
    return plot


def _number(value: Any) -> str:
    """As tables show it."""
    if value is None:
        return "∞"
    if isinstance(value, int):
        return str(value)
    if math.isnan(value):
        return "–"
    return "∞" if math.isinf(value) else f"{value:.4g}"


def _entry(record: Record, key: str) -> str:
    """A record's value as tables show it: a dash where nothing was measured, for null stands for infinity."""
    return _number(record[key]) if key in record else "–"


def _percent(value: float | int | None, half: float | int | None) -> str:
    return f"{100 * (value or 0):.2f} ± {100 * (half or 0):.2f}"


def _summary(runs: Sequence[Run], names: Sequence[str]) -> dict[str, Any]:
    """The last record of each run."""
    shown = list(dict.fromkeys(key for run in runs for key in few_shot_keys(run.records[-1])))
    header = ["", "run", "data set", "network", "source classes", "seed", "epochs"]
    header += [f"CDNV {name.replace('_', '-')}" for name in SETS] + ["debiased, target"]
    header += [" ".join(reversed(key.removeprefix("target/").split("/"))) + ", %" for key in shown]
    rows = []
    for number, (run, name) in enumerate(zip(runs, names, strict=True), 1):
        last, config = run.records[-1], run.described["config"]
        epochs = f"{last['epoch'] or 0:.4g}" + ("" if run.finished else " (unfinished)")
        row = [str(number), name, config["dataset"], config["network"]]
        row += [str(run.described["data"]["num_source_classes"]), str(config["seed"]), epochs]
        row += [_entry(last, key) for key in (*(f"{name}/cdnv" for name in SETS), "target/debiased_cdnv")]
        row += [_percent(last[key], last[f"{key}/ci95"]) if key in last else "–" for key in shown]
        rows.append(row)
    return {"header": header, "rows": rows}


def _over_seeds(runs: Sequence[Run], names: Sequence[str]) -> dict[str, Any] | None:
    """Means over runs that differ in their seed alone, of copies of a run the first; None where there are none."""
    groups: dict[str, dict[int, int]] = {}
    for number, run in enumerate(runs):
        same = {key: value for key, value in run.described.get("identity", {}).items() if key != "seed"}
        what = [same, run.described["data"].get("fingerprint"), run.records[-1]["step"]]
        of_seed = groups.setdefault(json.dumps(what, sort_keys=True), {})
        of_seed.setdefault(run.described["config"]["seed"], number)
    many = [list(group.values()) for group in groups.values() if len(group) > 1]
    if not many:
        return None
    keys_ = [f"{name}/cdnv" for name in SETS] + ["target/debiased_cdnv"]
    shown = list(dict.fromkeys(key for run in runs for key in few_shot_keys(run.records[-1])))
    header = ["runs"] + [f"CDNV {name.replace('_', '-')}" for name in SETS] + ["debiased, target"]
    header += [" ".join(reversed(key.removeprefix("target/").split("/"))) + ", %" for key in shown]
    rows = []
    for group in many:
        row = [", ".join(str(i + 1) for i in group)]
        for key in keys_ + shown:
            last = [runs[i].records[-1] for i in group]
            if not all(key in record for record in last):
                row.append("–")
                continue
            values = np.array([to_float(record[key]) for record in last])
            if not np.isfinite(values).all():
                row.append("∞" if key.endswith("cdnv") else "–")
            elif key in shown:
                row.append(_percent(float(values.mean()), mean_interval(values)))
            else:
                row.append(f"{values.mean():.4g} ± {mean_interval(values):.2g}")
        rows.append(row)
    return {"header": header, "rows": rows}


def _course(run: Run) -> dict[str, Any]:
    """Every measure of collapse at the last record, on each of the sets."""
    last = run.records[-1]
    sets = [name for name in SETS if f"{name}/cdnv" in last]
    rows = [
        [label] + [_entry(last, f"{name}/{key}") for name in sets]
        for key, label in _MEASURES.items()
        if any(f"{name}/{key}" in last for name in sets)
    ]
    return {"header": ["measure"] + [SETS[name] for name in sets], "rows": rows}


def _about(detail: Detail, name: str, shown: np.ndarray) -> dict[str, Any]:
    """The words and the table that go with the panels of one run."""
    settings = detail.confused.settings
    some = f"the {len(shown)} of {detail.collapse.k} target classes with the largest mean CDNV"
    _, rows = _projected(detail)
    k = min(detail.collapse.k, MOST_PROJECTED_CLASSES)
    table = [
        [head, str(shots), f"{100 * one.accuracy:.2f}"]
        + [_half(getattr(one, interval)) for interval in COVERS]
        + [str(one.not_converged or "")]
        for head, curve in detail.curves.items()
        for shots, one in zip(curve.values, curve.reports, strict=True)
    ]
    header = ["head", "shots", "accuracy, %"] + [f"± {covers}" for covers in COVERS.values()]
    if any(row[-1] for row in table):
        header.append("not converged")
    return {
        "name": name,
        "classes": f"all {detail.collapse.k} target classes" if len(shown) == detail.collapse.k else some,
        "images": len(detail.labels),
        "cdnv": _number(detail.collapse.cdnv),
        "worst": " and ".join(detail.class_names[c] for c in detail.collapse.worst_pair),
        "worst_cdnv": _number(detail.collapse.cdnv_worst),
        "coincident": len(detail.collapse.coincident_pairs),
        "projected": f"{len(rows)} images of {k} of the {detail.collapse.k} target classes",
        "episodes": settings.episodes,
        "ways": settings.ways,
        "confused": f"{settings.ways}-way {settings.shots}-shot {settings.head}",
        "queries": settings.queries,
        "table": {"header": header, "rows": [row[: len(header)] for row in table]},
    }


def _half(value: float) -> str:
    return f"{100 * value:.2f}" if math.isfinite(value) else "–"


def _settings(runs: Sequence[Run]) -> tuple[list[tuple[str, str]], dict[str, Any] | None]:
    """What config.json says: a list of what all runs share, a table of what differs."""
    flat = []
    for run in runs:
        data = run.described["data"]
        found = {key: value for key, value in run.described["config"].items() if key != "workdir"}  # the run's name
        found |= {f"data: {key}": data[key] for key in ("fingerprint", "image_shape", "augmentation") if key in data}
        found |= {f"images: {key}": value for key, value in data.get("images", {}).items()}
        found |= {f"classes: {key}": value for key, value in data.get("classes", {}).items()}
        found |= {"total steps": run.described["total_steps"]}
        found |= {f"version: {key}": value for key, value in run.described["versions"].items()}
        flat.append({key: "–" if value is None else str(value) for key, value in found.items()})
    keys_ = list(dict.fromkeys(key for one in flat for key in one))
    differing = [key for key in keys_ if len({one.get(key) for one in flat}) > 1]
    shared = [(key, flat[0][key]) for key in keys_ if key not in differing]
    if not differing:
        return shared, None
    rows = [[str(number), *(one.get(key, "–") for key in differing)] for number, one in enumerate(flat, 1)]
    return shared, {"header": ["", *differing], "rows": rows}
