from .config import Config as Config
from .continuation import continued_config as continued_config
from .description import (
    Description as Description,
    read_config as read_config,
    read_description as read_description,
)
from .pretraining import (
    CheckpointsGone as CheckpointsGone,
    pretrain as pretrain,
    resolve as resolve,
)
from .records import (
    read_records as read_records,
    seeds_table as seeds_table,
    table as table,
)
from .restoration import restore as restore
from .run_data import (
    fingerprint as fingerprint,
    load_benchmark as load_benchmark,
)
from .seeds import Diverged as Diverged
from .signals import Interrupted as Interrupted
from .workdir import WorkdirLocked as WorkdirLocked
