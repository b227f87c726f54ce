"""Intervals over samples for accuracies of the nearest class mean."""

from collections.abc import Mapping

import numpy as np
from scipy.special import ndtri

from ncjax.interval import Interval, share_interval

# The largest share of samples that the class means of two halves may assign to different classes, in units of the
# standard error of the accuracy.
_MOST_UNCERTAIN = {"ncc_accuracy": 2.0, "nc4": 0.25}


def accuracy_interval(name: str, whole: Mapping[str, np.ndarray], samples: int, confidence: float) -> Interval | str:
    """Computes the interval of an accuracy over samples, or returns why there is none."""
    share, left_out = float(whole[name]), float(whole[f"{name}/left_out"])
    plain = share if name == "ncc_accuracy" else left_out
    alone = _joined(plain, plain, samples, confidence)
    error = (alone.high - alone.low) / (2.0 * float(ndtri(0.5 + confidence / 2)))
    uncertain = float(whole["uncertain"])
    if uncertain > _MOST_UNCERTAIN[name] * error:
        return f"the class means of two halves assign {uncertain:.2%} of the samples to different classes"
    return _joined(share, left_out, samples, confidence)


def _joined(share: float, left_out: float, samples: int, confidence: float) -> Interval:
    """Joins the exact intervals of two shares."""
    low, high = (
        share_interval(round(samples * value), samples, confidence)
        for value in (min(share, left_out), max(share, left_out))
    )
    return Interval(low.low, high.high, share)
