"""How sure the measures of collapse are: jackknife intervals over samples, and over classes.

Tukey (1958); Efron, "The Jackknife, the Bootstrap and Other Resampling Plans" (1982). A percentile
bootstrap within classes would add each class's own Var/n to the distances, and one over classes would pair
a class with itself.
"""

from dataclasses import dataclass, field, fields
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int
from scipy.special import ndtr, ndtri, stdtrit

from ncjax.collapse.inputs import (
    check_spread,
    checked_features,
    checked_head,
    checked_labels,
    named,
    not_finite,
    on_mesh,
)
from ncjax.collapse.measure import summary_of_samples
from ncjax.collapse.moments import HIGHEST, moments_of_batch, segments
from ncjax.collapse.population import covariance_products, population_estimates
from ncjax.collapse.residuals import Frame, Head, residual_sums
from ncjax.equality import EqualByValue
from ncjax.errors import InputError
from ncjax.interval import Interval
from ncjax.progress import progress

_RATIOS = ("cdnv", "debiased_cdnv", "directional_cdnv", "nc1", "nc1_quotient")
_SHAPES = ("nc2_equinorm", "nc2_equiangular")
_ACCURACIES = ("nc4", "ncc_accuracy")
_FEWEST_SAMPLES, _FEWEST_CLASSES, _MOST_GROUPS, _MOST_CLASSES = 4, 3, 40, 1000
# The noise above which an interval over samples was seen not to cover, in the simulations that `intervals` tells of.
_MOST_DISTANCE_NOISE = {"cdnv": 1 / 3, "directional_cdnv": 1 / 3, "nc1": 1 / 3, "nc2_equinorm": 1 / 4}
_MOST_DISTANCE_NOISE["nc2_equiangular"] = _MOST_DISTANCE_NOISE["nc2_equinorm"]
_MOST_NC1_NOISE, _MOST_LOG_ERROR, _MOST_LEFT = 0.6, 1.0, 0.5
# Of the standard error of a share: by how much noise of the class means may change it.
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
    """An interval for each mean and accuracy of `Collapse`, by its name there.

    Attributes:
        over: "samples" or "classes", the drawing of which the intervals cover.
        confidence: of each interval by itself.
        groups: the number of parts left out in turn.
        reasons: why a metric has None.
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


def intervals(
    features: Float[ArrayLike, "n d"],
    labels: Int[ArrayLike, "n"],
    *,
    num_classes: int | None = None,
    weights: Float[ArrayLike, "k d"] | None = None,
    bias: Float[ArrayLike, "k"] | None = None,
    over: Literal["samples", "classes"] = "samples",
    confidence: float = 0.95,
    seed: int = 0,
) -> CollapseIntervals:
    """Intervals for the means and accuracies that `measure` returns for the same arguments.

    Over samples: the interval is for the value that infinitely many samples of these classes would give. The plain
    value of few samples is far from it where the variance Var/n of a class mean is of the size of the squared
    distances, so that the intervals are built around other estimates: from unbiased variances and distances, the
    debiased CDNV among them (`cdnv` and `debiased_cdnv` have the same interval, for they are one with infinitely many
    samples). The samples of each class are divided at random into the same number of groups, 40 at most, such that the
    groups of a class differ least in size; one group of all classes is left out at a time.

    Over classes: one class is left out at a time. The interval is for the expected value of the plain metric over
    draws of as many classes, samples of each as many, from where these classes came from.

    Student's t intervals: of CDNV and NC1 on a logarithmic scale, since they are positive and skewed; of NC2 and of
    accuracies over classes on their own. Over samples, NC2's equinorm has its square as the scale and `nc1_quotient`
    its inverse, so that its upper end is inf where the scatter of the class means may be 0. Over samples an accuracy
    has the interval of Wilson, from the lower end for the share with each sample left out of its own class mean to the
    upper end for the plain share.

    No interval over samples is given, and `reasons` says so, where it was seen not to cover: of CDNV and NC1 where the
    standard error of the distance of some two class means is more than a third of the squared distance, of NC2 more
    than a quarter; of NC1 also where more than 0.6 of the variance of the class means in some direction is that of
    their noise; of the ratios where the standard error of the logarithm is more than 1; of all where the bias that
    remains is more than half of the standard error (of the logarithm of a ratio it is about the square of the
    jackknife's correction). The NCC accuracy has none where the plain share is above that of samples classified by the
    means of the other half of the samples by more than the standard error; NC4 has none where the means of two halves
    assign more samples to different classes than a quarter of its standard error, which leaves it to classes that
    hardly overlap: what is less certain lowers agreement with a head that has the true means' boundaries.

    In simulations of more than 120 settings (3, 5 and 20 classes of 8 to 200 samples in 16 to 640 dimensions, CDNV
    0.05 to 10, spherical and with eigenvalues 1/i; 20 classes of 200 samples in 16 dimensions alone; 60 to 300 draws
    each) 90 % intervals over samples covered, where half of the draws or more had one, on average and in the lowest and
    highest setting: CDNV 92 (85 to 98) %, directional 92 (86 to 99), NC1 93 (86 to 100), `nc1_quotient` 92 (84 to 98),
    equinorm 89 (82 to 96), equiangular 94 (86 to 100). A standard error of one setting is 2 to 4 %. Where fewer draws
    have one, it is those whose distances come out large: such an interval covers less often, in single settings 50 %.
    Intervals of accuracies covered 85 to 100 %, 100 % where the true share is 1; but 68 % in 5 classes of 200 samples
    with eigenvalues 1/i in 128 dimensions and a true accuracy of 0.9999, of which noise of the class means makes 0.998.

    Costs as many measurements as there are groups, and over samples products of (classes · groups)² pairs of rows.

    Args:
        features: as in `measure`.
        labels: as in `measure`.
        num_classes: as in `measure`.
        weights: as in `measure`.
        bias: as in `measure`.
        over: what is drawn, "samples" or "classes".
        confidence: between 0 and 1.
        seed: of the division into groups.

    Raises:
        InputError: as `measure` does; also for fewer than 4 samples in a class, or fewer than 3 classes.
    """
    if over not in _COVERS:
        raise InputError(f"over={over!r}: give 'samples' or 'classes'")
    if not 0 < confidence < 1:
        raise InputError(f"confidence={confidence}: give a number between 0 and 1")
    array = checked_features(features)
    known = checked_labels(labels, num_classes, array.shape[0])
    head = checked_head(weights, bias, known, array.shape[1])
    k = len(known.classes)
    if over == "samples":
        few = known.classes[known.counts < _FEWEST_SAMPLES]
        if len(few):
            raise InputError(
                f"fewer than {_FEWEST_SAMPLES} samples of class {named(few)}: an interval over samples takes as many"
            )
        groups = _number_of_groups(known.counts)
        group = _balanced_groups(known.position, known.counts, groups, seed)
    else:
        if k < _FEWEST_CLASSES:
            raise InputError(f"{k} classes: an interval over classes takes {_FEWEST_CLASSES} or more")
        groups, group = k, np.zeros_like(known.position)

    placed, position = on_mesh(array, known.position, k)
    _, part = on_mesh(array, group, 0)
    products = _products(placed, position, part, k, groups) if over == "samples" else None
    whole = jax.device_get(_whole(placed, position, part, head, products, k))
    each = progress(range(groups), f"intervals over {over}")
    replicates = [jax.device_get(_without(placed, position, part, np.int32(g), head, products, k)) for g in each]
    left = {name: np.stack([one[name] for one in replicates]) for name in replicates[0]}
    total = whole["separation" if over == "samples" else "nc1_quotient"]
    if not np.isfinite(total) and not np.isfinite(np.asarray(array).astype(np.float32)).all():
        raise not_finite(array)
    check_spread(float(whole["spread"]))
    if over == "samples":
        whole, left = _shapes(whole, left)

    quantile = float(stdtrit(groups - 1, 0.5 + confidence / 2))
    found: dict[str, Interval | None] = dict.fromkeys((*_RATIOS, *_SHAPES, *_ACCURACIES))
    reasons = dict(_NO_INTERVAL)
    for name in found:
        source = "cdnv" if over == "samples" and name == "debiased_cdnv" else name
        if name in _ACCURACIES and name not in whole:
            reasons[name] = "no interval: it takes a head"
            continue
        value: Interval | str
        if over == "samples" and name in _ACCURACIES:
            value = _accuracy(name, whole, len(known.position), confidence)
        elif over == "samples" and name == "nc1_quotient":
            value = _quotient(whole["separation"], left["separation"], quantile)
        else:
            value = _unresolved(source, whole, k, over) or _interval(source, whole, left, over, quantile)
        if isinstance(value, Interval):
            found[name] = value
        else:
            reasons[name] = f"no interval: {value}"
    return CollapseIntervals(over=over, confidence=confidence, groups=groups, reasons=reasons, **found)  # type: ignore[arg-type]


def _unresolved(name: str, whole: dict[str, np.ndarray], k: int, over: str) -> str | None:
    """Why an interval would not cover, or be of no width."""
    if name in _SHAPES and k == (2 if over == "samples" else 3):
        left = "" if over == "samples" else "with one of three classes left out, "
        return f"{left}two class means are equally far from their centre and opposite each other, whatever they are"
    if over == "samples":
        if whole["distance_noise"] > _MOST_DISTANCE_NOISE.get(name, np.inf):
            return "the samples are too few to tell the distance of some two class means"
        if name == "nc1" and not whole["nc1_noise"] <= _MOST_NC1_NOISE:
            return "in some direction the class means spread little more than samples make them"
        if name not in whole:
            return f"more than {_MOST_CLASSES} classes"
    return None


def _interval(
    name: str, whole: dict[str, np.ndarray], left_out: dict[str, np.ndarray], over: str, quantile: float
) -> Interval | str:
    """From the metric of all samples, and those with each part left out; or why there is none."""
    value, left = float(whole[name]), left_out[name].astype(np.float64)
    ratio, samples = name in _RATIOS, over == "samples"
    if not (np.isfinite(value) and np.isfinite(left).all()):
        return "it is infinite, or becomes so where a part is left out"
    if ratio and min(value, left.min()) <= 0:
        return "it is 0, or becomes so where a part is left out, and has no logarithm"
    if np.ptp(left) == 0:
        return f"it does not change, whichever of the {over} are left out"
    if ratio:
        value, left = np.log(value), np.log(left)
    groups, error = len(left), _jackknife_error(left)
    if samples and name in ("directional_cdnv", "nc1"):
        # The jackknife counts twice what is quadratic in the noise (Efron, Stein 1981). It shows where distances are
        # squared once more.
        error /= np.sqrt(1.0 + float(whole["quadratic_share"]))
    # The correction removes bias where the metric is smooth; where it has kinks it adds more noise than that.
    correction = float((groups - 1) * (value - left.mean())) if samples and name != "nc2_equiangular" else 0.0
    remaining = correction**2 if ratio else float(whole.get(f"{name}/remaining", 0.0))
    if samples and (remaining > _MOST_LEFT * error or (ratio and error > _MOST_LOG_ERROR)):
        return "the samples are too few: it depends on their number more than an interval allows for"
    centre = value + correction
    low, high = centre - quantile * error, centre + quantile * error
    if ratio:
        return Interval(float(np.exp(low)), float(np.exp(high)), float(np.exp(centre)))
    most = 1.0 if name in _ACCURACIES else np.inf
    low, high, centre = max(low, 0.0), min(max(high, 0.0), most), max(centre, 0.0)
    if samples and name == "nc2_equinorm":  # of which these are squares
        low, high, centre = np.sqrt(low), np.sqrt(high), np.sqrt(centre)
    return Interval(float(low), float(high), float(centre))


def _jackknife_error(left: Float[np.ndarray, "g"]) -> float:
    """The standard error, from the values with each group left out."""
    groups = len(left)
    return float(np.sqrt((groups - 1) / groups * np.sum((left - left.mean()) ** 2)))


def _quotient(separation: np.ndarray, left_out: np.ndarray, quantile: float) -> Interval | str:
    """Of `nc1_quotient` over samples: the inverse of an interval of `separation`, up to inf where that reaches 0.

    The inverse is linear in what is estimated worst, the scatter of the class means. It can be 0 or less where noise
    hides them, and so the interval is given whatever the noise, not only to draws that overestimate the scatter.
    """
    value, left = float(separation), left_out.astype(np.float64)
    if not (np.isfinite(value) and np.isfinite(left).all()):
        return "the classes have no variance, or none where a part is left out"
    if np.ptp(left) == 0:
        return "it does not change, whichever of the samples are left out"
    centre = value + (len(left) - 1) * (value - float(left.mean()))
    half = quantile * _jackknife_error(left)
    if centre + half <= 0:
        return "the samples are too few to tell the class means apart"
    low, high, estimate = (1.0 / x if x > 0 else np.inf for x in (centre + half, centre - half, centre))
    return Interval(float(low), float(high), float(estimate))


def _shapes(
    whole: dict[str, np.ndarray], left: dict[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """With NC2 over samples: the square of equinorm, and equiangular.

    The mean of |z| over pairs grows by the noise of z, near 0 most. With z's standard error s from the jackknife, as
    much is subtracted as noise of that size adds to the mean of the |z| that were found. What remains of the bias is
    about what doing so once more would change.
    """
    k, groups = len(whole["squared_norms"]), len(left["cosines"])
    noise = left["cosines"].std(axis=0, dtype=np.float64) * np.sqrt(groups - 1)

    def equinorm(squared_norms: Float[np.ndarray, "k"]) -> float:
        norms = np.sqrt(np.maximum(squared_norms.astype(np.float64), 0.0))
        return float(np.var(norms) / np.mean(norms) ** 2) if norms.any() else np.nan

    def equiangular(cosines: Float[np.ndarray, "..."]) -> tuple[float, float]:
        gap = np.abs(cosines.astype(np.float64) + 1.0 / (k - 1))
        once, twice = _folded_mean(gap, noise), _folded_mean(gap, np.sqrt(2.0) * noise)
        return float(np.mean(2.0 * gap - once)), float(np.abs(np.mean(gap - 2.0 * once + twice)))

    whole = whole | {"nc2_equinorm": np.array(equinorm(whole["squared_norms"]))}
    left = left | {"nc2_equinorm": np.array([equinorm(row) for row in left["squared_norms"]])}
    if k <= _MOST_CLASSES:
        value, remaining = equiangular(whole["cosines"])
        whole |= {"nc2_equiangular": np.array(value), "nc2_equiangular/remaining": np.array(remaining)}
        left |= {"nc2_equiangular": np.array([equiangular(row)[0] for row in left["cosines"]])}
    return whole, left


def _folded_mean(gap: Float[np.ndarray, "..."], noise: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """E|gap + noise·ε| for a standard normal ε."""
    z = gap / np.where(noise > 0, noise, 1.0)
    folded = noise * np.sqrt(2 / np.pi) * np.exp(-(z**2) / 2) + gap * (2 * ndtr(z) - 1)
    return np.where(noise > 0, folded, gap)


def _accuracy(name: str, whole: dict[str, np.ndarray], samples: int, confidence: float) -> Interval | str:
    """The interval of an accuracy over samples; or why there is none."""
    share, left_out = float(whole[name]), float(whole[f"{name}/left_out"])
    plain = share if name == "ncc_accuracy" else left_out
    alone = _wilson(plain, plain, samples, confidence)
    error = (alone.high - alone.low) / (2.0 * float(ndtri(0.5 + confidence / 2)))
    if name == "ncc_accuracy":
        halves = float(whole["ncc_accuracy/halves"])
        if share - halves > _MOST_OPTIMISM * error:
            return (
                f"the samples are too few: it is {share:.2%} with each sample part of its own class mean, "
                f"{left_out:.2%} without, {halves:.2%} of samples that the means are not of and are half as many"
            )
    elif float(whole["uncertain"]) > _MOST_UNCERTAIN * error:
        return (
            f"the samples are too few: the class means of two halves assign {float(whole['uncertain']):.2%} of them "
            "to different classes"
        )
    return _wilson(share, left_out, samples, confidence)


def _wilson(share: float, left_out: float, samples: int, confidence: float) -> Interval:
    """The intervals of Wilson (1927) for two shares, as one: of some width also where a share is 0 or 1."""
    z = float(ndtri(0.5 + confidence / 2))
    shares = np.asarray([share, left_out])
    shrink = 1.0 + z**2 / samples
    centre = (shares + z**2 / (2 * samples)) / shrink
    half = z / shrink * np.sqrt(shares * (1 - shares) / samples + z**2 / (4 * samples**2))
    low = 0.0 if shares.min() == 0 else np.min(centre - half)
    high = 1.0 if shares.max() == 1 else np.max(centre + half)
    return Interval(float(low), float(high), share)


def _number_of_groups(counts: Int[np.ndarray, "k"]) -> int:
    """As many as allowed that divide the classes most evenly."""
    most = min(_MOST_GROUPS, int(counts.min()))
    return min(range(max(_FEWEST_SAMPLES, most // 2), most + 1), key=lambda g: (np.mean((counts % g) / counts), -g))


def _balanced_groups(
    position: Int[np.ndarray, "n"], counts: Int[np.ndarray, "k"], groups: int, seed: int
) -> Int[np.ndarray, "n"]:
    """The group of each sample: random, and within a class as equal in size as can be."""
    shuffled = np.random.default_rng(seed).permutation(len(position))
    order = shuffled[np.argsort(position[shuffled], kind="stable")]
    group = np.empty(len(position), np.int32)
    group[order] = (np.arange(len(position)) - np.repeat(np.cumsum(counts) - counts, counts)) % groups
    return group


_products = partial(jax.jit, static_argnames=("num_classes", "groups"))(covariance_products)


@partial(jax.jit, static_argnames="num_classes")
def _whole(
    features: Float[Array, "n d"],
    position: Int[Array, "n"],
    group: Int[Array, "n"],
    head: Head | None,
    products: Float[Array, "k k"] | None,
    num_classes: int,
) -> dict[str, Array]:
    """The plain metrics of all samples; with `products` the accuracies, and estimates for infinitely many samples."""
    parts = summary_of_samples(features, position, head, num_classes)
    whole = _scalars(parts, position, num_classes) | {"spread": parts["spread"]}
    if products is None:
        return whole
    moments, residuals = moments_of_batch(features, position, num_classes)
    accuracies = {name: whole[name] for name in (*_ACCURACIES, "spread") if name in whole}
    left_out = _left_out(residuals, segments(position, num_classes), Frame.of(moments, head))
    halves = _halves(features, position, group, num_classes)
    return accuracies | left_out | halves | _estimates(features, position, products, num_classes)


@partial(jax.jit, static_argnames="num_classes")
def _without(
    features: Float[Array, "n d"],
    position: Int[Array, "n"],
    group: Int[Array, "n"],
    part: Int[Array, ""],
    head: Head | None,
    products: Float[Array, "k k"] | None,
    num_classes: int,
) -> dict[str, Array]:
    """The estimates with one group of samples left out, or without `products` the plain metrics with one class."""
    if products is not None:
        return _estimates(features, jnp.where(group == part, num_classes, position), products, num_classes)
    kept = jnp.arange(num_classes - 1)
    kept = jnp.where(kept < part, kept, kept + 1)
    moved = jnp.where(position > part, position - 1, position)
    # What is left out, and padding, is one past the last class.
    moved = jnp.where((position == part) | (position >= num_classes), num_classes - 1, moved)
    head = jax.tree.map(lambda x: x[kept], head)
    return _scalars(summary_of_samples(features, moved, head, num_classes - 1), moved, num_classes - 1)


def _estimates(
    features: Float[Array, "n d"], position: Int[Array, "n"], products: Float[Array, "k k"], num_classes: int
) -> dict[str, Array]:
    estimates = population_estimates(features, position, products, num_classes)
    if num_classes > _MOST_CLASSES:  # of all groups they would take gigabytes
        estimates["cosines"] = jnp.zeros(0)
    return estimates


def _halves(
    features: Float[Array, "n d"], position: Int[Array, "n"], group: Int[Array, "n"], num_classes: int
) -> dict[str, Array]:
    """Nearest class means from the even and the odd groups.

    `ncc_accuracy/halves` is the accuracy on the samples that the means are not of, `uncertain` the share of samples
    that the two halves assign to different classes.
    """
    counts = (position >= 0) & (position < num_classes)
    row = jnp.where(counts, position, 0)

    def nearest(half: int) -> Int[Array, "n"]:
        part = jnp.where(group % 2 == half, position, num_classes)
        moments, _ = moments_of_batch(features, part, num_classes)
        frame = Frame.of(moments)
        residuals = features.astype(jnp.float32) - moments.anchor[row] - moments.offset[row]
        towards = jnp.matmul(residuals, frame.centred_mean.T, precision=HIGHEST)
        towards -= jnp.take_along_axis(towards, row[:, None], axis=1)
        return jnp.argmin(frame.squared_distance[row] - 2.0 * towards, axis=1)

    even, odd = nearest(0), nearest(1)
    right = jnp.where(group % 2 == 0, odd, even) == row
    samples = jnp.sum(counts, dtype=jnp.float32)
    return {
        "ncc_accuracy/halves": jnp.sum(counts & right, dtype=jnp.float32) / samples,
        "uncertain": jnp.sum(counts & (even != odd), dtype=jnp.float32) / samples,
    }


def _left_out(residuals: Float[Array, "n d"], segment: Int[Array, "n"], frame: Frame) -> dict[str, Array]:
    """The accuracies with each sample left out of the mean of its own class."""
    sums = residual_sums(residuals, segment, frame, leave_one_out=True)
    right = {"ncc_accuracy": sums.nearest, "nc4": sums.agree}
    samples = jnp.sum(frame.moments.count, dtype=jnp.float32)
    return {f"{name}/left_out": jnp.sum(n, dtype=jnp.float32) / samples for name, n in right.items() if n is not None}


def _scalars(parts: dict[str, Array], position: Int[Array, "n"], num_classes: int) -> dict[str, Array]:
    """Means and accuracies, from `summary_of_samples` of the samples whose position is below `num_classes`."""
    samples = jnp.sum(position < num_classes, dtype=jnp.float32)
    pair = ~jnp.eye(num_classes, dtype=bool)

    def mean(name: str) -> Float[Array, ""]:
        return jnp.sum(jnp.where(pair, parts[name], 0.0)) / (num_classes * (num_classes - 1))

    out = {name: parts[name] for name in ("nc1", "nc1_quotient", "nc2_equinorm", "nc2_equiangular")}
    out |= {name: mean(f"{name}_pairs") for name in ("cdnv", "debiased_cdnv", "directional_cdnv")}
    out["ncc_accuracy"] = parts["nearest"].astype(jnp.float32) / samples
    if "agree" in parts:
        out["nc4"] = parts["agree"].astype(jnp.float32) / samples
    return out
