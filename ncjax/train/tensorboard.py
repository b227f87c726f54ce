"""The records of a run as TensorBoard events."""

import importlib.util
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from ncjax.errors import InputError
from ncjax.files import named
from ncjax.train.measurement import Record


def check_installed() -> None:
    """Raises InputError if tensorboardX is not installed."""
    if importlib.util.find_spec("tensorboardX") is None:
        raise InputError('tensorboard=True needs tensorboardX: pip install -e ".[tensorboard]"')


class Events:
    """Event files in a folder, written anew from the records when a run starts or continues."""

    def __init__(self, folder: Path) -> None:
        # not SummaryWriter: a full disk ends the thread that it writes from, and the next record would wait forever
        from tensorboardX.event_file_writer import EventsWriter

        shutil.rmtree(folder, ignore_errors=True)
        self._folder = folder
        self._written = 0
        with named(folder):
            folder.mkdir(parents=True)
            self._writer = EventsWriter(str(folder / "events"))

    def __enter__(self) -> "Events":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def update(self, records: Sequence[Record]) -> None:
        """Writes the new records; infinite values are left out."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        with named(self._folder):
            for record in records[self._written :]:
                for key, value in record.items():
                    if key != "step" and value is not None:
                        step = int(record["step"] or 0)
                        self._writer.write_event(Event(wall_time=time.time(), step=step, summary=scalar(key, value)))
            self._writer.flush()
        self._written = len(records)

    def close(self) -> None:
        """Closes the file."""
        with named(self._folder):
            self._writer.close()
