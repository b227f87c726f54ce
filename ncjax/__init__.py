"""Neural collapse and few-shot transfer in JAX: pretrain, measure collapse, evaluate thousands of episodes."""

from ncjax import collapse, data, encoders, eval, models, train
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
    "pretrain",
    "restore",
    "train",
]
