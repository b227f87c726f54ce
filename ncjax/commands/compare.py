"""Compares finished runs that differ in their settings: every measure, with intervals over seeds, and a figure.

python experiments/compare.py RUN RUN…: folders of runs, of their seeds, or of many runs, for example runs/.
python experiments/compare.py runs --episodes=10000: also few-shot accuracy on the same episodes, from checkpoints.
python experiments/compare.py runs --format=latex: the table as LaTeX, CSV or Markdown.

Configurations are named by the settings in which they differ. The first one is the baseline, or --baseline names it.
Runs are paired by seed where both have the same seeds. Runs on other target data are never pooled.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import tyro

from ncjax import cli, plots
from ncjax.errors import InputError
from ncjax.eval.intervals import COLUMNS, half_widths_note
from ncjax.files import json_text
from ncjax.measures import of_key
from ncjax.runs import Comparison, Difference, Run, comparison, find, open_benchmark, read
from ncjax.tables import Table, TableFormat, show

_HALVES = ("ci95", "target_ci95")
HEADER = ("measure", "better", "baseline", "other", "change", "95 % interval", "verdict")


@dataclass(frozen=True)
class Options:
    """Which runs to compare, and what to show."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of runs, of seeds, or of many runs."""
    baseline: str | None = None
    """Name of the configuration that others are compared with; the first by default."""
    all_measures: bool = False
    """Every measure of the records; by default CDNV and accuracies."""
    episodes: int = 0
    """Few-shot episodes on which runs of the same seed are compared, from their checkpoints; 0 for none."""
    shots: int = 5
    """Support images a class of these episodes."""
    data_dir: str | None = None
    """Folder of the runs' data, for --episodes, if it has moved."""
    format: TableFormat = "text"
    """How tables are printed."""
    out: Path | None = None
    """File for the comparison as JSON."""
    figure: Path | None = None
    """File for a figure of the courses of training, a colour for each configuration."""


def value_text(difference: Difference, value: float) -> str:
    """Formats a value of a measure: shares in percent."""
    return of_key(difference.measure).number(value)


def _is_share(difference: Difference) -> bool:
    return of_key(difference.measure).is_share


def _change(difference: Difference) -> tuple[str, str]:
    """The change and its interval: a factor, or percentage points for shares."""

    def shown(value: float) -> str:
        if difference.ratio:
            return f"× {value:.3f}"
        return f"{100 * value:+.2f} points" if _is_share(difference) else f"{value:+.3g}"

    if difference.estimate is None:
        return "", difference.reason
    if difference.low is None or difference.high is None:
        return shown(difference.estimate), difference.reason
    return shown(difference.estimate), f"{shown(difference.low)} to {shown(difference.high)}"


def table(compared: Comparison) -> Table:
    """Tabulates a comparison, a row for each measure."""
    rows = [
        (
            of_key(difference.measure).name,
            {True: "lower", False: "higher", None: "–"}[difference.lower_is_better],
            value_text(difference, difference.baseline),
            value_text(difference, difference.other),
            *_change(difference),
            difference.verdict,
        )
        for difference in compared.differences
    ]
    return Table(HEADER, rows, heading(compared))


def heading(compared: Comparison) -> str:
    """Says which configurations are compared, on which data, and how runs are paired."""
    pairs = max((difference.pairs for difference in compared.differences), default=0)
    how = f"paired by {pairs} seeds" if pairs else "not paired"
    runs = f"{len(compared.baseline.runs)} and {len(compared.other.runs)} runs"
    return (
        f"{compared.other.name} beside the baseline {compared.baseline.name}; target data: {compared.other.data}; "
        f"{runs}, {how}; intervals cover {comparison.COVERS}"
    )


def run(options: Options) -> None:
    """Prints the comparison and writes its files.

    Raises:
        InputError: If a run cannot be read or is not finished, or there is nothing to compare.
    """
    cli.check_out(options.out, options.figure)
    runs = [read(folder) for folder in find(*options.runs)]
    comparisons = comparison.compare(runs, baseline=options.baseline, all_measures=options.all_measures)
    show([table(compared) for compared in comparisons], options.format)
    paired = _episodes(comparisons, options) if options.episodes else []
    if options.out is not None:
        cli.write(
            options.out,
            json_text({"comparisons": [_as_json(compared) for compared in comparisons], "episodes": paired}),
        )
    if options.figure is not None:
        messages = sys.stdout if options.format == "text" else sys.stderr  # so that tables alone can be redirected
        plots.save(plots.plot_configurations(comparison.configurations(runs)), options.figure, messages)


def _episodes(comparisons: list[Comparison], options: Options) -> list[dict[str, object]]:
    """Prints few-shot accuracy on the same episodes, for each pair of runs of one seed."""
    baselines = {compared.baseline.data: compared.baseline.runs[0] for compared in comparisons}
    targets = {data: open_benchmark(run.description, options.data_dir).target for data, run in baselines.items()}
    reports = {}  # a baseline is compared more than once, and evaluated once
    for compared in comparisons:
        for run in chain.from_iterable(run_pairs(compared)):
            if run.folder not in reports:
                reports[run.folder] = comparison.episode_report(
                    run, targets[compared.other.data], shots=options.shots, episodes=options.episodes
                )
    results: list[dict[str, object]] = []
    rows = []
    for compared in comparisons:
        for first, second in run_pairs(compared):
            difference = reports[second.folder].compare(reports[first.folder])
            halves = ["–" if math.isnan(h) else f"{100 * h:.2f}" for h in (difference.ci95, difference.target_ci95)]
            seed = str(second.config.seed)
            rows.append(
                [compared.other.name, compared.baseline.name, seed, f"{100 * difference.difference:+.2f}", *halves]
            )
            results.append(
                {"other": compared.other.name, "seed": second.config.seed}
                | {"difference": dataclasses.asdict(difference)}
            )
    header = ["configuration", "less the baseline", "seed", "difference, points", *(COLUMNS[name] for name in _HALVES)]
    title = f"{options.shots}-shot ncc accuracy on the same {options.episodes} episodes"
    print()
    notes = [half_widths_note(_HALVES), "A positive difference is better than the baseline."]
    show([Table(header, rows, title, notes, left=3)], options.format)
    return results


def run_pairs(compared: Comparison) -> list[tuple[Run, Run]]:
    """Pairs runs of the same seed; the first runs of both if they have no seed in common."""
    common = [seed for seed in compared.baseline.seeds if seed in compared.other.seeds]
    if not common:
        return [(compared.baseline.runs[0], compared.other.runs[0])]
    return [
        (
            compared.baseline.runs[compared.baseline.seeds.index(seed)],
            compared.other.runs[compared.other.seeds.index(seed)],
        )
        for seed in common
    ]


def _as_json(compared: Comparison) -> dict[str, object]:
    return {
        "baseline": compared.baseline.name,
        "other": compared.other.name,
        "target_data": compared.other.data,
        "covers": comparison.COVERS,
        "runs": [[str(run.folder) for run in c.runs] for c in (compared.baseline, compared.other)],
        "differences": [dataclasses.asdict(d) | {"verdict": d.verdict} for d in compared.differences],
    }


def main() -> None:
    """Compares the runs that the command line names."""
    options = cli.read_options(Options, __doc__)
    with cli.one_line_errors():
        if not options.runs:
            raise InputError("give two or more folders of runs of pretrain.py")
        cli.start_backend()
        run(options)


if __name__ == "__main__":
    main()
