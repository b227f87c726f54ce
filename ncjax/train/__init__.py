"""Pretraining on source classes: settings, the compiled step, checkpoints, and measurements during training."""

from ncjax.train.config import Config
from ncjax.train.description import Description, read_config, read_description
from ncjax.train.pretraining import CheckpointsGone, pretrain, resolve, restore
from ncjax.train.records import read_records, seeds_table, table
from ncjax.train.run_data import fingerprint, load_benchmark
from ncjax.train.seeds import Diverged
from ncjax.train.signals import Interrupted

__all__ = [
    "CheckpointsGone",
    "Config",
    "Description",
    "Diverged",
    "Interrupted",
    "fingerprint",
    "load_benchmark",
    "pretrain",
    "read_config",
    "read_description",
    "read_records",
    "resolve",
    "restore",
    "seeds_table",
    "table",
]
