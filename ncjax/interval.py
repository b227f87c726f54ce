"""The confidence interval of a metric or an accuracy."""

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
