"""The seeds of a run during training: the folder, the checkpoints and the records of each."""

from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any

from ncjax.errors import InputError
from ncjax.train import records as files
from ncjax.train.checkpoint import Checkpoints, load_newest
from ncjax.train.config import Resolved
from ncjax.train.continuation import start_state
from ncjax.train.hosts import is_lead_process
from ncjax.train.measurement import Record
from ncjax.train.tensorboard import Events
from ncjax.train.trainer import States, Trainer

_WRITTEN_AT_ONCE = 8
"""Seeds whose checkpoints are written at the same time; each holds some open files."""


class Diverged(InputError):
    """The loss, the weights or the measured features were not finite."""


class SeedRun:
    """The run of one seed.

    Attributes:
      index: its place among the seeds of the program.
      config: its settings.
      checkpoints: its checkpoints.
      records: its records so far.
      diverged_at: the step at which it diverged; None if it has not.
      reason: why it counts as diverged.
    """

    def __init__(self, index: int, config: Resolved, kept_steps: Sequence[int]) -> None:
        self.index = index
        self.config = config
        self.records: list[Record] = []
        self.diverged_at: int | None = None
        self.reason = "the loss, the weights or the features were not finite"
        with ExitStack() as stack:
            self.checkpoints = stack.enter_context(Checkpoints(config.workdir / "checkpoints", kept_steps))
            self._events: Events | None = None
            if config.tensorboard and is_lead_process():
                self._events = stack.enter_context(Events(config.workdir / "tensorboard"))
            self._opened = stack.pop_all()

    def __enter__(self) -> "SeedRun":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.__exit__(kind, error, trace)

    @property
    def measured_at(self) -> float | int | None:
        """The step of the newest record."""
        return self.records[-1]["step"] if self.records else None

    def write_records(self) -> None:
        """Writes the records to metrics.jsonl and TensorBoard."""
        if is_lead_process():
            files.write_records(self.config.workdir, self.records)
        if self._events is not None:
            self._events.update(self.records)


def active(seeds: Sequence[SeedRun]) -> list[SeedRun]:
    """Returns the seeds that have not diverged."""
    return [seed for seed in seeds if seed.diverged_at is None]


def diverged(seeds: Sequence[SeedRun], count: int, total_steps: int) -> Diverged:
    """Returns the error that names the diverged seeds among `count`, and says that the others are finished."""
    where = [
        f"{seed.reason} at step {seed.diverged_at} of {total_steps} "
        f"(seed={seed.config.seed}, learning_rate={seed.config.learning_rate}); checkpoints up to then are kept in "
        f"{seed.config.workdir}"
        for seed in seeds
        if seed.diverged_at is not None
    ]
    finished = count - len(where)
    others = f"; the other {finished} seeds are finished" if finished else ""
    return Diverged(f"{'; '.join(where)}{others}; try a lower learning_rate in a new workdir")


def save(trainer: Trainer, seeds: Sequence[SeedRun], states: States, *, wait: bool = False) -> None:
    """Writes a checkpoint of every seed that has not diverged."""
    saved: list[SeedRun] = []
    for seed in active(seeds):
        if len(saved) >= _WRITTEN_AT_ONCE:
            saved[-_WRITTEN_AT_ONCE].checkpoints.wait()
        saved.append(seed)
        seed.checkpoints.save(trainer.one_seed(states, seed.index), history(seeds, seed), wait=wait)


def history(seeds: Sequence[SeedRun], seed: SeedRun, feature_mean: list[float] | None = None) -> dict[str, Any]:
    """Returns the JSON that a checkpoint of a seed holds beside its arrays.

    It lists the diverged seeds, since they have no checkpoint of that step.
    """
    steps = {str(other.index): other.diverged_at for other in seeds if other.diverged_at is not None}
    return {"records": seed.records, "feature_mean": feature_mean} | ({"diverged": steps} if steps else {})


def resume(
    trainer: Trainer, seeds: Sequence[SeedRun], configs: Sequence[Resolved], total_steps: int
) -> tuple[States, int]:
    """Loads the newest common checkpoint, with the records of each seed, or the weights that a new run starts from.

    Args:
      trainer: with the states before the first step.
      seeds: the seeds to train.
      configs: the settings of all seeds of the program.
      total_steps: the last step.

    Returns:
      The states to continue from, and their step.
    """
    like = [trainer.one_seed(trainer.initial, i) for i in range(len(configs))]
    loaded = load_newest({seed.index: seed.checkpoints for seed in active(seeds)}, like)
    if loaded is None:
        trained = {seed.index for seed in active(seeds)}
        if all(configs[i].continue_from is None for i in trained):
            return trainer.initial, 0
        first = [start_state(configs[i], state, total_steps) if i in trained else state for i, state in enumerate(like)]
        return trainer.join(first), 0
    newest_state, newest_history = next(iter(loaded.values()))
    for seed in active(seeds):
        seed.diverged_at = newest_history.get("diverged", {}).get(str(seed.index))
        seed.records = loaded[seed.index][1]["records"] if seed.index in loaded else []
    states = trainer.join([loaded[i][0] if i in loaded else like[i] for i in range(len(configs))])
    return states, int(newest_state.step)
