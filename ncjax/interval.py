"""The confidence interval of a metric, an accuracy or a share."""

from typing import NamedTuple


class Interval(NamedTuple):
    """An interval within the range of the metric.

    Attributes:
        low: Lower end.
        high: Upper end.
        estimate: The value that the interval is built around, not always its middle or the metric's plain value.
    """

    low: float
    high: float
    estimate: float


def share_interval(count: int, total: int, confidence: float = 0.95) -> Interval:
    """Computes the exact interval of a share from `count` of `total` independent cases (Clopper, Pearson 1934).

    It covers at least as often as it says, also near 0 and 1, where Wilson's interval is too short: of 149 in 150 it
    ends at 0.9988, and a true share of 0.9995 gives this count in one of 14 cases.

    Args:
        count: 0 to `total`.
        total: One or more.
        confidence: Between 0 and 1.
    """
    from scipy.special import betaincinv  # takes a tenth of a second, and many who import this module do not need it

    tail = (1.0 - confidence) / 2.0
    low = 0.0 if count == 0 else float(betaincinv(count, total - count + 1, tail))
    high = 1.0 if count == total else float(betaincinv(count + 1, total - count, 1.0 - tail))
    return Interval(low, high, count / total)
