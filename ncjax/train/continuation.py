"""Runs that start from the last weights of another run; if that run averages its weights, from the average."""

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ncjax.errors import InputError
from ncjax.files import expand
from ncjax.progress import remark
from ncjax.train import workdir
from ncjax.train.checkpoint import (
    Content,
    abstract_arrays,
    find,
    load_variables,
    read_alone,
    read_checkpoint,
    reason_of,
)
from ncjax.train.config import Config, Resolved, settings_of_seeds
from ncjax.train.description import Description, configuration, read_description
from ncjax.train.run_data import RunData
from ncjax.train.step import TrainState

_STARTS = ("continue_from", "continue_optimizer", "start_weights")


@dataclass(frozen=True)
class Source:
    """The last checkpoint of the run that another run continues.

    Attributes:
      folder: the run's folder.
      description: its description.
      step: the step of the checkpoint.
      checksums: of the checkpoint's parts.
    """

    folder: Path
    description: Description
    step: int
    checksums: Mapping[str, int]

    @classmethod
    def read(cls, folder: Path) -> "Source":
        """Reads everything but the weights.

        Raises:
          InputError: if there is no such run, it is running, or it has no readable checkpoint.
        """
        description = read_description(folder)
        if workdir.is_locked(folder):
            raise InputError(f"continue_from={folder}: a process is at work in it; wait for it or stop it")
        step = find(folder / "checkpoints")
        return cls(folder, description, step, read_alone(folder / "checkpoints", step, {}).checksums)

    def start_weights(self, *, with_optimizer: bool) -> str:
        """Returns the part of `Config.start_weights` for one seed: settings, step and weights."""
        sums = _checksums_of(self.checksums, with_optimizer=with_optimizer)
        return "-".join([configuration(self.description), str(self.step), *sums])


def continued_config(folder: str | Path, **changes: Any) -> Config:
    """Returns the settings of a run that continues another, as the other's but for `changes`.

    Settings of the folder, of checkpoints and of processes are not taken over; neither is the number of epochs. Of a
    run with a teacher, the folder of the teacher is: the new run learns from the weights that are there.

    Args:
      folder: the other run's folder, or the folder of its seeds.
      changes: fields of `Config`, such as `epochs=5`.

    Raises:
      InputError: if the folder holds no run.

    Examples:
      `ncjax.pretrain(continued_config("runs/glyphs-wrn-10-1-…", epochs=5))`
    """
    folder = expand(folder)
    settings = _settings_in(folder)
    own = (
        "workdir", "profile", "quiet", "distributed", "keep_checkpoints", "epochs", "min_steps", "teacher_weights",
        *_STARTS,
    )  # fmt: skip
    default = Config()
    reset = {name: getattr(default, name) for name in own}
    return dataclasses.replace(settings, **(reset | {"continue_from": str(folder)} | changes))


def begun_config(folder: str | Path, continue_from: str | Path) -> Config | None:
    """Returns the settings of the run, or of the seeds, in a folder, to go on where the run that it continues is gone.

    Args:
      folder: the folder of the run that was begun.
      continue_from: the folder of the run that it continues.

    Returns:
      None if no run in the folder was begun from there.
    """
    folder, source = expand(folder), str(expand(continue_from).absolute())
    with suppress(InputError):
        settings = _settings_in(folder)
        first = Path(source) / "seed_0" if settings.seeds > 1 else Path(source)
        if settings.continue_from == str(first):
            return dataclasses.replace(settings, continue_from=source, start_weights=None, workdir=folder)
    return None


def _settings_in(folder: Path) -> Config:
    """Returns the settings of the run, or of the seeds as one run, in a folder."""
    seeds = workdir.read_seeds(folder) if (folder / workdir.SEEDS).exists() else 1
    return dataclasses.replace(read_description(folder / "seed_0" if seeds > 1 else folder).config, seeds=seeds)


def with_start_weights(config: Config) -> Config:
    """Fills in `start_weights` of a run that continues another.

    Where the other run is gone, a run that was begun from the same folder keeps the checksums.

    Args:
      config: the settings, filled in.

    Raises:
      InputError: if the other run cannot be read, or does not fit the settings.
    """
    if config.continue_from is None:
        return config
    try:
        sources = _read_sources(config)
    except InputError:
        for begun in workdir.continued_from(config):
            if config.start_weights in (None, begun):
                return dataclasses.replace(config, start_weights=begun)
        raise
    for source in sources:
        _check_settings(config, source)
    checksums = ",".join(source.start_weights(with_optimizer=config.continue_optimizer) for source in sources)
    if config.start_weights not in (None, checksums):
        raise InputError(
            f"continue_from={config.continue_from} holds the weights {checksums}, not start_weights="
            f"{config.start_weights}: leave out start_weights, or give the run that holds them"
        )
    return dataclasses.replace(config, start_weights=checksums)


def _read_sources(config: Config) -> list[Source]:
    assert config.continue_from is not None
    folder = Path(config.continue_from)
    if config.workdir is not None and config.workdir.absolute() == folder:
        raise InputError(f"continue_from and workdir are both {folder}: a continued run has a folder of its own")
    seeds = workdir.read_seeds(folder) if (folder / workdir.SEEDS).exists() else 1
    if seeds != config.seeds:
        alone = f", or give one of them, for example {folder / 'seed_0'}" if seeds > 1 else ""
        raise InputError(
            f"continue_from={folder} holds {seeds} seed{'s' * (seeds > 1)}, {config.seeds} asked for: "
            f"set seeds={seeds}{alone}"
        )
    of_seeds = settings_of_seeds(dataclasses.replace(config, start_weights=None))
    return [Source.read(Path(seed.continue_from or "")) for seed in of_seeds]


def _check_settings(config: Config, source: Source) -> None:
    """Raises InputError where the settings alone tell that the weights do not fit."""
    there, data = source.description.config, source.description.data
    _check_same(source, "network", there.network, config.network)
    _check_same(source, "classifier", there.classifier, config.classifier)
    _check_same(source, "rotation_head", bool(there.rotation_head), bool(config.rotation_head))
    _check_same(source, "num_source_classes", data.num_source_classes, config.num_source_classes)
    _check_same(source, "image_size", data.image_shape[0], config.image_size)
    if config.continue_optimizer:
        _check_same(source, "optimizer", there.optimizer, config.optimizer)
        if (there.momentum == 0) != (config.momentum == 0):
            _check_same(source, "momentum", there.momentum, config.momentum)


def _check_same(source: Source, name: str, there: object, here: object) -> None:
    if here is not None and here != there:
        raise InputError(
            f"continue_from={source.folder}: that run has {name}={there}, this one {here}; set {name}={there}, or "
            "leave out continue_from"
        )


def check_data(configs: Sequence[Resolved], data: RunData) -> None:
    """Checks that the data fits the weights that new runs start from.

    Raises:
      InputError: if it has another number of classes or shape of images, or the other run is gone.
    """
    train = data.benchmark.source_train
    for config in configs:
        if config.continue_from is not None and not (config.workdir / "config.json").exists():
            source = Source.read(Path(config.continue_from))
            there = source.description.data
            _check_same(source, "num_source_classes", there.num_source_classes, len(train.class_names))
            _check_same(source, "image_shape", tuple(there.image_shape), tuple(train.images.shape[1:]))


def start_state(config: Resolved, like: TrainState, total_steps: int) -> TrainState:
    """Returns the first state of a run: `like`, or the weights of the run that it continues.

    The step and the schedule start at 0. All processes of a run read together.

    Args:
      config: the settings of one seed.
      like: the first state of a run from scratch, for shapes, types and placement.
      total_steps: the last step, for the message.

    Raises:
      InputError: if the weights cannot be read, or are not those that the run was begun with.
    """
    if config.continue_from is None or config.start_weights is None:
        return like
    folder, step = _checkpoint_of_start(config)
    parts = ("variables", "optimizer") if config.continue_optimizer else ("variables",)
    arrays = abstract_arrays(like)
    wanted = {part: arrays[part] for part in parts}
    try:
        content = read_checkpoint(folder, step, wanted)
    except InputError:
        raise
    except Exception as error:  # orbax and tensorstore raise many kinds for a damaged or missing file
        raise InputError(
            "the run has no checkpoint of its own yet, and the weights that it starts from cannot be read: step "
            f"{step} of {folder} ({reason_of(error)}); bring that run back, or delete {config.workdir}"
        ) from error
    _check_weights(config, content)
    remark(
        f"seed {config.seed} starts from step {step} of {config.continue_from}; learning rate "
        f"{config.learning_rate:g}, {config.schedule} over {total_steps} new steps; optimizer state: "
        f"{'of that run' if config.continue_optimizer else 'new'}"
    )
    optimizer = like.optimizer
    if config.continue_optimizer:
        optimizer = _with_schedule_of(like.optimizer, content.arrays["optimizer"])
    variables = content.arrays["variables"]
    # a copy, since a step donates both
    average = None if like.average is None else jax.tree.map(jnp.copy, variables)
    return TrainState(like.step, variables, optimizer, average)


def starting_variables(config: Config, abstract: Any) -> dict[str, Any]:
    """Reads the weights that the run of one seed started from, onto this process's first device.

    Args:
      config: the run's settings.
      abstract: shapes and types of the network's variables.

    Raises:
      InputError: if the run that it continues does not hold these weights any more.
    """
    folder, step = _checkpoint_of_start(config)
    content = load_variables(folder, abstract, step)
    _check_weights(config, content)
    return content.arrays["variables"]


def _checkpoint_of_start(config: Config) -> tuple[Path, int]:
    assert config.continue_from is not None
    assert config.start_weights is not None
    return Path(config.continue_from) / "checkpoints", int(config.start_weights.split("-")[1])


def _checksums_of(checksums: Mapping[str, int], *, with_optimizer: bool) -> list[str]:
    return [f"{checksums[part]:08x}" for part in ("variables", "optimizer")[: 1 + with_optimizer]]


def _check_weights(config: Config, content: Content) -> None:
    sums = _checksums_of(content.checksums, with_optimizer=config.continue_optimizer)
    if sums != (config.start_weights or "").split("-")[2:]:
        raise InputError(
            f"{config.continue_from} holds other weights than those this run starts from ({config.start_weights})"
        )


def _with_schedule_of(fresh: optax.OptState, stored: optax.OptState) -> optax.OptState:
    """Returns the stored state, but the position in the schedule of a fresh one."""

    def is_position(node: object) -> bool:
        return isinstance(node, optax.ScaleByScheduleState)

    return jax.tree.map(lambda new, old: new if is_position(new) else old, fresh, stored, is_leaf=is_position)
