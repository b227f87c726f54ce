"""The result of an evaluation: accuracies, intervals named by what they cover, and settings."""

import dataclasses
from typing import Any

import numpy as np

from ncjax.equal_by_value import EqualByValue
from ncjax.errors import InputError
from ncjax.eval.intervals import (
    COVERS,
    WITHOUT,
    around,
    difference_interval,
    longer_side,
    mean_interval,
    target_interval,
)
from ncjax.eval.sampling import Queries
from ncjax.interval import Interval


def percent(half_width: float, digits: int) -> str:
    """Formats the half width of an interval for a table; NaN, for no interval, as a dash."""
    return f"{'–':>{digits}}  " if np.isnan(half_width) else f"{100 * half_width:{digits}.2f} %"


@dataclasses.dataclass(frozen=True)
class EpisodeSettings:
    """The settings of an evaluation; `ncjax.eval.episodes` documents each field."""

    ways: int
    shots: int
    queries: Queries
    episodes: int
    head: str
    transform: str
    support_augmentations: int
    seed: int


@dataclasses.dataclass(frozen=True)
class PairedDifference:
    """The accuracy of one report minus that of another on the same episodes.

    Attributes:
        difference: Mean of the paired differences, a fraction.
        ci95: Half width of the t interval over the paired episodes.
        target_ci95: For new classes and images, the longer side of `target_interval`; NaN, in text a dash, without it.
        episodes: The number of pairs.
        target_interval: See `ncjax.eval.intervals.difference_interval`; None if every episode holds every class, or the
            difference is the same whichever class is left out.
    """

    difference: float
    ci95: float
    target_ci95: float
    episodes: int
    target_interval: Interval | None = None

    @property
    def intervals(self) -> dict[str, Interval | None]:
        """The intervals "ci95" and "target_ci95", within -1 to 1; None for no interval."""
        return {"ci95": around(self.difference, self.ci95, low=-1.0), "target_ci95": self.target_interval}

    def __str__(self) -> str:
        return (
            f"{100 * self.difference:+.2f} ± {percent(self.ci95, 1)} ({COVERS['ci95']}; {self.episodes} pairs), "
            f"± {percent(self.target_ci95, 1)} ({COVERS['target_ci95']})"
        )


@dataclasses.dataclass(frozen=True, eq=False)
class EpisodeReport(EqualByValue):
    """Few-shot accuracy with its intervals. Accuracies and half widths are fractions.

    Attributes:
        accuracy: Mean over episodes; an episode's accuracy is the mean over its ways of the share of correct queries.
        ci95: Half width of the t interval over episodes. It covers only the drawing of other episodes from these same
            images: it shrinks to zero with more episodes.
        same_classes_ci95: Half width for new images of these same classes; see
            `ncjax.eval.intervals.same_classes_interval`. NaN, in tables a dash, if episodes are too few.
        target_ci95: For new classes and new images from the same population, the longer side of an asymmetric interval,
            whose ends are in `intervals`; see `ncjax.eval.intervals.target_interval`. NaN, in tables a dash, if every
            episode holds every class, or accuracy is the same whichever class is left out, as at 100 %.
        per_episode: float32 [E], the accuracy of each episode.
        classes: int32 [E,W], the classes of each episode, as rows of `class_names`.
        per_class: [k], the share of correct queries of each class; NaN for a class that was never drawn.
        confusion: int64 [k,k], the number of queries of class i predicted as class j, in episodes that hold both; 800
            MB on the host for 10,000 classes.
        class_names: The k labels, in the order of `per_class` and `confusion`.
        info: The head's diagnostics, each with a leading axis [E].
        settings: The settings of the evaluation.
        plan_hash: Equal for two reports if their episodes hold the same rows of the same labels, 0 to k-1.
    """

    accuracy: float
    ci95: float
    same_classes_ci95: float
    target_ci95: float
    per_episode: np.ndarray
    classes: np.ndarray
    per_class: np.ndarray
    confusion: np.ndarray
    class_names: tuple[Any, ...]
    info: Any
    settings: EpisodeSettings
    plan_hash: str

    def __str__(self) -> str:
        s = self.settings
        changes = "" if s.transform == "none" else f", {s.transform}"
        changes += f", {s.support_augmentations} augmentations" if s.support_augmentations else ""
        half = "–" if np.isnan(self.ci95) else f"{100 * self.ci95:.2f}"
        text = (
            f"{s.ways}-way {s.shots}-shot {s.head}{changes}: {100 * self.accuracy:.2f} ± {half} % "
            f"({s.episodes} episodes)"
        )
        return text + (f"; {self.not_converged} did not converge" if self.not_converged else "")

    @property
    def intervals(self) -> dict[str, Interval | None]:
        """Each interval by its name, within 0 to 1; None for no interval."""
        return {
            "ci95": around(self.accuracy, self.ci95),
            "same_classes_ci95": around(self.accuracy, self.same_classes_ci95),
            "target_ci95": target_interval(self.per_episode, self.classes, len(self.class_names)),
        }

    @property
    def not_converged(self) -> int:
        """The number of episodes in which the head did not converge."""
        converged = self.info.get("converged") if isinstance(self.info, dict) else None
        if converged is None:
            return 0
        return int(np.sum(~np.asarray(converged, bool).reshape(len(self.per_episode), -1).all(axis=1)))

    @property
    def largest_gradient_norm(self) -> float:
        """The largest final relative gradient over episodes of an iterative head; NaN for other heads."""
        norms = self.info.get("gradient_norm") if isinstance(self.info, dict) else None
        return float("nan") if norms is None else float(np.max(norms))

    def summary(self) -> str:
        """Returns several lines: the accuracy, and its three intervals with what they cover."""
        rows = []
        for name, covers in COVERS.items():
            half = getattr(self, name)
            missing = f"; none, since {WITHOUT[name]}" if np.isnan(half) else ""
            rows.append(f"  ± {percent(half, 6)}  {name:<17}  {covers}{missing}")
        if not np.isnan(self.largest_gradient_norm):
            rows.append(f"  largest relative gradient {self.largest_gradient_norm:.1g}")
        return "\n".join([str(self), *rows])

    def compare(self, other: "EpisodeReport") -> PairedDifference:
        """Computes this accuracy minus that of `other`, paired by episode.

        Raises:
            InputError: The reports hold different episodes or classes.
        """
        if self.plan_hash != other.plan_hash:
            raise InputError(
                f"the reports hold different episodes (plans {self.plan_hash} and {other.plan_hash}): evaluate both "
                "on the same labels with the same ways, shots, queries, episodes and seed"
            )
        # the hash knows classes by number; splits have class names, while arrays often have numbers only
        named = [any(isinstance(name, str) for name in report.class_names) for report in (self, other)]
        if named[0] == named[1] and self.class_names != other.class_names:
            theirs = next(pair for pair in zip(self.class_names, other.class_names, strict=True) if pair[0] != pair[1])
            raise InputError(
                f"the reports hold different classes ({theirs[0]!r} and {theirs[1]!r} in one place): their episodes "
                "are not pairs; compare the accuracies themselves"
            )
        difference = self.per_episode.astype(np.float64) - other.per_episode
        target = difference_interval(difference, self.classes, len(self.class_names))
        return PairedDifference(
            difference=float(difference.mean()),
            ci95=mean_interval(difference),
            target_ci95=longer_side(target),
            episodes=len(difference),
            target_interval=target,
        )


def confusion_rates(report: EpisodeReport) -> np.ndarray:
    """Computes confusion between pairs of classes, in percent.

    Returns:
      [k, k]: of the queries of class i in episodes that also hold class j, the share classified as j. The diagonal is
      the share classified correctly. NaN for two classes that share no episode.
    """
    k = len(report.class_names)
    held = np.zeros((len(report.classes), k), np.float64)
    np.put_along_axis(held, report.classes, 1.0, axis=1)
    together = held.T @ held
    # ways are balanced, and every query is classified as some way: a row of counts sums to the class's queries
    drawn = np.diag(together)
    queries = np.divide(report.confusion.sum(1), drawn, out=np.zeros(k), where=drawn > 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return 100 * report.confusion / (together * queries[:, None])
