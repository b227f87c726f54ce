"""Trains the grid of runs behind a figure, and draws the figure from the runs that are finished.

A figure is a list of points; a point is a configuration, which is trained with several seeds. All figures keep their
runs in one folder, each under a name made of its settings, so that a run that two figures need is trained once. The
same command skips finished runs and continues interrupted ones.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from ncjax import cli, plots, runs, train
from ncjax.errors import InputError
from ncjax.files import json_text
from ncjax.runs import Run
from ncjax.statistics import Mean
from ncjax.train.config import Config, identity, run_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ncjax.data import Benchmark

_T = TypeVar("_T")
_DATA_SETTINGS = (
    "dataset", "data_dir", "num_source_classes", "source_test_per_class", "samples_per_class", "split_seed",
    "image_size", "rotations", "skip_corrupt", "class_split", "image_column", "label_column", "nested", "stream",
)  # fmt: skip


@dataclass(frozen=True)
class Options:
    """Options of every figure."""

    preset: Literal["smoke", "small", "paper"] = "smoke"
    """smoke: a small grid, minutes on two cores, mostly on glyphs, which need no download. small: photographs or
    handwriting and a small network, hours on two cores. paper: the grid of the paper, for a GPU."""
    dataset: Literal["cifar_fs", "fc100", "emnist"] = "cifar_fs"
    """The data set of the small preset."""
    data_dir: str | None = None
    """Folder of the data set's official archive; without it the archive is downloaded, where the preset needs one."""
    seeds: int = 3
    """Runs at each point, with the seeds 0, 1, …; intervals are over these."""
    shard: str = "1/1"
    """i/n: trains the i-th of n parts of the grid, to divide it over machines that share the folder `out`."""
    out: Path = Path("runs/figures")
    """Folder of all figures and their runs."""
    train: bool = True
    """With --no-train nothing is trained: the figure is drawn from the finished runs."""


@dataclass(frozen=True)
class Point:
    """A configuration on a figure.

    Attributes:
      label: its name on the figure.
      config: its settings; `sweep` sets seed, seeds and workdir.
      x: its value on a numerical axis, or NaN.
      group: the curve or panel that it belongs to.
      seeds: number of seeds; None for the command line's.
    """

    label: str
    config: Config
    x: float = math.nan
    group: str = ""
    seeds: int | None = None

    def number_of_seeds(self, options: Options) -> int:
        """Returns its own number of seeds, or the command line's."""
        return options.seeds if self.seeds is None else self.seeds


@dataclass(frozen=True)
class Outcome:
    """The finished runs of a point: fewer than its seeds if some are missing or did not finish.

    Attributes:
      point: the point.
      runs: the finished runs, by seed.
      failed: why this command did not finish some runs, or "".
    """

    point: Point
    runs: list[Run]
    failed: str = ""

    def values(self, key: str) -> list[float]:
        """Returns the last record's value of each run."""
        return [run.final(key) for run in self.runs]

    def mean(self, key: str) -> Mean:
        """Returns the mean of `values` with its t interval over seeds."""
        return Mean.of(self.values(key))


@dataclass(frozen=True)
class Figures:
    """A figure's finished runs, and its files.

    Attributes:
      name: name of its files.
      options: the command line.
      outcomes: an outcome for each point of the grid, in its order.
    """

    name: str
    options: Options
    outcomes: list[Outcome]

    @cached_property
    def runs(self) -> list[Run]:
        """The finished runs of all points, without duplicates where points share a run."""
        return list({run.folder: run for outcome in self.outcomes for run in outcome.runs}.values())

    @property
    def files(self) -> tuple[Path, Path]:
        """Files for its numbers and its picture."""
        return output_files(self.name, self.options)

    @property
    def finished(self) -> list[Outcome]:
        """Outcomes with at least one finished run."""
        return [outcome for outcome in self.outcomes if outcome.runs]

    @property
    def missing(self) -> str:
        """One line about runs that are missing, or ""."""
        distinct = _first_in_folder(self.outcomes, lambda outcome: folder(outcome.point, self.options))
        total = sum(outcome.point.number_of_seeds(self.options) for outcome in distinct)
        lines = [f"{len(self.runs)} of {total} runs"] if len(self.runs) < total else []
        return "; ".join(lines + [f"{outcome.point.label}: {outcome.failed}" for outcome in distinct if outcome.failed])

    def groups(self) -> dict[str, list[Outcome]]:
        """Returns the finished outcomes by group."""
        groups: dict[str, list[Outcome]] = {}
        for outcome in self.finished:
            groups.setdefault(outcome.point.group, []).append(outcome)
        return groups

    def save(self, figure: Figure, numbers: Any) -> None:
        """Writes the figure as PNG and its numbers as JSON."""
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
        cli.write(numbers_file, json_text(content))
        print(f"numbers {numbers_file}")
        plots.save(figure, figure_file)


def output_files(name: str, options: Options) -> tuple[Path, Path]:
    """Returns the files for the numbers and the picture of a figure."""
    dataset = f"-{options.dataset}" if options.preset == "small" else ""
    stem = f"{name}-{options.preset}{dataset}"
    return options.out / f"{stem}.json", options.out / f"{stem}.png"


def folder(point: Point, options: Options) -> Path:
    """Returns the folder of a point's runs, seed_0 and so on, named by every setting that can change their numbers.

    The seeds of a point are trained together, as one program, so that another number of seeds is another folder.
    """
    settled = train.resolve(dataclasses.replace(point.config, seed=0, seeds=1, workdir=None))
    digest = hashlib.sha256(json.dumps(identity(settled), sort_keys=True).encode()).hexdigest()[:10]
    name = f"{run_name(settled)}-{digest}-x{point.number_of_seeds(options)}"
    return options.out / "runs" / name


def part(points: Sequence[Point], shard: str) -> list[Point]:
    """Returns the i-th of n parts of a grid; together the n parts hold every point once.

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


def _first_in_folder(items: Iterable[_T], folder_of: Callable[[_T], Path]) -> list[_T]:
    """Returns the first item of each folder, since two points of a figure may be one configuration."""
    first: dict[Path, _T] = {}
    for item in items:
        first.setdefault(folder_of(item), item)
    return list(first.values())


def load(config: Config) -> Benchmark:
    """Loads the data of a configuration; keeps the last, which neighbours in a grid often share."""
    config = train.resolve(config)
    return _load_cached(Config(**{name: getattr(config, name) for name in _DATA_SETTINGS}))


@lru_cache(maxsize=1)
def _load_cached(config: Config) -> Benchmark:
    return train.load_benchmark(config)


def benchmark(run: Run, data_dir: str | None = None) -> Benchmark:
    """Loads the data that a run was trained on.

    Args:
      run: the run.
      data_dir: folder of the data, if it has moved; ignored for data that has no folder.

    Raises:
      InputError: the data cannot be read, or is not the run's.
    """
    return runs.open_benchmark(run.description, None if run.config.data_dir is None else data_dir, load=load)


def sweep(points: Sequence[Point], options: Options) -> list[Outcome]:
    """Trains this machine's part of the grid where it is not finished, and reads the finished runs of the whole grid.

    A point that another process is training is left to that process.

    Raises:
      InputError: a setting is wrong, or data cannot be read.
      Interrupted: after SIGINT or SIGTERM, once the state is saved.
    """
    # two points of one folder would meet in two shards, and the second would be refused the folder
    mine = part(_first_in_folder(points, lambda point: folder(point, options)), options.shard)
    waiting = [p for p in mine if options.train and len(_finished(p, options)) < p.number_of_seeds(options)]
    # points that share their data follow each other
    waiting.sort(key=lambda p: repr((p.config.dataset, p.config.num_source_classes, p.config.samples_per_class)))
    failed: dict[Path, str] = {}
    for number, point in enumerate(waiting, len(mine) - len(waiting) + 1):
        print(
            f"[{number}/{len(mine)}] {point.label}, seeds: {point.number_of_seeds(options)}",
            file=sys.stderr,
            flush=True,
        )
        reason = _train(point, options)
        if reason:
            failed[folder(point, options)] = reason
    return [Outcome(p, _finished(p, options), failed.get(folder(p, options), "")) for p in points]


def _train(point: Point, options: Options) -> str:
    """Trains all seeds of a point; returns why they did not finish, or ""."""
    workdir, seeds = folder(point, options), point.number_of_seeds(options)
    config = dataclasses.replace(
        point.config, seed=0, seeds=seeds, workdir=workdir / "seed_0" if seeds == 1 else workdir
    )
    try:
        train.pretrain(config, benchmark=load(config))
    except train.Diverged as error:
        print(f"{point.label}: {error}", file=sys.stderr)
        return str(error).split(";")[0]
    except train.WorkdirLocked:
        reason = f"another process is at work in {workdir}"
        print(f"{point.label}: {reason}; left to it", file=sys.stderr)
        return reason
    return ""


def _finished(point: Point, options: Options) -> list[Run]:
    workdir = folder(point, options)
    finished = []
    for seed in range(point.number_of_seeds(options)):
        try:
            run = runs.read(workdir / f"seed_{seed}")
        except InputError:  # it has not begun, or has just begun
            continue
        if run.finished:
            finished.append(run)
    return finished


def main(
    doc: str | None,
    grid: Callable[[Any], list[Point]],
    draw: Callable[[Figures], None],
    *,
    options: type[Options] = Options,
) -> None:
    """Runs `python experiments/FIGURE.py`: reads the command line, sweeps the grid, draws the figure."""
    name = Path(sys.argv[0]).stem
    chosen = cli.read_options(options, doc)
    with cli.one_line_errors():
        cli.start_backend()
        make(name, chosen, grid, draw)


def make(name: str, options: Options, grid: Callable[[Any], list[Point]], draw: Callable[[Figures], None]) -> Figures:
    """Sweeps the grid and draws the figure.

    Raises:
      InputError: as `sweep`; also if no run is finished.
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
