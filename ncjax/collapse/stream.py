"""`measure` for more samples than fit into memory: one pass over batches, and a second for metrics of residuals."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Real, Shaped

from ncjax.checks import OVERFLOW, as_numpy, read_features, read_labels
from ncjax.collapse.inputs import Labels, check_counts, check_range, checked_head, on_mesh
from ncjax.collapse.metrics import collapse_of, summary
from ncjax.collapse.moments import ClassMoments
from ncjax.collapse.out_of_distribution import nc5_alone, read_ood
from ncjax.collapse.residuals import Frame, ResidualSums, residual_sums
from ncjax.collapse.result import Collapse
from ncjax.collapse.spectra import Spectra
from ncjax.collapse.superclasses import checked_superclasses
from ncjax.devices import on_data_mesh
from ncjax.errors import InputError

# (features [n, d], labels [n]) or (features, labels, mask [n])
FeatureBatch = tuple[ArrayLike, ArrayLike] | tuple[ArrayLike, ArrayLike, ArrayLike]

_PADDING = -1
_ONE_PASS = (
    "directional CDNV, NC1, NC4, NCC accuracy, split variances and spectra need a second pass over the samples: give "
    "batches that can be iterated twice, or a function that returns a fresh iterator"
)
_NECO_NEEDS_MEASURE = "measure_stream computes NC5 alone: NECO takes measure"
_OTHER_SAMPLES = (
    "the second pass over the batches gave other samples than the first: give a list, or a function that "
    "returns a fresh iterator over the same batches"
)


@on_data_mesh
def measure_stream(
    batches: Iterable[FeatureBatch] | Callable[[], Iterable[FeatureBatch]],
    *,
    num_classes: int | None = None,
    weights: Any = None,
    bias: Any = None,
    superclasses: Any = None,
    ood: Any = None,
    all_measures: bool = False,
) -> Collapse:
    """Computes `measure` of samples in batches of any sizes: the same numbers with k·(d + k) floats of memory.

    The spectra take d² float64 numbers more.

    Args:
        batches: (features [n, d], labels [n]) or (features, labels, mask [n]), where rows outside the mask are
            padding; or a function that returns an iterator over such batches. Directional CDNV, NC1, NC4, NCC
            accuracies, the split of variances and the spectra need a second pass over the same batches; for an
            iterator, which allows one pass only, they are None, and `missing` says so.
        num_classes: As in `measure`.
        weights: As in `measure`.
        bias: As in `measure`.
        superclasses: As in `measure`.
        ood: As in `measure`, for NC5 alone: NECO takes more passes than two.
        all_measures: As in `measure`.

    Raises:
        InputError: As in `measure`; or the second pass gives other samples than the first.
    """
    one_shot = not callable(batches) and iter(batches) is batches
    moments, labels = _first_pass(batches() if callable(batches) else batches, num_classes)
    head = checked_head(weights, bias, labels, moments.anchor.shape[1])
    groups = checked_superclasses(superclasses, labels)
    elsewhere = None if ood is None else read_ood(ood, moments.anchor.shape[1])
    means = np.asarray(moments.anchor, np.float64) + np.asarray(moments.offset)
    frames = [_frame(moments, head)]
    if groups is not None:
        frames.append(_frame(_merged(moments, groups), None))
    sums: list[ResidualSums | None] = [None] * len(frames)
    spectra = None
    if not one_shot:
        mean = labels.counts @ means / labels.counts.sum()
        scatter = np.zeros((len(mean), len(mean))) if all_measures else None
        passes = batches() if callable(batches) else batches
        sums = [*_second_pass(passes, frames, labels, groups, mean, scatter)]
        if scatter is not None:
            spectra = Spectra.of_scatter(scatter, mean, means - mean, labels.counts)
    parts = [jax.device_get(_summary(frame, total)) for frame, total in zip(frames, sums, strict=True)]
    if not parts[0]["finite"]:
        raise InputError(OVERFLOW)
    missing = _ONE_PASS if one_shot else ""
    return replace(
        collapse_of(parts[0], labels, missing, of_all=all_measures),
        spectra=spectra,
        superclasses=None if groups is None else collapse_of(parts[1], groups, missing),
        ood=None if elsewhere is None else nc5_alone(means, elsewhere, _NECO_NEEDS_MEASURE),
    )


def _merged(moments: ClassMoments, groups: Labels) -> ClassMoments:
    """Merges the moments of the classes of each superclass."""
    whole: list[ClassMoments] = []
    for group in range(len(groups.classes)):
        parts = [jax.tree.map(lambda x, c=c: x[c : c + 1], moments) for c in np.flatnonzero(groups.position == group)]
        whole.append(reduce(_merge, parts))
    return jax.tree.map(lambda *x: jnp.concatenate(x), *whole)


_merge = jax.jit(ClassMoments.merge)
_frame = jax.jit(Frame.of)
_summary = jax.jit(summary)


def _first_pass(batches: Iterable[FeatureBatch], num_classes: int | None) -> tuple[ClassMoments, Labels]:
    """Returns the moments of the classes present, in the order of their labels."""
    # The labels of the rows of `moments`, in the order of arrival if `num_classes` is unknown.
    known: np.ndarray = np.arange(num_classes or 0)
    moments: ClassMoments | None = None
    fault = (jnp.int32(0), jnp.int32(0))
    rows = 0
    for features, values, counts, n in _checked(batches, num_classes):
        if num_classes is None:
            known = known if len(known) else values[:0]
            known = np.append(known, np.setdiff1d(values[counts], known))
        if moments is None:
            moments = ClassMoments.empty(max(len(known), 2), features.shape[1])
        while len(known) > len(moments.count):
            moments = _doubled(moments)
        placed = on_mesh(features, _positions(values, counts, known), _PADDING)
        moments, fault = _add(moments, fault, *placed, jnp.int32(rows))
        rows += n
    if moments is None:
        raise InputError("no batches: give one or more, or a function that returns a fresh iterator")
    bad, first = (int(x) for x in fault)
    if bad:
        raise InputError(
            f"{bad} values of the features are not finite, the first in row {first} of the stream: leave "
            "those rows out, or look for where the network diverged"
        )
    samples = np.asarray(moments.count)[: len(known)]
    present = np.flatnonzero(samples)
    present = present[np.argsort(known[present])]
    classes, samples = known[present], samples[present]
    check_counts(classes, samples)
    labels = Labels(np.array([], np.int32), classes, samples, np.setdiff1d(known, classes), num_classes)
    return jax.tree.map(lambda x: x[present], moments), labels


def _second_pass(
    batches: Iterable[FeatureBatch],
    frames: list[Frame],
    labels: Labels,
    groups: Labels | None,
    mean: Float[np.ndarray, " d"],
    scatter: Float[np.ndarray, "d d"] | None,
) -> list[ResidualSums]:
    """Returns the sums for the frames of classes and of superclasses; adds Σ (x − μ)(x − μ)ᵀ to `scatter`."""
    sums = [_no_residuals(frame) for frame in frames]
    seen = np.zeros(len(labels.classes), np.int64)
    for features, values, counts, _ in _checked(batches, None):
        if not np.isin(values[counts], labels.classes).all():
            raise InputError(_OTHER_SAMPLES)
        position = _positions(values, counts, labels.classes)
        seen += np.bincount(position[counts], minlength=len(seen))
        placed, row = on_mesh(features, position, _PADDING)
        labelled = [row]
        if groups is not None:
            labelled.append(jnp.where(row >= 0, jnp.asarray(groups.position)[row], _PADDING))
        sums = [_add_residuals(s, f, placed, r) for s, f, r in zip(sums, frames, labelled, strict=True)]
        if scatter is not None:
            rows = np.asarray(features)[counts].astype(np.float64) - mean
            scatter += rows.T @ rows
    if (seen != labels.counts).any():
        raise InputError(_OTHER_SAMPLES)
    return sums


def _checked(
    batches: Iterable[FeatureBatch], num_classes: int | None
) -> Iterator[tuple[jax.Array | np.ndarray, Shaped[np.ndarray, " m"], np.ndarray, int]]:
    """Yields features, labels, mask and number of rows of each batch, padded to m rows, the largest batch so far."""
    largest, width, kind = 0, None, None
    for number, batch in enumerate(batches):
        features = read_features(batch[0])
        n = features.shape[0]
        width = features.shape[1] if width is None else width
        if features.shape[1] != width:
            raise InputError(
                f"batch {number} has features of {features.shape[1]} dimensions, earlier batches of {width}: give "
                "batches of one encoder"
            )
        mask = np.ones(n, bool) if len(batch) == 2 else as_numpy("the mask's values", batch[2]).astype(bool)
        values = read_labels(batch[1])
        if values.shape != (n,) or mask.shape != (n,):
            raise InputError(
                f"batch {number} has {n} rows of features, labels of shape {values.shape} and a mask of "
                f"shape {mask.shape}: give one label a row"
            )
        if num_classes is not None:
            check_range(values[mask], num_classes)
        kind = values.dtype.kind if kind is None else kind
        if values.dtype.kind != kind:
            raise InputError(f"batch {number} has labels of type {values.dtype}, unlike earlier batches: give one kind")
        largest = max(largest, n)
        pad = jnp.pad if isinstance(features, jax.Array) else np.pad
        features = features if n == largest else pad(features, ((0, largest - n), (0, 0)))
        values = np.concatenate([values, np.zeros(largest - n, values.dtype)])
        yield features, values, np.pad(mask, (0, largest - n)), n


def _positions(
    values: Shaped[np.ndarray, " n"], counts: np.ndarray, known: Shaped[np.ndarray, " k"]
) -> Int[np.ndarray, " n"]:
    """Returns the position of each label in `known`; `_PADDING` for rows that do not count."""
    order = np.argsort(known)
    position = np.full(len(values), _PADDING, np.int32)
    position[counts] = order[np.searchsorted(known, values[counts], sorter=order)]
    return position


@partial(jax.jit, donate_argnums=0)
def _add(
    moments: ClassMoments,
    fault: tuple[Int[Array, ""], Int[Array, ""]],
    features: Real[Array, "n d"],
    position: Int[Array, " n"],
    row: Int[Array, ""],
) -> tuple[ClassMoments, tuple[Int[Array, ""], Int[Array, ""]]]:
    """Adds a batch; `fault` is the number of values that are not finite, and the first row that has any."""
    values, first = fault
    bad = jnp.where(position >= 0, jnp.sum(~jnp.isfinite(features), axis=1, dtype=jnp.int32), 0)
    first = jnp.where((values == 0) & jnp.any(bad > 0), row + jnp.argmax(bad > 0).astype(jnp.int32), first)
    return moments.update(features, position), (values + jnp.sum(bad, dtype=jnp.int32), first)


@jax.jit
def _doubled(moments: ClassMoments) -> ClassMoments:
    """Doubles the number of classes by adding empty ones."""
    return jax.tree.map(lambda x: jnp.concatenate([x, jnp.zeros_like(x)]), moments)


def _no_residuals(frame: Frame) -> ResidualSums:
    k = frame.centred_mean.shape[0]

    def hits() -> Int[Array, " k"]:
        return jnp.zeros(k, jnp.int32)

    return ResidualSums(
        along=jnp.zeros((k, k), jnp.float32),
        nc1=jnp.zeros(k, jnp.float32),
        nearest=hits(),
        nearest_left_out=hits(),
        agree=None if frame.head is None else hits(),
        agree_left_out=None if frame.head is None else hits(),
    )


@partial(jax.jit, donate_argnums=0)
def _add_residuals(
    sums: ResidualSums, frame: Frame, features: Real[Array, "n d"], position: Int[Array, " n"]
) -> ResidualSums:
    k = frame.centred_mean.shape[0]
    counts = position >= 0
    centred = features.astype(jnp.float32) - frame.moments.anchor[jnp.maximum(position, 0)]
    residuals = jnp.where(counts[:, None], centred, 0.0)
    batch = residual_sums(residuals, jnp.where(counts, position, k), frame)
    return jax.tree.map(jnp.add, sums, batch)
