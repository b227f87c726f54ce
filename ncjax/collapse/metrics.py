"""Every metric of neural collapse of one set of features."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Real, Shaped

from ncjax.checks import not_finite, read_features
from ncjax.collapse import nc
from ncjax.collapse.class_distance_variance import (
    cdnv_pairs,
    debiased_cdnv_pairs,
    directional_cdnv_pairs,
    variance_along_axes,
)
from ncjax.collapse.etf import etf_measures
from ncjax.collapse.inputs import Labels, check_spread, checked_head, checked_labels, list_classes, on_mesh
from ncjax.collapse.moments import moments_of_batch, segments
from ncjax.collapse.one_vs_rest import MOST_CLASSES, one_vs_rest_distances
from ncjax.collapse.out_of_distribution import out_of_distribution, read_ood
from ncjax.collapse.residuals import Frame, LinearHead, ResidualSums, mean_along, nc1, residual_sums
from ncjax.collapse.result import Collapse
from ncjax.collapse.spectra import Spectra
from ncjax.collapse.superclasses import checked_superclasses
from ncjax.devices import on_data_mesh
from ncjax.errors import InputError


@on_data_mesh
def measure(
    features: Any,
    labels: Any,
    *,
    num_classes: int | None = None,
    weights: Any = None,
    bias: Any = None,
    superclasses: Any = None,
    ood: Any = None,
    all_measures: bool = False,
) -> Collapse:
    """Computes the measures of neural collapse of labelled features.

    Compiles once for each shape, number of classes present and set of devices, and divides samples over the devices of
    `ncjax.devices.data_mesh()`. Arithmetic is float32 on centred values at the highest precision; that of the spectra,
    the one-vs-rest distance and of `ood` is float64 on the host.

    Args:
        features: [n, d] of any real dtype, on the host or on devices, also a torch tensor; wider types are rounded to
            float32.
        labels: [n], integers or names. With `num_classes` they must lie in 0..num_classes-1.
        num_classes: Number of possible classes; those without samples are left out and listed in `absent`.
        weights: [k, d], the head's rows: one for each of `num_classes`, or without it one for each label present, in
            ascending order. A Flax Dense kernel is the transpose. Rows of absent classes are left out: NC4 takes the
            argmax over the classes that are present.
        bias: [k], the head's bias; defaults to zero.
        superclasses: [k], the superclass of each class, names or integers, in the order of the rows of `weights`: for
            example `Split.superclasses`. Adds the measures of the same samples labelled by superclass.
        ood: [m, d], features of samples from elsewhere, of the same encoder. Adds NC5 and NECO.
        all_measures: Adds what costs more than the rest together: the spectra and the one-vs-rest distances.

    Raises:
        InputError: Features are not finite, or float32 cannot hold them or tell them apart; the numbers of features and
            labels differ; labels are neither integers nor names, or lie outside num_classes; there are fewer than two
            classes, or a class has one sample; the head has another shape; there is not one superclass a class, or only
            one superclass; or `ood` has another width or is not finite.

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
    groups = checked_superclasses(superclasses, classes)
    elsewhere = None if ood is None else read_ood(ood, array.shape[1])
    on_host = not isinstance(array, jax.Array) or array.is_fully_addressable
    if not on_host and (all_measures or ood is not None):
        raise InputError("features are on several hosts: leave out all_measures and ood, which need them on one")
    k = len(classes.classes)
    placed, position = on_mesh(array, classes.position, k)
    parts = jax.device_get(_measured(placed, position, head, k))
    if not parts["finite"]:
        raise not_finite(array)
    collapse = collapse_of(parts, classes, of_all=all_measures)
    if groups is not None:
        of_class = jnp.asarray(np.append(groups.position, np.int32(len(groups.classes))))
        of_groups = _measured(placed, of_class[position], None, len(groups.classes))
        collapse = replace(collapse, superclasses=collapse_of(jax.device_get(of_groups), groups))
    if all_measures or elsewhere is not None:
        wide = np.asarray(array).astype(np.float64)
        if all_measures:
            collapse = replace(collapse, spectra=Spectra.of_features(wide, classes.position, classes.counts))
        if elsewhere is not None:
            collapse = replace(collapse, ood=out_of_distribution(wide, classes.position, elsewhere, k))
    return collapse


def collapse_of(parts: dict[str, Any], labels: Labels, missing: str = "", *, of_all: bool = False) -> Collapse:
    """Computes means, medians and the labels of pairs on the host, from the arrays of `summary`.

    Args:
        parts: The arrays, on the host.
        labels: The classes.
        missing: Why some metrics are None.
        of_all: Whether to compute the one-vs-rest distances.
    """
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

    along = parts.get("variance_along")
    reasons = _reasons(parts, labels)
    cosines = parts["mean_cosines"].copy()
    directed = parts["with_direction"]
    cosines[~directed] = cosines[:, ~directed] = np.nan

    def labels_of(selected: Bool[np.ndarray, "k k"]) -> Shaped[np.ndarray, "m 2"]:
        return labels.classes[np.argwhere(selected & upper)]

    def number(name: str) -> float | None:
        return float(parts[name]) if name in parts else None

    def share(name: str) -> float | None:
        return int(parts[name]) / int(labels.counts.sum()) if name in parts else None

    def least_distance(name: str, of_rows: str) -> float | None:
        if not of_all or of_rows not in parts or name in reasons:
            return None
        return float(one_vs_rest_distances(parts[of_rows]).min())

    return Collapse(
        cdnv=float(values.mean(dtype=np.float64)),
        cdnv_median=float(np.median(values)),
        cdnv_worst=float(values.max()),
        worst_pair=(labels.classes[worst[0]].item(), labels.classes[worst[1]].item()),
        cdnv_pairs=pairs,
        coincident_pairs=labels_of(np.isinf(pairs)),
        debiased_cdnv=float(debiased[upper].mean(dtype=np.float64)),
        debiased_cdnv_median=float(np.median(debiased[upper])),
        unresolved_pairs=labels_of(np.isinf(debiased)),
        cdnv_by_class=np.asarray(np.nansum(pairs, axis=1, dtype=np.float64) / (k - 1)),
        directional_cdnv=directional_mean,
        directional_cdnv_pairs=directional,
        variance_along=along,
        variance_across=None if along is None else parts["variance"] - along,
        nc1=number("nc1"),
        nc1_rank=int(parts["nc1_rank"]),
        nc1_quotient=float(parts["nc1_quotient"]),
        nc2_equinorm=float(parts["nc2_equinorm"]),
        nc2_equiangular=float(parts["nc2_equiangular"]),
        nc3=number("nc3"),
        nc4=share("agree"),
        ncc_accuracy=share("nearest"),
        ncc_accuracy_left_out=share("nearest_left_out"),
        nc2_etf_error=float(parts["nc2_etf_error"]),
        nc2_etf_error_head=number("nc2_etf_error_head"),
        nc3_etf_error=number("nc3_etf_error"),
        mean_cosines=cosines,
        gnc2_mean=float(parts["gnc2_mean"]),
        gnc2_std=float(parts["gnc2_std"]),
        unc3=number("unc3"),
        self_duality=number("self_duality"),
        k=k,
        d=int(parts["d"]),
        classes=labels.classes,
        counts=labels.counts,
        absent=labels.absent,
        missing=missing,
        one_vs_rest_distance=least_distance("one_vs_rest_distance", "centred_mean"),
        one_vs_rest_distance_head=least_distance("one_vs_rest_distance_head", "weights"),
        reasons=reasons,
    )


_OF_HEAD = ("nc3_etf_error", "unc3", "self_duality", "one_vs_rest_distance_head")


def _reasons(parts: dict[str, Any], labels: Labels) -> dict[str, str]:
    """Says why measures of directions are NaN, by their names; nothing of the head's measures without a head."""
    reasons: dict[str, str] = {}
    without = labels.classes[~parts["with_direction"]]
    if len(without):
        why = f"the mean of class {list_classes(without)} is the mean of the class means: it has no direction"
        reasons = dict.fromkeys(("gnc2_mean", "gnc2_std", "unc3", "self_duality", "one_vs_rest_distance"), why)
        if len(without) == len(labels.classes):
            reasons |= dict.fromkeys(("nc2_etf_error", "nc3_etf_error"), "all class means coincide")
    elif np.isinf(parts["gnc2_mean"]):
        reasons["gnc2_std"] = "two class means have one direction from their mean"
    if "weights" in parts and not parts["weights"].any(axis=1).all():
        zero = list_classes(labels.classes[~parts["weights"].any(axis=1)])
        why = f"the head's row of class {zero} is 0: it has no direction"
        for name in ("unc3", "self_duality", "one_vs_rest_distance_head"):
            reasons.setdefault(name, why)
        if not parts["weights"].any():
            reasons |= dict.fromkeys(("nc2_etf_error_head", "nc3_etf_error"), "the head's weights are 0")
    if len(labels.classes) > MOST_CLASSES:
        why = f"more than {MOST_CLASSES} classes: call ncjax.collapse.one_vs_rest_distances, which takes its time"
        reasons |= dict.fromkeys(("one_vs_rest_distance", "one_vs_rest_distance_head"), why)
    return {name: why for name, why in reasons.items() if "weights" in parts or name not in _OF_HEAD}


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
        "centred_mean": frame.centred_mean,
        "variance": moments.variance,
    }
    weights = None if frame.head is None else frame.head.weights
    metrics |= etf_measures(frame.centred_mean, moments.variance, weights)
    if frame.head is not None:
        metrics["weights"] = frame.head.weights
        metrics["nc3"] = nc.nc3(frame.centred_mean, frame.head.weights)
    if sums is not None:
        along = mean_along(sums, frame)
        metrics["directional_cdnv_pairs"] = directional_cdnv_pairs(along, moments.variance, frame.squared_distance)
        metrics["variance_along"] = variance_along_axes(along, moments.variance, frame.squared_distance)
        metrics["nc1"] = nc1(sums, frame)
        for name in ("nearest", "nearest_left_out", "agree", "agree_left_out"):
            hits = getattr(sums, name)
            if hits is not None:
                metrics[name] = jnp.sum(hits)
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
