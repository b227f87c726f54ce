"""States whether the claims of the theory held in the runs given, with numbers and intervals.

python experiments/claims.py RUN…: a RUN is the folder of a run, of its seeds, or of many runs, for example
runs/figures. The claims (Galanti, György, Hutter, ICLR 2022, arXiv 2112.15121):
  1. CDNV falls during training on source-train, source-test and target.
  2. CDNV of source-train < source-test < target.
  3. More source classes: lower target CDNV, higher few-shot accuracy.
  4. Few-shot error rises with target CDNV.
  5. No bound on the few-shot error is violated.

A claim has parts, each with an estimate and a 95 % interval of its own. Its verdict is the first of these that holds:
  contradicted   the whole interval of some part is on the other side;
  not supported  the interval of some part contains the null value;
  not tested     the runs given cannot decide some part;
  supported      the whole interval of every part is on the claim's side.

So a part that could not be tested never hides a part that failed its test. A bound that is vacuous, at 1 or more
everywhere, is listed as not tested and does not count.

Runs on different target data are never in one interval: claims 1, 2 and 4 are judged for each data set. Claim 5 takes
the least favourable case of all runs.

Intervals: 1 and 2, t over logarithms of ratios, where the mean of a configuration's seeds is one value, since seeds of
one configuration are not independent evidence of others; over the seeds if all runs are of one configuration. 3,
Welch's t between the runs of the fewest and of the most classes. 4, percentiles of a bootstrap of Spearman's rank
correlation that resamples configurations, each with all its runs, or runs if there is one configuration; none for
fewer than five. 5, t over episodes. The intervals cover other configurations or runs like these, for 5 other episodes
of the same images. They cover neither other target classes nor other source classes, which a seed does not redraw:
split_seed alone does, and "5 classes" are the same five in all runs of one split_seed. CDNV is debiased, with the
plug-in value beside it. If a debiased value is infinite, because two class means are too near to tell apart, the
plug-in value decides the part, and the note says so. Copies of one training count as one run, however often it was
measured. With just five single runs a bootstrap is a rough guide: of unrelated numbers one in eight passes.

Exit code 0 whatever the verdict, 2 if a run cannot be read. Measured results: experiments/RESULTS.md.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from common.bounds import bounds_hold
from common.verdicts import (
    Claim,
    Part,
    cdnv_falls,
    cdnv_is_ordered,
    error_follows_cdnv,
    more_classes_help,
    settings_without,
)
from ncjax import cli
from ncjax.errors import InputError
from ncjax.files import json_text
from ncjax.runs import Run, configurations, find, read as read_run
from ncjax.runs.comparison import target_data
from ncjax.tables import Table, TableFormat, show


@dataclass(frozen=True)
class Options:
    """Which runs, and where the verdicts go."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of runs, of seeds, or of many runs."""
    out: Path | None = None
    """File for the verdicts as JSON."""
    bounds: bool = True
    """With --no_bounds claim 5, which extracts features of every run, is not tested."""
    episodes: int = 2000
    """Few-shot episodes for each number of shots of claim 5."""
    data_dir: str | None = None
    """Folder of the runs' data, for claim 5, if it has moved."""
    format: TableFormat = "text"
    """How tables are printed."""


def read(paths: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """Reads the finished runs at or below these folders, without those that continue other runs.

    Copies of a run, with the same training, data and seed, count as one run: the copy with the most records.

    Returns:
      The runs, and a line on each run that is left out.

    Raises:
      InputError: a run cannot be read.
    """
    finished: dict[tuple[str, str], Run] = {}
    left_out = []
    for folder in find(*paths):
        if not (folder / "metrics.jsonl").exists():
            left_out.append(f"{folder} has only begun")
            continue
        run = read_run(folder)
        if not run.finished:
            left_out.append(f"{folder} stopped at step {run.records[-1]['step']}")
            continue
        if run.config.continue_from is not None:
            left_out.append(f"{folder} continues another run, and does not begin untrained")
            continue
        key = settings_without(run), run.description.data.fingerprint
        earlier = finished.setdefault(key, run)
        if earlier is not run:
            better, worse = (run, earlier) if len(run.records) > len(earlier.records) else (earlier, run)
            finished[key] = better
            left_out.append(f"{worse.folder} is the same training as {better.folder}")
    return list(finished.values()), left_out


def check(runs: Sequence[Run], *, episodes: int | None = 2000, data_dir: str | None = None) -> list[Claim]:
    """Judges all claims; with `episodes` None claim 5 is not tested, and no features are extracted."""
    groups = by_target_data(runs)
    claims = [claim(group) for claim in (cdnv_falls, cdnv_is_ordered) for group in groups.values()]
    if len(groups) > 1:
        names = list(groups) * 2
        claims = [replace(claim, scope=f"{data}; {claim.scope}") for claim, data in zip(claims, names, strict=True)]
    claims += [*more_classes_help(runs), *error_follows_cdnv(runs)]
    if episodes is None:
        return [*claims, Claim("no bound is violated", "left out by --no_bounds")]
    return [*claims, bounds_hold(runs, episodes, data_dir)]


def by_target_data(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Groups runs by their target data, since no interval is over runs on different data."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(target_data(run), []).append(run)
    return groups


def configurations_table(runs: Sequence[Run]) -> Table:
    """Tabulates the configurations of the runs, each named by the settings in which it differs from others."""
    rows = [
        [configuration.name, configuration.data, ", ".join(map(str, configuration.seeds))]
        for configuration in configurations(runs, drop_copies=True)
    ]
    return Table(
        ["configuration", "target data", "seeds"],
        rows,
        f"{len(rows)} configurations, {len(runs)} finished runs",
        left=2,
    )


def table(claims: Sequence[Claim]) -> str:
    """Tabulates the parts of all claims as text."""
    return "\n".join(of_claim.format() for of_claim in tables(claims))


def tables(claims: Sequence[Claim]) -> list[Table]:
    """Returns a table for each claim, a row for each part, with the notes on parts below it."""
    header = ["compared", "estimate", "95 % interval", "claimed", "verdict"]
    return [
        Table(
            header,
            [
                [
                    part.name,
                    "" if math.isnan(part.estimate) else _number(part, part.estimate),
                    "" if math.isnan(part.low) else f"{_number(part, part.low)} to {_number(part, part.high)}",
                    part.claimed,
                    part.verdict,
                ]
                for part in claim.parts
            ],
            f"{claim.verdict.upper()}: {claim.name} ({claim.scope})",
            _notes(claim.parts),
        )
        for claim in claims
    ]


def _notes(parts: Sequence[Part]) -> list[str]:
    """Returns each note once, after the names of the parts that it is on."""
    names_of: dict[str, list[str]] = {}
    for part in parts:
        if part.note:
            names_of.setdefault(part.note, []).append(part.name)
    return [f"{'; '.join(names)}: {note}." for note, names in names_of.items()]


def _number(part: Part, value: float) -> str:
    return f"{100 * value:+.2f} points" if part.is_share else f"{value:.4g}"


def as_json(claims: Sequence[Claim], runs: Sequence[Run], left_out: Sequence[str]) -> str:
    """Writes verdicts and numbers as JSON."""
    content = {
        "runs": [str(run.folder) for run in runs],
        "unfinished": list(left_out),
        "claims": [
            {"name": c.name, "scope": c.scope, "verdict": c.verdict, "parts": [vars(part) for part in c.parts]}
            for c in claims
        ],
    }
    return json_text(content)


def main() -> None:
    """Judges the runs that the command line names."""
    options = cli.read_options(Options, __doc__)
    with cli.one_line_errors():
        cli.start_backend()
        if not options.runs:
            raise InputError("give the folder of a run of pretrain.py, or several")
        if options.bounds and options.episodes < 2:
            raise InputError(f"episodes={options.episodes}: give at least 2, or --no_bounds")
        cli.check_out(options.out)
        runs, left_out = read(options.runs)
        for line in left_out:
            print(f"left out: {line}", file=sys.stderr)
        claims = check(runs, episodes=options.episodes if options.bounds else None, data_dir=options.data_dir)
        show([configurations_table(runs), *tables(claims)], options.format)
        if options.format == "text":
            print(
                "\nIntervals are 95 %, each of its own: over configurations or runs on one data set, for the bounds "
                "over episodes.\nThey cover neither other target classes nor other source classes, which a seed does "
                "not redraw.\nA vacuous bound is at 1 or more, where no error can exceed it: it says nothing, and is "
                "not tested."
            )
        if options.out is not None:
            cli.write(options.out, as_json(claims, runs, left_out))
            print(f"written to {options.out}", file=sys.stderr)


if __name__ == "__main__":
    main()
