"""Functions of the user's own, named `package.module:function` on the command line."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ncjax.errors import InputError, first_line

_HINT = "run from the folder that has the module, or install it"


def load_function(spec: str, purpose: str, hint: str = _HINT) -> Callable[..., Any]:
    """Imports a function by name.

    Args:
        spec: "package.module:function". Modules are looked for as Python does, and then in the current folder, from
            then on too, since the function may import others when it is called.
        purpose: Use of the function, for messages: "network", "head", "encoder".
        hint: What to do if it cannot be imported.

    Raises:
        InputError: If there is no such function.
    """
    package, _, name = spec.partition(":")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        function = getattr(importlib.import_module(package), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"{purpose} {spec}: {first_line(error)}; {hint}") from None
    if not callable(function):
        raise InputError(f"{purpose} {spec} is a {type(function).__name__}: give a function")
    loaded: Callable[..., Any] = function
    return loaded
