"""Accuracy against the number of shots or of ways."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from ncjax.checks import encode_labels, whole_number
from ncjax.equality import EqualByValue
from ncjax.errors import InputError
from ncjax.eval.arrays import feature_episodes
from ncjax.eval.intervals import COVERS
from ncjax.eval.report import EpisodeReport, percent
from ncjax.eval.sampling import settle_queries

Over = Literal["shots", "ways"]
SHOTS = (1, 2, 5, 10, 20, 50)
WAYS = (2, 5, 10, 20, "all")


@dataclasses.dataclass(frozen=True, eq=False)
class AccuracyCurve(EqualByValue):
    """Reports at several numbers of shots or ways; what a plot of them needs.

    Attributes:
        over: "shots" or "ways".
        values: The numbers, ascending.
        reports: One for each value.
    """

    over: Over
    values: tuple[int, ...]
    reports: tuple[EpisodeReport, ...]

    @property
    def accuracy(self) -> np.ndarray:
        """[v], fractions."""
        return np.array([report.accuracy for report in self.reports])

    def interval(self, name: str) -> np.ndarray:
        """[v], half widths of "ci95", "same_classes_ci95" or "target_ci95"."""
        return np.array([getattr(report, name) for report in self.reports])

    def ends(self, name: str) -> np.ndarray:
        """[v,2], lower and upper ends of the same, within 0 to 1; NaN where there is none."""
        found = [report.intervals[name] for report in self.reports]
        return np.array([(np.nan, np.nan) if one is None else (one.low, one.high) for one in found])

    def __str__(self) -> str:
        """A line for each value with its intervals, under a line that says what they cover."""
        covers = [f"± {name}: {what}" for name, what in COVERS.items()]
        columns = "  ".join(f"{'± ' + name:>19}" for name in COVERS)
        lines = [*covers, f"{self.over:>5}  {'accuracy':>9}  {columns}"]
        for value, report in zip(self.values, self.reports, strict=True):
            widths = "  ".join(percent(getattr(report, name), 17) for name in COVERS)
            lines.append(f"{value:>5}  {100 * report.accuracy:7.2f} %  {widths}")
        return "\n".join(lines)


def trace_curve(
    evaluate: Callable[..., EpisodeReport], labels: Any, over: Over, values: Sequence[int | str] | None, settings: dict
) -> AccuracyCurve:
    """`evaluate` at each value; without `values`, at those of the usual ones that the labels have images for."""
    if over not in ("shots", "ways"):
        raise InputError(f'over={over!r}: accuracy goes against "shots" or "ways"')
    if over in settings:
        raise InputError(f"{over}= is what the curve goes over; give values= instead")
    if settings.get("plan") is not None:
        raise InputError("a plan has one number of ways and of shots, a curve several: leave plan= out")
    _, _, size = encode_labels(labels)
    if not len(size):
        raise InputError("there are no labels: a curve needs images")
    queries = settle_queries(settings.get("queries", 15))
    most = len(size) if over == "ways" else int(size.min()) - (1 if queries == "all" else queries)
    chosen = values if values is not None else (SHOTS if over == "shots" else WAYS)
    if isinstance(chosen, str) or not np.ndim(chosen) or not len(chosen):
        raise InputError(f"values={chosen!r}: give a list of numbers of {over}")
    if values is not None and "all" in list(map(str, chosen)) and most < (2 if over == "ways" else 1):
        raise InputError(
            f'"all" {over} are too few: there is one class'
            if over == "ways"
            else f'"all" shots are too few: the smallest class has {size.min()} images, and {queries} are queries'
        )
    numbers = sorted({most if isinstance(v, str) and v == "all" else whole_number(over, v) for v in chosen})
    if values is None:
        # The smallest stays, so that data too small for any of them gives evaluate's own error.
        numbers = [number for number in numbers if number <= most] or numbers[:1]
    return AccuracyCurve(over, tuple(numbers), tuple(evaluate(**{over: number}, **settings) for number in numbers))


def feature_curve(
    features: Any, labels: Any, *, over: Over = "shots", values: Sequence[int | str] | None = None, **settings: Any
) -> AccuracyCurve:
    """Accuracy of features from anywhere against shots or ways.

    Against shots, the classes and queries of episode e are the same at every value, and the support grows; with
    ``queries="all"`` the queries are what each support leaves.

    Args:
        features: [n,d].
        labels: [n].
        over: "shots" or "ways".
        values: Numbers of shots or ways; "all" is as many as there are. By default 1, 2, 5, 10, 20, 50 shots or
            2, 5, 10, 20, all ways, of these as many as the labels have images for.
        **settings: As of `feature_episodes`.

    Raises:
        InputError: As `feature_episodes`; or `over` is neither.
    """

    def evaluate(**settings: Any) -> EpisodeReport:
        return feature_episodes(features, labels, **settings)

    return trace_curve(evaluate, labels, over, values, settings)
