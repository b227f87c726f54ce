"""Judges the bounds on the few-shot error by the measured error, on features of last checkpoints."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

import ncjax
from common.sweep import benchmark
from common.verdicts import Claim, Part, judge
from ncjax.errors import InputError
from ncjax.progress import progress
from ncjax.runs import Run

SHOTS = (1, 5, 10, 20, 50)
UNCHECKED = "if spherical"
"""Part of the name of the bound whose assumption nothing checks; it is left out."""


def bounds_hold(runs: Sequence[Run], episodes: int, data_dir: str | None = None) -> Claim:
    """Judges claim 5: the measured error less the bound is below 0, wherever the bound is below 1.

    The bounds take the target images for the population, from which the episodes are drawn as well. A bound of 1 or
    more says nothing and cannot be violated: it is listed as vacuous.

    Args:
      runs: the runs.
      episodes: few-shot episodes for each number of shots.
      data_dir: folder of the runs' data, if it has moved.
    """
    claim = Claim("no bound is violated", f"{len(runs)} last checkpoints, error less bound, least favourable case")
    by_bound = defaultdict(list)
    for run in progress(runs, "bounds"):
        try:
            for part in compare(run, episodes, data_dir):
                by_bound[part.name].append(part)
        except InputError as error:  # checkpoints or data are missing
            claim.parts.append(Part(f"bounds of {run.folder.name}", "not tested", note=str(error)))
    claim.parts.extend(_least_favourable(parts) for parts in by_bound.values())
    return claim


def _least_favourable(parts: Sequence[Part]) -> Part:
    """Returns the part that is least favourable to a bound, with a count of the others."""
    tested = [part for part in parts if part.counts]
    if not tested:
        note = f"vacuous: not tested; 1 or more in all {len(parts)} cases, which no error exceeds"
        return Part(parts[0].name, "not tested", note=note, counts=False)
    worst = max(tested, key=lambda part: (part.verdict != "supported", part.verdict == "contradicted", part.high))
    vacuous = f", {len(parts) - len(tested)} vacuous: not tested" if len(parts) > len(tested) else ""
    return replace(worst, note=f"{len(tested)} comparisons below 1{vacuous}; worst: {worst.note}")


def compare(run: Run, episodes: int, data_dir: str | None = None) -> list[Part]:
    """Compares every bound of a run's last checkpoint with the measured error.

    A vacuous bound gives a part that does not count. A bound is NaN for numbers of shots that it is not made for, which
    are left out.

    Raises:
      InputError: the checkpoint or the data cannot be read.
    """
    params = run.restore()
    target = benchmark(run, data_dir).target
    target_features = ncjax.features(params, target)
    ways = min(5, len(target.class_names))
    fewest = int(np.bincount(target.labels).min())
    shots = [n for n in SHOTS if n < fewest]
    theory = ncjax.collapse.theory(target_features, target.labels, ways=ways, shots=shots)
    bounds = {name: values for name, values in theory.bounds().items() if UNCHECKED not in name}
    parts = []
    for i, n in enumerate(shots):
        for name, values in bounds.items():
            if values[i] >= 1:
                parts.append(Part(name, "not tested", note=f"vacuous at {n} shots", counts=False))
        below = {name: values[i] for name, values in bounds.items() if values[i] < 1}
        if not below:
            continue
        report = ncjax.eval.feature_episodes(
            target_features, target.labels, ways=ways, shots=n, queries=min(15, fewest - n), episodes=episodes
        )
        for name, bound in below.items():
            excess = 1 - report.accuracy - float(bound)
            note = f"{n} shots, error {1 - report.accuracy:.2%}, bound {bound:.2%}, {run.folder}"
            ends = excess - report.ci95, excess + report.ci95
            parts.append(judge(name, excess, *ends, null=0.0, above=False, is_share=True, note=note))
    return parts
