"""Writes one HTML page about runs: curves, tables, and panels of the target classes of one of them.

python experiments/report.py RUN: a run's folder, a folder of seeds, or any folder that holds runs; or several.
python experiments/report.py RUN RUN --out=report.html --detail=2: the panels are of the second run on the page.

The page holds all that it needs: it opens from disk, without a network. Where a run's data cannot be read, it is made
of the records alone, and says so.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from ncjax import cli, runs
from ncjax.errors import InputError


@dataclass(frozen=True)
class Options:
    """What to show, and where to write it."""

    paths: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Folders of runs of pretrain.py, or folders that hold such."""
    out: Path = Path("report.html")
    """The page."""
    detail: int = 1
    """Number of the run, as the page counts them, whose target classes are shown; 0 for none."""
    data_dir: str | None = None
    """Where that run's data is, if it is no longer where it was."""
    episodes: int = 2000
    """Few-shot episodes for each point of accuracy against shots."""


def write(options: Options) -> None:
    """Reads the runs and writes the page."""
    cli.check_out(options.out)
    if not options.paths:
        raise InputError("give the folder of a run of pretrain.py, or several")
    if options.episodes < 2:
        raise InputError(f"--episodes={options.episodes}: an interval needs at least 2")
    found = []
    for folder in runs.find(*options.paths):
        if (folder / "metrics.jsonl").exists():
            found.append(runs.read(folder))
        else:
            print(f"left out: {folder} has only begun, nothing is measured yet", file=sys.stderr)
    if not found:
        raise InputError("nothing is measured yet in any of these runs; wait for the first measurement")
    if not 0 <= options.detail <= len(found):
        raise InputError(f"--detail={options.detail}: there are {len(found)} runs; give 1 to {len(found)}, or 0")
    try:
        from ncjax import report
    except ModuleNotFoundError as error:
        if error.name not in ("bokeh", "jinja2"):
            raise
        raise InputError('the report needs Bokeh: pip install -e ".[report]"') from None
    detail, missing = None, ""
    if options.detail:
        try:
            detail = report.examine(found[options.detail - 1], data_dir=options.data_dir, episodes=options.episodes)
        except InputError as error:
            missing = f"The panels of target classes are missing, since they need the run's data and weights: {error}"
            print(missing, file=sys.stderr)
    text = report.page(found, detail, missing=missing)
    cli.write(options.out, text)
    count = "1 run" if len(found) == 1 else f"{len(found)} runs"
    size = len(text.encode("utf-8", "surrogateescape"))
    print(f"report  {options.out}  ({count}, {size / 1e6:.1f} MB)")


def main() -> None:
    """Runs what the command line says."""
    options = cli.read_options(Options, __doc__)
    with cli.one_line_errors():
        cli.start_backend()
        write(options)


if __name__ == "__main__":
    main()
