"""Intervals over samples for accuracies of the nearest class mean."""

from collections.abc import Mapping

import numpy as np
from scipy.special import ndtri

from ncjax.interval import Interval

# The largest share of samples that the class means of two halves may assign to different classes, in units of the
# standard error of the accuracy.
_MOST_UNCERTAIN = {"ncc_accuracy": 2.0, "nc4": 0.25}


def accuracy_interval(name: str, whole: Mapping[str, np.ndarray], samples: int, confidence: float) -> Interval | str:
    """Computes the interval of an accuracy over samples, or returns why there is none."""
    share, left_out = float(whole[name]), float(whole[f"{name}/left_out"])
    plain = share if name == "ncc_accuracy" else left_out
    alone = _wilson(plain, plain, samples, confidence)
    error = (alone.high - alone.low) / (2.0 * float(ndtri(0.5 + confidence / 2)))
    uncertain = float(whole["uncertain"])
    if uncertain > _MOST_UNCERTAIN[name] * error:
        return f"the class means of two halves assign {uncertain:.2%} of the samples to different classes"
    return _wilson(share, left_out, samples, confidence)


def _wilson(share: float, left_out: float, samples: int, confidence: float) -> Interval:
    """Joins the intervals of Wilson (1927) for two shares, which have a width even if a share is 0 or 1."""
    z = float(ndtri(0.5 + confidence / 2))
    shares = np.asarray([share, left_out])
    shrink = 1.0 + z**2 / samples
    centre = (shares + z**2 / (2 * samples)) / shrink
    half = z / shrink * np.sqrt(shares * (1 - shares) / samples + z**2 / (4 * samples**2))
    low = 0.0 if shares.min() == 0 else np.min(centre - half)
    high = 1.0 if shares.max() == 1 else np.max(centre + half)
    return Interval(float(low), float(high), share)
