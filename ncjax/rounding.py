"""Whether float32, in which everything is computed, can hold what tells features apart."""

import numpy as np

from ncjax.errors import InputError


def check_rounding(features: np.ndarray) -> None:
    """Nothing where the type of the features [n, d] fits into float32, or their values do.

    Raises:
        InputError: rounding to float32 would be more than a thousandth of their spread, under a large common offset.
    """
    if features.dtype.itemsize < 4 or features.dtype == np.float32 or features.size == 0:
        return
    exact = features.astype(np.float64)
    spread = float(exact.std(axis=0).max())
    with np.errstate(over="ignore"):
        rounding = np.abs(exact - exact.astype(np.float32)).max()
    # what rounding in float64 spreads is no spread: these rows are equal
    if rounding > 1e-3 * spread > 1e-16 * np.abs(exact).max():
        raise InputError(
            f"features spread by {spread:.2g} about an offset of up to {np.abs(exact).max():.2g}: float32 cannot hold "
            "both; subtract the mean of the columns first, under which distances between features do not change"
        )
