"""Neural collapse and few-shot transfer in JAX: pretrain, measure collapse, evaluate thousands of episodes."""

from typing import TYPE_CHECKING

from ncjax.lazy import lazy_names

if TYPE_CHECKING:
    from ncjax import collapse, data, encoders, eval, models, plots, report, runs, train
    from ncjax.classifier import Classifier, features, logits
    from ncjax.errors import InputError
    from ncjax.input_jacobian import geometric_complexity
    from ncjax.train import pretrain, restore

__all__ = [
    "Classifier",
    "InputError",
    "collapse",
    "data",
    "encoders",
    "eval",
    "features",
    "geometric_complexity",
    "logits",
    "models",
    "plots",
    "pretrain",
    "report",
    "restore",
    "runs",
    "train",
]

_HOMES = {name: f"ncjax.{name}" for name in __all__} | {
    "Classifier": "ncjax.classifier",
    "InputError": "ncjax.errors",
    "features": "ncjax.classifier",
    "geometric_complexity": "ncjax.input_jacobian",
    "logits": "ncjax.classifier",
    "pretrain": "ncjax.train",
    "restore": "ncjax.train",
}
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
