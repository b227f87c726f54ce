"""Accuracy as a function of the number of shots or ways."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from ncjax.checks import encode_labels, whole_number
from ncjax.devices import on_data_mesh
from ncjax.equal_by_value import EqualByValue
from ncjax.errors import InputError
from ncjax.eval.array_episodes import feature_episodes
from ncjax.eval.episode_report import EpisodeReport, percent
from ncjax.eval.intervals import COVERS
from ncjax.eval.sampling import normalize_queries

Over = Literal["shots", "ways"]
SHOTS = (1, 2, 5, 10, 20, 50)
WAYS = (2, 5, 10, 20, "all")


@dataclasses.dataclass(frozen=True, eq=False)
class AccuracyCurve(EqualByValue):
    """Reports at several numbers of shots or ways.

    Attributes:
        over: "shots" or "ways".
        values: The numbers, ascending.
        reports: The report at each value.
    """

    over: Over
    values: tuple[int, ...]
    reports: tuple[EpisodeReport, ...]

    @property
    def accuracy(self) -> np.ndarray:
        """The accuracies [v], fractions."""
        return np.array([report.accuracy for report in self.reports])

    def interval(self, name: str) -> np.ndarray:
        """Returns the half widths [v] of "ci95", "same_classes_ci95" or "target_ci95"."""
        return np.array([getattr(report, name) for report in self.reports])

    def ends(self, name: str) -> np.ndarray:
        """Returns the lower and upper ends [v,2] of an interval, within 0 to 1; NaN where there is none."""
        intervals = [report.intervals[name] for report in self.reports]
        return np.array([(np.nan, np.nan) if ends is None else (ends.low, ends.high) for ends in intervals])

    def __str__(self) -> str:
        """Lists accuracy and intervals for each value, below lines that say what the intervals cover."""
        covers = [f"± {name}: {covered}" for name, covered in COVERS.items()]
        columns = "  ".join(f"{'± ' + name:>19}" for name in COVERS)
        lines = [*covers, f"{self.over:>5}  {'accuracy':>9}  {columns}"]
        for value, report in zip(self.values, self.reports, strict=True):
            widths = "  ".join(percent(getattr(report, name), 17) for name in COVERS)
            lines.append(f"{value:>5}  {100 * report.accuracy:7.2f} %  {widths}")
        return "\n".join(lines)


def trace_curve(
    evaluate: Callable[..., EpisodeReport], labels: Any, over: Over, values: Sequence[int | str] | None, settings: dict
) -> AccuracyCurve:
    """Evaluates at each value; `values` defaults to the common values that the labels have enough images for."""
    if over not in ("shots", "ways"):
        raise InputError(f'over={over!r}: give "shots" or "ways"')
    if over in settings:
        raise InputError(f"{over}= is set by the curve; give values= instead")
    if settings.get("plan") is not None:
        raise InputError("a plan has one number of ways and shots, a curve has several: leave plan= out")
    _, _, size = encode_labels(labels)
    if not len(size):
        raise InputError("there are no labels: a curve needs images")
    queries = normalize_queries(settings.get("queries", 15))
    largest = len(size) if over == "ways" else int(size.min()) - (1 if queries == "all" else queries)
    chosen = values if values is not None else (SHOTS if over == "shots" else WAYS)
    if isinstance(chosen, str) or not np.ndim(chosen) or not len(chosen):
        raise InputError(f"values={chosen!r}: give a list of numbers of {over}")
    if values is not None and "all" in list(map(str, chosen)) and largest < (2 if over == "ways" else 1):
        raise InputError(
            f'"all" {over} are too few: there is one class'
            if over == "ways"
            else f'"all" shots are too few: the smallest class has {size.min()} images, and {queries} are queries'
        )
    numbers = sorted({largest if isinstance(v, str) and v == "all" else whole_number(over, v) for v in chosen})
    if values is None:
        # Keeps the smallest, so that `evaluate` raises its own error if there are too few images for any.
        numbers = [number for number in numbers if number <= largest] or numbers[:1]
    return AccuracyCurve(over, tuple(numbers), tuple(evaluate(**{over: number}, **settings) for number in numbers))


@on_data_mesh
def feature_curve(
    features: Any, labels: Any, *, over: Over = "shots", values: Sequence[int | str] | None = None, **settings: Any
) -> AccuracyCurve:
    """Evaluates the accuracy of features at several numbers of shots or ways.

    Over shots, the classes and queries of episode e are the same at every value, and the support grows; with
    ``queries="all"`` the queries are the rows outside each support.

    Args:
        features: [n,d].
        labels: [n].
        over: "shots" or "ways".
        values: Numbers of shots or ways; "all" is the largest possible number. Defaults to those of 1, 2, 5, 10, 20, 50
            shots or 2, 5, 10, 20, all ways that the labels have enough images for.
        **settings: As in `feature_episodes`.

    Raises:
        InputError: As in `feature_episodes`; or `over` is neither "shots" nor "ways".
    """

    def evaluate(**settings: Any) -> EpisodeReport:
        return feature_episodes(features, labels, **settings)

    return trace_curve(evaluate, labels, over, values, settings)
