"""Measures of neural collapse, and the theory of few-shot error that they enter. Knows arrays only."""

from ncjax.collapse.cdnv import cdnv
from ncjax.collapse.class_geometry import ClassGeometry
from ncjax.collapse.intervals import CollapseIntervals, Interval, intervals
from ncjax.collapse.layers import LayerCollapse, through_layers
from ncjax.collapse.measure import Collapse, measure
from ncjax.collapse.moments import ClassMoments
from ncjax.collapse.stream import measure_stream
from ncjax.collapse.theory import Theory, theory

__all__ = [
    "ClassGeometry",
    "ClassMoments",
    "Collapse",
    "CollapseIntervals",
    "Interval",
    "LayerCollapse",
    "Theory",
    "cdnv",
    "intervals",
    "measure",
    "measure_stream",
    "theory",
    "through_layers",
]
