"""States whether the claims of the theory held in the runs given, with numbers and intervals.

python experiments/claims.py RUN…: a RUN is the folder of a run, of its seeds, or of many runs, for example
runs/figures. The claims (Galanti, György, Hutter, ICLR 2022, arXiv 2112.15121):
  1. CDNV falls during training on source-train, source-test and target.
  2. CDNV of source-train < source-test < target.
  3. More source classes: lower target CDNV, higher few-shot accuracy.
  4. Few-shot error rises with target CDNV.
  5. No bound on the few-shot error is violated.

A claim has parts, each with an estimate and a 95 % interval by itself. It reads the first of these that is true:
  contradicted   the interval of some part is wholly on the other side;
  not supported  that of some part holds the null;
  not tested     the runs given cannot say of some part;
  supported      the interval of every part is wholly on the claim's side.
So a part that failed its test is never hidden by one that could not be tested; a bound that is vacuous, at 1 or more
everywhere, is listed as not tested and does not count.
Intervals: 1 and 2, t over logarithms of ratios, the mean of each configuration's seeds for one value, since seeds of
one configuration are no independent evidence of others; over the seeds where all runs are of one configuration. 3,
Welch's t between the runs of the fewest and of the most classes; 4, percentiles of a bootstrap of Spearman's rank
correlation that resamples configurations, each with all its runs, or runs where there is one configuration, none for
fewer than five; 5, t over episodes. They cover other configurations or runs like these, for 5 other episodes from the
same images; neither other target classes nor other source classes, for a seed redraws neither: split_seed alone does,
and "5 classes" are the same five in all runs of one split_seed. CDNV is debiased; the plug-in value stands beside it.
Where a debiased value is infinite, since two class means are too near to tell apart, the part is decided by the plug-in
value, and says so. A run that was trained twice is one run, however often it was measured. With just five single runs a
bootstrap is a rough guide: of unrelated numbers one in eight passes.

Exit code 0 whatever the verdict, 2 if a run cannot be read.

Measured on 33 smoke runs, those of number_of_classes.py, samples_per_class.py and regularization.py (11 configurations
of glyphs, three seeds each), on two cores of an AMD EPYC with AVX-512, 2026-11-27, in 52 s: 1, 3 and 4 are supported.
  1. Last over first plug-in CDNV, over configurations: 0.031 [0.022, 0.043] on source-train, 0.035 [0.027, 0.045] on
     source-test, 0.070 [0.059, 0.083] on target. (An untrained network's debiased CDNV is infinite.)
  2. Not supported in its first part: source-test / source-train is 1.033 [0.978, 1.091]; target / source-test 2.2 [1.4,
     3.6]. The first follows the number of images that a run has: 0.97 to 1.00 in the six configurations of 64 classes
     with 100 images each, 1.01 with 20 classes, 1.08 with 10 and 1.05 with 5, 1.07 with 30 images a class and 1.29 with
     10. In 400 steps of 32 images those of 64 classes are seen twice, and old ones are like new ones; what is left is
     the difference between the two samples.
  3. 64 against 5 classes: target CDNV 0.41 [0.19, 0.85] of that with 5; accuracy + 23 [16, 29] points in 1 shot, + 19
     [13, 24] in 5. The same runs on a processor that rounds differently had 0.35 [0.12, 1.02], which is not enough, for
     the seeds of 5 classes are far apart: three are few.
  4. Spearman's correlation over last checkpoints 0.93 [0.78, 0.98] (1 shot) and 0.88 [0.60, 0.97] (5), over all but the
     first 0.92 [0.66, 0.99] and 0.90 [0.58, 0.98].
  5. Not tested: after so short a training all bounds are 1 or more, with up to 50 shots.
On CIFAR-FS with 5 and with 64 source classes (README.md), three seeds each: of 64 classes alone 1 and 2 are supported
in all parts, of both 3.
"""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from scipy.stats import ttest_1samp
from stats import FEWEST, correlation_interval, independent, spearman, welch
from sweep import benchmark

from ncjax import cli, collapse, features
from ncjax.errors import InputError
from ncjax.eval import feature_episodes
from ncjax.plots import SETS
from ncjax.progress import progress
from ncjax.runs import Run, find, number
from ncjax.runs import read as read_run
from ncjax.train.config import identity

Verdict = Literal["supported", "not supported", "contradicted", "not tested"]
# what was tested and failed stands before what was not tested, which would hide it
_WORST_FIRST: tuple[Verdict, ...] = ("contradicted", "not supported", "not tested")
BOUND_SHOTS = (1, 5, 10, 20, 50)
UNCHECKED = "if spherical"
_MEASURING = ("measurements", "measure_episodes", "measure_per_class")
"""Settings that say how a run is measured, and change nothing in its training."""


@dataclass(frozen=True)
class Options:
    """Which runs, and where the verdicts go."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of runs, of seeds, or of many runs."""
    out: Path | None = None
    """File for the verdicts as JSON."""
    bounds: bool = True
    """With --no-bounds claim 5, which extracts features of every run, is not tested."""
    episodes: int = 2000
    """Few-shot episodes for each number of shots of claim 5."""
    data_dir: str | None = None
    """Where the runs' data is, for claim 5, if it is no longer where it was."""


@dataclass(frozen=True)
class Part:
    """One comparison.

    Attributes:
        name: what is compared.
        verdict: of this part.
        estimate: of what `null` is the null value of; NaN if not tested.
        low: end of the 95 % interval.
        high: the other end.
        null: the value at which the claim neither holds nor fails.
        note: what else to know of it.
        counts: towards the claim's verdict; a vacuous bound does not, for no error can exceed it.
    """

    name: str
    verdict: Verdict
    estimate: float = math.nan
    low: float = math.nan
    high: float = math.nan
    null: float = 0.0
    note: str = ""
    counts: bool = True


@dataclass(frozen=True)
class Claim:
    """A claim about some runs.

    Attributes:
        name: what is claimed.
        scope: of which runs.
        parts: its comparisons.
    """

    name: str
    scope: str
    parts: list[Part] = field(default_factory=list)

    @property
    def verdict(self) -> Verdict:
        """Supported if all parts that count are; else the worst of theirs."""
        found = {part.verdict for part in self.parts if part.counts}
        for one in _WORST_FIRST:
            if one in found:
                return one
        return "supported" if found else "not tested"


def judge(name: str, estimate: float, low: float, high: float, *, null: float, above: bool, note: str = "") -> Part:
    """The verdict of an interval for a claim that the value is above, or below, the null value."""
    if math.isnan(low) or math.isnan(high):
        return Part(name, "not tested", estimate, null=null, note=note or "no interval")
    on_side, opposite = (low > null, high < null) if above else (high < null, low > null)
    verdict: Verdict = "supported" if on_side else "contradicted" if opposite else "not supported"
    return Part(name, verdict, estimate, low, high, null, note)


def ratio(
    name: str,
    top: Sequence[float],
    bottom: Sequence[float],
    configurations: Sequence[str],
    *,
    above: bool,
    note: str = "",
) -> Part:
    """The geometric mean of top/bottom, with a t interval, against 1.

    Over configurations, the mean log of each one's runs for one value: runs that differ in their seed alone resemble
    each other, and counting each would make the interval too narrow. Over runs where there is one configuration.
    """
    if any(value <= 0 for value in (*top, *bottom)):
        return Part(name, "not tested", null=1.0, note="CDNV is 0 in some runs: no ratio")
    each: dict[str, list[float]] = {}
    for one, log in zip(configurations, np.log(np.asarray(top)) - np.log(np.asarray(bottom)), strict=True):
        each.setdefault(one, []).append(float(log))
    if len(each) > 1:
        unit, logs = "configurations", np.asarray([np.mean(one) for one in each.values()])
    else:
        unit, logs = "seeds of one configuration", np.asarray([log for one in each.values() for log in one])
    if len(logs) < 2:
        shown = float(np.exp(logs[0])) if len(logs) else math.nan
        return Part(name, "not tested", shown, null=1.0, note=f"{len(logs)} run: an interval takes two")
    if np.ptp(logs) == 0:
        low = high = float(logs[0])
    else:
        low, high = ttest_1samp(logs, 0.0).confidence_interval(0.95)
    held = int((logs > 0).sum() if above else (logs < 0).sum())
    note = "; ".join(filter(None, [f"holds in {held} of {len(logs)} {unit}", note]))
    return judge(name, *np.exp([logs.mean(), low, high]), null=1.0, above=above, note=note)


def cdnv_ratio(
    name: str,
    runs: Sequence[Run],
    top: Callable[[Run, str], float],
    bottom: Callable[[Run, str], float],
    *,
    above: bool,
) -> Part:
    """`ratio` of debiased CDNV, of plug-in CDNV where the debiased is infinite; `top` and `bottom` take its key."""
    pairs = {
        kind: ([top(run, kind) for run in runs], [bottom(run, kind) for run in runs])
        for kind in ("debiased_cdnv", "cdnv")
    }
    configurations = [settings_but(run, "seed") for run in runs]
    infinite = int(np.isinf(pairs["debiased_cdnv"]).any(axis=0).sum())
    if infinite:
        note = f"plug-in: debiased is infinite in {infinite} of {len(runs)} runs"
        if not np.isfinite(pairs["cdnv"]).all():
            return Part(name, "not tested", null=1.0, note="plug-in and debiased CDNV are infinite in some runs")
        return ratio(name, *pairs["cdnv"], configurations, above=above, note=note)
    plug_in = ratio(name, *pairs["cdnv"], configurations, above=above).estimate
    return ratio(name, *pairs["debiased_cdnv"], configurations, above=above, note=f"plug-in {plug_in:.4g}")


def falls(runs: Sequence[Run]) -> Claim:
    """Claim 1."""
    claim = Claim("CDNV falls during training", f"{counted(runs)}: last over first value")
    for name in SETS:
        these = [run for run in runs if f"{name}/cdnv" in run.records[0] and len(run.records) > 1]
        claim.parts.append(
            cdnv_ratio(
                name,
                these,
                lambda run, kind, name=name: run.final(f"{name}/{kind}"),  # type: ignore[misc]
                lambda run, kind, name=name: number(run.records[0][f"{name}/{kind}"]),  # type: ignore[misc]
                above=False,
            )
        )
    return claim


def ordered(runs: Sequence[Run]) -> Claim:
    """Claim 2."""
    claim = Claim("CDNV of source-train < source-test < target", f"{counted(runs)}, at the end: ratios")
    for low, high in (("source_train", "source_test"), ("source_test", "target")):
        these = [run for run in runs if f"{low}/cdnv" in run.records[0] and f"{high}/cdnv" in run.records[0]]
        claim.parts.append(
            cdnv_ratio(
                f"{high} / {low}",
                these,
                lambda run, kind, high=high: run.final(f"{high}/{kind}"),  # type: ignore[misc]
                lambda run, kind, low=low: run.final(f"{low}/{kind}"),  # type: ignore[misc]
                above=True,
            )
        )
    return claim


def counted(runs: Sequence[Run]) -> str:
    """How many runs, of how many configurations, and over which of them an interval of ratios is."""
    configurations = len({settings_but(run, "seed") for run in runs})
    unit = "configurations, the mean of each one's seeds" if configurations > 1 else "seeds"
    return f"{len(runs)} runs of {configurations} configuration{'s' * (configurations != 1)}, t over {unit}"


def settings_but(run: Run, *names: str) -> str:
    """The settings that can change what is trained, without some of them.

    Runs that differ in how they are measured alone are the same training, and no evidence beside each other.
    """
    left_out = {*names, *_MEASURING}
    fields = {key: value for key, value in identity(run.config).items() if key not in left_out}
    return json.dumps(fields, sort_keys=True, default=str)


def groups(runs: Iterable[Run], key: Callable[[Run], Any]) -> list[list[Run]]:
    """Runs with the same key together, in the order of their first."""
    found: dict[Any, list[Run]] = {}
    for run in runs:
        found.setdefault(key(run), []).append(run)
    return list(found.values())


def source_classes(run: Run) -> int:
    """How many source classes it was trained on."""
    return int(run.described["data"]["num_source_classes"])


def more_classes(runs: Sequence[Run]) -> list[Claim]:
    """Claim 3, for each set of runs that differ in seed and number of source classes only."""
    name = "more source classes help"
    claims = []
    for group in groups(runs, lambda run: settings_but(run, "seed", "num_source_classes")):
        by_count = {count: [r for r in group if source_classes(r) == count] for count in {*map(source_classes, group)}}
        if len(by_count) < 2:
            continue
        few, many = by_count[min(by_count)], by_count[max(by_count)]
        scope = f"{describe(group)}: {max(by_count)} against {min(by_count)} classes, {len(many)} and {len(few)} runs"
        claims.append(Claim(name, scope, _compare(few, many)))
    return claims or [Claim(name, "no two runs differ in the number of source classes (and seed) only")]


def _compare(few: Sequence[Run], many: Sequence[Run]) -> list[Part]:
    def values(of: Sequence[Run], key: str) -> np.ndarray:
        return np.asarray([run.final(key) for run in of])

    kind = "debiased_cdnv"
    note = (
        f"plug-in {np.exp(np.log(values(many, 'target/cdnv')).mean() - np.log(values(few, 'target/cdnv')).mean()):.4g}"
    )
    if not np.isfinite([*values(few, f"target/{kind}"), *values(many, f"target/{kind}")]).all():
        kind, note = "cdnv", "plug-in: debiased is infinite in some runs"
    logs = [np.log(values(of, f"target/{kind}")) for of in (many, few)]
    found = [judge("target CDNV, ratio", *np.exp(welch(*logs)), null=1.0, above=False, note=note)]
    for key in _accuracies([*few, *many]):
        found.append(judge(f"{key}, difference", *welch(values(many, key), values(few, key)), null=0.0, above=True))
    return found


def _accuracies(runs: Sequence[Run]) -> list[str]:
    """Few-shot accuracies of the nearest class centre that all runs have."""
    return [
        key
        for key in runs[0].records[0]
        if key.startswith("target/ncc/")
        and not key.endswith("ci95")
        and all(key in record for run in runs for record in run.records)
    ]


def target_data(run: Run) -> str:
    """What tells the target images of a run from others: files of one's own may share a name, but not checksums."""
    config = run.config
    # checksums of images and labels of each split, the target's last
    sums = run.described["data"]["fingerprint"].split("-")
    known = f" (checksum {'-'.join(sums[-2:])})" if len(sums) >= 4 else ""
    return f"{config.dataset}, target classes of split_seed {config.split_seed}{known}"


def correlates(runs: Sequence[Run]) -> list[Claim]:
    """Claim 4, for each set of target classes.

    Over the last records of runs, and over all records but the first, which is of the untrained network.
    """
    claims = []
    for group in groups(runs, target_data):
        claim = Claim("few-shot error rises with target CDNV", f"{target_data(group[0])}, {len(group)} runs: Spearman")
        for key in _accuracies(group):
            for what, start in (("last checkpoints", -1), ("checkpoints after the first", 1)):
                claim.parts.append(correlation(f"{key}, {what}", group, key, start))
        claims.append(claim)
    return claims or [Claim("few-shot error rises with target CDNV", "no finished run")]


def correlation(name: str, runs: Sequence[Run], key: str, start: int) -> Part:
    """Rank correlation of 1 − accuracy and target CDNV over the records from `start` on."""

    def points(kind: str) -> list[np.ndarray]:
        return [
            np.asarray([[number(r[f"target/{kind}"]), 1 - number(r[key])] for r in run.records[start:]]) for run in runs
        ]

    used, plug_in = points("debiased_cdnv"), points("cdnv")
    infinite = sum(bool(np.isinf(one).any()) for one in used)
    note = f"plug-in {spearman(np.concatenate(plug_in)):.3f}"
    if infinite:
        used, note = plug_in, f"plug-in: debiased is infinite in {infinite} of {len(runs)} runs"
    estimate = spearman(np.concatenate(used))
    drawn = independent(used, [settings_but(run, "seed") for run in runs])
    unit = "runs" if len(drawn) == len(runs) else "configurations"
    if len(drawn) < FEWEST:
        return Part(name, "not tested", estimate, note=f"{len(drawn)} {unit}: an interval takes {FEWEST}; {note}")
    note = f"{len(drawn)} {unit}; {note}"
    low, high = correlation_interval(drawn)
    if math.isnan(low):
        note = f"CDNV or error does not vary; {note}"
    return judge(name, estimate, low, high, null=0.0, above=True, note=note)


def describe(runs: Sequence[Run]) -> str:
    """What runs have in common, in a word."""
    return " ".join(dict.fromkeys(f"{run.config.dataset} {run.config.network}" for run in runs))


def no_violation(runs: Sequence[Run], episodes: int, data_dir: str | None = None) -> Claim:
    """Claim 5: measured error less bound, on the target features of last checkpoints, where the bound is below 1.

    The bounds take the target images for the population, from which the episodes are drawn as well. A bound of 1 or
    more says nothing and cannot be violated: it is listed as vacuous. The form for spherical classes is left out:
    nothing checks its assumption.
    """
    claim = Claim("no bound is violated", f"{len(runs)} last checkpoints, error less bound, least favourable case")
    found: dict[str, list[Part]] = {}
    for run in progress(runs, "bounds"):
        try:
            for name, part in bounds(run, episodes, data_dir):
                found.setdefault(name, []).append(part)
        except InputError as error:  # checkpoints or data are not there
            claim.parts.append(Part(f"bounds of {run.folder.name}", "not tested", note=str(error)))
    for name, parts in found.items():
        tested = [part for part in parts if part.counts]
        if not tested:
            note = f"vacuous: not tested; 1 or more in all {len(parts)} cases, which no error exceeds"
            claim.parts.append(Part(name, "not tested", note=note, counts=False))
            continue
        worst = max(tested, key=lambda part: (part.verdict != "supported", part.verdict == "contradicted", part.high))
        rest = f", {len(parts) - len(tested)} vacuous: not tested" if len(parts) > len(tested) else ""
        claim.parts.append(replace(worst, note=f"{len(tested)} comparisons below 1{rest}; worst: {worst.note}"))
    return claim


def bounds(run: Run, episodes: int, data_dir: str | None = None) -> list[tuple[str, Part]]:
    """Every bound of a run's last checkpoint against the measured error; of a vacuous one only that it is.

    A bound is NaN for numbers of shots that it is not made for: those are left out.
    """
    params = run.restore()
    target = benchmark(run, data_dir).target
    found = features(params, target)
    ways = min(5, len(target.class_names))
    fewest = int(np.bincount(target.labels).min())
    shots = [n for n in BOUND_SHOTS if n < fewest]
    theory = collapse.theory(found, target.labels, ways=ways, shots=shots)
    parts = []
    checked = {name: values for name, values in theory.bounds().items() if UNCHECKED not in name}
    for i, n in enumerate(shots):
        below = {name: values[i] for name, values in checked.items() if values[i] < 1}
        parts += [
            (name, Part(name, "not tested", note=f"vacuous at {n} shots", counts=False))
            for name, values in checked.items()
            if values[i] >= 1
        ]
        if not below:
            continue
        report = feature_episodes(
            found, target.labels, ways=ways, shots=n, queries=min(15, fewest - n), episodes=episodes
        )
        for name, bound in below.items():
            excess = 1 - report.accuracy - float(bound)
            note = f"{n} shots, error {1 - report.accuracy:.4f}, bound {bound:.4f}, {run.folder}"
            ends = excess - report.ci95, excess + report.ci95
            parts.append((name, judge(name, excess, *ends, null=0.0, above=False, note=note)))
    return parts


def read(paths: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """The finished runs at or below these folders, and a line on each that is left out.

    A run and its copy, of the same training, data and seed, are one run, the one with more records.

    Raises:
      InputError: a run cannot be read.
    """
    finished: dict[tuple[str, str], Run] = {}
    unfinished = []
    for folder in find(*paths):
        if not (folder / "metrics.jsonl").exists():
            unfinished.append(f"{folder} has only begun")
            continue
        run = read_run(folder)
        if not run.finished:
            unfinished.append(f"{folder} stopped at step {run.records[-1]['step']}")
            continue
        key = settings_but(run), run.described["data"]["fingerprint"]
        same = finished.setdefault(key, run)
        if same is not run:
            kept, left = (run, same) if len(run.records) > len(same.records) else (same, run)
            finished[key] = kept
            unfinished.append(f"{left.folder} is the same training as {kept.folder}")
    return list(finished.values()), unfinished


def check(runs: Sequence[Run], *, episodes: int | None = 2000, data_dir: str | None = None) -> list[Claim]:
    """The verdicts; with `episodes` None no features are extracted and claim 5 is not tested."""
    claims = [falls(runs), ordered(runs), *more_classes(runs), *correlates(runs)]
    if episodes is None:
        return [*claims, Claim("no bound is violated", "left out by --no-bounds")]
    return [*claims, no_violation(runs, episodes, data_dir)]


def text(claims: Sequence[Claim]) -> str:
    """A table."""
    lines = []
    for claim in claims:
        lines += [f"{claim.verdict.upper()}: {claim.name}", f"  {claim.scope}"]
        for part in claim.parts:
            interval = "" if math.isnan(part.low) else f"[{part.low:.4g}, {part.high:.4g}]"
            shown = "" if math.isnan(part.estimate) else f"{part.estimate:.4g}"
            lines.append(f"  {part.name:<46} {shown:>9} {interval:<22} {part.verdict:<14} {part.note}".rstrip())
        lines.append("")
    return "\n".join(lines)


def as_json(claims: Sequence[Claim], runs: Sequence[Run], unfinished: Sequence[str]) -> str:
    """Verdicts and numbers; what is not finite is null."""

    def plain(part: Part) -> dict[str, Any]:
        numbers = {k: v if not isinstance(v, float) or math.isfinite(v) else None for k, v in vars(part).items()}
        return {k: float(v) if isinstance(v, np.floating) else v for k, v in numbers.items()}

    content = {
        "runs": [str(run.folder) for run in runs],
        "unfinished": list(unfinished),
        "claims": [
            {"name": c.name, "scope": c.scope, "verdict": c.verdict, "parts": [plain(p) for p in c.parts]}
            for c in claims
        ],
    }
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def main() -> None:
    """Runs what the command line says."""
    options = cli.read_options(Options, __doc__)
    with cli.one_line_errors():
        cli.start_backend()
        if not options.runs:
            raise InputError("give the folder of a run of pretrain.py, or several")
        if options.bounds and options.episodes < 2:
            raise InputError(f"episodes={options.episodes}: give at least 2, or --no-bounds")
        cli.check_out(options.out)
        runs, unfinished = read(options.runs)
        print(f"{len(runs)} finished runs, {len({settings_but(run, 'seed') for run in runs})} configurations")
        for line in unfinished:
            print(f"left out: {line}")
        claims = check(runs, episodes=options.episodes if options.bounds else None, data_dir=options.data_dir)
        print(f"\n{text(claims)}")
        print(
            "Intervals 95 %, each by itself: over configurations or runs, for the bounds over episodes; none covers "
            "other target classes, nor other source classes, which a seed never redraws."
        )
        if options.out is not None:
            cli.write(options.out, as_json(claims, runs, unfinished))
            print(f"written to {options.out}")


if __name__ == "__main__":
    main()
