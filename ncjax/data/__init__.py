"""Data sets as images of source, validation and target classes."""

from ncjax.data.benchmark import Benchmark, Split
from ncjax.data.catalog import load, names

__all__ = ["Benchmark", "Split", "load", "names"]
