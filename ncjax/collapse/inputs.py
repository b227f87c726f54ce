"""What the front doors ask of features, labels and heads, checked before anything is compiled."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from ncjax.collapse.residuals import Head
from ncjax.devices import data_mesh, sharded
from ncjax.errors import InputError
from ncjax.rounding import check_rounding

_NAMED = 8
OVERFLOW = "features too large for float32: their squares overflow, scale the features down"


@dataclass(frozen=True)
class Labels:
    """Labels as positions among the classes that are present.

    Attributes:
        position: of each sample's class in `classes` [n], int32.
        classes: the labels present, ascending [k].
        counts: samples of each of them [k].
        absent: labels below `num_classes` without samples.
        num_classes: as given by the caller, or None.
    """

    position: Int[np.ndarray, "n"]
    classes: Int[np.ndarray, "k"]
    counts: Int[np.ndarray, "k"]
    absent: Int[np.ndarray, "a"]
    num_classes: int | None


def checked_labels(labels: ArrayLike, num_classes: int | None, samples: int | None = None) -> Labels:
    """The labels of `samples` rows, with two classes or more and two samples or more in each.

    Raises:
        InputError: as `integer_labels` and `checked_counts` do, and for a number of labels that is not
            `samples`.
    """
    values = integer_labels(labels, num_classes)
    if samples is not None and len(values) != samples:
        raise InputError(f"{samples} rows of features but {len(values)} labels: give one label a row")
    if len(values) == 0:
        raise InputError("no samples: give features [n, d] and labels [n] of two classes or more")
    low, high = int(values.min()), int(values.max())
    if high - low < 1_000_000 + 8 * len(values):
        histogram = np.bincount(values - low)
        classes = np.flatnonzero(histogram)
        counts = histogram[classes]
        position = (np.cumsum(histogram > 0) - 1)[values - low]
        classes = classes + low
    else:
        classes, position, counts = np.unique(values, return_inverse=True, return_counts=True)
    checked_counts(classes, counts)
    absent = np.array([], np.int64) if num_classes is None else np.setdiff1d(np.arange(num_classes), classes)
    return Labels(position.astype(np.int32), classes, counts, absent, num_classes)


def integer_labels(labels: ArrayLike, num_classes: int | None) -> Int[np.ndarray, "n"]:
    """The labels on the host.

    Raises:
        InputError: for labels that are not a vector of integers, or that lie outside 0..num_classes-1.
    """
    values = np.asarray(labels)
    if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer):
        raise InputError(f"labels are {values.dtype} of shape {values.shape}: give integers of shape [n]")
    if values.dtype == np.uint64 and len(values) and values.max() > np.iinfo(np.int64).max:
        raise InputError(f"labels up to {values.max()}, more than int64 holds: number the classes from 0")
    values = values.astype(np.int64)
    if num_classes is not None and len(values):
        outside = np.flatnonzero((values < 0) | (values >= num_classes))
        if len(outside):
            raise InputError(
                f"{len(outside)} labels lie outside 0..{num_classes - 1}, the first {values[outside[0]]} in "
                f"row {outside[0]}: raise num_classes={num_classes}, or leave it out to take any label"
            )
    return values


def checked_counts(classes: Int[np.ndarray, "k"], counts: Int[np.ndarray, "k"]) -> None:
    """Raises InputError for fewer than two classes, and for a class of one sample, which has no variance."""
    if len(classes) < 2:
        raise InputError(f"only class {named(classes)} has samples: collapse is between two classes or more")
    single = classes[counts == 1]
    if len(single):
        raise InputError(
            f"one sample only of class {named(single)}: a within-class variance takes two, add samples or "
            "leave the class out"
        )


def checked_features(features: ArrayLike) -> jax.Array | np.ndarray:
    """Features as an array [n, d] of numbers, wherever they are.

    Raises:
        InputError: for another shape, no numbers, and numbers on the host that float32 cannot tell apart.
    """
    array = features if isinstance(features, jax.Array) else np.asarray(features)
    real = jnp.issubdtype(array.dtype, jnp.floating) or jnp.issubdtype(array.dtype, jnp.integer)
    if array.ndim != 2 or array.shape[1] == 0 or not real:
        raise InputError(f"features are {array.dtype} of shape {array.shape}: give real numbers of shape [n, d]")
    if isinstance(array, np.ndarray):
        check_rounding(array)
    return array


def checked_head(weights: ArrayLike | None, bias: ArrayLike | None, classes: Labels, dim: int) -> Head | None:
    """The head's rows of the classes present, or None without weights.

    Raises:
        InputError: for shapes that do not fit the features and classes, for values that are not finite, and
            for a bias without weights.
    """
    if weights is None:
        if bias is not None:
            raise InputError("a bias without weights: give weights [k, d] too")
        return None
    w = np.asarray(weights).astype(np.float32)
    k = len(classes.classes) if classes.num_classes is None else classes.num_classes
    if w.shape != (k, dim):
        hint = "give one row a class"
        if w.shape == (dim, k):
            hint = "a Flax Dense kernel is [d, k], give its transpose"
        elif classes.num_classes is None and w.ndim == 2 and w.shape[0] > k:
            hint = f"for a head of more classes than have samples, give num_classes={w.shape[0]}"
        raise InputError(f"weights of shape {w.shape} for {k} classes and features of {dim} dimensions: {hint}")
    b = np.zeros(k, np.float32) if bias is None else np.asarray(bias).astype(np.float32)
    if b.shape != (k,):
        raise InputError(f"bias of shape {b.shape} for {k} classes: give shape ({k},)")
    if not (np.isfinite(w).all() and np.isfinite(b).all()):
        raise InputError("weights or bias hold values that are not finite: is the run they come from diverged?")
    rows = slice(None) if classes.num_classes is None else classes.classes
    return Head(jnp.asarray(w[rows]), jnp.asarray(b[rows]))


def on_mesh(
    features: jax.Array | np.ndarray, position: Int[np.ndarray, "n"], num_classes: int
) -> tuple[Float[Array, "m d"], Int[Array, "m"]]:
    """Both divided over the mesh's devices; rows added to make that even have the label `num_classes`."""
    mesh = data_mesh()
    extra = -len(position) % mesh.shape["data"]
    if extra:
        pad = jnp.pad if isinstance(features, jax.Array) else np.pad
        features = pad(features, ((0, extra), (0, 0)))
        position = np.pad(position, (0, extra), constant_values=num_classes)
    placed: tuple[jax.Array, jax.Array] = jax.device_put((features, position), sharded(mesh))
    return placed


def check_spread(spread: float) -> None:
    """Raises InputError where float32 does not hold the fourth powers that directional CDNV and bounds are made of."""
    if 0 < spread < 1e-8 or spread > 1e8:
        raise InputError(
            f"features spread by {spread:.1g}, and float32 does not hold their fourth powers: multiply them by "
            f"{10.0 ** -round(math.log10(spread)):.0e}; the measures of collapse do not depend on their scale"
        )


def not_finite(features: ArrayLike) -> InputError:
    """What to say of features whose moments came out not finite."""
    finite = np.isfinite(np.asarray(features).astype(np.float32))
    bad = np.flatnonzero(~finite.all(axis=1))
    if len(bad) == 0:
        return InputError(OVERFLOW)
    return InputError(
        f"{(~finite).sum()} values of the features are not finite, in {len(bad)} of {len(finite)} rows, the "
        f"first row {bad[0]}: leave those rows out, or look for where the network diverged"
    )


def named(classes: Int[np.ndarray, "k"]) -> str:
    """The classes for a message: all of a few, the first of many."""
    names = ", ".join(str(c) for c in classes[:_NAMED])
    return names if len(classes) <= _NAMED else f"{names} … ({len(classes)} in all)"
