"""Pretraining on source classes: settings, the compiled step, checkpoints, and measurements during training."""

from typing import TYPE_CHECKING

from ncjax.lazy import lazy_names

if TYPE_CHECKING:
    from ncjax.train.config import Config
    from ncjax.train.continuation import continued_config
    from ncjax.train.description import Description, read_config, read_description
    from ncjax.train.pretraining import CheckpointsGone, pretrain, resolve, restore
    from ncjax.train.records import read_records, seeds_table, table
    from ncjax.train.run_data import fingerprint, load_benchmark
    from ncjax.train.seeds import Diverged
    from ncjax.train.signals import Interrupted
    from ncjax.train.workdir import WorkdirLocked

__all__ = [
    "CheckpointsGone",
    "Config",
    "Description",
    "Diverged",
    "Interrupted",
    "WorkdirLocked",
    "continued_config",
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

_HOMES = {
    "CheckpointsGone": "ncjax.train.pretraining",
    "Config": "ncjax.train.config",
    "Description": "ncjax.train.description",
    "Diverged": "ncjax.train.seeds",
    "Interrupted": "ncjax.train.signals",
    "WorkdirLocked": "ncjax.train.workdir",
    "continued_config": "ncjax.train.continuation",
    "fingerprint": "ncjax.train.run_data",
    "load_benchmark": "ncjax.train.run_data",
    "pretrain": "ncjax.train.pretraining",
    "read_config": "ncjax.train.description",
    "read_description": "ncjax.train.description",
    "read_records": "ncjax.train.records",
    "resolve": "ncjax.train.pretraining",
    "restore": "ncjax.train.pretraining",
    "seeds_table": "ncjax.train.records",
    "table": "ncjax.train.records",
}
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
