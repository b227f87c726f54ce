"""Values of settings as the user gives them: their types, and choices that are not among those of a field."""

import dataclasses
import os
import re
from numbers import Real
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import numpy as np

from ncjax.errors import InputError

FOLDERS = ("data_dir", "continue_from", "distill_from")
"""Settings that are paths, kept as text, since tfds reads data from URLs too."""

_Settings = TypeVar("_Settings", bound=Any)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def plain(settings: _Settings, kind: type) -> _Settings:
    """Converts the values of a dataclass to Python's own types, so that 1, 1.0 and np.float64(1) are the same.

    Args:
      settings: of the type `kind`, or of a type derived from it.
      kind: whose annotations say what the values may be.

    Raises:
      InputError: for a value of another type than its field's.
    """
    return dataclasses.replace(
        settings,
        **{name: _plain_value(name, getattr(settings, name), hint) for name, hint in get_type_hints(kind).items()},
    )


def _plain_value(name: str, value: Any, hint: Any) -> Any:
    from ncjax.checks import whole_number  # imports JAX, and a command answers --help without it

    kinds = {hint, *get_args(hint)}
    is_flag = isinstance(value, bool | np.bool_)
    if value is None and type(None) in kinds:
        return None
    if int in kinds:
        return whole_number(name, value)
    if float in kinds:
        if is_flag or not isinstance(value, Real):
            raise InputError(f"{name}={value!r}: give a Python number")
        return float(value)
    if bool in kinds:
        if not is_flag:
            raise InputError(f"{name}={value!r}: give True or False")
        return bool(value)
    if Path in kinds or name in FOLDERS:
        path = os.fspath(value) if isinstance(value, os.PathLike) else value
        if not isinstance(path, str):
            raise InputError(f"{name}={value!r}: give a path")
        if Path in kinds and _URL.match(path):
            raise InputError(f"{name}={path}: a run is written to a folder of this machine; give its path")
        return Path(path) if Path in kinds else path
    if str in kinds and not isinstance(value, str):
        raise InputError(f"{name}={value!r}: give a string")
    return value


def check_choices(settings: Any, kind: type) -> None:
    """Raises InputError for a value that the `Literal` of its annotation in `kind` does not have."""
    for name, hint in get_type_hints(kind).items():
        literals = [part for part in (hint, *get_args(hint)) if get_origin(part) is Literal]
        choices = [choice for literal in literals for choice in get_args(literal)]
        value = getattr(settings, name)
        if choices and value is not None and value not in choices:
            raise InputError(f"{name}={value!r}: choose one of {', '.join(choices)}")
