"""Measures of neural collapse, and the theory of few-shot error that they enter. Knows arrays only."""

from ncjax.collapse.cdnv import cdnv
from ncjax.collapse.class_geometry import ClassGeometry
from ncjax.collapse.intervals import CollapseIntervals, Interval
from ncjax.collapse.intervals import intervals as _intervals
from ncjax.collapse.layers import LayerCollapse
from ncjax.collapse.layers import through_layers as _through_layers
from ncjax.collapse.measure import Collapse
from ncjax.collapse.measure import measure as _measure
from ncjax.collapse.moments import ClassMoments
from ncjax.collapse.stream import measure_stream as _measure_stream
from ncjax.collapse.theory import Theory
from ncjax.collapse.theory import theory as _theory
from ncjax.collapse.transfer_scores import Ncti, Transferability, transferability
from ncjax.devices import on_data_mesh

__all__ = [
    "ClassGeometry",
    "ClassMoments",
    "Collapse",
    "CollapseIntervals",
    "Interval",
    "LayerCollapse",
    "Ncti",
    "Theory",
    "Transferability",
    "cdnv",
    "intervals",
    "measure",
    "measure_stream",
    "theory",
    "through_layers",
    "transferability",
]

intervals = on_data_mesh(_intervals)
measure = on_data_mesh(_measure)
measure_stream = on_data_mesh(_measure_stream)
theory = on_data_mesh(_theory)
through_layers = on_data_mesh(_through_layers)
