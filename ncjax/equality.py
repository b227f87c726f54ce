"""Equality of dataclasses that hold arrays, which the one that Python writes for them raises on."""

from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np


class EqualByValue:
    """A base of `dataclass(frozen=True, eq=False)`: equal where type and every field are; NaN equals NaN."""

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return _value(self) == _value(other)

    def __hash__(self) -> int:
        return hash(_value(self))


def _value(x: Any) -> Any:
    """Something hashable that is equal for equal contents."""
    if is_dataclass(x) and not isinstance(x, type):
        return type(x), tuple(_value(getattr(x, field.name)) for field in fields(x))
    if isinstance(x, dict):
        return frozenset((key, _value(value)) for key, value in x.items())
    if isinstance(x, list | tuple):
        return type(x), tuple(map(_value, x))
    if hasattr(x, "__array__"):
        x = np.asarray(x)
        if x.dtype.kind == "f":
            x = np.where(np.isnan(x), np.nan, x) + 0.0  # one NaN and one zero, of whose bits there are more
        return x.shape, x.dtype.str, x.tobytes()
    return "NaN" if isinstance(x, float) and x != x else x
