"""Confidence intervals for the metrics of collapse: the jackknife over samples, and over classes.

Tukey (1958); Efron, "The Jackknife, the Bootstrap and Other Resampling Plans" (1982). A percentile bootstrap would
not do: within classes it adds each class's own Var/n to the distances, and over classes it pairs a class with itself.
"""

from dataclasses import dataclass, field, fields
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Float, Int
from scipy.special import ndtr, ndtri, stdtrit

from ncjax.checks import not_finite, read_features
from ncjax.collapse.inputs import check_spread, checked_head, checked_labels, list_classes, on_mesh
from ncjax.collapse.jackknife_replicates import (
    ACCURACIES,
    MOST_CLASSES,
    metrics_without,
    products_of_groups,
    whole_metrics,
)
from ncjax.devices import on_data_mesh
from ncjax.equal_by_value import EqualByValue
from ncjax.errors import InputError
from ncjax.interval import Interval
from ncjax.progress import progress

_RATIOS = ("cdnv", "debiased_cdnv", "directional_cdnv", "nc1", "nc1_quotient")
_SHAPES = ("nc2_equinorm", "nc2_equiangular")
_FEWEST_SAMPLES, _FEWEST_CLASSES, _MOST_GROUPS = 4, 3, 40
# The noise above which intervals over samples did not cover in the simulations that `intervals` describes.
_MOST_DISTANCE_NOISE = {
    "cdnv": 1 / 3, "directional_cdnv": 1 / 3, "nc1": 1 / 3, "nc2_equinorm": 1 / 4, "nc2_equiangular": 1 / 4,
}  # fmt: skip
_MOST_NC1_NOISE, _MOST_LOG_ERROR, _MOST_LEFT = 0.6, 1.0, 0.5
# How much the noise of the class means may change an accuracy, in units of its standard error.
_MOST_OPTIMISM, _MOST_UNCERTAIN = 1.0, 0.25
_COVERS = {
    "samples": "the drawing of samples within these classes, about the value that infinitely many would give",
    "classes": "the drawing of classes like these, as many",
}
_NO_INTERVAL = {
    "cdnv_median": "no interval: a median of pairs that share classes is not smooth, and the jackknife fails for it",
    "cdnv_worst": "no interval: neither jackknife nor bootstrap holds for the largest of the pairs",
}


@dataclass(frozen=True, eq=False)
class CollapseIntervals(EqualByValue):
    """An interval for each mean and accuracy of `Collapse`, in a field of the same name.

    Attributes:
        over: "samples" or "classes": the intervals cover the drawing of these.
        confidence: The confidence of each single interval.
        groups: The number of parts that are left out in turn.
        reasons: Why a metric has no interval.
    """

    over: str
    confidence: float
    groups: int
    cdnv: Interval | None
    debiased_cdnv: Interval | None
    directional_cdnv: Interval | None
    nc1: Interval | None
    nc1_quotient: Interval | None
    nc2_equinorm: Interval | None
    nc2_equiangular: Interval | None
    nc4: Interval | None
    ncc_accuracy: Interval | None
    cdnv_median: None = None
    cdnv_worst: None = None
    reasons: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{self.confidence:.0%} intervals over {self.over}: they cover {_COVERS[self.over]}"]
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Interval):
                lines.append(f"{f.name:<18} {value.low:.6g} to {value.high:.6g}, around {value.estimate:.6g}")
        return "\n".join(lines + [f"{name:<18} {reason}" for name, reason in self.reasons.items()])


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

    Uses Student's t intervals: for CDNV and NC1 on a logarithmic scale, since they are positive and skewed; for NC2,
    and for accuracies over classes, on their own scale. Over samples, NC2's equinorm uses the scale of its square, and
    `nc1_quotient` that of its inverse, so that its upper end is inf if the class means may coincide. Over samples, an
    accuracy has a Wilson interval, from the lower end for the share with each sample left out of its own class mean to
    the upper end for the plain share.

    Gives no interval over samples, and a reason in `reasons`, where simulated intervals did not cover: for CDNV and NC1
    if the standard error of some squared distance of two class means is more than a third of that distance (for NC2 a
    quarter); for NC1 also if noise is more than 0.6 of the variance of the class means in some direction; for ratios if
    the standard error of the logarithm is more than 1; for all if the remaining bias is more than half of the standard
    error (for the logarithm of a ratio it is about the square of the jackknife's correction). The NCC accuracy has
    none if the plain share exceeds that of samples classified by the means of the other half of the samples by more
    than the standard error. NC4 has none if the means of two halves assign more samples to different classes than a
    quarter of its standard error: unless classes hardly overlap, noise lowers the agreement with a head that has the
    boundaries of the true means.

    In simulations of more than 120 settings (3, 5 and 20 classes of 8 to 200 samples in 16 to 640 dimensions, 20
    classes of 200 samples in 16 dimensions only, CDNV 0.05 to 10, spherical and with eigenvalues 1/i; 60 to 300 draws
    each), where half of the draws or more had an interval, 90 % intervals over samples covered on average, and in the
    lowest and highest setting: CDNV 92 (85 to 98) %, directional 92 (86 to 99), NC1 93 (86 to 100), `nc1_quotient` 92
    (84 to 98), equinorm 89 (82 to 96), equiangular 94 (86 to 100). The standard error of one setting is 2 to 4 %. Where
    fewer draws have an interval, these are draws whose distances come out large: then it covers less, in single
    settings 50 %. Intervals of accuracies covered 85 to 100 %, 100 % if the true share is 1; but 68 % in 5 classes of
    200 samples with eigenvalues 1/i in 128 dimensions and a true accuracy of 0.9999, which noise of the class means
    lowers to 0.998.

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
    if over not in _COVERS:
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
        groups = _number_of_groups(known.counts)
        group = _balanced_groups(known.position, known.counts, groups, seed)
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
    if over == "samples":
        whole, left_out = _shapes(whole, left_out)

    quantile = float(stdtrit(groups - 1, 0.5 + confidence / 2))
    by_name: dict[str, Interval | None] = dict.fromkeys((*_RATIOS, *_SHAPES, *ACCURACIES))
    reasons = dict(_NO_INTERVAL)
    for name in by_name:
        source = "cdnv" if over == "samples" and name == "debiased_cdnv" else name
        if name in ACCURACIES and name not in whole:
            reasons[name] = "no interval: it needs a head"
            continue
        value: Interval | str
        if name in ACCURACIES and over == "samples":
            value = _accuracy(name, whole, len(known.position), confidence)
        elif name == "nc1_quotient" and over == "samples":
            value = _quotient(whole["separation"], left_out["separation"], quantile)
        else:
            value = _unresolved(source, whole, k, over) or _interval(source, whole, left_out, over, quantile)
        if isinstance(value, Interval):
            by_name[name] = value
        else:
            reasons[name] = f"no interval: {value}"
    return CollapseIntervals(over=over, confidence=confidence, groups=groups, reasons=reasons, **by_name)  # type: ignore[arg-type]


def _unresolved(name: str, whole: dict[str, np.ndarray], k: int, over: str) -> str | None:
    """Returns why an interval would not cover or have no width; None if it is fine."""
    if name in _SHAPES and k == (2 if over == "samples" else 3):
        left = "" if over == "samples" else "with one of three classes left out, "
        return f"{left}two class means are equally far from their centre and opposite each other, whatever they are"
    if over == "samples":
        if whole["distance_noise"] > _MOST_DISTANCE_NOISE.get(name, np.inf):
            return "the samples are too few to tell the distance of some two class means"
        if name == "nc1" and not whole["nc1_noise"] <= _MOST_NC1_NOISE:
            return "in some direction the class means spread little more than the noise of the samples"
        if name not in whole:
            return f"more than {MOST_CLASSES} classes"
    return None


def _interval(
    name: str, whole: dict[str, np.ndarray], left_out: dict[str, np.ndarray], over: str, quantile: float
) -> Interval | str:
    """Computes an interval from the metric of all samples and its replicates, or returns why there is none."""
    value, left = float(whole[name]), left_out[name].astype(np.float64)
    ratio, samples = name in _RATIOS, over == "samples"
    if not (np.isfinite(value) and np.isfinite(left).all()):
        return "it is infinite, or becomes infinite when a part is left out"
    if ratio and min(value, left.min()) <= 0:
        return "it is 0, or becomes 0 when a part is left out, and has no logarithm"
    if np.ptp(left) == 0:
        return f"it is the same whichever of the {over} are left out"
    if ratio:
        value, left = np.log(value), np.log(left)
    groups, error = len(left), _jackknife_error(left)
    if samples and name in ("directional_cdnv", "nc1"):
        # The jackknife counts the part that is quadratic in the noise twice (Efron, Stein 1981), which matters for
        # metrics that divide by a distance to the fourth power.
        error /= np.sqrt(1.0 + float(whole["quadratic_share"]))
    # The correction removes bias if the metric is smooth; at kinks it adds more noise than it removes bias.
    correction = float((groups - 1) * (value - left.mean())) if samples and name != "nc2_equiangular" else 0.0
    remaining = correction**2 if ratio else float(whole.get(f"{name}/remaining", 0.0))
    if samples and (remaining > _MOST_LEFT * error or (ratio and error > _MOST_LOG_ERROR)):
        return "the samples are too few: it depends on their number more than an interval allows for"
    centre = value + correction
    low, high = centre - quantile * error, centre + quantile * error
    if ratio:
        return Interval(float(np.exp(low)), float(np.exp(high)), float(np.exp(centre)))
    limit = 1.0 if name in ACCURACIES else np.inf
    low, high, centre = max(low, 0.0), min(max(high, 0.0), limit), max(centre, 0.0)
    if samples and name == "nc2_equinorm":  # computed on the scale of its square
        low, high, centre = np.sqrt(low), np.sqrt(high), np.sqrt(centre)
    return Interval(float(low), float(high), float(centre))


def _jackknife_error(left: Float[np.ndarray, " g"]) -> float:
    """Computes the standard error from the values with each group left out."""
    groups = len(left)
    return float(np.sqrt((groups - 1) / groups * np.sum((left - left.mean()) ** 2)))


def _quotient(separation: np.ndarray, left_out: np.ndarray, quantile: float) -> Interval | str:
    """Computes the interval of `nc1_quotient` over samples, or returns why there is none.

    It is the inverse of an interval of `separation`, which is linear in the quantity that is estimated worst, the
    scatter of the class means. The upper end is inf if that interval reaches 0. So the interval is given whatever the
    noise, and not only to draws that overestimate the scatter.
    """
    value, left = float(separation), left_out.astype(np.float64)
    if not (np.isfinite(value) and np.isfinite(left).all()):
        return "the classes have no variance, or none when a part is left out"
    if np.ptp(left) == 0:
        return "it is the same whichever of the samples are left out"
    centre = value + (len(left) - 1) * (value - float(left.mean()))
    half = quantile * _jackknife_error(left)
    if centre + half <= 0:
        return "the samples are too few to tell the class means apart"
    low, high, estimate = (1.0 / x if x > 0 else np.inf for x in (centre + half, centre - half, centre))
    return Interval(float(low), float(high), float(estimate))


def _shapes(
    whole: dict[str, np.ndarray], left: dict[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Adds NC2 over samples: the square of equinorm, and equiangular.

    Noise of z increases the mean of |z| over pairs, most near 0. With the standard error of z from the jackknife,
    subtracts what noise of that size adds to the mean of the measured |z|. The remaining bias is about the change
    that a second such correction would make.
    """
    k, groups = len(whole["squared_norms"]), len(left["cosines"])
    noise = left["cosines"].std(axis=0, dtype=np.float64) * np.sqrt(groups - 1)

    def equinorm(squared_norms: Float[np.ndarray, " k"]) -> float:
        norms = np.sqrt(np.maximum(squared_norms.astype(np.float64), 0.0))
        return float(np.var(norms) / np.mean(norms) ** 2) if norms.any() else np.nan

    def equiangular(cosines: Float[np.ndarray, "..."]) -> tuple[float, float]:
        gap = np.abs(cosines.astype(np.float64) + 1.0 / (k - 1))
        once, twice = _folded_mean(gap, noise), _folded_mean(gap, np.sqrt(2.0) * noise)
        return float(np.mean(2.0 * gap - once)), float(np.abs(np.mean(gap - 2.0 * once + twice)))

    whole = whole | {"nc2_equinorm": np.array(equinorm(whole["squared_norms"]))}
    left = left | {"nc2_equinorm": np.array([equinorm(row) for row in left["squared_norms"]])}
    if k <= MOST_CLASSES:
        value, remaining = equiangular(whole["cosines"])
        whole |= {"nc2_equiangular": np.array(value), "nc2_equiangular/remaining": np.array(remaining)}
        left |= {"nc2_equiangular": np.array([equiangular(row)[0] for row in left["cosines"]])}
    return whole, left


def _folded_mean(gap: Float[np.ndarray, "..."], noise: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Computes E|gap + noise·ε| for a standard normal ε."""
    z = gap / np.where(noise > 0, noise, 1.0)
    folded = noise * np.sqrt(2 / np.pi) * np.exp(-(z**2) / 2) + gap * (2 * ndtr(z) - 1)
    return np.where(noise > 0, folded, gap)


def _accuracy(name: str, whole: dict[str, np.ndarray], samples: int, confidence: float) -> Interval | str:
    """Computes the interval of an accuracy over samples, or returns why there is none."""
    share, left_out = float(whole[name]), float(whole[f"{name}/left_out"])
    plain = share if name == "ncc_accuracy" else left_out
    alone = _wilson(plain, plain, samples, confidence)
    error = (alone.high - alone.low) / (2.0 * float(ndtri(0.5 + confidence / 2)))
    if name == "ncc_accuracy":
        halves = float(whole["ncc_accuracy/halves"])
        if share - halves > _MOST_OPTIMISM * error:
            return (
                f"the samples are too few: it is {share:.2%} with each sample part of its own class mean, "
                f"{left_out:.2%} without, and {halves:.2%} by the class means of the other half of the samples"
            )
    elif float(whole["uncertain"]) > _MOST_UNCERTAIN * error:
        return (
            f"the samples are too few: the class means of two halves assign {float(whole['uncertain']):.2%} of them "
            "to different classes"
        )
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


def _number_of_groups(counts: Int[np.ndarray, " k"]) -> int:
    """Returns the number of groups, at most 40, that divides the classes most evenly."""
    most = min(_MOST_GROUPS, int(counts.min()))
    return min(range(max(_FEWEST_SAMPLES, most // 2), most + 1), key=lambda g: (np.mean((counts % g) / counts), -g))


def _balanced_groups(
    position: Int[np.ndarray, " n"], counts: Int[np.ndarray, " k"], groups: int, seed: int
) -> Int[np.ndarray, " n"]:
    """Assigns samples to random groups that are as equal in size as possible within each class."""
    shuffled = np.random.default_rng(seed).permutation(len(position))
    order = shuffled[np.argsort(position[shuffled], kind="stable")]
    group = np.empty(len(position), np.int32)
    group[order] = (np.arange(len(position)) - np.repeat(np.cumsum(counts) - counts, counts)) % groups
    return group
