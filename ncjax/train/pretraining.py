"""`pretrain`: finished runs are read back, others are trained to their end."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import jax

from ncjax import devices, models
from ncjax.classifier import Classifier
from ncjax.data import Benchmark
from ncjax.errors import InputError
from ncjax.files import expand
from ncjax.progress import quietly, remark
from ncjax.train import continuation, records as files, tensorboard, workdir
from ncjax.train.checkpoint import steps_in
from ncjax.train.config import Config, Resolved, fill, identity, settings_of_seeds
from ncjax.train.continuation import with_start_weights
from ncjax.train.description import Description
from ncjax.train.hosts import is_lead_process, max_over_processes, raise_together
from ncjax.train.loop import train
from ncjax.train.restoration import restore
from ncjax.train.run import OnRecord, Run
from ncjax.train.run_data import RunData, fingerprint, load_benchmark
from ncjax.train.seeds import Diverged
from ncjax.train.signals import Stop, signals
from ncjax.train.teacher import with_teacher_weights
from ncjax.train.workdir import DataIdentity, WorkdirConflict


class CheckpointsGone(WorkdirConflict):
    """A run has records but no checkpoints, so that it can neither be continued nor be read back.

    Attributes:
      finished: whether its records are complete.
    """

    def __init__(self, folder: Path, *, finished: bool) -> None:
        super().__init__(
            f"the run in {folder} {'is finished' if finished else 'has begun'}, but its checkpoints are gone: "
            f"{'its records stay, and no classifier can be read back' if finished else 'it cannot be continued'}; "
            f"restore {folder / 'checkpoints'}, or delete the folder to train again"
        )
        self.finished = finished


def resolve(config: Config) -> Resolved:
    """Fills in what the preset decides, makes data_dir absolute and chooses the workdir.

    If `epochs` is given, the preset's least number of steps does not apply. If no workdir is given and a folder beside
    the default one holds the same run, begun by another version or with data in another place, that folder is chosen;
    to decide this, the data may be read.

    Raises:
      InputError: for a value outside its range; the message names the setting.
    """
    return _with_workdir(with_start_weights(with_teacher_weights(fill(config))), None)


def _with_workdir(config: Config, known: RunData | None) -> Resolved:
    if config.workdir is not None:
        return Resolved.of(config, expand(config.workdir))

    @cache
    def data_fingerprint() -> str:
        return fingerprint(load_benchmark(config)) if known is None else known.fingerprint

    return Resolved.of(config, workdir.find_workdir(config, data_fingerprint, own_data=known is not None))


@devices.on_data_mesh
def pretrain(config: Config, *, benchmark: Benchmark | None = None, on_record: OnRecord | None = None) -> Classifier:
    """Trains a classifier on the source classes and records its collapse on the way.

    Writes config.json, metrics.jsonl, timing.jsonl and checkpoints into `config.workdir`. An interrupted run continues
    from its last checkpoint, to the same numbers as an uninterrupted run; a finished run is read back.

    Args:
      config: the settings; preset and data set fill in settings that are None.
      benchmark: the caller's own data, instead of `ncjax.data.load(config.dataset, …)`.
      on_record: called with each new record, a dictionary with the keys of metrics.jsonl and "seed", once it is
        written; for example `wandb.log`. A continued run does not repeat the records of its first part.

    Returns:
      The trained classifier; with several seeds, the classifier of the first.

    Raises:
      InputError: for an invalid setting, a folder that holds another run, data that cannot be read.
      CheckpointsGone: if the run has records but no checkpoints; nothing is changed.
      Diverged: if the loss, the weights or the features stop being finite; the last good checkpoint stays. The other
        seeds are finished first.
      Interrupted: after SIGINT, SIGTERM or SIGHUP, once the state is saved.
    """
    with signals() as stop, quietly(config.quiet if isinstance(config, Config) else False):
        return _pretrain(fill(config), benchmark, on_record, stop)


def _pretrain(config: Config, benchmark: Benchmark | None, on_record: OnRecord | None, stop: Stop) -> Classifier:
    if config.distributed and not jax.distributed.is_initialized():
        raise InputError(
            "distributed=True, but this process has not joined others: call jax.distributed.initialize() before "
            "anything else, or run experiments/pretrain.py --distributed"
        )
    if config.tensorboard:
        tensorboard.check_installed()
    with raise_together():
        models.check_name(config.network or "")
        config = with_start_weights(with_teacher_weights(config))
        known = None if benchmark is None else RunData.of(benchmark)
        resolved = _with_workdir(config, known)
        seeds = _seeds(resolved)
        descriptions = [_check_run(seed, known) for seed in seeds]
        if known is None and any(
            description is not None and workdir.may_have_other_data(description, config) for description in descriptions
        ):
            known = RunData.of(load_benchmark(config))
            descriptions = [_check_run(seed, known) for seed in seeds]
        last_steps = [_last_step(seed, description) for seed, description in zip(seeds, descriptions, strict=True)]
        first = _read_finished(seeds[0], last_steps[0])
        lost = [first is None]
        lost += [_read_finished(seed, step) is None for seed, step in zip(seeds[1:], last_steps[1:], strict=True)]
    unfinished = [i for i, is_lost in enumerate(max_over_processes(*lost)) if is_lost]
    if first is not None and not unfinished:
        _write_events(seeds)
        if config.profile and is_lead_process():
            remark("the run is finished: there are no steps left to profile")
        return first
    with raise_together():
        workdir.check_path(resolved.workdir)
        data = known or RunData.of(load_benchmark(config))
        continuation.check_data([seeds[i] for i in unfinished], data)
        if data.is_streamed:  # a stream of images feeds one seed at a time
            runs = [Run.of([seeds[i]], data, on_record=on_record) for i in unfinished]
        else:
            runs = [Run.of(seeds, data, unfinished, on_record)]
        if config.seeds > 1:
            workdir.write_seeds(resolved.workdir, config.seeds)
    classifiers = _train_all(runs, stop)
    return first if first is not None else classifiers[0]


def _train_all(runs: Sequence[Run], stop: Stop) -> list[Classifier]:
    """Trains one run after another; raises Diverged at the end if some diverged."""
    classifiers, messages = [], []
    for run in runs:
        try:
            classifiers += train(run, stop)
        except Diverged as error:
            messages.append(str(error))
    if messages:
        raise Diverged("; ".join(messages))
    return classifiers


def _seeds(config: Resolved) -> list[Resolved]:
    """Returns the settings of each seed, with its own folder."""
    if config.seeds == 1:
        return [config]
    workdir.check_seeds(config.workdir, config.seeds)
    return [Resolved.of(seed, config.workdir / f"seed_{i}") for i, seed in enumerate(settings_of_seeds(config))]


def _check_run(config: Resolved, known: RunData | None) -> Description | None:
    """Returns the description of the run in the folder; None where there is none yet.

    Raises:
      WorkdirConflict: if the folder holds another run, or is not writable.
    """
    data = None if known is None else DataIdentity(known.fingerprint, known.augmentation(config))
    return workdir.check_run(config.workdir, identity(config), data)


def _last_step(config: Resolved, description: Description | None) -> int | None:
    """Returns the last step of a finished run; None if the run is not finished.

    Raises:
      CheckpointsGone: if the run has records after its first step but no checkpoint to continue from.
    """
    metrics = config.workdir / "metrics.jsonl"
    if description is None or not metrics.exists() or metrics.stat().st_size == 0:
        return None
    try:
        reached = files.read_records(config.workdir)[-1].get("step")
    except InputError:
        reached = None  # damaged, but checkpoints hold the records too
    last = description.total_steps
    steps = steps_in(config.workdir / "checkpoints")
    if not steps and reached != 0:  # the first record is written before the first checkpoint
        raise CheckpointsGone(config.workdir, finished=reached == last)
    return last if reached == last and last in steps else None


def _read_finished(config: Resolved, step: int | None) -> Classifier | None:
    """Reads the classifier at the end of a run; returns None if it is missing or damaged: the run then continues."""
    if step is None:
        return None
    try:
        return restore(config.workdir, step)
    except InputError:
        return None


def _write_events(configs: Sequence[Resolved]) -> None:
    for config in configs:
        if config.tensorboard and is_lead_process():
            with tensorboard.Events(config.workdir / "tensorboard") as events:
                events.update(files.read_records(config.workdir))
