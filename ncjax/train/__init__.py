"""Pretraining on source classes: settings, the compiled step, checkpoints, and measurements during training."""

import lazy_loader

# Names are imported when they are first used; the stub beside this file lists them, for type checkers too.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
