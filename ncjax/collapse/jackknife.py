"""Confidence intervals for the metrics of collapse: the jackknife over samples, and over classes.

Tukey (1958); Efron, "The Jackknife, the Bootstrap and Other Resampling Plans" (1982). A percentile bootstrap would
not do: within classes it adds each class's own Var/n to the distances, and over classes it pairs a class with itself.
"""

from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Int
from scipy.special import stdtrit

from ncjax.checks import not_finite, read_features
from ncjax.collapse.accuracy_intervals import accuracy_interval
from ncjax.collapse.collapse_intervals import COVERS, NO_INTERVAL, CollapseIntervals
from ncjax.collapse.inputs import check_spread, checked_head, checked_labels, list_classes, on_mesh
from ncjax.collapse.jackknife_replicates import ACCURACIES, metrics_without, products_of_groups, whole_metrics
from ncjax.collapse.nc2_intervals import with_equiangular
from ncjax.collapse.sample_intervals import (
    RATIOS,
    SHAPES,
    Replicates,
    degenerate,
    interval_over_samples,
    jackknife_error,
)
from ncjax.devices import on_data_mesh
from ncjax.errors import InputError
from ncjax.interval import Interval
from ncjax.progress import progress

# Measures of directions, which have an interval over classes. The mean of GNC2 may be negative, and has no logarithm.
_DIRECTIONS = ("nc2_etf_error", "nc2_etf_error_head", "nc3_etf_error", "gnc2_mean", "gnc2_std", "unc3", "self_duality")
_OF_MEANS = ("nc2_etf_error", "gnc2_mean", "gnc2_std")
_OF_HEAD = ("nc4", "nc2_etf_error_head", "nc3_etf_error", "unc3", "self_duality")
_FEWEST_SAMPLES, _FEWEST_CLASSES, _MOST_GROUPS = 4, 3, 40


@on_data_mesh
def intervals(
    features: Any,
    labels: Any,
    *,
    num_classes: int | None = None,
    weights: Any = None,
    bias: Any = None,
    over: Literal["samples", "classes"] = "samples",
    confidence: float = 0.95,
    seed: int = 0,
) -> CollapseIntervals:
    """Computes intervals for the means and accuracies that `measure` returns for the same arguments.

    Over samples, the interval is for the value that infinitely many samples of these classes would give. With few
    samples the plain value is far from it if the variance Var/n of a class mean is of the size of the squared
    distances. The intervals are therefore built around estimates from unbiased variances and distances, such as the
    debiased CDNV (`cdnv` and `debiased_cdnv` share an interval, since they agree for infinitely many samples). The
    samples of each class are divided at random into the same number of groups, at most 40, chosen so that group sizes
    differ least; one group of all classes is left out at a time.

    Over classes, one class is left out at a time. The interval is for the expected value of the plain metric over draws
    of as many classes from the same population, with as many samples each.

    Over classes, uses t intervals: of CDNV, NC1, ETF errors, `gnc2_std`, UNC3 and self-duality on a logarithmic scale,
    since they are positive and skewed, of NC2's equinorm and equiangular, `gnc2_mean` and accuracies on their own. Over
    samples, too, but on scales that are about linear in what is estimated worst, the squared distances of class means:
    the inverse for CDNV and `nc1_quotient`, the inverse of the square root for NC1 and the directional CDNV. The upper
    end is inf if the interval on that scale reaches 0, that is, if the class means may coincide. NC2's equinorm has an
    interval from the moments of a sum of squares (see `equinorm_interval`). An accuracy has an exact interval, from the
    lower end for the share with each sample left out of its own class mean to the upper end for the plain share.

    Gives no interval over samples, and a reason in `reasons`, where simulated intervals did not cover: for CDNV and NC1
    if the standard error of some squared distance of two class means is more than a quarter of that distance (for NC2 a
    fifth); for NC1 also if noise is more than 0.6 of the variance of the class means in some direction; for NC1 and the
    directional CDNV if more than half of the variance along differences of class means is noise of those differences;
    for these three if the standard error of the logarithm is more than 1; if the remaining bias is more than half of
    the standard error (for a logarithm it is about the square of the jackknife's correction). The NCC accuracy has none
    if the class means of two halves assign more samples to different classes than twice its standard error; NC4 a
    quarter: unless classes hardly overlap, noise lowers the agreement with a head that has the boundaries of the true
    means. A rule selects draws in which the noise comes out small, and so the distances large; the intervals are those
    of the distribution truncated to draws that the rules let pass (see `truncated_interval`), wider near a limit.

    In simulations of 200 settings (3 and 5 classes of 8, 20 and 50 samples in 16, 64 and 256 dimensions at CDNV 0.05 to
    10, 20 classes of 8 and 20 samples in 16 and 128 dimensions; spherical and with eigenvalues 1/i; 150 draws each),
    where half of the draws or more had an interval, 90 % intervals over samples covered on average, and in the lowest
    and highest setting: CDNV 92 (82 to 97) %, directional 92 (85 to 98), NC1 93 (82 to 97), `nc1_quotient` 93 (85 to
    99), equinorm 91 (85 to 98), equiangular 94 (85 to 100). The standard error of one setting is 2 to 3 %. Where 13 to
    50 % of the draws had one: CDNV 93 (82 to 100), directional 84 (73 to 92), NC1 88 (75 to 100), equinorm 89 (82 to
    96), equiangular 93 (87 to 100). Where still fewer had one, 84 to 92 % of these pooled; but for the directional CDNV
    and NC1 down to 29 % where the classes have few long directions (eigenvalues 1/i in 256 dimensions, CDNV 3) and one
    draw in twenty has an interval. Accuracies cover more than they say: 94 to 100 %, 84 % where one draw in six has an
    interval.

    Over classes, 90 % intervals of ETF errors, GNC2, UNC3 and self-duality covered 85 to 98 % in simulations of five
    settings (6 to 40 classes of 20 to 40 samples in 8 to 64 dimensions; 300 draws each); those of
    `ncc_accuracy_left_out` 70 to 91 %, which is why it has none.

    Costs one measurement for each group, and over samples products of (classes · groups)² pairs of rows.

    Args:
        features: As in `measure`.
        labels: As in `measure`.
        num_classes: As in `measure`.
        weights: As in `measure`.
        bias: As in `measure`.
        over: "samples" or "classes", the source of the randomness that the interval covers.
        confidence: Between 0 and 1.
        seed: Seed of the division into groups.

    Raises:
        InputError: As in `measure`; or a class has fewer than 4 samples, or there are fewer than 3 classes.
    """
    if over not in COVERS:
        raise InputError(f"over={over!r}: give 'samples' or 'classes'")
    if not 0 < confidence < 1:
        raise InputError(f"confidence={confidence}: give a number between 0 and 1")
    array = read_features(features)
    known = checked_labels(array, labels, num_classes)
    head = checked_head(weights, bias, known, array.shape[1])
    k = len(known.classes)
    if over == "samples":
        few = known.classes[known.counts < _FEWEST_SAMPLES]
        if len(few):
            raise InputError(
                f"fewer than {_FEWEST_SAMPLES} samples of class {list_classes(few)}: add samples or leave the class out"
            )
        groups = number_of_groups(known.counts)
        group = balanced_groups(known.position, known.counts, groups, seed)
    else:
        if k < _FEWEST_CLASSES:
            raise InputError(f"{k} classes: an interval over classes needs {_FEWEST_CLASSES} or more")
        groups, group = k, np.zeros_like(known.position)

    placed, position = on_mesh(array, known.position, k)
    _, part = on_mesh(array, group, 0)
    products = products_of_groups(placed, position, part, k, groups) if over == "samples" else None
    whole = jax.device_get(whole_metrics(placed, position, part, head, products, k))
    parts = progress(range(groups), f"intervals over {over}")
    replicates = [
        jax.device_get(metrics_without(placed, position, part, np.int32(g), head, products, k)) for g in parts
    ]
    left_out = {name: np.stack([replicate[name] for replicate in replicates]) for name in replicates[0]}
    total = whole["separation" if over == "samples" else "nc1_quotient"]
    if not np.isfinite(total) and not np.isfinite(np.asarray(array).astype(np.float32)).all():
        raise not_finite(array)
    check_spread(float(whole["spread"]))
    quantile = float(stdtrit(groups - 1, 0.5 + confidence / 2))
    if over == "samples":
        whole, left_out = with_equiangular(whole, left_out)
    by_name: dict[str, Interval | None] = dict.fromkeys((*RATIOS, *SHAPES, *_DIRECTIONS, *ACCURACIES))
    reasons = dict(NO_INTERVAL)
    for name in by_name:
        value: Interval | str
        if name in _OF_HEAD and head is None:
            value = "it needs a head"
        elif name in _DIRECTIONS and over == "samples":
            value = "noise of the class means adds to it, and no estimate without that is known"
        elif over == "classes":
            value = _over_classes(name, whole, left_out, quantile)
        elif name in ACCURACIES:
            value = accuracy_interval(name, whole, len(known.position), confidence)
        else:
            value = interval_over_samples(name, whole, left_out, quantile)
        if isinstance(value, Interval):
            by_name[name] = value
        else:
            reasons[name] = f"no interval: {value}"
    return CollapseIntervals(over=over, confidence=confidence, groups=groups, reasons=reasons, **by_name)  # type: ignore[arg-type]


def _over_classes(name: str, whole: Replicates, left_out: Replicates, quantile: float) -> Interval | str:
    """Computes an interval from the metric of all classes and its replicates, or returns why there is none."""
    value, left = float(whole[name]), left_out[name].astype(np.float64)
    ratio = name in (*RATIOS, *_DIRECTIONS) and name != "gnc2_mean"
    if name in (*SHAPES, *_OF_MEANS) and len(left) == 3:
        return (
            "with one of three classes left out, two class means are equally far from their centre and opposite each "
            "other, whatever they are"
        )
    if reason := degenerate(value, left, "classes", logarithm=ratio):
        return reason
    if ratio:
        value, left = np.log(value), np.log(left)
    half = quantile * jackknife_error(left)
    low, high = value - half, value + half
    if ratio:
        return Interval(float(np.exp(low)), float(np.exp(high)), float(np.exp(value)))
    least, most = -np.inf if name == "gnc2_mean" else 0.0, 1.0 if name in ACCURACIES else np.inf
    return Interval(max(low, least), min(high, most), value)


def number_of_groups(counts: Int[np.ndarray, " k"]) -> int:
    """Returns the number of groups, at most 40, that divides the classes most evenly."""
    most = min(_MOST_GROUPS, int(counts.min()))
    return min(range(max(_FEWEST_SAMPLES, most // 2), most + 1), key=lambda g: (np.mean((counts % g) / counts), -g))


def balanced_groups(
    position: Int[np.ndarray, " n"], counts: Int[np.ndarray, " k"], groups: int, seed: int
) -> Int[np.ndarray, " n"]:
    """Assigns samples to random groups that are as equal in size as possible within each class."""
    shuffled = np.random.default_rng(seed).permutation(len(position))
    order = shuffled[np.argsort(position[shuffled], kind="stable")]
    group = np.empty(len(position), np.int32)
    group[order] = (np.arange(len(position)) - np.repeat(np.cumsum(counts) - counts, counts)) % groups
    return group
