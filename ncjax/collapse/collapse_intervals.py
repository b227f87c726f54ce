"""The result of `intervals`, and the measures that have none."""

from dataclasses import dataclass, field, fields
from typing import Any

from ncjax.equal_by_value import EqualByValue
from ncjax.interval import Interval

COVERS = {
    "samples": "the drawing of samples within these classes, about the value that infinitely many would give",
    "classes": "the drawing of classes like these, as many",
}
NO_INTERVAL = {
    "cdnv_median": "no interval: a median of pairs that share classes is not smooth, and the jackknife fails for it",
    "debiased_cdnv_median": "no interval: as for the median of the plain pairs",
    "ncc_accuracy_left_out": "no interval: over classes it did not cover; over samples see that of ncc_accuracy",
    "one_vs_rest_distance": "no interval: a least distance is not smooth",
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
    nc2_etf_error: Interval | None
    nc2_etf_error_head: Interval | None
    nc3_etf_error: Interval | None
    gnc2_mean: Interval | None
    gnc2_std: Interval | None
    unc3: Interval | None
    self_duality: Interval | None
    cdnv_median: None = None
    cdnv_worst: None = None
    debiased_cdnv_median: None = None
    ncc_accuracy_left_out: None = None
    one_vs_rest_distance: None = None
    reasons: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        title = f"{self.confidence:.0%} intervals over {self.over}: they cover {COVERS[self.over]}"
        return "\n".join([title, *interval_lines(self, 22)])


def interval_lines(result: Any, width: int) -> list[str]:
    """Describes each interval of a dataclass in a line, and each of its `reasons`; names take `width` columns."""
    lines = []
    for f in fields(result):
        value = getattr(result, f.name)
        if isinstance(value, Interval):
            lines.append(f"{f.name:<{width}} {value.low:.6g} to {value.high:.6g}, around {value.estimate:.6g}")
    return lines + [f"{name:<{width}} {reason}" for name, reason in result.reasons.items()]
