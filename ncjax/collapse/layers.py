"""Collapse through the layers of a network, and the depth at which classes separate."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from ncjax.collapse.metrics import measure
from ncjax.collapse.result import Collapse
from ncjax.devices import on_data_mesh
from ncjax.equal_by_value import EqualByValue
from ncjax.errors import InputError


@dataclass(frozen=True, eq=False)
class LayerCollapse(EqualByValue):
    """Collapse of every stage of a network, from the input on.

    Galanti, Galanti, Ben-Shaul, "On the Implicit Bias Towards Minimal Depth of Deep Neural Networks" (2022,
    arXiv 2202.09028): the effective depth is the first layer whose nearest-class-centre error is at most a
    tolerance.

    Attributes:
        stages: The metrics of each stage.
        tolerance: The largest NCC error at which a stage counts as separating the classes.
    """

    stages: tuple[Collapse, ...]
    tolerance: float

    @property
    def cdnv(self) -> Float[np.ndarray, " s"]:
        """The CDNV of each stage."""
        return np.array([stage.cdnv for stage in self.stages])

    @property
    def ncc_accuracy(self) -> Float[np.ndarray, " s"]:
        """The NCC accuracy of each stage."""
        return np.array([stage.ncc_accuracy for stage in self.stages])

    @property
    def effective_depth(self) -> int | None:
        """The first stage, counted from 1, with NCC error at most the tolerance; None if there is none."""
        separating = np.flatnonzero(1.0 - self.ncc_accuracy <= self.tolerance)
        return int(separating[0]) + 1 if len(separating) else None

    def __str__(self) -> str:
        lines = [f"{'stage':<8}{'dimensions':>12}{'CDNV':>12}{'NCC accuracy':>14}"]
        for number, stage in enumerate(self.stages, 1):
            lines.append(f"{number:<8}{stage.d:>12}{stage.cdnv:>12.5g}{stage.ncc_accuracy:>14.4f}")
        depth = self.effective_depth
        separating = "no stage" if depth is None else f"stage {depth}, the first"
        lines.append(f"effective depth: {separating} with NCC error at most {self.tolerance:g}")
        return "\n".join(lines)


@on_data_mesh
def through_layers(
    stages: Any,
    labels: Any,
    *,
    num_classes: int | None = None,
    tolerance: float = 0.01,
) -> LayerCollapse:
    """Measures the collapse of every stage's pooled features.

    Args:
        stages: A list of features [n, d_s], one for each stage from the input on, all of the same samples.
        labels: [n], as in `measure`.
        num_classes: As in `measure`.
        tolerance: The largest NCC error at which a stage counts as separating the classes.

    Raises:
        InputError: As in `measure`; or `stages` is empty, or is not a list.
    """
    if getattr(stages, "ndim", 3) < 3 or not isinstance(stages, Iterable):
        raise InputError(
            f"stages is a {type(stages).__name__} of shape {getattr(stages, 'shape', ())}: give a list of the features "
            "[n, d] of each stage, from the input on"
        )
    stages = list(stages)
    if not stages:
        raise InputError("no stages: give the pooled features of one stage or more, from the input on")
    measured = tuple(measure(stage, labels, num_classes=num_classes) for stage in stages)
    return LayerCollapse(measured, tolerance)
