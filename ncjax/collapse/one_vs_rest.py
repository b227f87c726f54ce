"""The distance of each class from the convex hull of the others: a margin that classes can have beyond dimensions."""

from typing import Any

import numpy as np
from jaxtyping import Float

from ncjax.checks import as_numpy
from ncjax.collapse.spectra import in_own_span
from ncjax.errors import InputError

MOST_CLASSES = 500
"""Up to which `measure` computes it: one convex program for each class, 3 ms each at 300 classes."""


def one_vs_rest_distances(directions: Any) -> Float[np.ndarray, " k"]:
    """Computes the distance of each unit row from the convex hull of the other unit rows.

    Its minimum is the GNC2 of Jiang et al., "Generalized Neural Collapse for a Large Number of Classes" (2024,
    arXiv 2310.05351), which takes the head's rows; larger is better, k/(k − 1) at a simplex ETF, and 0 if a row lies
    among the others. Solved exactly, in float64 on the host: the point of a hull nearest to 0 is that of the
    non-negative least squares problem min ‖Zu‖² + (1ᵀu − 1)², whose least value v gives the distance √(v/(1 − v))
    (Lawson, Hanson, "Solving Least Squares Problems", 1974, chapter 23).

    Args:
        directions: [k, d], rows of any length: centred class means, or a head's weights.

    Raises:
        InputError: There are fewer than two rows, a row is 0, or values are not finite.
    """
    from scipy.optimize import nnls  # 0.3 s to import

    rows = as_numpy("directions", directions).astype(np.float64)
    if rows.ndim != 2 or len(rows) < 2:
        raise InputError(f"directions have shape {rows.shape}: give [k, d] of two classes or more")
    largest = np.abs(rows).max(axis=1, keepdims=True, initial=0.0)
    if not (np.isfinite(rows).all() and (largest > 0).all()):
        raise InputError("directions hold a row that is 0, or values that are not finite: leave that class out")
    rows = rows / largest
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    k, d = unit.shape
    if k < d:
        unit = in_own_span(unit)
    target = np.zeros(unit.shape[1] + 1)
    target[-1] = 1.0
    distances = np.empty(k)
    for c in range(k):
        others = np.delete(unit, c, axis=0) - unit[c]
        _, residual = nnls(np.vstack([others.T, np.ones(k - 1)]), target, maxiter=100 * k)
        value = min(residual**2, 1.0 - 1e-16)
        distances[c] = np.sqrt(value / (1.0 - value))
    return distances
