"""Opens pickles of arrays and containers, and refuses all others.

A pickle can run any code. This unpickler knows only NumPy's arrays and Python's containers.
"""

import pickle
import re
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from ncjax.errors import InputError, first_line


def safe_load(path: Path) -> Any:
    """Opens a pickle of arrays and containers, without looking up any other name; Python 2's strings are Latin-1.

    Raises:
      InputError: if the pickle names anything else, or is damaged.
    """
    try:
        with path.open("rb") as file:
            return _Unpickler(file, encoding="latin1").load()
    except _ForbiddenName as error:
        raise InputError(
            f"{path} names {error}, which is neither an array nor a container: a pickle can run any code, and this one "
            "was not opened"
        ) from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except Exception as error:  # damaged pickles raise many kinds of error
        raise InputError(f"{path} cannot be read as a pickle ({first_line(error)}); it is cut off or altered") from None


class _ForbiddenName(Exception):
    """A pickle names what is neither an array nor a container."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        allowed = _ALLOWED.get((re.sub(r"^numpy\._core\.", "numpy.core.", module), name))
        if allowed is None:
            raise _ForbiddenName(f"{module}.{name}")
        return allowed

    def persistent_load(self, pid: Any) -> Any:
        raise _ForbiddenName(f"the persistent object {pid!r}")


def _latin1(text: str, encoding: str) -> bytes:
    """Replaces `_codecs.encode`, which restores Python 2's strings of bytes."""
    if encoding not in ("latin1", "latin-1"):
        raise _ForbiddenName(f"the encoding {encoding!r}")
    return text.encode("latin-1")


def _empty_array(subtype: Any, shape: Any, kind: Any) -> np.ndarray:
    """Replaces NumPy's `_reconstruct`: makes an array that the pickle then fills."""
    made: np.ndarray = np.zeros(0).__reduce__()[0](np.ndarray, (0,), b"b")  # type: ignore[operator]
    return made


# The names in NumPy's own pickles. `ndarray` is only an argument of `_reconstruct`, and cannot be called.
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _empty_array,
    ("numpy", "ndarray"): "numpy.ndarray",
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "scalar"): np.int64(0).__reduce__()[0],
    ("numpy.core.numeric", "_frombuffer"): np.zeros(1).__reduce_ex__(5)[0],
    ("_codecs", "encode"): _latin1,
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "defaultdict"): defaultdict,
    **{
        (module, kind.__name__): kind
        for module in ("builtins", "__builtin__")
        for kind in (list, dict, set, frozenset, tuple, bytearray)
    },
}
