"""The scalar measures of features, read from the library's dataclasses, with their directions."""

import typing
from collections.abc import Sequence
from typing import Any

import numpy as np

from ncjax import collapse
from ncjax.collapse import Ncti, Transferability
from ncjax.measures import MEASURES

NCTI_PARTS = tuple(f"ncti {name}" for name in Ncti._fields)
"""Stored for each model; the score is a combination over the models that are compared."""
PREDICTED = "predicted error"
"""Prefix of the predicted NCC error, one for each number of shots."""

BASELINES = ("parameters", "source accuracy")


def direction(name: str) -> int | None:
    """Returns 1 if larger is better, -1 if smaller is, None if neither is or `ncjax.measures` does not know it."""
    if name in BASELINES:
        return 1
    if name.startswith(PREDICTED) or name == "geometric complexity":
        return -1
    measure = MEASURES.get(name)
    return None if measure is None or measure.lower_is_better is None else -1 if measure.lower_is_better else 1


def predicted_name(shots: int) -> str:
    """Returns the name of the predicted error at this number of shots."""
    return f"{PREDICTED} {shots}s"


def scalars(result: Any) -> dict[str, float]:
    """Returns the fields of a dataclass that are declared as a float or as a float or None, NaN for None."""
    kinds = typing.get_type_hints(type(result))
    values = {name: getattr(result, name) for name, kind in kinds.items() if kind in (float, float | None)}
    return {name: float("nan") if value is None else float(value) for name, value in values.items()}


def scalar_names() -> list[str]:
    """Names every measure of `measure`, for what is cached."""
    kinds = typing.get_type_hints(collapse.Collapse) | typing.get_type_hints(Transferability)
    return sorted(name for name, kind in kinds.items() if kind in (float, float | None))


def measure(features: np.ndarray, labels: np.ndarray, ways: int, shots: Sequence[int]) -> dict[str, float]:
    """Computes every measure of target features; NaN where one cannot be computed.

    Args:
      features: [n, d].
      labels: [n].
      ways: classes of the tasks whose error is predicted.
      shots: support images of these tasks.
    """
    scores = collapse.transferability(features, labels)
    values = scalars(collapse.measure(features, labels)) | scalars(scores)
    parts = (float("nan"),) * len(NCTI_PARTS) if scores.ncti is None else scores.ncti
    values |= dict(zip(NCTI_PARTS, parts, strict=True))
    theory = collapse.theory(features, labels, ways=ways, shots=tuple(shots))
    return values | {predicted_name(n): float(error) for n, error in zip(shots, theory.predicted, strict=True)}


def combine_ncti(parts: np.ndarray) -> np.ndarray:
    """Returns the authors' score of each model [m, r] from its parts [3, m, r].

    NaN for a model without parts, which the others are combined without, and where there are fewer than two others.
    """
    scores = np.full(parts.shape[1:], np.nan)
    for r in range(parts.shape[2]):
        has = np.isfinite(parts[:, :, r]).all(axis=0)
        if has.sum() > 1:
            scores[has, r] = Ncti.combine([Ncti(*map(float, model)) for model in parts[:, has, r].T])
    return scores
