"""Measures of neural collapse, and the theory of few-shot error that they enter. Knows arrays only."""

from ncjax.collapse.class_distance_variance import cdnv
from ncjax.collapse.class_geometry import ClassGeometry
from ncjax.collapse.collapse_intervals import CollapseIntervals
from ncjax.collapse.decision_axes import AxisOrthogonality, axis_orthogonality
from ncjax.collapse.few_shot_theory import Theory, theory
from ncjax.collapse.jackknife import intervals
from ncjax.collapse.layers import LayerCollapse, through_layers
from ncjax.collapse.metrics import measure
from ncjax.collapse.moments import ClassMoments
from ncjax.collapse.ncti import Ncti
from ncjax.collapse.one_vs_rest import one_vs_rest_distances
from ncjax.collapse.out_of_distribution import OutOfDistribution
from ncjax.collapse.result import Collapse
from ncjax.collapse.spectra import Spectra
from ncjax.collapse.stream import measure_stream
from ncjax.collapse.transfer_intervals import TransferabilityIntervals, transferability_intervals
from ncjax.collapse.transfer_scores import Transferability, transferability
from ncjax.interval import Interval

__all__ = [
    "AxisOrthogonality",
    "ClassGeometry",
    "ClassMoments",
    "Collapse",
    "CollapseIntervals",
    "Interval",
    "LayerCollapse",
    "Ncti",
    "OutOfDistribution",
    "Spectra",
    "Theory",
    "Transferability",
    "TransferabilityIntervals",
    "axis_orthogonality",
    "cdnv",
    "intervals",
    "measure",
    "measure_stream",
    "one_vs_rest_distances",
    "theory",
    "through_layers",
    "transferability",
    "transferability_intervals",
]
