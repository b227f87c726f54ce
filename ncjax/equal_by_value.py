"""Equality of dataclasses that hold arrays, for which the generated `__eq__` raises."""

from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np


class EqualByValue:
    """Base of a `dataclass(frozen=True, eq=False)`: equal if types and all fields are equal; NaN equals NaN."""

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return _value(self) == _value(other)

    def __hash__(self) -> int:
        return hash(_value(self))


def _value(x: Any) -> Any:
    """Returns a hashable value that is equal for equal contents."""
    if is_dataclass(x) and not isinstance(x, type):
        return type(x), tuple(_value(getattr(x, field.name)) for field in fields(x))
    if isinstance(x, dict):
        return frozenset((key, _value(value)) for key, value in x.items())
    if isinstance(x, list | tuple):
        return type(x), tuple(map(_value, x))
    if hasattr(x, "__array__"):
        x = np.asarray(x)
        if x.dtype.kind == "f":
            x = np.where(np.isnan(x), np.nan, x) + 0.0  # the same bits for every NaN, and for both zeros
        return x.shape, x.dtype.str, x.tobytes()
    return "NaN" if isinstance(x, float) and x != x else x
