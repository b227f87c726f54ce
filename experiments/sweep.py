"""What the figures share: their command line, a grid of runs that is trained once, and statistics over seeds.

A figure is a list of points; a point is a configuration and is trained with several seeds. All figures keep their runs
in one folder, each under a name made of its settings, so that a run that two figures need is trained once. A command
that is given again skips what is finished and continues what was killed.
"""

import dataclasses
import hashlib
import json
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import tyro
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from tqdm import tqdm

from ncjax import cli, plots, runs
from ncjax.data import Benchmark
from ncjax.errors import InputError
from ncjax.eval.intervals import mean_interval
from ncjax.plots import SET_COLORS, SETS, SHOT_COLORS
from ncjax.runs import Run
from ncjax.train import Config, Diverged, load_benchmark, pretrain, resolve
from ncjax.train.config import identity
from ncjax.train.folder import Refused
from ncjax.train.measurement import Record
from ncjax.train.records import write_atomically

_TAKEN = "another process is at work in"
_T = TypeVar("_T")


@dataclass(frozen=True)
class Options:
    """What every figure asks."""

    preset: Literal["smoke", "paper"] = "smoke"
    """smoke: a small grid on glyphs, minutes on two cores, nothing to download. paper: the real thing, for a GPU."""
    data_dir: str | None = None
    """Folder of the data set's official archive; without it the archive is downloaded, where the preset needs one."""
    seeds: int = 3
    """Runs at each point, with the seeds 0, 1, …; intervals are over them."""
    shard: str = "1/1"
    """i/n: trains the i-th of n parts of the grid, to divide it over machines that share the folder `out`."""
    out: Path = Path("runs/figures")
    """Folder of all figures and their runs."""
    train: bool = True
    """With --no-train nothing is trained: the figure is drawn from the runs that are finished."""


@dataclass(frozen=True)
class Point:
    """A place on a figure.

    Attributes:
        label: what it is called there.
        config: its settings; seed, seeds and workdir are the sweep's.
        x: its place on an axis of numbers, where there is one.
        group: the curve or panel that it belongs to.
        seeds: how many, where it is not the command line's number.
    """

    label: str
    config: Config
    x: float = math.nan
    group: str = ""
    seeds: int | None = None

    def number_of_seeds(self, options: Options) -> int:
        """Its own, or the command line's."""
        return options.seeds if self.seeds is None else self.seeds


class Mean(NamedTuple):
    """A mean over runs, and the half width of its 95 % t interval: NaN for one run."""

    value: float
    ci95: float
    runs: int

    @classmethod
    def of(cls, values: Iterable[float]) -> "Mean":
        """Of independent values; NaN without any, or where one is infinite."""
        array = np.asarray(list(values), np.float64)
        if not len(array) or not np.isfinite(array).all():
            return cls(math.nan, math.nan, len(array))
        return cls(float(array.mean()), mean_interval(array), len(array))

    def __str__(self) -> str:
        return f"{self.value:.4g}" + ("" if math.isnan(self.ci95) else f" ± {self.ci95:.2g}")

    def percent(self) -> str:
        """Of a fraction."""
        return f"{100 * self.value:.2f}" + ("" if math.isnan(self.ci95) else f" ± {100 * self.ci95:.2f}")


@dataclass(frozen=True)
class Outcome:
    """The finished runs of a point: fewer than its seeds where some are missing or did not end.

    Attributes:
        point: its settings and its place.
        runs: by seed.
        failed: why this command did not finish some, or "".
    """

    point: Point
    runs: list[Run]
    failed: str = ""

    def values(self, key: str) -> list[float]:
        """The last record's value of each run."""
        return [run.final(key) for run in self.runs]

    def mean(self, key: str) -> Mean:
        """Over seeds, with its t interval."""
        return Mean.of(self.values(key))


@dataclass(frozen=True)
class Figures:
    """A figure's finished runs, and where its files go.

    Attributes:
        name: of its files.
        options: the command line.
        outcomes: one for each point of the grid, in its order.
    """

    name: str
    options: Options
    outcomes: list[Outcome]

    @cached_property
    def runs(self) -> list[Run]:
        """Of all points; each once, though points may share it."""
        return list({run.folder: run for outcome in self.outcomes for run in outcome.runs}.values())

    @property
    def finished(self) -> list[Outcome]:
        """Points that have runs."""
        return [outcome for outcome in self.outcomes if outcome.runs]

    @property
    def missing(self) -> str:
        """One line on what the figure lacks, or ""."""
        distinct = [(o.point, o.failed) for o in _by_folder(self.outcomes, lambda o: folder(o.point, self.options))]
        total = sum(point.number_of_seeds(self.options) for point, _ in distinct)
        lines = [f"{len(self.runs)} of {total} runs"] if len(self.runs) < total else []
        return "; ".join(lines + [f"{point.label}: {failed}" for point, failed in distinct if failed])

    def groups(self) -> dict[str, list[Outcome]]:
        """The points that have runs, by their group."""
        found: dict[str, list[Outcome]] = {}
        for outcome in self.finished:
            found.setdefault(outcome.point.group, []).append(outcome)
        return found

    def save(self, figure: Figure, numbers: Any) -> None:
        """Writes the figure as PNG and its numbers as JSON; those that are not finite are null."""
        if self.missing:
            figure.text(0.005, 0.005, f"drawn from {self.missing}", fontsize="x-small", color="C3")
            print(f"drawn from {self.missing}")
        stem = f"{self.name}-{self.options.preset}"
        plots.save(figure, self.options.out / f"{stem}.png")
        content = {
            "figure": self.name,
            "preset": self.options.preset,
            "seeds": self.options.seeds,
            "missing": self.missing,
            "runs": [str(run.folder) for run in self.runs],
            "numbers": numbers,
        }
        write_atomically(self.options.out / f"{stem}.json", json.dumps(plain(content), indent=2) + "\n")
        print(f"numbers {self.options.out / f'{stem}.json'}")


def reference(options: Options, **changes: Any) -> Config:
    """The run that every figure varies: all source classes and images, the preset's network and length.

    Its checkpoints are all kept, for figures that look into the network at every measurement; with `changes` they are
    not, unless the changes come to nothing.
    """
    if options.preset == "paper":
        plain = Config(
            dataset="cifar_fs", data_dir=options.data_dir, preset="paper", num_source_classes=64,
            samples_per_class=500, keep_checkpoints=True,
        )  # fmt: skip
    else:
        plain = Config(
            preset="smoke", epochs=1, min_steps=400, measurements=3, measure_episodes=1000, num_source_classes=64,
            samples_per_class=100, keep_checkpoints=True,
        )  # fmt: skip
    changed = dataclasses.replace(plain, **changes)
    return dataclasses.replace(changed, keep_checkpoints=identity(resolve(changed)) == identity(resolve(plain)))


def folder(point: Point, options: Options) -> Path:
    """Where the runs of a point are, seed_0 and so on in it: named by all that can change their numbers.

    The seeds of a point are trained together, as one program, so that another number of them is another folder.
    """
    settled = resolve(dataclasses.replace(point.config, seed=0, seeds=1, workdir=None))
    # settings at their default do not count, so that one that is added later leaves the names of older runs
    changed = {key: value for key, value in identity(settled).items() if value != getattr(Config(), key)}
    digest = hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:10]
    name = f"{settled.dataset}-{settled.network}-{digest}-x{point.number_of_seeds(options)}"
    return options.out / "runs" / name


def part(points: Sequence[Point], shard: str) -> list[Point]:
    """The i-th of n parts of a grid; the n parts hold every point once.

    Raises:
      InputError: `shard` is not i/n with 1 <= i <= n.
    """
    try:
        i, n = (int(text) for text in shard.split("/"))
    except ValueError:
        i, n = 0, 0
    if not 1 <= i <= n:
        raise InputError(f"--shard={shard}: give i/n with i from 1 to n, for example 2/4")
    return list(points[i - 1 :: n])


def _by_folder(items: Iterable[_T], place: Callable[[_T], Path]) -> list[_T]:
    """The first of the items in each folder: two places on a figure may be one configuration."""
    found: dict[Path, _T] = {}
    for item in items:
        found.setdefault(place(item), item)
    return list(found.values())


_loaded: dict[tuple[Any, ...], Benchmark] = {}


def load(config: Config) -> Benchmark:
    """The data of a configuration; the last one is kept, since neighbours in a grid often share it."""
    config = resolve(config)
    key = (
        config.dataset, config.data_dir, config.num_source_classes, config.source_test_per_class,
        config.samples_per_class, config.split_seed, config.image_size, config.rotations, config.skip_corrupt,
    )  # fmt: skip
    if key not in _loaded:
        _loaded.clear()
        _loaded[key] = load_benchmark(config)
    return _loaded[key]


def benchmark(run: Run) -> Benchmark:
    """The data that a run was trained on.

    Raises:
      InputError: the data cannot be read, or is not what it was trained on.
    """
    return runs.open_benchmark(run.described, load=load)


def sweep(points: Sequence[Point], options: Options) -> list[Outcome]:
    """Trains what is not finished of this machine's part of the grid, and reads what is finished of all of it.

    A point that another process is training is left to it.

    Raises:
      InputError: a setting that cannot be, data that cannot be read.
      Interrupted: after SIGINT or SIGTERM, once the state is saved.
    """
    # two points of one folder would meet in two shards, one of which would find the folder taken
    mine = part(_by_folder(points, lambda point: folder(point, options)), options.shard)
    waiting = [p for p in mine if options.train and len(_finished(p, options)) < p.number_of_seeds(options)]
    # points with the same data one after another
    waiting.sort(key=lambda p: repr((p.config.dataset, p.config.num_source_classes, p.config.samples_per_class)))
    failed: dict[Path, str] = {}
    for place, point in enumerate(waiting, len(mine) - len(waiting) + 1):
        workdir, seeds = folder(point, options), point.number_of_seeds(options)
        print(f"[{place}/{len(mine)}] {point.label}, seeds: {seeds}", file=sys.stderr, flush=True)
        config = dataclasses.replace(
            point.config, seed=0, seeds=seeds, workdir=workdir / "seed_0" if seeds == 1 else workdir
        )
        try:
            pretrain(config, benchmark=load(config))
        except Diverged as error:
            failed[workdir] = str(error).split(";")[0]
            print(f"{point.label}: {error}", file=sys.stderr)
        except Refused as error:
            if not str(error).startswith(_TAKEN):
                raise
            failed[workdir] = f"{_TAKEN} {workdir}"
            print(f"{point.label}: {failed[workdir]}; left to it", file=sys.stderr)
    return [Outcome(p, _finished(p, options), failed.get(folder(p, options), "")) for p in points]


def _finished(point: Point, options: Options) -> list[Run]:
    workdir = folder(point, options)
    found = []
    for seed in range(point.number_of_seeds(options)):
        try:
            run = runs.read(workdir / f"seed_{seed}")
        except InputError:  # it has not begun, or has just begun
            continue
        if run.finished:
            found.append(run)
    return found


def main(
    doc: str | None,
    grid: Callable[[Any], list[Point]],
    draw: Callable[[Figures], None],
    *,
    options: type[Options] = Options,
) -> None:
    """What `python experiments/FIGURE.py` does: read the command line, sweep the grid, draw the figure."""
    name = Path(sys.argv[0]).stem
    chosen = tyro.cli(options, description=doc, use_underscores=True)
    cli.prepare_backend()
    with cli.one_line_errors():
        make(name, chosen, grid, draw)


def make(name: str, options: Options, grid: Callable[[Any], list[Point]], draw: Callable[[Figures], None]) -> Figures:
    """Sweeps the grid and draws the figure, if any run is finished.

    Raises:
      InputError: as `sweep`; also where no run is finished.
    """
    if options.seeds < 1:
        raise InputError(f"seeds={options.seeds}: it must be at least 1")
    figures = Figures(name, options, sweep(grid(options), options))
    if not figures.runs:
        hint = f": {figures.missing}" if options.train else "; leave out --no-train"
        raise InputError(f"no run of this figure is finished in {options.out}{hint}")
    draw(figures)
    return figures


def progress(items: Sequence[Any], what: str) -> Iterable[Any]:
    """A progress bar for what takes longer than two seconds."""
    return tqdm(items, desc=what, delay=2, leave=False)


def panels(count: int, width: float = 5.2, height: float = 4.2) -> tuple[Figure, list[Axes]]:
    """A figure of panels in a row."""
    figure = Figure(figsize=(width * count, height), layout="constrained")
    axes = list(figure.subplots(1, count, squeeze=False)[0])
    for one in axes:
        _plain_axes(one)
    return figure, axes


def _plain_axes(axes: Axes) -> None:
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def log_ticks(axes: Axes, values: Sequence[float]) -> None:
    """A logarithmic x axis with ticks at these values."""
    axes.set_xscale("log")
    axes.set_xticks(sorted(set(values)), [f"{v:g}" for v in sorted(set(values))])
    axes.xaxis.set_minor_locator(NullLocator())


def log_scale(axes: Axes, which: str) -> None:
    """Makes axis "x" or "y" logarithmic, with plain numbers at 1, 2 and 5 times powers of ten."""
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


def plot_collapse(axes: Axes, outcomes: Sequence[Outcome], x: Sequence[float]) -> None:
    """Debiased CDNV on the three sets, and plug-in CDNV dotted."""
    for name, label in SETS.items():
        if f"{name}/cdnv" not in outcomes[0].runs[0].records[0]:
            continue
        plot_means(axes, x, [o.mean(f"{name}/debiased_cdnv") for o in outcomes], label, color=SET_COLORS[name])
        plug_in = [o.mean(f"{name}/cdnv").value for o in outcomes]
        axes.plot(x, plug_in, ":", color=SET_COLORS[name], linewidth=1)
    axes.plot([], [], ":", color="grey", linewidth=1, label="plug-in")
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
    figure = Figure(figsize=(10.4, 4.2 * len(groups)), layout="constrained")
    for row, (name, outcomes) in zip(figure.subplots(len(groups), 2, squeeze=False), groups.items(), strict=True):
        x = [o.point.x for o in outcomes]
        plot_collapse(row[0], outcomes, x)
        plot_few_shot(row[1], outcomes, x)
        for axes in row:
            log_ticks(axes, x)
            axes.set_xlabel(x_label)
            axes.set_title(name)
            axes.legend(fontsize="small")
            _plain_axes(axes)
    figure.suptitle(f"{title}, ± 95 % over {figures.options.seeds} seeds")
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
    figure = Figure(figsize=(15.6 if scatter else 10.4, max(4.2, 2.4 + 0.36 * len(outcomes))), layout="constrained")
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
        one.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.18))
    figure.suptitle(f"{title}, ± 95 % over runs")
    print(table(outcomes))
    figures.save(figure, {"points": summary(outcomes), **(more or {})})


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
    """The points as text: CDNV on the three sets and few-shot accuracy, ± the 95 % t interval over seeds."""
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
        [*lines, f"{kind_label}; accuracy of NCC on target classes; ± 95 % t interval over seeds, none for one."]
    )


def kept(path: Path, settings: dict[str, Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `make` returns, from the file where that holds it of the same settings, else computed and written there."""
    wanted = json.loads(json.dumps(settings))  # as a file gives it back: tuples are lists
    try:
        found = json.loads(path.read_text())
        if found["settings"] == wanted:
            return dict(found["found"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # there is none, or it is of an older form
    made: dict[str, Any] = plain(make())
    write_atomically(path, json.dumps({"settings": wanted, "found": made}) + "\n")
    return made


def plain(value: Any) -> Any:
    """The same for JSON, which has neither infinity nor NaN: those become null."""
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value
