"""What the front doors ask of features, labels and heads, checked before anything is compiled."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Shaped

from ncjax.checks import as_numpy, encode_labels, read_features, read_labels
from ncjax.collapse.residuals import Head
from ncjax.devices import data_mesh, sharded
from ncjax.errors import InputError

_NAMED = 8
checked_features = read_features  # the name by which this room calls it
OVERFLOW = "features too large for float32: their squares overflow, scale the features down"


@dataclass(frozen=True)
class Labels:
    """Labels as positions among the classes that are present.

    Attributes:
        position: of each sample's class in `classes` [n], int32.
        classes: the labels present, numbers or names, ascending [k].
        counts: samples of each of them [k].
        absent: labels below `num_classes` without samples.
        num_classes: as given by the caller, or None.
    """

    position: Int[np.ndarray, "n"]
    classes: Shaped[np.ndarray, "k"]
    counts: Int[np.ndarray, "k"]
    absent: Int[np.ndarray, "a"]
    num_classes: int | None


def checked_labels(labels: ArrayLike, num_classes: int | None, samples: int | None = None) -> Labels:
    """The labels of `samples` rows, with two classes or more and two samples or more in each.

    Raises:
        InputError: as `read_labels`, `check_range` and `checked_counts` do, and for a number of labels that is not
            `samples`.
    """
    values = read_labels(labels)
    if num_classes is not None:
        check_range(values, num_classes)
    classes, position, counts = encode_labels(values)
    if samples is not None and len(position) != samples:
        raise InputError(f"{samples} rows of features but {len(position)} labels: give one label a row")
    if len(position) == 0:
        raise InputError("no samples: give features [n, d] and labels [n] of two classes or more")
    checked_counts(classes, counts)
    absent = np.array([], np.int64) if num_classes is None else np.setdiff1d(np.arange(num_classes), classes)
    return Labels(position, classes, counts, absent, num_classes)


def check_range(labels: Shaped[np.ndarray, "n"], num_classes: int) -> None:
    """Raises InputError for names, and for labels outside 0..num_classes-1."""
    if labels.dtype.kind in "US":
        raise InputError(f"num_classes={num_classes} with names as labels: leave it out, or give 0..{num_classes - 1}")
    outside = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(outside):
        raise InputError(
            f"{len(outside)} labels lie outside 0..{num_classes - 1}, the first {labels[outside[0]]} in "
            f"row {outside[0]}: raise num_classes={num_classes}, or leave it out to take any label"
        )


def checked_counts(classes: Shaped[np.ndarray, "k"], counts: Int[np.ndarray, "k"]) -> None:
    """Raises InputError for fewer than two classes, and for a class of one sample, which has no variance."""
    if len(classes) < 2:
        raise InputError(f"only class {named(classes)} has samples: collapse is between two classes or more")
    single = classes[counts == 1]
    if len(single):
        raise InputError(
            f"one sample only of class {named(single)}: a within-class variance takes two, add samples or "
            "leave the class out"
        )


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
    w = as_numpy("weights", weights).astype(np.float32)
    k = len(classes.classes) if classes.num_classes is None else classes.num_classes
    if w.shape != (k, dim):
        hint = "give one row a class"
        if w.shape == (dim, k):
            hint = "a Flax Dense kernel is [d, k], give its transpose"
        elif classes.num_classes is None and w.ndim == 2 and w.shape[0] > k:
            hint = f"for a head of more classes than have samples, give num_classes={w.shape[0]}"
        raise InputError(f"weights of shape {w.shape} for {k} classes and features of {dim} dimensions: {hint}")
    b = np.zeros(k, np.float32) if bias is None else as_numpy("values of bias", bias).astype(np.float32)
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


def named(classes: Shaped[np.ndarray, "k"]) -> str:
    """The classes for a message: all of a few, the first of many."""
    names = ", ".join(str(c) for c in classes[:_NAMED])
    return names if len(classes) <= _NAMED else f"{names} … ({len(classes)} in all)"
