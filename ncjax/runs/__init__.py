"""Runs on disk: finding and reading them, opening their data, and comparing their configurations."""

from ncjax.runs.comparison import (
    Comparison,
    Configuration,
    Difference,
    compare,
    configurations,
    episode_report,
)
from ncjax.runs.folders import Run, find, number, open_benchmark, read

__all__ = [
    "Comparison",
    "Configuration",
    "Difference",
    "Run",
    "compare",
    "configurations",
    "episode_report",
    "find",
    "number",
    "open_benchmark",
    "read",
]
