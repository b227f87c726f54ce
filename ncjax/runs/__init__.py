"""Runs on disk: finding and reading them, opening their data, and comparing their configurations."""

from ncjax.runs.comparison import (
    Comparison,
    Configuration,
    Difference,
    compare,
    configurations,
    paired_episodes,
)
from ncjax.runs.folders import Run, find, number, open_benchmark, read

__all__ = [
    "Comparison",
    "Configuration",
    "Difference",
    "Run",
    "compare",
    "configurations",
    "find",
    "number",
    "open_benchmark",
    "paired_episodes",
    "read",
]
