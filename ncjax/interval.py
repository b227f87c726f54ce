"""An interval from low to high, as both mathematical rooms give it."""

from typing import NamedTuple


class Interval(NamedTuple):
    """From `low` to `high`, neither past what the metric can be.

    Attributes:
        low: lower end.
        high: upper end.
        estimate: what it is built around; it need not be the middle, nor the metric's plain value.
    """

    low: float
    high: float
    estimate: float
