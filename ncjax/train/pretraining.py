"""`pretrain` and `restore`: what is finished is read back, what is not is trained to its end."""

import dataclasses
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from tqdm import tqdm

from ncjax import devices, keys, models
from ncjax.classifier import Classifier
from ncjax.data import Benchmark
from ncjax.errors import InputError
from ncjax.files import expand
from ncjax.train import records as files
from ncjax.train import tensorboard, workdir
from ncjax.train.checkpoint import find, load_variables, steps_in
from ncjax.train.config import Config, Resolved, fill, identity
from ncjax.train.hosts import is_lead_process, max_over_processes, raise_together
from ncjax.train.loop import train
from ncjax.train.run import Run
from ncjax.train.seeds import Diverged
from ncjax.train.signals import Stop, signals
from ncjax.train.source import Source, fingerprint, load_benchmark
from ncjax.train.workdir import Refused


class CheckpointsGone(Refused):
    """A run that has records and no checkpoints: it can neither be continued nor be read back.

    Attributes:
      finished: whether its records are complete.
    """

    def __init__(self, folder: Path, *, finished: bool) -> None:
        super().__init__(
            f"the run in {folder} {'is finished' if finished else 'has begun'}, but its checkpoints are gone: "
            f"{'its records stay, and no classifier can be read back' if finished else 'it cannot be continued'}; "
            f"bring back {folder / 'checkpoints'}, or delete the folder to train anew"
        )
        self.finished = finished


def resolve(config: Config) -> Resolved:
    """Fills in what the preset decides, makes data_dir absolute and names the workdir.

    Whoever gives the number of epochs gets that many, without the preset's floor in steps. Where no workdir is given
    and a folder beside the default one holds the same run, begun by another version or from data in another place, it
    is that one; to tell, the data may be read.

    Raises:
      InputError: for a value outside its range; the message names the setting.
    """
    return _with_workdir(fill(config), None)


def _with_workdir(config: Config, known: Source | None) -> Resolved:
    if config.workdir is not None:
        return Resolved.of(config, expand(config.workdir))

    @cache
    def data_fingerprint() -> str:
        return fingerprint(load_benchmark(config)) if known is None else known.fingerprint

    return Resolved.of(config, workdir.located(config, data_fingerprint, own_data=known is not None))


@devices.on_data_mesh
def pretrain(config: Config, *, benchmark: Benchmark | None = None) -> Classifier:
    """Trains a classifier on the source classes and records its collapse on the way.

    Writes into `config.workdir` (see `Config`): config.json, metrics.jsonl, timing.jsonl and checkpoints. A run
    that was interrupted continues from its last checkpoint, to the same numbers as if it had not been; a finished one
    is read back.

    Args:
      config: the settings; those left None are filled in by preset and data set.
      benchmark: the caller's own data, instead of `ncjax.data.load(config.dataset, …)`.

    Returns:
      The trained classifier; of `config.seeds` > 1 runs, that of the first.

    Raises:
      InputError: for a setting that cannot be, a folder that holds another run, data that cannot be read.
      CheckpointsGone: for a run whose records are there and whose checkpoints are not; nothing is changed.
      Diverged: if the loss, the weights or the features stop being finite; the last good checkpoint stays. Of many
        seeds, the others are finished first.
      Interrupted: after SIGINT, SIGTERM or SIGHUP, once the state is saved.
    """
    with signals() as stop:
        return _pretrain(fill(config), benchmark, stop)


def _pretrain(config: Config, benchmark: Benchmark | None, stop: Stop) -> Classifier:
    if config.distributed and not jax.distributed.is_initialized():
        raise InputError(
            "distributed=True, but this process has not joined others: call jax.distributed.initialize() before "
            "anything else, or run experiments/pretrain.py --distributed"
        )
    if config.tensorboard:
        tensorboard.check_installed()
    with raise_together():
        known = None if benchmark is None else Source.of(benchmark)
        resolved = _with_workdir(config, known)
        each = _seeds(resolved)
        begun = [_described(one, known) for one in each]  # raises if one of the folders holds something else
        if known is None and any(one is not None and workdir.reads_other_data(one, config) for one in begun):
            known = Source.of(load_benchmark(config))
            begun = [_described(one, known) for one in each]
        done = [_finished(one, described) for one, described in zip(each, begun, strict=True)]
        first = _read_finished(each[0], done[0])
        lost = [first is None] + [_read_finished(*one) is None for one in zip(each[1:], done[1:], strict=True)]
    unfinished = [i for i, is_lost in enumerate(max_over_processes(*lost)) if is_lost]
    if first is not None and not unfinished:
        _write_events(each)
        if config.profile and is_lead_process():
            tqdm.write("the run is finished: no steps are left to profile", file=sys.stderr)
        return first
    with raise_together():
        workdir.check_path(resolved.workdir)
        source = known or Source.of(load_benchmark(config))
        if source.is_streamed:  # a stream of images feeds one seed at a time
            runs = [Run.of([each[i]], source) for i in unfinished]
        else:
            runs = [Run.of(each, source, unfinished)]
        if config.seeds > 1:
            workdir.write_seeds(resolved.workdir, config.seeds)
    classifiers = _train_all(runs, stop)
    return first if first is not None else classifiers[0]


def _train_all(runs: Sequence[Run], stop: Stop) -> list[Classifier]:
    """Trains one run after another; raises Diverged at the end, for all that did."""
    classifiers, diverged = [], []
    for run in runs:
        try:
            classifiers += train(run, stop)
        except Diverged as error:
            diverged.append(str(error))
    if diverged:
        raise Diverged("; ".join(diverged))
    return classifiers


def _seeds(config: Resolved) -> list[Resolved]:
    """One configuration a seed, each with a folder of its own."""
    if config.seeds == 1:
        return [config]
    workdir.check_seeds(config.workdir, config.seeds)
    return [
        dataclasses.replace(config, seeds=1, seed=config.seed + i, workdir=config.workdir / f"seed_{i}")
        for i in range(config.seeds)
    ]


@devices.on_data_mesh
def restore(workdir: str | Path, step: int | None = None) -> Classifier:
    """Reads the classifier of a run.

    Args:
      workdir: the run's folder.
      step: which checkpoint; the newest by default.

    Raises:
      InputError: if the folder holds no run, or no checkpoint of that step.
    """
    described = files.read_config(workdir)
    checkpoints = expand(workdir) / "checkpoints"
    step = find(checkpoints, step)
    network = models.create(described["config"]["network"], described["data"]["num_source_classes"])
    abstract = jax.eval_shape(lambda: network.init(keys.root(0), tuple(described["data"]["image_shape"])))
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=here), abstract)
    variables, progress = load_variables(checkpoints, abstract, step)
    return Classifier(
        variables,
        jnp.asarray(described["data"]["mean"], jnp.float32),
        jnp.asarray(described["data"]["std"], jnp.float32),
        None if progress["feature_mean"] is None else jnp.asarray(progress["feature_mean"], jnp.float32),
        network=network,
        augmentation=described["data"]["augmentation"],
    )


def _described(config: Resolved, known: Source | None) -> dict[str, Any] | None:
    """What config.json says of the run that was begun in the folder; None where there is none yet.

    Raises:
      Refused: if the folder holds another run, or nothing can be written where it should be.
    """
    data = None
    if known is not None:
        data = {"fingerprint": known.fingerprint, "augmentation": known.augmentation(config)}
    return workdir.described(config.workdir, identity(config), data)


def _finished(config: Resolved, described: dict[str, Any] | None) -> int | None:
    """The last step of a run that has nothing left to do; None for any other.

    Raises:
      CheckpointsGone: if the run has records after its first step that no checkpoint is left to continue.
    """
    metrics = config.workdir / "metrics.jsonl"
    if described is None or not metrics.exists() or metrics.stat().st_size == 0:
        return None
    try:
        reached = files.read_records(config.workdir)[-1].get("step")
    except InputError:
        reached = None  # damaged: a checkpoint has them too
    last: int = described["total_steps"]
    steps = steps_in(config.workdir / "checkpoints")
    if not steps and reached != 0:  # the first record is written before the first checkpoint
        raise CheckpointsGone(config.workdir, finished=reached == last)
    return last if reached == last and last in steps else None


def _read_finished(config: Resolved, step: int | None) -> Classifier | None:
    """The classifier at the end of a run; None if it is not there, or damaged, for an earlier checkpoint continues."""
    if step is None:
        return None
    try:
        return restore(config.workdir, step)
    except InputError:
        return None


def _write_events(each: Sequence[Resolved]) -> None:
    for config in each:
        if config.tensorboard and is_lead_process():
            with tensorboard.Events(config.workdir / "tensorboard") as events:
                events.update(files.read_records(config.workdir))
