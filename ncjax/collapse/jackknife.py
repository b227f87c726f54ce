"""Confidence intervals for the metrics of collapse: the jackknife over samples, and over classes.

Tukey (1958); Efron, "The Jackknife, the Bootstrap and Other Resampling Plans" (1982). A percentile bootstrap would
not do: within classes it adds each class's own Var/n to the distances, and over classes it pairs a class with itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Int
from scipy.special import stdtrit

from ncjax.checks import not_finite, read_features
from ncjax.collapse.accuracy_intervals import accuracy_interval
from ncjax.collapse.inputs import check_spread, checked_head, checked_labels, list_classes, on_mesh
from ncjax.collapse.jackknife_replicates import ACCURACIES, metrics_without, products_of_groups, whole_metrics
from ncjax.collapse.nc2_intervals import with_equiangular
from ncjax.collapse.sample_intervals import (
    RATIOS,
    SHAPES,
    Replicates,
    degenerate,
    interval_over_samples,
    jackknife_error,
)
from ncjax.collapse.selection import Scale
from ncjax.devices import on_data_mesh
from ncjax.equal_by_value import EqualByValue
from ncjax.errors import InputError
from ncjax.interval import Interval
from ncjax.progress import progress

_FEWEST_SAMPLES, _FEWEST_CLASSES, _MOST_GROUPS = 4, 3, 40
_COVERS = {
    "samples": "the drawing of samples within these classes, about the value that infinitely many would give",
    "classes": "the drawing of classes like these, as many",
}
_NO_INTERVAL = {
    "cdnv_median": "no interval: a median of pairs that share classes is not smooth, and the jackknife fails for it",
    "cdnv_worst": "no interval: neither jackknife nor bootstrap holds for the largest of the pairs",
}


@dataclass(frozen=True, eq=False)
class CollapseIntervals(EqualByValue):
    """An interval for each mean and accuracy of `Collapse`, in a field of the same name.

    Attributes:
        over: "samples" or "classes": the intervals cover the drawing of these.
        confidence: The confidence of each single interval.
        groups: The number of parts that are left out in turn.
        reasons: Why a metric has no interval.
    """

    over: str
    confidence: float
    groups: int
    cdnv: Interval | None
    debiased_cdnv: Interval | None
    directional_cdnv: Interval | None
    nc1: Interval | None
    nc1_quotient: Interval | None
    nc2_equinorm: Interval | None
    nc2_equiangular: Interval | None
    nc4: Interval | None
    ncc_accuracy: Interval | None
    cdnv_median: None = None
    cdnv_worst: None = None
    reasons: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{self.confidence:.0%} intervals over {self.over}: they cover {_COVERS[self.over]}"]
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Interval):
                lines.append(f"{f.name:<18} {value.low:.6g} to {value.high:.6g}, around {value.estimate:.6g}")
        return "\n".join(lines + [f"{name:<18} {reason}" for name, reason in self.reasons.items()])


@on_data_mesh
def intervals(
    features: Any,
    labels: Any,
    *,
    num_classes: int | None = None,
    weights: Any = None,
    bias: Any = None,
    over: Literal["samples", "classes"] = "samples",
    confidence: float = 0.95,
    seed: int = 0,
) -> CollapseIntervals:
    """Computes intervals for the means and accuracies that `measure` returns for the same arguments.

    Over samples, the interval is for the value that infinitely many samples of these classes would give. With few
    samples the plain value is far from it if the variance Var/n of a class mean is of the size of the squared
    distances. The intervals are therefore built around estimates from unbiased variances and distances, such as the
    debiased CDNV (`cdnv` and `debiased_cdnv` share an interval, since they agree for infinitely many samples). The
    samples of each class are divided at random into the same number of groups, at most 40, chosen so that group sizes
    differ least; one group of all classes is left out at a time.

    Over classes, one class is left out at a time. The interval is for the expected value of the plain metric over draws
    of as many classes from the same population, with as many samples each.

    Over classes, uses t intervals: of CDNV and NC1 on a logarithmic scale, since they are positive and skewed,
    of NC2 and accuracies on their own. Over samples, too, but on scales that are about linear in what is
    estimated worst, the squared distances of class means: the inverse for CDNV and `nc1_quotient`, the inverse of the
    square root for NC1 and the directional CDNV. The upper end is inf if the interval on that scale reaches 0, that is,
    if the class means may coincide. NC2's equinorm has an interval from the moments of a sum of squares (see
    `equinorm_interval`). An accuracy has a Wilson interval, from the lower end for the share with each sample left out
    of its own class mean to the upper end for the plain share.

    Gives no interval over samples, and a reason in `reasons`, where simulated intervals did not cover: for CDNV and NC1
    if the standard error of some squared distance of two class means is more than a quarter of that distance (for NC2 a
    fifth); for NC1 also if noise is more than 0.6 of the variance of the class means in some direction; for NC1 and the
    directional CDNV if more than half of the variance along differences of class means is noise of those differences;
    for these three if the standard error of the logarithm is more than 1; if the remaining bias is more than half of
    the standard error (for a logarithm it is about the square of the jackknife's correction). The NCC accuracy has none
    if the class means of two halves assign more samples to different classes than twice its standard error; NC4 a
    quarter: unless classes hardly overlap, noise lowers the agreement with a head that has the boundaries of the true
    means. A rule selects draws in which the noise comes out small, and so the distances large; the intervals are those
    of the distribution truncated to draws that the rules let pass (see `truncated_interval`), wider near a limit.

    Costs one measurement for each group, and over samples products of (classes · groups)² pairs of rows.

    Args:
        features: As in `measure`.
        labels: As in `measure`.
        num_classes: As in `measure`.
        weights: As in `measure`.
        bias: As in `measure`.
        over: "samples" or "classes", the source of the randomness that the interval covers.
        confidence: Between 0 and 1.
        seed: Seed of the division into groups.

    Raises:
        InputError: As in `measure`; or a class has fewer than 4 samples, or there are fewer than 3 classes.
    """
    if over not in _COVERS:
        raise InputError(f"over={over!r}: give 'samples' or 'classes'")
    if not 0 < confidence < 1:
        raise InputError(f"confidence={confidence}: give a number between 0 and 1")
    array = read_features(features)
    known = checked_labels(array, labels, num_classes)
    head = checked_head(weights, bias, known, array.shape[1])
    k = len(known.classes)
    if over == "samples":
        few = known.classes[known.counts < _FEWEST_SAMPLES]
        if len(few):
            raise InputError(
                f"fewer than {_FEWEST_SAMPLES} samples of class {list_classes(few)}: add samples or leave the class out"
            )
        groups = number_of_groups(known.counts)
        group = balanced_groups(known.position, known.counts, groups, seed)
    else:
        if k < _FEWEST_CLASSES:
            raise InputError(f"{k} classes: an interval over classes needs {_FEWEST_CLASSES} or more")
        groups, group = k, np.zeros_like(known.position)

    placed, position = on_mesh(array, known.position, k)
    _, part = on_mesh(array, group, 0)
    products = products_of_groups(placed, position, part, k, groups) if over == "samples" else None
    whole = jax.device_get(whole_metrics(placed, position, part, head, products, k))
    parts = progress(range(groups), f"intervals over {over}")
    replicates = [
        jax.device_get(metrics_without(placed, position, part, np.int32(g), head, products, k)) for g in parts
    ]
    left_out = {name: np.stack([replicate[name] for replicate in replicates]) for name in replicates[0]}
    total = whole["separation" if over == "samples" else "nc1_quotient"]
    if not np.isfinite(total) and not np.isfinite(np.asarray(array).astype(np.float32)).all():
        raise not_finite(array)
    check_spread(float(whole["spread"]))
    quantile = float(stdtrit(groups - 1, 0.5 + confidence / 2))
    if over == "samples":
        whole, left_out = with_equiangular(whole, left_out)
    by_name: dict[str, Interval | None] = dict.fromkeys((*RATIOS, *SHAPES, *ACCURACIES))
    reasons = dict(_NO_INTERVAL)
    for name in by_name:
        value: Interval | str
        if name in ACCURACIES and name not in whole:
            value = "it needs a head"
        elif over == "classes":
            value = _over_classes(name, whole, left_out, quantile)
        elif name in ACCURACIES:
            value = accuracy_interval(name, whole, len(known.position), confidence)
        else:
            value = interval_over_samples(name, whole, left_out, quantile)
        if isinstance(value, Interval):
            by_name[name] = value
        else:
            reasons[name] = f"no interval: {value}"
    return CollapseIntervals(over=over, confidence=confidence, groups=groups, reasons=reasons, **by_name)  # type: ignore[arg-type]


def _over_classes(name: str, whole: Mapping[str, np.ndarray], left_out: Replicates, quantile: float) -> Interval | str:
    """Computes an interval from the metric of all classes and its replicates, or returns why there is none."""
    value, left = float(whole[name]), left_out[name].astype(np.float64)
    ratio = name in RATIOS
    if name in SHAPES and len(left) == 3:
        return (
            "with one of three classes left out, two class means are equally far from their centre and opposite each "
            "other, whatever they are"
        )
    if reason := degenerate(value, left, "classes", logarithm=ratio):
        return reason
    scale = Scale(0.0 if ratio else 1.0)
    centre, error = float(scale.to(value)), jackknife_error(scale.to(left))
    low, high = (scale.back(end) for end in (centre - quantile * error, centre + quantile * error))
    limit = 1.0 if name in ACCURACIES else np.inf
    return Interval(low, min(high, limit), value)


def number_of_groups(counts: Int[np.ndarray, " k"]) -> int:
    """Returns the number of groups, at most 40, that divides the classes most evenly."""
    most = min(_MOST_GROUPS, int(counts.min()))
    return min(range(max(_FEWEST_SAMPLES, most // 2), most + 1), key=lambda g: (np.mean((counts % g) / counts), -g))


def balanced_groups(
    position: Int[np.ndarray, " n"], counts: Int[np.ndarray, " k"], groups: int, seed: int
) -> Int[np.ndarray, " n"]:
    """Assigns samples to random groups that are as equal in size as possible within each class."""
    shuffled = np.random.default_rng(seed).permutation(len(position))
    order = shuffled[np.argsort(position[shuffled], kind="stable")]
    group = np.empty(len(position), np.int32)
    group[order] = (np.arange(len(position)) - np.repeat(np.cumsum(counts) - counts, counts)) % groups
    return group
