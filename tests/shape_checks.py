"""Checks the shapes and types of arrays in ncjax's signatures while tests run; conftest.py installs it.

Annotations without arrays are left to mypy: tests pass wrong settings on purpose.
"""

from collections.abc import Callable
from typing import Any

from beartype import beartype
from jaxtyping import install_import_hook

MODULES = (
    "checks", "classifier", "collapse", "eval", "keys", "models", "preprocessing", "train.losses", "train.step",
)  # fmt: skip


def install() -> None:
    """Must run before anything imports ncjax."""
    install_import_hook([f"ncjax.{module}" for module in MODULES], "shape_checks.check_arrays")


def check_arrays(function: Callable[..., Any]) -> Callable[..., Any]:
    """Checks the function's array arguments and results on every call.

    Fields of dataclasses are not checked: JAX fills pytrees with placeholders of its own.
    """
    function.__annotations__ = {
        name: hint for name, hint in function.__annotations__.items() if "jaxtyping." in repr(hint)
    }
    return function if function.__name__ == "__init__" or not function.__annotations__ else beartype(function)
