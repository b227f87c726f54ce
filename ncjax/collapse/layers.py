"""Collapse through the layers of a network: the depth at which it appears."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from ncjax.collapse.measure import Collapse, measure
from ncjax.equality import EqualByValue
from ncjax.errors import InputError


@dataclass(frozen=True, eq=False)
class LayerCollapse(EqualByValue):
    """Collapse of every stage of a network, the first one first.

    Galanti, Galanti, Ben-Shaul, "On the Implicit Bias Towards Minimal Depth of Deep Neural Networks" (2022,
    arXiv 2202.09028): the effective depth is the first layer whose nearest-class-centre error is at most a
    tolerance.

    Attributes:
        stages: what `measure` gives for each.
        tolerance: the error up to which a stage counts as separating the classes.
    """

    stages: tuple[Collapse, ...]
    tolerance: float

    @property
    def cdnv(self) -> Float[np.ndarray, "s"]:
        """Of each stage."""
        return np.array([stage.cdnv for stage in self.stages])

    @property
    def ncc_accuracy(self) -> Float[np.ndarray, "s"]:
        """Of each stage."""
        return np.array([stage.ncc_accuracy for stage in self.stages])

    @property
    def effective_depth(self) -> int | None:
        """The first stage, counted from 1, with NCC error at most the tolerance; None if there is none."""
        enough = np.flatnonzero(1.0 - self.ncc_accuracy <= self.tolerance)
        return int(enough[0]) + 1 if len(enough) else None

    def __str__(self) -> str:
        lines = [f"{'stage':<8}{'dimensions':>12}{'CDNV':>12}{'NCC accuracy':>14}"]
        for number, stage in enumerate(self.stages, 1):
            lines.append(f"{number:<8}{stage.d:>12}{stage.cdnv:>12.5g}{stage.ncc_accuracy:>14.4f}")
        depth = self.effective_depth
        found = "no stage" if depth is None else f"stage {depth}, the first"
        lines.append(f"effective depth: {found} with NCC error at most {self.tolerance:g}")
        return "\n".join(lines)


def through_layers(
    stages: Sequence[Float[ArrayLike, "n _"]],
    labels: Int[ArrayLike, "n"],
    *,
    num_classes: int | None = None,
    tolerance: float = 0.01,
) -> LayerCollapse:
    """`measure` of the pooled features [n, d_s] of every stage, all of the same samples.

    Raises:
        InputError: as `measure` does; also without stages, and for the features of one stage that are not in a list.
    """
    if getattr(stages, "ndim", 3) < 3 or not isinstance(stages, Iterable):
        raise InputError(
            f"stages is a {type(stages).__name__} of shape {getattr(stages, 'shape', ())}: give a list of the features "
            "[n, d] of each stage, the first one first"
        )
    stages = list(stages)
    if not stages:
        raise InputError("no stages: give the pooled features of one stage or more, the first one first")
    measured = tuple(measure(stage, labels, num_classes=num_classes) for stage in stages)
    return LayerCollapse(measured, tolerance)
