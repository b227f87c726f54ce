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
from scipy.special import ndtri, stdtrit

from ncjax.collapse.inputs import checked_features, checked_head, checked_labels, named, not_finite, on_mesh
from ncjax.collapse.measure import summary_of_samples
from ncjax.collapse.moments import HIGHEST, moments_of_batch, segments
from ncjax.collapse.residuals import Frame, Head, residual_sums
from ncjax.errors import InputError
from ncjax.interval import Interval
from ncjax.progress import progress

_RATIOS = ("cdnv", "debiased_cdnv", "directional_cdnv", "nc1", "nc1_quotient")
_SHAPES = ("nc2_equinorm", "nc2_equiangular")
_ACCURACIES = ("nc4", "ncc_accuracy")
_FEWEST_SAMPLES, _FEWEST_CLASSES, _MOST_GROUPS = 4, 3, 40
_MOST_NOISE = 2 / 3
"""Of the variance of the class means in any direction that NC1 inverts; with more, its jackknife does not cover."""
_COVERS = {
    "samples": "the drawing of samples within these classes, about the value that infinitely many would give",
    "classes": "the drawing of classes like these, as many",
}
_NO_INTERVAL = {
    "cdnv_median": "no interval: a median of pairs that share classes is not smooth, and the jackknife fails for it",
    "cdnv_worst": "no interval: neither jackknife nor bootstrap holds for the largest of the pairs",
}


@dataclass(frozen=True)
class CollapseIntervals:
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

    Over samples, those of CDNV and NC1 are built around the jackknife estimate, which is free of the bias of order 1/n
    that the plain value has; all others around the plain value.

    Over samples: the samples of each class are divided at random into the same number of groups, 40 at most,
    such that the groups of a class differ least in size; one group of all classes is left out at a time. The
    interval is for the value that infinitely many samples of these classes would give.

    Over classes: one class is left out at a time. The interval is for the expected value of the metric over
    draws of as many classes, samples of each as many, from where these classes came from.

    Student's t intervals: of CDNV and NC1 on a logarithmic scale, since they are positive and skewed; of
    NC2, and over classes of the accuracies, on their own. Over samples an accuracy has the interval of
    Wilson, from the lower end for the share with each sample left out of its own class mean to the upper end
    for the plain share: the first is too low where samples are few for their dimensions, the second too high,
    and so the interval is wider than it need be. In simulations 90 % intervals over 40 samples in each of 5
    classes covered 86 to 95 %, that of the NCC accuracy more.

    NC1 weighs the directions of Σ_B by the inverse of their variance. Where the class means spread in some direction
    little more than the drawing of their samples makes them, as is common with about as many classes as dimensions,
    the value is mostly noise and bias: no interval over samples is given where uᵀΣ_W u/n is more than two thirds of
    uᵀΣ_B u.

    Costs as many measurements as there are groups.

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
    whole = jax.device_get(_whole(placed, position, head, k, over))
    each = progress(range(groups), f"intervals over {over}")
    replicates = [jax.device_get(_without(placed, position, part, np.int32(g), head, k, over)) for g in each]
    left = {name: np.stack([one[name] for one in replicates]) for name in replicates[0]}
    if not np.isfinite(whole["nc1_quotient"]) and not np.isfinite(np.asarray(array).astype(np.float32)).all():
        raise not_finite(array)

    found: dict[str, Interval | None] = dict.fromkeys((*_RATIOS, *_SHAPES, *_ACCURACIES))
    reasons = dict(_NO_INTERVAL)
    quantile = float(stdtrit(groups - 1, 0.5 + confidence / 2))
    for name in found:
        if name not in whole:
            reasons[name] = "no interval: it takes a head"
        elif name in _ACCURACIES and over == "samples":
            found[name] = _wilson(float(whole[name]), float(whole[f"{name}/left_out"]), len(known.position), confidence)
        elif not (np.isfinite(whole[name]) and np.isfinite(left[name]).all()):
            reasons[name] = "no interval: it is infinite, or becomes so where a part is left out"
        elif name in _RATIOS and min(whole[name], left[name].min()) <= 0:
            reasons[name] = "no interval: it is 0, or becomes so where a part is left out, and has no logarithm"
        elif name == "nc1" and over == "samples" and whole["nc1/noise"] > _MOST_NOISE:
            reasons[name] = "no interval: in some direction the class means spread little more than samples make them"
        elif np.ptp(left[name]) == 0:
            reasons[name] = f"no interval: it does not change, whichever of the {over} are left out"
        else:
            found[name] = _interval(name, float(whole[name]), left[name].astype(np.float64), over, quantile)
    return CollapseIntervals(over=over, confidence=confidence, groups=groups, reasons=reasons, **found)  # type: ignore[arg-type]


def _interval(name: str, value: float, left: Float[np.ndarray, "g"], over: str, quantile: float) -> Interval:
    """From the metric of all samples, and those with each part left out."""
    ratio = name in _RATIOS
    if ratio:
        value, left = np.log(value), np.log(left)
    groups = len(left)
    error = np.sqrt((groups - 1) / groups * np.sum((left - left.mean()) ** 2))
    # The correction removes bias where the metric is smooth; where it has kinks it adds more noise than that.
    centre = groups * value - (groups - 1) * left.mean() if ratio and over == "samples" else value
    low, high = centre - quantile * error, centre + quantile * error
    if ratio:
        return Interval(float(np.exp(low)), float(np.exp(high)), float(np.exp(centre)))
    most = 1.0 if name in _ACCURACIES else np.inf
    return Interval(float(max(low, 0.0)), float(min(high, most)), float(centre))


def _wilson(share: float, left_out: float, samples: int, confidence: float) -> Interval:
    """The intervals of Wilson (1927) for two shares, as one: of some width also where a share is 0 or 1."""
    z = float(ndtri(0.5 + confidence / 2))
    shares = np.asarray([share, left_out])
    shrink = 1.0 + z**2 / samples
    centre = (shares + z**2 / (2 * samples)) / shrink
    half = z / shrink * np.sqrt(shares * (1 - shares) / samples + z**2 / (4 * samples**2))
    return Interval(float(max(np.min(centre - half), 0.0)), float(min(np.max(centre + half), 1.0)), share)


def _number_of_groups(counts: Int[np.ndarray, "k"]) -> int:
    """As many as allowed that divide the classes most evenly."""
    most = min(_MOST_GROUPS, int(counts.min()))
    return min(range(max(2, most // 2), most + 1), key=lambda g: (np.mean((counts % g) / counts), -g))


def _balanced_groups(
    position: Int[np.ndarray, "n"], counts: Int[np.ndarray, "k"], groups: int, seed: int
) -> Int[np.ndarray, "n"]:
    """The group of each sample: random, and within a class as equal in size as can be."""
    shuffled = np.random.default_rng(seed).permutation(len(position))
    order = shuffled[np.argsort(position[shuffled], kind="stable")]
    group = np.empty(len(position), np.int32)
    group[order] = (np.arange(len(position)) - np.repeat(np.cumsum(counts) - counts, counts)) % groups
    return group


@partial(jax.jit, static_argnames=("num_classes", "over"))
def _whole(
    features: Float[Array, "n d"], position: Int[Array, "n"], head: Head | None, num_classes: int, over: str
) -> dict[str, Array]:
    """The metrics of all samples, and over samples also what their intervals take."""
    whole = _scalars(features, position, head, num_classes)
    if over == "samples":
        moments, residuals = moments_of_batch(features, position, num_classes)
        frame, segment = Frame.of(moments, head), segments(position, num_classes)
        whole |= _left_out(residuals, segment, frame) | {"nc1/noise": _noise(residuals, segment, frame)}
    return whole


@partial(jax.jit, static_argnames=("num_classes", "over"))
def _without(
    features: Float[Array, "n d"],
    position: Int[Array, "n"],
    group: Int[Array, "n"],
    part: Int[Array, ""],
    head: Head | None,
    num_classes: int,
    over: str,
) -> dict[str, Array]:
    """The metrics with one group of samples left out, or one class."""
    if over == "samples":
        return _scalars(features, jnp.where(group == part, num_classes, position), head, num_classes)
    kept = jnp.arange(num_classes - 1)
    kept = jnp.where(kept < part, kept, kept + 1)
    moved = jnp.where(position > part, position - 1, position)
    # What is left out, and padding, is one past the last class.
    moved = jnp.where((position == part) | (position >= num_classes), num_classes - 1, moved)
    return _scalars(features, moved, jax.tree.map(lambda x: x[kept], head), num_classes - 1)


def _noise(residuals: Float[Array, "n d"], segment: Int[Array, "n"], frame: Frame) -> Float[Array, ""]:
    """The largest of uᵀ(mean over classes of Σ_c/n_c)u / uᵀΣ_B u over the directions u that NC1 inverts."""
    moments = frame.moments
    k = len(moments.count)
    row = jnp.minimum(segment, k - 1)
    # the basis is scaled by singular values of the class means, which are the roots of k times Σ_B's eigenvalues
    inverted = jnp.matmul(residuals - moments.offset[row], frame.nc1_basis, precision=HIGHEST)
    share = jnp.where(segment < k, 1.0 / moments.count.astype(jnp.float32)[row] ** 2, 0.0)
    return jnp.max(share @ inverted**2)


def _left_out(residuals: Float[Array, "n d"], segment: Int[Array, "n"], frame: Frame) -> dict[str, Array]:
    """The accuracies with each sample left out of the mean of its own class."""
    sums = residual_sums(residuals, segment, frame, leave_one_out=True)
    right = {"ncc_accuracy": sums.nearest, "nc4": sums.agree}
    samples = jnp.sum(frame.moments.count, dtype=jnp.float32)
    return {f"{name}/left_out": jnp.sum(n, dtype=jnp.float32) / samples for name, n in right.items() if n is not None}


def _scalars(
    features: Float[Array, "n d"], position: Int[Array, "n"], head: Head | None, num_classes: int
) -> dict[str, Array]:
    """Means and accuracies of the samples whose position is below `num_classes`."""
    parts = summary_of_samples(features, position, head, num_classes)
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
