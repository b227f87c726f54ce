"""Checkpoints of a run: weights, optimiser and records together, through orbax."""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
from orbax.checkpoint.experimental import v1 as ocp

from ncjax.errors import InputError
from ncjax.train.step import TrainState

_policies = ocp.training.preservation_policies


class Checkpoints:
    """The checkpoints in one folder; written in the background, each whole or not there at all.

    A checkpoint at step s holds `variables`, `optimizer`, and `progress`: JSON that the loop hands in (the records
    up to s). Order, augmentation and data position are functions of the seed and s, and need no place in it.
    """

    def __init__(self, folder: Path, *, keep_all: bool = False, read_only: bool = False) -> None:
        if read_only and not folder.is_dir():
            raise InputError(f"no checkpoint in {folder}: has the run been started?")
        keep = _policies.PreserveAll() if keep_all else _policies.LatestN(3)
        # what a killed run left unfinished is removed, but never by a reader, which may meet a run that is writing
        self._manager = ocp.training.Checkpointer(
            folder.absolute(), preservation_policy=keep, cleanup_tmp_directories=not read_only
        )
        self._damaged: set[int] = set()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._manager.close()  # waits for what is still being written
        except Exception as failure:
            if error is None:
                raise _not_written(self._manager.directory, failure) from failure

    @property
    def folder(self) -> Path:
        """Where they are."""
        return Path(self._manager.directory)

    @property
    def steps(self) -> list[int]:
        """The steps that have a checkpoint, ascending."""
        return [checkpoint.step for checkpoint in self._manager.checkpoints]

    def save(self, state: TrainState, progress: dict[str, Any], *, wait: bool = False) -> None:
        """Writes a checkpoint of `state`, in the background unless `wait`.

        One of the same step is left as it is, unless it could not be read.
        """
        step = int(state.step)
        if step in self.steps and step not in self._damaged:
            return
        # as text, since orbax's own JSON does not keep the order of keys
        text = {"json": json.dumps(progress)}
        parts = {"variables": state.variables, "optimizer": state.optimizer, "progress": text}
        try:
            pending = self._manager.save_checkpointables_async(step, parts, force=True, overwrite=step in self._damaged)
            if wait and pending is not None:
                pending.result()
        except Exception as error:  # what is wrong with the disk comes in many kinds too, here or one save later
            raise _not_written(self._manager.directory, error) from error
        self._damaged.discard(step)

    def load(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """The checkpoint at `step`, in the shapes, types and placement of `like`.

        None, and a warning, if it cannot be read.
        """
        abstract = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), like)
        try:
            parts = self._manager.load_checkpointables(
                step, {"variables": abstract.variables, "optimizer": abstract.optimizer, "progress": None}
            )
        except Exception as error:  # orbax and tensorstore raise many kinds for a damaged file
            warnings.warn(
                f"the checkpoint of step {step} cannot be read ({type(error).__name__}); going back to the one before",
                stacklevel=3,
            )
            self._damaged.add(step)
            return None
        state = TrainState(jax.device_put(np.int32(step), like.step.sharding), parts["variables"], parts["optimizer"])
        return state, json.loads(parts["progress"]["json"])

    def load_variables(self, abstract: Any, step: int | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
        """The network's variables and the progress of the checkpoint at `step`, or of the newest.

        Raises:
          InputError: if there is no such checkpoint, or it cannot be read.
        """
        if not self.steps:
            raise InputError(f"no checkpoint in {self._manager.directory}: has the run been started?")
        if step is not None and step not in self.steps:
            raise InputError(f"no checkpoint of step {step}; there are those of {', '.join(map(str, self.steps))}")
        step = self.steps[-1] if step is None else step
        try:
            parts = self._manager.load_checkpointables(step, {"variables": abstract, "progress": None})
        except Exception as error:  # orbax and tensorstore raise many kinds for a damaged file
            raise InputError(
                f"the checkpoint of step {step} in {self._manager.directory} cannot be read ({type(error).__name__}); "
                f"there are those of {', '.join(map(str, self.steps))}"
            ) from error
        return parts["variables"], json.loads(parts["progress"]["json"])


def load_newest(
    checkpoints: Sequence[Checkpoints], like: Sequence[TrainState]
) -> list[tuple[TrainState, dict[str, Any]]] | None:
    """The newest step of which the checkpoint of every seed can be read; None if there are none yet.

    One that cannot be read is named in a warning, and the one before it is tried.

    Raises:
      InputError: if there are checkpoints and none can be read.
    """
    steps = sorted(set.intersection(*(set(one.steps) for one in checkpoints)), reverse=True)
    for step in steps:
        loaded = [one.load(step, shape) for one, shape in zip(checkpoints, like, strict=True)]
        found = [one for one in loaded if one is not None]
        if len(found) == len(loaded):
            return found
    if steps:
        raise InputError(
            f"no checkpoint in {checkpoints[0].folder} can be read; delete the run's folder to start again"
        )
    return None


def _not_written(folder: Path, error: Exception) -> InputError:
    reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
    return InputError(
        f"a checkpoint in {folder} could not be written ({reason}); the older ones are whole: "
        "make room on the disk, and the same command continues"
    )
