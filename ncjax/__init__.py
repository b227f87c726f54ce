"""Neural collapse and few-shot transfer in JAX: pretrain, measure collapse, evaluate thousands of episodes."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ncjax import collapse, data, encoders, eval, models, plots, report, runs, train
    from ncjax.classifier import Classifier, features, logits
    from ncjax.errors import InputError
    from ncjax.train import pretrain, restore

__all__ = [
    "Classifier",
    "InputError",
    "collapse",
    "data",
    "encoders",
    "eval",
    "features",
    "logits",
    "models",
    "plots",
    "pretrain",
    "report",
    "restore",
    "runs",
    "train",
]

_HOME = {
    "Classifier": "ncjax.classifier",
    "InputError": "ncjax.errors",
    "features": "ncjax.classifier",
    "logits": "ncjax.classifier",
    "pretrain": "ncjax.train",
    "restore": "ncjax.train",
}
"""The module of each public name that is no module itself."""


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used, so that `import ncjax` costs nothing."""
    if name not in __all__:
        raise AttributeError(f"module 'ncjax' has no attribute {name!r}")
    module = importlib.import_module(_HOME.get(name, f"ncjax.{name}"))
    value = getattr(module, name) if name in _HOME else module
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
