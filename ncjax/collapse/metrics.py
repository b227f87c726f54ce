"""Every metric of neural collapse of one set of features."""

import json
import math
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Real, Shaped

from ncjax.checks import not_finite, read_features
from ncjax.collapse import nc
from ncjax.collapse.class_distance_variance import cdnv_pairs, debiased_cdnv_pairs, directional_cdnv_pairs
from ncjax.collapse.inputs import Labels, check_spread, checked_head, checked_labels, list_classes, on_mesh
from ncjax.collapse.moments import moments_of_batch, segments
from ncjax.collapse.residuals import Frame, LinearHead, ResidualSums, mean_along, nc1, residual_sums
from ncjax.devices import on_data_mesh
from ncjax.equal_by_value import EqualByValue


@dataclass(frozen=True, eq=False)
class Collapse(EqualByValue):
    """How far features have collapsed, as numbers on the host; classes without samples do not count.

    Two are equal if all their numbers are equal, NaN included.

    Class means μ_c, their mean μ_G, class covariances Σ_c divided by n_c, Var_c = tr Σ_c.

    Attributes:
        cdnv: Mean over pairs of (Var_i + Var_j)/(2‖μ_i − μ_j‖²) (arXiv 2112.15121).
        cdnv_median: Median over the same pairs.
        cdnv_worst: Maximum over the same pairs.
        worst_pair: The two labels of the pair with the maximum.
        cdnv_pairs: V_ij [k, k], symmetric; NaN on the diagonal.
        coincident_pairs: Labels [m, 2] of the pairs whose means coincide; their V_ij is inf.
        debiased_cdnv: The mean with Var/(n − 1), and distances minus Var_i/n_i + Var_j/n_j.
        unresolved_pairs: Labels [m, 2] of the pairs whose debiased distance is not positive; their debiased V_ij is
            inf.
        directional_cdnv: Mean over ordered pairs of uᵀΣ_i u/‖μ_i − μ_j‖² (arXiv 2506.04411).
        directional_cdnv_pairs: Ṽ_ij [k, k], with the covariance of row i; NaN on the diagonal.
        nc1: tr(Σ_W Σ_B⁺)/k (Papyan, Han, Donoho 2020); inf if `nc1_rank` is 0.
        nc1_rank: Number of directions of Σ_B that are inverted, at most min(k − 1, d).
        nc1_quotient: tr Σ_W/tr Σ_B.
        nc2_equinorm: std/mean of ‖μ_c − μ_G‖; NaN if all class means coincide.
        nc2_equiangular: Mean over pairs of |cos(μ_c − μ_G, μ_c' − μ_G) + 1/(k − 1)|.
        nc3: ‖W/‖W‖_F − M/‖M‖_F‖_F, M the rows μ_c − μ_G; None without a head.
        nc4: Share of samples whose nearest class mean is argmax(Wf + b); None without a head.
        ncc_accuracy: Share of samples whose nearest class mean is that of their label. Each sample is part of its own
            class's mean, so that few samples in many dimensions are always correct: noise of 20 samples a class in 640
            dimensions reaches 1. `intervals` gives the share with the sample left out.
        k: Number of classes that have samples.
        d: Dimensions of the features.
        classes: Their labels [k], ascending: the rows of `cdnv_pairs`.
        counts: Samples of each class [k].
        absent: Labels below num_classes that have no samples.
        missing: Why some metrics are None.
    """

    cdnv: float
    cdnv_median: float
    cdnv_worst: float
    worst_pair: tuple[Any, Any]
    cdnv_pairs: Float[np.ndarray, "k k"]
    coincident_pairs: Shaped[np.ndarray, "m 2"]
    debiased_cdnv: float
    unresolved_pairs: Shaped[np.ndarray, "u 2"]
    directional_cdnv: float | None
    directional_cdnv_pairs: Float[np.ndarray, "k k"] | None
    nc1: float | None
    nc1_rank: int
    nc1_quotient: float
    nc2_equinorm: float
    nc2_equiangular: float
    nc3: float | None
    nc4: float | None
    ncc_accuracy: float | None
    k: int
    d: int
    classes: Shaped[np.ndarray, " k"]
    counts: Int[np.ndarray, " k"]
    absent: Int[np.ndarray, " a"]
    missing: str = ""

    def __str__(self) -> str:
        fewest, most = self.counts.min(), self.counts.max()
        per_class = f"{fewest}" if fewest == most else f"{fewest} to {most}"
        lines = [f"{self.k} classes, {per_class} samples each, {self.d} dimensions"]
        if len(self.absent):
            lines[0] += f"; {len(self.absent)} classes without samples left out: {list_classes(self.absent)}"
        worst = f"classes {self.worst_pair[0]} and {self.worst_pair[1]}"
        rows: list[tuple[str, float | None, str]] = [
            ("CDNV", self.cdnv, _pairs_note(self.coincident_pairs, "with coincident means")),
            ("  median", self.cdnv_median, ""),
            ("  worst", self.cdnv_worst, worst),
            ("  debiased", self.debiased_cdnv, _pairs_note(self.unresolved_pairs, "too near to tell apart")),
            ("  directional", self.directional_cdnv, ""),
            ("NC1", self.nc1, f"rank {self.nc1_rank}"),
            ("  quotient", self.nc1_quotient, ""),
            ("NC2 equinorm", self.nc2_equinorm, ""),
            ("NC2 equiangular", self.nc2_equiangular, ""),
            ("NC3", self.nc3, ""),
            ("NC4", self.nc4, ""),
            ("NCC accuracy", self.ncc_accuracy, ""),
        ]
        shown = [f"{name:<16} {value:<12.6g} {note}".rstrip() for name, value, note in rows if value is not None]
        return "\n".join(lines + shown + ([self.missing] if self.missing else []))

    def to_json(self, *, pairs: bool = False) -> str:
        """Returns one JSON object, with the matrices if `pairs`; infinity becomes the string "inf", NaN null."""
        skip = () if pairs else ("cdnv_pairs", "directional_cdnv_pairs")
        return json.dumps({f.name: _plain(getattr(self, f.name)) for f in fields(self) if f.name not in skip})


@on_data_mesh
def measure(
    features: Any,
    labels: Any,
    *,
    num_classes: int | None = None,
    weights: Any = None,
    bias: Any = None,
) -> Collapse:
    """Computes every metric of neural collapse of labelled features.

    Compiles once for each shape, number of classes present and set of devices, and divides samples over the devices of
    `ncjax.devices.data_mesh()`. Arithmetic is float32 on centred values at the highest precision.

    Args:
        features: [n, d] of any real dtype, on the host or on devices, also a torch tensor; wider types are rounded to
            float32.
        labels: [n], integers or names. With `num_classes` they must lie in 0..num_classes-1.
        num_classes: Number of possible classes; those without samples are left out and listed in `absent`.
        weights: [k, d], the head's rows: one for each of `num_classes`, or without it one for each label present, in
            ascending order. A Flax Dense kernel is the transpose. Rows of absent classes are left out: NC4 takes the
            argmax over the classes that are present.
        bias: [k], the head's bias; defaults to zero.

    Raises:
        InputError: Features are not finite, or float32 cannot hold them or tell them apart; the numbers of features and
            labels differ; labels are neither integers nor names, or lie outside num_classes; there are fewer than two
            classes, or a class has one sample; or the head has another shape.

    Examples:
        >>> features = [[0.0, 0.0], [0.0, 2.0], [4.0, 0.0], [4.0, 2.0]]
        >>> collapse = measure(features, [0, 0, 1, 1])
        >>> print(f"{collapse.cdnv:.4f}, debiased {collapse.debiased_cdnv:.4f}")
        0.0625, debiased 0.1429
        >>> collapse.ncc_accuracy
        1.0
    """
    array = read_features(features)
    classes = checked_labels(array, labels, num_classes)
    head = checked_head(weights, bias, classes, array.shape[1])
    placed, position = on_mesh(array, classes.position, len(classes.classes))
    parts = jax.device_get(_measured(placed, position, head, len(classes.classes)))
    if not parts["finite"]:
        raise not_finite(array)
    return collapse_of(parts, classes)


def collapse_of(parts: dict[str, Any], labels: Labels, missing: str = "") -> Collapse:
    """Computes means, medians and the labels of pairs on the host, from the arrays of `summary`."""
    check_spread(float(parts["spread"]))
    k = len(labels.classes)
    upper = ~np.tri(k, dtype=bool)
    pairs = parts["cdnv_pairs"].copy()
    values = pairs[upper]  # row by row
    row = int(np.searchsorted(np.cumsum(np.arange(k - 1, 0, -1)), np.argmax(values), side="right"))
    worst = row, row + 1 + int(np.argmax(pairs[row, row + 1 :]))
    debiased = parts["debiased_cdnv_pairs"]
    np.fill_diagonal(pairs, np.nan)
    directional, directional_mean = None, None
    if "directional_cdnv_pairs" in parts:
        directional = parts["directional_cdnv_pairs"].copy()
        np.fill_diagonal(directional, 0.0)
        directional_mean = float(directional.sum(dtype=np.float64) / (k * (k - 1)))
        np.fill_diagonal(directional, np.nan)

    def labels_of(selected: Bool[np.ndarray, "k k"]) -> Shaped[np.ndarray, "m 2"]:
        return labels.classes[np.argwhere(selected & upper)]

    def number(name: str) -> float | None:
        return float(parts[name]) if name in parts else None

    def share(name: str) -> float | None:
        return int(parts[name]) / int(labels.counts.sum()) if name in parts else None

    return Collapse(
        cdnv=float(values.mean(dtype=np.float64)),
        cdnv_median=float(np.median(values)),
        cdnv_worst=float(values.max()),
        worst_pair=(labels.classes[worst[0]].item(), labels.classes[worst[1]].item()),
        cdnv_pairs=pairs,
        coincident_pairs=labels_of(np.isinf(pairs)),
        debiased_cdnv=float(debiased[upper].mean(dtype=np.float64)),
        unresolved_pairs=labels_of(np.isinf(debiased)),
        directional_cdnv=directional_mean,
        directional_cdnv_pairs=directional,
        nc1=number("nc1"),
        nc1_rank=int(parts["nc1_rank"]),
        nc1_quotient=float(parts["nc1_quotient"]),
        nc2_equinorm=float(parts["nc2_equinorm"]),
        nc2_equiangular=float(parts["nc2_equiangular"]),
        nc3=number("nc3"),
        nc4=share("agree"),
        ncc_accuracy=share("nearest"),
        k=k,
        d=int(parts["d"]),
        classes=labels.classes,
        counts=labels.counts,
        absent=labels.absent,
        missing=missing,
    )


def summary(frame: Frame, sums: ResidualSums | None) -> dict[str, Array]:
    """Computes every metric as arrays; without `sums`, those that need one pass over the samples. Pure."""
    moments = frame.moments
    metrics: dict[str, Array] = {
        "finite": jnp.all(jnp.isfinite(moments.square)),
        "d": jnp.asarray(moments.anchor.shape[1]),
        # without squares of the means, which may vanish
        "spread": jnp.maximum(jnp.max(jnp.abs(frame.centred_mean)), jnp.sqrt(jnp.mean(moments.variance))),
        "cdnv_pairs": cdnv_pairs(moments.variance, frame.squared_distance),
        "debiased_cdnv_pairs": debiased_cdnv_pairs(moments, frame.squared_distance),
        "nc1_rank": frame.nc1_rank,
        "nc1_quotient": nc.nc1_quotient(moments),
        "nc2_equinorm": nc.nc2_equinorm(frame.centred_mean),
        "nc2_equiangular": nc.nc2_equiangular(frame.centred_mean),
    }
    if frame.head is not None:
        metrics["nc3"] = nc.nc3(frame.centred_mean, frame.head.weights)
    if sums is not None:
        along = mean_along(sums, frame)
        metrics["directional_cdnv_pairs"] = directional_cdnv_pairs(along, moments.variance, frame.squared_distance)
        metrics["nc1"] = nc1(sums, frame)
        metrics["nearest"] = jnp.sum(sums.nearest)
        if sums.agree is not None:
            metrics["agree"] = jnp.sum(sums.agree)
    return metrics


def summary_of_samples(
    features: Real[Array, "n d"],
    labels: Int[Array, " n"],
    head: LinearHead | None,
    num_classes: int,
    mask: Bool[Array, " n"] | None = None,
) -> dict[str, Array]:
    """Computes `summary` of samples in which every class is present. Pure."""
    moments, residuals = moments_of_batch(features, labels, num_classes, mask)
    frame = Frame.of(moments, head)
    return summary(frame, residual_sums(residuals, segments(labels, num_classes, mask), frame))


_measured = partial(jax.jit, static_argnames="num_classes")(summary_of_samples)


def _pairs_note(pairs: Shaped[np.ndarray, "m 2"], description: str) -> str:
    if len(pairs) == 0:
        return ""
    names = ", ".join(f"{i}–{j}" for i, j in pairs[:4]) + (" …" if len(pairs) > 4 else "")
    return f"{len(pairs)} pairs {description}: {names}"


def _plain(value: Any) -> Any:
    """Converts a value to types that JSON has."""
    if isinstance(value, np.ndarray):
        return [_plain(v) for v in value.tolist()]
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "inf"
    return value
