"""Writes one HTML page about runs: curves, tables, and panels of the target classes of one run.

python experiments/report.py RUN: a run's folder, a folder of seeds, or any folder that holds runs; or several.
python experiments/report.py RUN RUN --out=report.html --detail=2: panels of the second run on the page.
python experiments/report.py --encoder=timm:resnet18 --dataset=cifar_fs --data_dir=PATH: the panels of an encoder.

The page is one file that needs no network. If a run's data cannot be read, the page leaves out the panels and says so.
Where the package is installed, `ncjax-report` is the same command.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

import ncjax
from ncjax import cli, runs
from ncjax.errors import InputError
from ncjax.tables import TableFormat, show


@dataclass(frozen=True)
class Options:
    """What to show, and where to write it."""

    paths: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Folders of runs of pretrain.py, or folders that hold such."""
    out: Path = Path("report.html")
    """File for the page."""
    detail: int = 1
    """Number of the run, as the page counts them, whose target classes are shown; 0 for none."""
    encoder: str | None = None
    """Instead of runs: timm:NAME, hf:NAME_OR_FOLDER, torchvision:NAME or package.module:function."""
    dataset: str | None = None
    """Data set whose target classes --encoder is shown on; see python -m ncjax.data."""
    image_size: int | None = None
    """Side of the images that --encoder takes, in pixels; by default that of its own configuration."""
    data_dir: str | None = None
    """Folder of that run's data, if it has moved; or of the images for --encoder."""
    episodes: int = 2000
    """Few-shot episodes for each point of accuracy against shots."""
    format: TableFormat | None = None
    """Prints the tables of the page too, in this format; each table of the page has a button that saves it as CSV."""


def write(options: Options) -> None:
    """Reads the runs and writes the page.

    Raises:
      InputError: an option is wrong, a run cannot be read, or the page cannot be written.
    """
    cli.check_out(options.out)
    if options.episodes < 2:
        raise InputError(f"--episodes={options.episodes}: an interval needs at least 2")
    if options.encoder is not None:
        write_encoder(options)
        return
    measured = read_measured(options.paths)
    count = len(measured)
    if not 0 <= options.detail <= count:
        raise InputError(f"--detail={options.detail}: there are {count} runs; give 1 to {count}, or 0")
    report = _import_report()
    detail, missing = None, ""
    if options.detail:
        try:
            detail = report.examine(measured[options.detail - 1], data_dir=options.data_dir, episodes=options.episodes)
        except InputError as error:
            missing = f"The panels of target classes are missing, since they need the run's data and weights: {error}"
            print(missing, file=sys.stderr)
    if options.format is not None:
        show(report.tables.of_page(measured, detail), options.format)
    _write_page(options, report.page(measured, detail, missing=missing), "1 run" if count == 1 else f"{count} runs")


def write_encoder(options: Options) -> None:
    """Writes the page of an encoder on the target classes of a data set.

    Raises:
      InputError: the encoder or the data cannot be loaded, or runs are given too.
    """
    assert options.encoder is not None
    if options.paths:
        raise InputError("give runs or --encoder, not both")
    if options.dataset is None:
        raise InputError("--encoder needs images: give --dataset=NAME, and --data_dir=PATH where they are your own")
    report = _import_report()
    target = ncjax.data.load(options.dataset, data_dir=options.data_dir).target
    params = ncjax.encoders.load(options.encoder, image_size=options.image_size)
    name = f"{params.network.name} on {options.dataset}"
    detail = report.examine_encoder(params, target, name=name, episodes=options.episodes)
    if options.format is not None:
        show(report.tables.of_page([], detail), options.format)
    _write_page(options, report.page([], detail), name)


def _import_report() -> Any:
    try:
        from ncjax import report
    except ModuleNotFoundError as error:
        if error.name not in ("bokeh", "jinja2"):
            raise
        raise InputError('the report needs Bokeh: pip install -e ".[report]"') from None
    return report


def _write_page(options: Options, text: str, subject: str) -> None:
    cli.write(options.out, text)
    size = len(text.encode("utf-8", "surrogateescape")) / 1e6
    out = sys.stdout if options.format is None else sys.stderr  # so that the tables alone can be redirected
    print(f"report  {options.out}  ({subject}, {size:.1f} MB)", file=out)


def read_measured(paths: tuple[Path, ...]) -> list[runs.Run]:
    """Reads the runs at or below these paths, without those that have no measurement yet.

    Raises:
      InputError: there is no run, or none with a measurement.
    """
    if not paths:
        raise InputError("give the folder of a run of pretrain.py, or several")
    measured = []
    for folder in runs.find(*paths):
        if (folder / "metrics.jsonl").exists():
            measured.append(runs.read(folder))
        else:
            print(f"left out: {folder} has only begun, nothing is measured yet", file=sys.stderr)
    if not measured:
        raise InputError("nothing is measured yet in any of these runs; wait for the first measurement")
    return measured


def main() -> None:
    """Writes the page that the command line asks for."""
    options = cli.read_options(Options, __doc__)
    with cli.one_line_errors():
        cli.start_backend()
        write(options)
