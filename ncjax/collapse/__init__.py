"""Measures of neural collapse, and the theory of few-shot error that they enter. Knows arrays, no networks."""

from ncjax.collapse.cdnv import cdnv
from ncjax.collapse.measure import Collapse, measure
from ncjax.collapse.moments import ClassMoments

__all__ = ["ClassMoments", "Collapse", "cdnv", "measure"]
