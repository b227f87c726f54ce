"""Checks labels and heads before anything is compiled."""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Real, Shaped

from ncjax.checks import as_numpy, check_lengths, encode_labels, read_labels
from ncjax.collapse.residuals import LinearHead
from ncjax.devices import data_mesh, sharded
from ncjax.errors import InputError

_MAX_LISTED = 8


@dataclass(frozen=True)
class Labels:
    """Labels as positions among the classes that are present.

    Attributes:
        position: int32 [n], the position in `classes` of each sample's class.
        classes: [k], the labels present, numbers or names, ascending.
        counts: [k], the number of samples of each class.
        absent: Labels below `num_classes` without samples.
        num_classes: The number that the caller gave, or None.
    """

    position: Int[np.ndarray, " n"]
    classes: Shaped[np.ndarray, " k"]
    counts: Int[np.ndarray, " k"]
    absent: Shaped[np.ndarray, " a"]
    num_classes: int | None


def checked_labels(features: Any, labels: Any, num_classes: int | None) -> Labels:
    """Reads labels of at least two classes with at least two samples each.

    Raises:
        InputError: As in `read_labels`, `check_lengths`, `check_range` and `check_counts`, or there are no labels.
    """
    values = read_labels(labels)
    if num_classes is not None:
        check_range(values, num_classes)
    classes, position, counts = encode_labels(values)
    check_lengths(features, position)
    if len(position) == 0:
        raise InputError("no samples: give features [n, d] and labels [n] of two classes or more")
    check_counts(classes, counts)
    absent = np.array([], np.int64) if num_classes is None else np.setdiff1d(np.arange(num_classes), classes)
    return Labels(position, classes, counts, absent, num_classes)


def check_range(labels: Shaped[np.ndarray, " n"], num_classes: int) -> None:
    """Raises InputError for labels that are names or lie outside 0..num_classes-1."""
    if labels.dtype.kind in "US":
        raise InputError(f"labels are names: leave num_classes={num_classes} out, or give 0..{num_classes - 1}")
    outside = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(outside):
        raise InputError(
            f"{len(outside)} labels lie outside 0..{num_classes - 1}, the first {labels[outside[0]]} in "
            f"row {outside[0]}: increase num_classes={num_classes}, or leave it out to allow any label"
        )


def check_counts(classes: Shaped[np.ndarray, " k"], counts: Int[np.ndarray, " k"]) -> None:
    """Raises InputError for fewer than two classes, and for a class of one sample, which has no variance."""
    if len(classes) < 2:
        raise InputError(f"only class {list_classes(classes)} has samples: collapse is between two classes or more")
    single = classes[counts == 1]
    if len(single):
        raise InputError(
            f"only one sample of class {list_classes(single)}: a within-class variance needs two, add samples or "
            "leave the class out"
        )


def checked_head(weights: Any, bias: Any, classes: Labels, dim: int) -> LinearHead | None:
    """Returns the head's rows for the classes present, or None without weights.

    Raises:
        InputError: Shapes do not match features and classes, values are not finite, or there is a bias without weights.
    """
    if weights is None:
        if bias is not None:
            raise InputError("a bias without weights: give weights [k, d] too")
        return None
    w = as_numpy("weights", weights).astype(np.float32)
    k = len(classes.classes) if classes.num_classes is None else classes.num_classes
    if w.shape != (k, dim):
        hint = "give one row a class"
        if w.shape == (dim, k):
            hint = "a Flax Dense kernel is [d, k], give its transpose"
        elif classes.num_classes is None and w.ndim == 2 and w.shape[0] > k:
            hint = f"if the head has more classes than the labels, give num_classes={w.shape[0]}"
        raise InputError(f"weights of shape {w.shape} for {k} classes and features of {dim} dimensions: {hint}")
    b = np.zeros(k, np.float32) if bias is None else as_numpy("values of bias", bias).astype(np.float32)
    if b.shape != (k,):
        raise InputError(f"bias of shape {b.shape} for {k} classes: give shape ({k},)")
    if not (np.isfinite(w).all() and np.isfinite(b).all()):
        raise InputError("weights or bias hold values that are not finite: did their run diverge?")
    rows = slice(None) if classes.num_classes is None else classes.classes
    return LinearHead(jnp.asarray(w[rows]), jnp.asarray(b[rows]))


def on_mesh(
    features: jax.Array | np.ndarray, position: Int[np.ndarray, " n"], num_classes: int
) -> tuple[Real[Array, "m d"], Int[Array, " m"]]:
    """Divides both over the mesh's devices; rows that pad them to equal parts have the position `num_classes`."""
    mesh = data_mesh()
    extra = -len(position) % mesh.shape["data"]
    if extra:
        pad = jnp.pad if isinstance(features, jax.Array) else np.pad
        features = pad(features, ((0, extra), (0, 0)))
        position = np.pad(position, (0, extra), constant_values=num_classes)
    placed: tuple[jax.Array, jax.Array] = jax.device_put((features, position), sharded(mesh))
    return placed


def check_spread(spread: float) -> None:
    """Raises InputError if float32 cannot hold the fourth powers that directional CDNV and the bounds need."""
    if 0 < spread < 1e-8 or spread > 1e8:
        raise InputError(
            f"features spread by {spread:.1g}, and float32 cannot hold their fourth powers: multiply them by "
            f"{10.0 ** -round(math.log10(spread)):.0e}; the measures of collapse do not depend on their scale"
        )


def list_classes(classes: Shaped[np.ndarray, " k"]) -> str:
    """Lists classes in a message: all of them, or the first eight and their number."""
    names = ", ".join(str(c) for c in classes[:_MAX_LISTED])
    return names if len(classes) <= _MAX_LISTED else f"{names} … ({len(classes)} in all)"
