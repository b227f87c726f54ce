from . import (
    collapse as collapse,
    data as data,
    encoders as encoders,
    eval as eval,
    models as models,
    plots as plots,
    report as report,
    runs as runs,
    train as train,
)
from .classifier import (
    Classifier as Classifier,
    features as features,
    logits as logits,
)
from .errors import InputError as InputError
from .input_jacobian import geometric_complexity as geometric_complexity
from .train import (
    pretrain as pretrain,
    restore as restore,
)
