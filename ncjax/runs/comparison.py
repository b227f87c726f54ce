"""Comparison of finished runs: configurations named by the settings in which they differ, measure by measure.

Runs that differ in their seed alone form a configuration. Each configuration is compared with a baseline, on the same
target classes and images only.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import ncjax
from ncjax.errors import InputError
from ncjax.eval.intervals import mean_interval
from ncjax.measures import of_key
from ncjax.runs.folders import Run
from ncjax.statistics import welch
from ncjax.train.config import defaults, identity
from ncjax.train.description import configuration_of_start

if TYPE_CHECKING:
    from ncjax.data import Split
    from ncjax.eval import EpisodeReport

COVERS = "other seeds; the same classes and training images"
"""What the intervals of differences cover."""
ONLY_MEASURING = frozenset({"measurements", "measure_episodes", "measure_per_class"})
"""Settings of how a run is measured, which do not change its training."""
_OTHER_RUNS = {"continue_from": "start_weights", "distill_from": "teacher_weights"}
"""Settings that are the folder of another run, with the settings that are its checksums."""
_MAIN = ("source_train/cdnv", "source_test/cdnv", "target/cdnv", "target/debiased_cdnv", "source_test/accuracy")


@dataclass(frozen=True)
class Configuration:
    """Runs that differ in their seed alone.

    Attributes:
        name: The settings in which this configuration differs from others, such as "label_smoothing=0.1".
        data: The target data, which the compared configurations share.
        runs: One or more, in ascending order of seeds.
    """

    name: str
    data: str
    runs: tuple[Run, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seed of each run."""
        return tuple(int(run.config.seed) for run in self.runs)


@dataclass(frozen=True)
class Difference:
    """One measure at the end of training, in a baseline and in another configuration.

    Attributes:
        measure: Its key in the records, such as "target/cdnv".
        baseline: Mean over the baseline's runs (geometric if `ratio`).
        other: Mean over the other configuration's runs.
        estimate: other / baseline if `ratio`, else other - baseline; None if either is not finite.
        low: Lower end of the 95 % interval, which covers other seeds; None without an interval.
        high: Upper end.
        ratio: Whether the two are compared by their ratio.
        lower_is_better: Whether a smaller value is better; None if neither end is.
        pairs: Seeds that both have, if runs were paired by seed; else 0, and the interval is Welch's.
        reason: Why there is no estimate or no interval.
    """

    measure: str
    baseline: float
    other: float
    estimate: float | None
    low: float | None
    high: float | None
    ratio: bool
    lower_is_better: bool | None
    pairs: int
    reason: str = ""

    @property
    def verdict(self) -> str:
        """ "better" or "worse" if the whole interval is, "open" if it holds no difference, "" without an interval."""
        if self.low is None or self.high is None:
            return ""
        null = 1.0 if self.ratio else 0.0
        if self.low <= null <= self.high:
            return "open"
        if self.lower_is_better is None:
            return "different"
        return "better" if (self.high < null) == self.lower_is_better else "worse"


@dataclass(frozen=True)
class Comparison:
    """A configuration beside a baseline.

    Attributes:
        baseline: The configuration that others are compared with.
        other: The configuration compared.
        differences: One for each measure that all their runs have.
    """

    baseline: Configuration
    other: Configuration
    differences: tuple[Difference, ...]


def target_data(run: Run) -> str:
    """Identifies the target images of a run; data sets of the user's own may share a name, but not checksums."""
    config = run.config
    # checksums of images and labels of each split, the target's last
    sums = run.description.data.fingerprint.split("-")
    checksum = f" (checksum {'-'.join(sums[-2:])})" if len(sums) >= 4 else ""
    return f"{config.dataset}, target classes of split_seed {config.split_seed}{checksum}"


def training_settings(run: Run, *without: str) -> dict[str, Any]:
    """Returns the settings that can change the training and differ from their default.

    Args:
        run: The run.
        without: Settings to leave out. Without the seed, runs that continue the seeds of one configuration are alike.
    """
    left_out = {*without, *ONLY_MEASURING}
    settings = {name: value for name, value in identity(run.config).items() if name not in left_out}
    if "seed" in left_out and "start_weights" in settings:
        settings["start_weights"] = configuration_of_start(settings["start_weights"])
    return settings


def _name_of(run: str | None) -> str:
    """Returns the name of a run's folder; of one of several seeds, that of the folder of all."""
    folder = Path(run or "")
    return (folder.parent if re.fullmatch(r"seed_\d+", folder.name) else folder).name


def names_and_data(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Names the configuration and the target data of each run.

    The name lists the settings in which configurations of these runs differ, such as "label_smoothing=0.1". Seeds,
    settings that change no training, and the folder of the data do not count. A run that others continue or learn from
    is known by its checksum, and named by the first folder in which these runs found it.
    """
    complete, folders = [], dict[str, str]()
    for run in runs:
        settings = defaults() | training_settings(run, "seed", "data_dir")
        for folder, checksum in _OTHER_RUNS.items():
            if known := settings.pop(checksum):
                settings[folder] = f"{folders.setdefault(known, _name_of(getattr(run.config, folder)))}@{known}"
        complete.append(settings)
    without = {"seed", "data_dir", *_OTHER_RUNS.values(), *ONLY_MEASURING}
    differing = [
        name
        for name in defaults()
        if name not in without and len({json.dumps(c[name], default=str) for c in complete}) > 1
    ]
    return [
        (", ".join(f"{name}={settings[name]}" for name in differing) or "all settings alike", target_data(run))
        for run, settings in zip(runs, complete, strict=True)
    ]


def configurations(runs: Iterable[Run], *, drop_copies: bool = False) -> list[Configuration]:
    """Groups runs by their target data and settings, without the seed, in the order of their first run.

    Args:
        runs: Finished runs, of one data set or several.
        drop_copies: Of several runs of one configuration and seed, keeps the first.

    Raises:
        InputError: If two runs of a configuration have the same seed, unless `drop_copies`.
    """
    runs = list(runs)
    groups: dict[tuple[str, str], list[Run]] = {}
    for run, key in zip(runs, names_and_data(runs), strict=True):
        groups.setdefault(key, []).append(run)
    grouped = []
    for (name, data), members in groups.items():
        if drop_copies:
            members = list({int(run.config.seed): run for run in reversed(members)}.values())
        members.sort(key=lambda run: int(run.config.seed))
        for first, second in pairwise(members):
            if first.config.seed == second.config.seed:
                raise InputError(f"{first.folder} and {second.folder} are the same run twice: give one of them")
        grouped.append(Configuration(name, data, tuple(members)))
    return grouped


def compare(runs: Sequence[Run], *, baseline: str | None = None, all_measures: bool = False) -> list[Comparison]:
    """Compares every configuration with a baseline on the same target data.

    Runs are paired by their seed where both configurations have two seeds or more in common: they then share the
    order of their images and, where the network is the same, their initial weights.

    Args:
        runs: Finished runs. Runs on other target data are compared among themselves, never pooled.
        baseline: Name of the baseline; by default the first configuration on each target data.
        all_measures: Compares every measure of the records; by default CDNV and accuracies.

    Returns:
        One comparison for each configuration but the baselines, grouped by target data.

    Raises:
        InputError: If a run is not finished, there is nothing to compare, or no configuration has the baseline's name.
    """
    for run in runs:
        if not run.finished:
            raise InputError(f"{run.folder} is not finished: continue it, or leave it out")
    grouped = configurations(runs)
    if baseline is not None and baseline not in {configuration.name for configuration in grouped}:
        names = "; ".join(configuration.name for configuration in grouped)
        raise InputError(f"no configuration is called {baseline!r}; there are {names}")
    comparisons = []
    for data in dict.fromkeys(configuration.data for configuration in grouped):
        comparable = [configuration for configuration in grouped if configuration.data == data]
        first = next((c for c in comparable if c.name == baseline), comparable[0])
        comparisons += [
            Comparison(first, other, _differences(first, other, all_measures))
            for other in comparable
            if other is not first
        ]
    if not comparisons:
        if len(grouped) == 1:
            raise InputError(
                f"nothing to compare: all runs given have the same settings, apart from seeds, on {grouped[0].data}; "
                "give runs that differ in a setting"
            )
        names = "; ".join(f"{c.name} on {c.data}" for c in grouped)
        raise InputError(f"nothing to compare: no two configurations share their target data; these are {names}")
    return comparisons


def episode_report(
    run: Run, target: Split, *, shots: int = 5, head: str = "ncc", episodes: int = 10_000
) -> EpisodeReport:
    """Evaluates a run's newest checkpoint on the same episodes as any other run.

    `episode_report(other, target).compare(episode_report(baseline, target))` is the paired difference.

    Args:
        run: A run with a checkpoint.
        target: Its target classes.
        shots: Support images a class, in 5 ways or as many as there are.
        head: The head.
        episodes: Number of episodes.

    Raises:
        InputError: If the checkpoint is missing, or the target has too few images.
    """
    return ncjax.eval.feature_episodes(
        ncjax.features(run.restore(), target),
        target.labels,
        ways=min(5, target.num_classes),
        shots=shots,
        head=head,
        episodes=episodes,
    )


def _differences(baseline: Configuration, other: Configuration, all_measures: bool) -> tuple[Difference, ...]:
    last = [run.records[-1] for run in (*baseline.runs, *other.runs)]
    shared = [
        key
        for key in last[0]
        if all(key in record for record in last)
        and not key.endswith(("/ci95", "/unresolved_pairs"))
        and key not in ("step", "epoch")
    ]
    if not all_measures:
        shared = [key for key in shared if key in _MAIN or (key.startswith("target/") and key.count("/") == 2)]
    counts = {run.description.data.measured_per_class for run in (*baseline.runs, *other.runs)}
    return tuple(_difference(key, baseline, other, counts) for key in shared)


def _difference(
    key: str, baseline: Configuration, other: Configuration, images_per_class: set[int | None]
) -> Difference:
    measure = of_key(key)
    ratio, lower_is_better = measure.is_ratio, measure.lower_is_better
    first, second = (np.asarray([run.final(key) for run in c.runs]) for c in (baseline, other))
    means = (_mean(first, ratio), _mean(second, ratio))

    def without(reason: str, estimate: float | None = None) -> Difference:
        return Difference(key, *means, estimate, None, None, ratio, lower_is_better, 0, reason)

    if ratio and len(images_per_class) > 1:
        counts = " and ".join(str(count or "unknown") for count in sorted(images_per_class, key=lambda n: n or 0))
        return without(f"measured on {counts} images a class: compare only equal counts")
    values = np.concatenate([first, second])
    if not np.isfinite(values).all():
        return without(f"infinite in {int((~np.isfinite(values)).sum())} of {len(values)} runs")
    if ratio and (values <= 0).any():
        return without("0 in some runs: no ratio")
    if ratio:
        first, second = np.log(first), np.log(second)
    common = sorted(set(baseline.seeds) & set(other.seeds))
    paired = len(common) >= 2
    if paired:
        gaps = np.asarray([second[other.seeds.index(s)] - first[baseline.seeds.index(s)] for s in common])
        estimate = float(gaps.mean())
        half = 0.0 if np.ptp(gaps) == 0 else mean_interval(gaps)
        low, high = estimate - half, estimate + half
    else:
        estimate, low, high = welch(second, first)
    shown = math.exp(estimate) if ratio else estimate
    if math.isnan(low) or low == high:
        alone = min(len(first), len(second)) < 2 and not paired
        return without("one seed: an interval takes two" if alone else "the same difference in every seed", shown)
    ends = (math.exp(low), math.exp(high)) if ratio else (low, high)
    return Difference(key, *means, shown, *ends, ratio, lower_is_better, len(common) if paired else 0)


def _mean(values: np.ndarray, geometric: bool) -> float:
    if not geometric or not np.isfinite(values).all() or (values <= 0).any():
        return float(values.mean())
    return float(np.exp(np.log(values).mean()))
