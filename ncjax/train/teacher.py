"""The teacher of distillation: a finished run whose class probabilities another run learns to match."""

import dataclasses
from contextlib import suppress
from pathlib import Path

import jax.numpy as jnp

from ncjax.classifier import Classifier
from ncjax.errors import InputError
from ncjax.train.checkpoint import steps_in
from ncjax.train.checksums import weights_checksum
from ncjax.train.config import Config, Resolved
from ncjax.train.description import Description, read_description
from ncjax.train.recipe import network_of
from ncjax.train.restoration import restore
from ncjax.train.run_data import RunData

# what chooses the source classes, where the images alone do not tell
_CLASS_SETTINGS = ("dataset", "class_split", "split_seed", "num_source_classes")


def with_teacher_weights(config: Config) -> Config:
    """Fills in the checksum of the teacher's weights, which is part of the run's identity; its folder is not.

    If the teacher is gone, it is read from the run in `config.workdir`, so that a finished run can be read back.

    Raises:
      InputError: if the teacher cannot be read.
    """
    if config.distill_from is None or config.teacher_weights is not None:
        return config
    try:
        checksum: str | None = weights_checksum(_finished(config.distill_from)[1].variables)
    except InputError:
        checksum = _known_checksum(config)
        if checksum is None:
            raise
    return dataclasses.replace(config, teacher_weights=checksum)


def load_teacher(config: Resolved, data: RunData) -> Classifier | None:
    """Reads the teacher of a run, in the precision of its training; None without distillation.

    Raises:
      InputError: if the teacher is gone, has other weights than the run began with, or was trained on other classes or
        images of another shape.
    """
    if config.distill_from is None:
        return None
    description, teacher = _finished(config.distill_from)
    checksum = weights_checksum(teacher.variables)
    if checksum != config.teacher_weights:
        raise InputError(
            f"distill_from={config.distill_from}: the teacher's weights are {checksum}, this run is of the teacher "
            f"{config.teacher_weights}; give the folder of that teacher"
        )
    _check_fits(config, description, data)
    network = network_of(description.config, description.data.num_source_classes, jnp.dtype(config.precision))
    return dataclasses.replace(teacher, network=network, feature_mean=None)


def _finished(folder: str) -> tuple[Description, Classifier]:
    try:
        description = read_description(folder)
        steps = steps_in(Path(folder) / "checkpoints")
        if description.total_steps not in steps:
            reached = f"step {steps[-1]} of {description.total_steps}" if steps else "no checkpoint"
            raise InputError(f"the teacher is not finished ({reached}); finish it first")
        return description, restore(folder, description.total_steps)
    except InputError as error:
        raise InputError(
            f"distill_from={folder}: {error}; a run needs its teacher until it is finished (to read a finished run, "
            "give its --workdir)"
        ) from None


def _known_checksum(config: Config) -> str | None:
    """Returns the checksum of the teacher that the run in `config.workdir` has had; None if there is no such run."""
    for folder in () if config.workdir is None else (config.workdir, config.workdir / "seed_0"):
        with suppress(InputError):
            settings = read_description(folder).settings
            if settings.get("distill_from") == config.distill_from:
                return settings.get("teacher_weights")
    return None


def _check_fits(config: Resolved, teacher: Description, data: RunData) -> None:
    train = data.benchmark.source_train
    classes, shape = len(train.class_names), tuple(train.images.shape[1:])
    differences = []
    if teacher.data.num_source_classes != classes:
        differences.append(f"{teacher.data.num_source_classes} classes instead of {classes}")
    if tuple(teacher.data.image_shape) != shape:
        there, here = ("x".join(map(str, sides)) for sides in (teacher.data.image_shape, shape))
        differences.append(f"images of {there} instead of {here}")
    if not differences and teacher.data.fingerprint != data.fingerprint:  # the same classes on other images will do
        if teacher.data.name != data.benchmark.name:
            differences.append(f"data {teacher.data.name!r} instead of {data.benchmark.name!r}")
        differences += [
            f"{name}={getattr(teacher.config, name)} instead of {getattr(config, name)}"
            for name in _CLASS_SETTINGS
            if getattr(teacher.config, name) != getattr(config, name)
        ]
    if differences:
        raise InputError(
            f"distill_from={config.distill_from}: the teacher was trained on {' and '.join(differences)}; give a "
            "teacher of the same classes and images of the same shape"
        )
