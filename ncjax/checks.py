"""Reads and checks numbers, features and labels from any array library."""

import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, Real, Shaped

from ncjax.errors import InputError, first_line

OVERFLOW = "features too large for float32: their squares overflow, scale the features down"


def whole_number(name: str, value: Any) -> int:
    """Returns a setting as an int.

    Raises:
        InputError: It is not a whole number; 1e4 and True do not count as such.
    """
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        return operator.index(value)
    except TypeError:
        hint = f", {name}={int(value)}" if isinstance(value, float) and value.is_integer() else ""
        raise InputError(f"{name}={value!r}: give a whole number{hint}") from None


def as_numpy(name: str, values: Any) -> np.ndarray:
    """Copies values to the host; torch tensors may need gradients, be on a GPU, or be bfloat16.

    Raises:
        InputError: NumPy cannot read them as an array, or some of them are masked.
    """
    try:
        if hasattr(values, "detach") and hasattr(values, "numpy"):
            values = _torch_to_numpy(values)
        if np.ma.is_masked(values):
            raise InputError(f"{name} have masked values: leave those rows out, and give a plain array")
        return np.asarray(values)
    except InputError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} are no array ({first_line(error)}): give a NumPy array, or what it reads") from None


def _torch_to_numpy(tensor: Any) -> np.ndarray:
    """Converts a tensor without importing torch, bfloat16 to float32; `force` detaches and moves to the host."""
    try:
        return tensor.numpy(force=True)
    except TypeError:
        if not tensor.is_floating_point():
            raise
        return tensor.float().numpy(force=True)


def read_features(features: Any) -> Real[jax.Array | np.ndarray, "n d"]:
    """Reads features [n, d] as float32 or a narrower real type.

    JAX arrays of at most 32 bits stay on their devices; wider values are copied to the host, checked and rounded.

    Raises:
        InputError: The features are not a matrix of real numbers, or float32 cannot tell their values apart.
    """
    array = features if isinstance(features, jax.Array) else as_numpy("features", features)
    kind = array.dtype.kind
    # the types of ml_dtypes, such as bfloat16, are of kind V; NumPy counts timedelta64 as an integer
    real = kind in "biuf" or (kind == "V" and any(jnp.issubdtype(array.dtype, t) for t in (jnp.floating, jnp.integer)))
    if array.ndim != 2 or array.shape[1] == 0 or not real:
        hint = "; NumPy's files do not keep bfloat16: save float32" if kind == "V" and not real else ""
        raise InputError(
            f"features have type {array.dtype} and shape {array.shape}: give real numbers of shape [n, d]{hint}"
        )
    if kind == "b":
        return array.astype(np.uint8)
    if array.dtype == np.float32 or array.dtype.itemsize < 4:
        return array.astype(array.dtype.newbyteorder("="), copy=False) if isinstance(array, np.ndarray) else array
    if isinstance(array, jax.Array):
        if not array.is_fully_addressable:
            raise InputError(f"features have type {array.dtype} and are on several hosts: give float32")
        array = np.asarray(array)
    check_rounding(array)
    with np.errstate(over="ignore"):  # overflow gives infinity, which callers check
        return array.astype(np.float32)


def check_rounding(features: Shaped[np.ndarray, "n d"]) -> None:
    """Checks that casting to float32 keeps the differences between rows.

    Raises:
        InputError: Rounding exceeds a thousandth of the features' spread, because of a large common offset; or the
            features are so small that their squares vanish.
    """
    if features.size == 0:
        return
    with np.errstate(all="ignore"):  # callers check for values that are not finite
        low, high = features.min(), features.max()
        if features.dtype.kind in "iu":
            largest = float(max(int(high), -int(low)))
            if largest <= 2**24:
                return
            # exact, since differences of 64 bits are taken modulo 2**64; float64 may merge such numbers
            above = features.astype(np.uint64) - features.min(axis=0).astype(np.uint64)
            spread = float(above.astype(np.float64).std(axis=0).max())
            exact = features.astype(np.float64)
            equal = spread == 0
        else:
            exact = features.astype(np.result_type(features.dtype.newbyteorder("="), np.float64), copy=False)
            largest = float(max(high, -low))
            spread = float(exact.std(axis=0).max())
            # rows that differ by rounding in their own type are equal
            equal = spread <= 8 * float(np.finfo(exact.dtype).eps) * largest
        rounding = float(np.abs(exact - exact.astype(np.float32)).max())
    check_squares(largest)
    if largest > 2**53 and features.dtype.kind in "iu":
        rounding = max(rounding, largest * 2.0**-24)  # float64 rounded them too
    if np.isfinite(rounding) and not equal and rounding > 1e-3 * spread:
        raise InputError(
            f"features spread by {spread:.2g} about an offset of up to {largest:.2g}: float32 cannot hold both; "
            "subtract the mean of the columns first, under which distances between features do not change"
        )


def check_squares(largest: float) -> None:
    """Raises InputError if squares of features vanish in float32, given the largest absolute value."""
    if 0 < largest < 1e-15:
        raise InputError(f"no feature is larger than {largest:.1g}, and squares vanish in float32: multiply them")


def check_lengths(features: Any, labels: Any) -> None:
    """Raises InputError unless there is one label per row of features."""
    if len(features) != len(labels):
        raise InputError(f"{len(features)} rows of features but {len(labels)} labels: give one label a row")


def not_finite(features: Any) -> InputError:
    """Returns the error for features [n, d] that are not finite in float32, or whose squares overflow."""
    finite = np.isfinite(np.asarray(features).astype(np.float32))
    bad = np.flatnonzero(~finite.all(axis=1))
    if len(bad) == 0:
        return InputError(OVERFLOW)
    return InputError(
        f"{(~finite).sum()} values of the features are not finite, in {len(bad)} of {len(finite)} rows, the "
        f"first row {bad[0]}: leave those rows out, or look for where the network diverged"
    )


def read_labels(labels: Any) -> Shaped[np.ndarray, " n"]:
    """Reads labels [n] to the host as int64, uint64 if needed, or names as NumPy's str or bytes.

    Reads floats that are whole numbers as these numbers, and booleans as 0 and 1.

    Raises:
        InputError: Labels are not a vector of whole numbers or of names, or are floats so large that their type cannot
            represent all whole numbers.
    """
    array = as_numpy("labels", labels)
    if array.ndim != 1:
        raise InputError(f"labels have shape {array.shape}: give one label a row, of shape [n]")
    if array.dtype.kind in "OT":
        array = _objects_to_numpy(array)
    if array.dtype.kind in "US":
        return array
    if array.dtype.kind in "biu":
        large = array.dtype.kind == "u" and array.max(initial=0) >= 2**63
        return array.astype(np.uint64 if large else np.int64, copy=False)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise _wrong_labels(array)
    exact = array.astype(np.float64)
    bad = np.flatnonzero(~(np.isfinite(exact) & (exact == np.floor(exact))))
    if len(bad):
        raise InputError(
            f"{len(bad)} labels of type {array.dtype} are no whole numbers, the first {exact[bad[0]]} in row {bad[0]}: "
            "give integers or names"
        )
    limit = 2.0 ** min(jnp.finfo(array.dtype).nmant + 1, 53)
    if np.abs(exact).max(initial=0.0) > limit:
        raise InputError(f"{array.dtype} does not tell whole numbers beyond {limit:.0f} apart: give integers as labels")
    return exact.astype(np.int64)


def _objects_to_numpy(array: Shaped[np.ndarray, " n"]) -> Shaped[np.ndarray, " n"]:
    """Converts Python objects to an array of names or of numbers; raises InputError for a mixture."""
    values = array.tolist()
    if all(isinstance(value, str) for value in values):
        return array.astype(np.str_)
    if all(isinstance(value, int | np.integer) for value in values):
        for kind in (np.int64, np.uint64):
            if all(np.iinfo(kind).min <= value <= np.iinfo(kind).max for value in values):
                return array.astype(kind)
    if all(isinstance(value, int | float | np.integer | np.floating) for value in values):
        return array.astype(np.float64)
    raise _wrong_labels(array)


def _wrong_labels(array: np.ndarray) -> InputError:
    return InputError(f"labels have type {array.dtype}: give integers or names, one kind for all")


def encode_labels(
    labels: Any,
) -> tuple[Shaped[np.ndarray, " k"], Int[np.ndarray, " n"], Int[np.ndarray, " k"]]:
    """Returns the distinct labels, sorted [k], each row's position among them, int32 [n], and their counts [k].

    Raises:
        InputError: As in `read_labels`.
    """
    values = read_labels(labels)
    if len(values) and values.dtype.kind in "iu":
        low, high = int(values.min()), int(values.max())
        if high - low < 1_000_000 + 8 * len(values):
            above = (values - values.min()).astype(np.int64)
            histogram = np.bincount(above)
            present = np.flatnonzero(histogram)
            position = np.cumsum(histogram > 0, dtype=np.int32) - np.int32(1)
            return present.astype(values.dtype) + values.min(), position[above], histogram[present]
    classes, position, counts = np.unique(values, return_inverse=True, return_counts=True)
    return classes, position.astype(np.int32), counts
