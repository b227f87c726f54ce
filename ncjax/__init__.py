"""Neural collapse and few-shot transfer in JAX: pretrain, measure collapse, evaluate thousands of episodes."""

import lazy_loader

# Names are imported when they are first used; the stub beside this file lists them, for type checkers too.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
