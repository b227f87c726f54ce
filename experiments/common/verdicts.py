"""Verdicts on the claims of the theory, from the records of runs alone.

A claim has parts. A part is a comparison with an estimate and a 95 % interval, and is supported if the whole interval
is on the claim's side of the null value.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from ncjax.measures import SETS, of_key
from ncjax.runs import Run, number
from ncjax.runs.comparison import target_data, training_settings
from ncjax.statistics import FEWEST, correlation_interval, independent, spearman, welch
from ncjax.train.records import few_shot_keys

Verdict = Literal["supported", "not supported", "contradicted", "not tested"]
_WHY_INFINITE = ", where too few images tell some two class means apart"
# a failed test precedes a missing test, which would hide it
_WORST_FIRST: tuple[Verdict, ...] = ("contradicted", "not supported", "not tested")


@dataclass(frozen=True)
class Part:
    """One comparison.

    Attributes:
      name: what is compared.
      verdict: verdict on this comparison alone.
      estimate: the compared quantity; NaN if not tested.
      low: lower end of its 95 % interval.
      high: upper end of its 95 % interval.
      null: the value at which the claim neither holds nor fails.
      claimed: where the claim wants the value, such as "below 1".
      is_share: whether the value is a difference of shares, shown in percentage points.
      note: details for the reader.
      counts: whether the claim's verdict depends on it; not so for a vacuous bound, which no error can exceed.
    """

    name: str
    verdict: Verdict
    estimate: float = math.nan
    low: float = math.nan
    high: float = math.nan
    null: float = 0.0
    claimed: str = ""
    is_share: bool = False
    note: str = ""
    counts: bool = True


@dataclass(frozen=True)
class Claim:
    """A claim about some runs.

    Attributes:
      name: the claim.
      scope: the runs it is about.
      parts: its comparisons.
    """

    name: str
    scope: str
    parts: list[Part] = field(default_factory=list)

    @property
    def verdict(self) -> Verdict:
        """Supported if every part that counts is supported, else the worst verdict among them."""
        verdicts = {part.verdict for part in self.parts if part.counts}
        for verdict in _WORST_FIRST:
            if verdict in verdicts:
                return verdict
        return "supported" if verdicts else "not tested"


def cdnv_falls(runs: Sequence[Run]) -> Claim:
    """Judges claim 1: CDNV falls during training on all three sets."""
    trained = [run for run in runs if len(run.records) > 1]
    parts = [
        _cdnv_ratio(f"CDNV, {spoken}, last / first", trained, (name, -1), (name, 0), above=False)
        for name, spoken in SETS.items()
    ]
    return Claim("CDNV falls during training", f"{_count(runs)}: last over first value", parts)


def cdnv_is_ordered(runs: Sequence[Run]) -> Claim:
    """Judges claim 2: CDNV of source-train < source-test < target."""
    pairs = (("source_train", "source_test"), ("source_test", "target"))
    parts = [
        _cdnv_ratio(f"CDNV, {SETS[high]} / {SETS[low]}", runs, (high, -1), (low, -1), above=True) for low, high in pairs
    ]
    return Claim("CDNV of source-train < source-test < target", f"{_count(runs)}, at the end: ratios", parts)


def more_classes_help(runs: Sequence[Run]) -> list[Claim]:
    """Judges claim 3, for each group of runs that differ only in their seed and number of source classes."""
    name = "more source classes help"
    claims = []
    for group in _groups(runs, lambda run: settings_without(run, "seed", "num_source_classes")):
        by_count = defaultdict(list)
        for run in group:
            by_count[int(run.description.data.num_source_classes)].append(run)
        if len(by_count) < 2:
            continue
        fewest, most = min(by_count), max(by_count)
        few, many = by_count[fewest], by_count[most]
        subject = " ".join(dict.fromkeys(f"{run.config.dataset} {run.config.network}" for run in group))
        scope = f"{subject}: {most} against {fewest} classes, {len(many)} and {len(few)} runs"
        claims.append(Claim(name, scope, _differences(few, many)))
    return claims or [Claim(name, "no two runs differ in the number of source classes (and seed) only")]


def error_follows_cdnv(runs: Sequence[Run]) -> list[Claim]:
    """Judges claim 4, for each set of target classes.

    Correlates over the last records of runs, and over all records but the first, which is of the untrained network.
    """
    name = "few-shot error rises with target CDNV"
    claims = []
    for group in _groups(runs, target_data):
        claim = Claim(name, f"{target_data(group[0])}, {len(group)} runs: Spearman")
        for key in _accuracies(group):
            for records, start in (("last checkpoints", -1), ("checkpoints after the first", 1)):
                claim.parts.append(_correlation(f"{of_key(key).name}, {records}", group, key, start))
        claims.append(claim)
    return claims or [Claim(name, "no finished run")]


def judge(
    name: str,
    estimate: float,
    low: float,
    high: float,
    *,
    null: float,
    above: bool,
    is_share: bool = False,
    note: str = "",
) -> Part:
    """Judges an interval by the claim that the value is above, or below, the null value."""
    claimed = f"{'above' if above else 'below'} {null:g}"
    if math.isnan(low) or math.isnan(high):
        return Part(
            name, "not tested", estimate, null=null, claimed=claimed, is_share=is_share, note=note or "no interval"
        )
    on_side, opposite = (low > null, high < null) if above else (high < null, low > null)
    verdict: Verdict = "supported" if on_side else "contradicted" if opposite else "not supported"
    return Part(name, verdict, estimate, low, high, null, claimed, is_share, note)


def settings_without(run: Run, *names: str) -> str:
    """Returns the settings that can change the training, without some of them, as text to compare.

    Runs that differ only in how they are measured are the same training, and no evidence beside each other.
    """
    return json.dumps(training_settings(run, *names), sort_keys=True, default=str)


def _groups(runs: Iterable[Run], key: Callable[[Run], Hashable]) -> list[list[Run]]:
    groups = defaultdict(list)
    for run in runs:
        groups[key(run)].append(run)
    return list(groups.values())


def _count(runs: Sequence[Run]) -> str:
    """Counts runs and configurations, and names the unit of the intervals of ratios."""
    configurations = len({settings_without(run, "seed") for run in runs})
    unit = "configurations, the mean of each one's seeds" if configurations > 1 else "seeds"
    return f"{len(runs)} runs of {configurations} configuration{'s' * (configurations != 1)}, t over {unit}"


def _cdnv_ratio(name: str, runs: Sequence[Run], top: tuple[str, int], bottom: tuple[str, int], *, above: bool) -> Part:
    """Judges a ratio of debiased CDNV, or of plug-in CDNV if debiased is infinite in some run.

    `top` and `bottom` are the set and the index of the record of numerator and denominator. Runs that did not measure
    one of the sets are left out.
    """
    runs = [run for run in runs if all(f"{of_set}/cdnv" in run.records[0] for of_set, _ in (top, bottom))]
    debiased, plug_in = (
        [tuple(number(run.records[i][f"{of_set}/{kind}"]) for of_set, i in (top, bottom)) for run in runs]
        for kind in ("debiased_cdnv", "cdnv")
    )
    configurations = [settings_without(run, "seed") for run in runs]
    infinite = sum(math.inf in pair for pair in debiased)
    if not infinite:
        estimate = _ratio(name, plug_in, configurations, above=above).estimate
        return _ratio(name, debiased, configurations, above=above, note=f"plug-in {estimate:.4g}")
    if not np.isfinite(plug_in).all():
        return Part(name, "not tested", null=1.0, note="plug-in and debiased CDNV are infinite in some runs")
    note = f"plug-in: debiased is infinite in {infinite} of {len(runs)} runs{_WHY_INFINITE}"
    return _ratio(name, plug_in, configurations, above=above, note=note)


def _ratio(
    name: str, pairs: Sequence[tuple[float, ...]], configurations: Sequence[str], *, above: bool, note: str = ""
) -> Part:
    """Judges the geometric mean of ratios against 1, with a t interval over configurations.

    A configuration is worth one value, the mean logarithm of its runs: runs that differ only in their seed resemble
    each other, and counting each would make the interval too narrow. If there is one configuration, the interval is
    over its runs.
    """
    if any(value <= 0 for pair in pairs for value in pair):
        return Part(name, "not tested", null=1.0, note="CDNV is 0 in some runs: no ratio")
    by_configuration = defaultdict(list)
    for configuration, (numerator, denominator) in zip(configurations, pairs, strict=True):
        by_configuration[configuration].append(np.log(numerator) - np.log(denominator))
    if len(by_configuration) > 1:
        unit, logs = "configurations", np.asarray([np.mean(values) for values in by_configuration.values()])
    else:
        unit, logs = "seeds of one configuration", np.asarray(next(iter(by_configuration.values()), []))
    if len(logs) < 2:
        estimate = float(np.exp(logs[0])) if len(logs) else math.nan
        return Part(name, "not tested", estimate, null=1.0, note=f"{len(logs)} run: an interval takes two")
    if np.ptp(logs) == 0:
        low = high = float(logs[0])
    else:
        from scipy.stats import ttest_1samp  # takes half a second, and --help is answered without it

        low, high = ttest_1samp(logs, 0.0).confidence_interval(0.95)
    holding = int((logs > 0).sum() if above else (logs < 0).sum())
    note = "; ".join(filter(None, [f"holds in {holding} of {len(logs)} {unit}", note]))
    return judge(name, *np.exp([logs.mean(), low, high]), null=1.0, above=above, note=note)


def _differences(few: Sequence[Run], many: Sequence[Run]) -> list[Part]:
    """Compares target CDNV and few-shot accuracy of runs with many source classes and of runs with few."""

    def logs(runs: Sequence[Run], kind: str) -> np.ndarray:
        return np.log([run.final(f"target/{kind}") for run in runs])

    kind = "debiased_cdnv"
    note = f"plug-in {np.exp(logs(many, 'cdnv').mean() - logs(few, 'cdnv').mean()):.4g}"
    if not all(math.isfinite(run.final(f"target/{kind}")) for run in (*few, *many)):
        kind, note = "cdnv", f"plug-in: debiased is infinite in some runs{_WHY_INFINITE}"
    ratio = np.exp(welch(logs(many, kind), logs(few, kind)))
    parts = [judge("target CDNV, ratio", *ratio, null=1.0, above=False, note=note)]
    for key in _accuracies([*few, *many]):
        difference = welch(*(np.asarray([run.final(key) for run in runs]) for runs in (many, few)))
        parts.append(judge(f"{of_key(key).name}, difference", *difference, null=0.0, above=True, is_share=True))
    return parts


def _accuracies(runs: Sequence[Run]) -> list[str]:
    """Returns the keys of few-shot accuracies of the nearest class centre that all runs have."""
    keys = [key for key in few_shot_keys(runs[0].records[0]) if key.startswith("target/ncc/")]
    return [key for key in keys if all(key in record for run in runs for record in run.records)]


def _correlation(name: str, runs: Sequence[Run], key: str, start: int) -> Part:
    """Judges the rank correlation of 1 - accuracy and target CDNV over the records from `start` on."""

    def points(kind: str) -> list[np.ndarray]:
        return [
            np.asarray([[number(r[f"target/{kind}"]), 1 - number(r[key])] for r in run.records[start:]]) for run in runs
        ]

    used, plug_in = points("debiased_cdnv"), points("cdnv")
    plain = spearman(np.concatenate(plug_in))
    note = "no plug-in correlation" if math.isnan(plain) else f"plug-in {plain:.3f}"
    infinite = sum(bool(np.isinf(values).any()) for values in used)
    if infinite:
        used, note = plug_in, f"plug-in: debiased is infinite in {infinite} of {len(runs)} runs{_WHY_INFINITE}"
    estimate = spearman(np.concatenate(used))
    samples = independent(used, [settings_without(run, "seed") for run in runs])
    unit = "runs" if len(samples) == len(runs) else "configurations"
    if len(samples) < FEWEST:
        return Part(name, "not tested", estimate, note=f"{len(samples)} {unit}: an interval takes {FEWEST}; {note}")
    note = f"{len(samples)} {unit}; {note}"
    low, high = correlation_interval(samples)
    if math.isnan(low):
        note = f"CDNV or error does not vary; {note}"
    return judge(name, estimate, low, high, null=0.0, above=True, note=note)
