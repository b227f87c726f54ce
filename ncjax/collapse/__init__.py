"""Measures of neural collapse, and the theory of few-shot error that they enter. Knows arrays only."""

from ncjax.collapse.cdnv import cdnv
from ncjax.collapse.measure import Collapse, measure
from ncjax.collapse.moments import ClassMoments
from ncjax.collapse.stream import measure_stream

__all__ = ["ClassMoments", "Collapse", "cdnv", "measure", "measure_stream"]
