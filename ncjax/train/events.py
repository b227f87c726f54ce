"""The records of a run as TensorBoard events."""

import importlib.util
import shutil
from collections.abc import Sequence
from pathlib import Path

from ncjax.errors import InputError
from ncjax.train.measurement import Record


def check_installed() -> None:
    """Raises InputError where events cannot be written."""
    if importlib.util.find_spec("tensorboardX") is None:
        raise InputError('tensorboard=True needs tensorboardX: pip install -e ".[tensorboard]"')


class Events:
    """Event files in one folder, written anew from the records when a run starts or continues."""

    def __init__(self, folder: Path) -> None:
        from tensorboardX import SummaryWriter

        shutil.rmtree(folder, ignore_errors=True)
        self._writer = SummaryWriter(str(folder))
        self._written = 0

    def update(self, records: Sequence[Record]) -> None:
        """Adds the records that are not there yet; an infinite value has no event."""
        for record in records[self._written :]:
            for key, value in record.items():
                if key != "step" and value is not None:
                    self._writer.add_scalar(key, value, record["step"])
        self._written = len(records)
        self._writer.flush()
