"""What the figures share: their command line, and a grid of runs that is trained once.

A figure is a list of points; a point is a configuration and is trained with several seeds. All figures keep their runs
in one folder, each under a name made of its settings, so that a run that two figures need is trained once. A command
that is given again skips what is finished and continues what was killed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from stats import Mean

from ncjax import cli, plots, runs
from ncjax.data import Benchmark
from ncjax.errors import InputError
from ncjax.files import write_atomically
from ncjax.runs import Run
from ncjax.train import Config, Diverged, load_benchmark, pretrain, resolve
from ncjax.train.config import identity, run_name
from ncjax.train.workdir import WorkdirLocked

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_T = TypeVar("_T")


@dataclass(frozen=True)
class Options:
    """What every figure asks."""

    preset: Literal["smoke", "paper"] = "smoke"
    """smoke: a small grid, minutes on two cores, mostly on glyphs, which need no download. paper: the real thing, for a
    GPU."""
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
    def files(self) -> tuple[Path, Path]:
        """Where its numbers and its picture go."""
        return output_files(self.name, self.options)

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
            note = f"drawn from {self.missing}"
            figure.text(0.005, 0.005, note, fontsize="x-small", color="C3", parse_math=False)
            print(note)
        numbers_file, figure_file = self.files
        content = {
            "figure": self.name,
            "preset": self.options.preset,
            "seeds": self.options.seeds,
            "missing": self.missing,
            "runs": [str(run.folder) for run in self.runs],
            "numbers": numbers,
        }
        cli.write(numbers_file, json.dumps(plain(content), indent=2) + "\n")
        print(f"numbers {numbers_file}")
        plots.save(figure, figure_file)


def output_files(name: str, options: Options) -> tuple[Path, Path]:
    """Where the numbers and the picture of a figure go."""
    stem = f"{name}-{options.preset}"
    return options.out / f"{stem}.json", options.out / f"{stem}.png"


def reference(options: Options, **changes: Any) -> Config:
    """The run that every figure varies: all source classes and images, the preset's network and length.

    It is measured several times, and its checkpoints are all kept, for figures that look into the network during
    training. With `changes`, unless these come to nothing, only the last checkpoints are kept, and in the smoke preset
    a run is measured at its start and its end, since measuring takes half as long there as training.
    """
    if options.preset == "paper":
        plain = Config(
            dataset="cifar_fs", data_dir=options.data_dir, preset="paper", num_source_classes=64,
            samples_per_class=500, keep_checkpoints=True,
        )  # fmt: skip
    else:
        plain = Config(
            preset="smoke", epochs=1, min_steps=400, batch_size=32, measurements=3, measure_episodes=1000,
            num_source_classes=64, samples_per_class=100, keep_checkpoints=True,
        )  # fmt: skip
    changed = dataclasses.replace(plain, **changes)
    if identity(resolve(changed)) == identity(resolve(plain)):
        return changed
    between = 0 if options.preset == "smoke" else plain.measurements
    return dataclasses.replace(changed, keep_checkpoints=False, measurements=between)


def folder(point: Point, options: Options) -> Path:
    """Where the runs of a point are, seed_0 and so on in it: named by all that can change their numbers.

    The seeds of a point are trained together, as one program, so that another number of them is another folder.
    """
    settled = resolve(dataclasses.replace(point.config, seed=0, seeds=1, workdir=None))
    # settings at their default do not count, so that one that is added later leaves the names of older runs
    changed = {key: value for key, value in identity(settled).items() if value != getattr(Config(), key)}
    digest = hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:10]
    name = f"{run_name(settled)}-{digest}-x{point.number_of_seeds(options)}"
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
        config.class_split, config.image_column, config.label_column, config.nested,
    )  # fmt: skip
    if key not in _loaded:
        _loaded.clear()
        _loaded[key] = load_benchmark(config)
    return _loaded[key]


def benchmark(run: Run, data_dir: str | None = None) -> Benchmark:
    """The data that a run was trained on; `data_dir` says where it is now, if it is of a folder.

    Raises:
      InputError: the data cannot be read, or is not what it was trained on.
    """
    return runs.open_benchmark(run.described, None if run.config.data_dir is None else data_dir, load=load)


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
        except WorkdirLocked:
            failed[workdir] = f"another process is at work in {workdir}"
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
    chosen = cli.read_options(options, doc)
    with cli.one_line_errors():
        cli.start_backend()
        make(name, chosen, grid, draw)


def make(name: str, options: Options, grid: Callable[[Any], list[Point]], draw: Callable[[Figures], None]) -> Figures:
    """Sweeps the grid and draws the figure, if any run is finished.

    Raises:
      InputError: as `sweep`; also where no run is finished.
    """
    if options.seeds < 1:
        raise InputError(f"seeds={options.seeds}: it must be at least 1")
    cli.check_out(*output_files(name, options))
    figures = Figures(name, options, sweep(grid(options), options))
    if not figures.runs:
        hint = f": {figures.missing}" if options.train else "; leave out --no-train"
        raise InputError(f"no run of this figure is finished in {options.out}{hint}")
    draw(figures)
    return figures


def kept(path: Path, settings: dict[str, Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `make` returns, from the file where that holds it of the same settings, else computed and written there."""
    wanted = json.loads(json.dumps(settings))  # as a file gives it back: tuples are lists
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["settings"] == wanted:
            return dict(found["found"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # there is none, or it is of an older form
    made: dict[str, Any] = plain(make())
    try:
        write_atomically(path, json.dumps({"settings": wanted, "found": made}) + "\n")
    except OSError as error:  # the figure can be drawn all the same
        print(f"{path} could not be kept: {error.strerror}; it will be computed again", file=sys.stderr)
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
