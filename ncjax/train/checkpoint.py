"""Checkpoints of a run: weights, optimiser and records together, through orbax."""

import json
import warnings
import zlib
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
from orbax.checkpoint.experimental import v1 as ocp

from ncjax.errors import InputError, first_line
from ncjax.train.hosts import agree
from ncjax.train.step import TrainState

_policies = ocp.training.preservation_policies


class Checkpoints:
    """The checkpoints in one folder; written in the background, each whole or not there at all.

    A checkpoint at step s holds `variables`, `optimizer`, and `progress`: JSON that the loop hands in (the records
    up to s), with checksums of all three. Order, augmentation and data position are functions of the seed and s, and
    need no place in it.

    The newest three are kept, and those of the steps `kept`.

    Where there are several processes, all of them write and load together.
    """

    def __init__(self, folder: Path, kept: Sequence[int] = ()) -> None:
        keep = _policies.AnyPreservationPolicy([_policies.LatestN(3), _policies.CustomSteps(list(kept))])
        # what a killed run left unfinished is removed
        self._manager = ocp.training.Checkpointer(
            folder.absolute(), preservation_policy=keep, cleanup_tmp_directories=True
        )
        self.damaged: set[int] = set()

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
        if step in self.steps and step not in self.damaged:
            return
        # as text, since orbax's own JSON does not keep the order of keys
        text = json.dumps(progress)
        parts: dict[str, Any] = {"variables": state.variables, "optimizer": state.optimizer}
        parts["progress"] = {"json": text, "checksums": _checksums(parts, text)}
        try:
            pending = self._manager.save_checkpointables_async(step, parts, force=True, overwrite=step in self.damaged)
            if wait and pending is not None:
                pending.result()
        except Exception as error:  # what is wrong with the disk comes in many kinds too, here or one save later
            raise _not_written(self._manager.directory, error) from error
        self.damaged.discard(step)

    def load(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """The checkpoint at `step`, in the shapes, types and placement of `like`.

        None, and a warning, if it cannot be read.

        Raises:
          InputError: if it is of another network or optimiser.
        """
        abstract = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), like)
        wanted = {"variables": abstract.variables, "optimizer": abstract.optimizer}
        found = None
        try:
            found = _load(self.folder, step, wanted)
        except InputError:
            raise
        except Exception as error:  # orbax and tensorstore raise many kinds for a damaged file
            warnings.warn(
                f"the checkpoint of step {step} in {self.folder} cannot be read ({_reason(error)}); "
                "going back to the one before",
                stacklevel=3,
            )
        (lost,) = agree(found is None)  # one that a single process cannot read is none
        if lost or found is None:
            self.damaged.add(step)
            return None
        parts, progress = found
        step_array = jax.device_put(np.int32(step), like.step.sharding)
        return TrainState(step_array, parts["variables"], parts["optimizer"]), progress


def _steps(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdecimal())


def find(folder: Path, step: int | None = None) -> int:
    """The step of the newest checkpoint, or `step` itself.

    Raises:
      InputError: if there is no such checkpoint.
    """
    steps = _steps(folder)
    if not steps:
        raise InputError(f"no checkpoint in {folder}: has the run been started?")
    if step is not None and step not in steps:
        raise InputError(f"no checkpoint of step {step}; there are those of {', '.join(map(str, steps))}")
    return steps[-1] if step is None else step


def load_variables(folder: Path, abstract: Any, step: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The network's variables and the progress of the checkpoint at `step`.

    A process reads them by itself, whether or not others do, and whether or not the run is still writing.

    Raises:
      InputError: if it cannot be read, or is of another network.
    """
    try:
        with _only_this_process():
            parts, progress = _load(folder, step, {"variables": abstract})
    except InputError:
        raise
    except Exception as error:  # orbax and tensorstore raise many kinds for a damaged file
        raise InputError(
            f"the checkpoint of step {step} in {folder} cannot be read ({_reason(error)}); "
            f"there are those of {', '.join(map(str, _steps(folder)))}"
        ) from error
    return parts["variables"], progress


def _load(folder: Path, step: int, wanted: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Some arrays of a checkpoint, and its progress, compared with their checksums."""
    path = folder.absolute() / str(step)
    stored = ocp.checkpointables_metadata(path).metadata
    if not all(stored.get(name) for name in wanted):
        raise _Altered("its description is gone")
    there, here = (_shapes({name: tree[name] for name in wanted}) for tree in (stored, wanted))
    differs = [name for name in sorted(there.keys() | here.keys()) if there.get(name) != here.get(name)]
    if differs:
        name = max(differs, key=lambda name: name.startswith("variables"))
        raise InputError(
            f"the checkpoint of step {step} in {folder} is of another network or optimizer: "
            f"{name} is {there.get(name, 'absent')} there, {here.get(name, 'absent')} here "
            f"({len(differs)} arrays differ); choose another --workdir"
        )
    parts = dict(ocp.load_checkpointables(path, {**wanted, "progress": None}))
    progress = parts.pop("progress")
    found = _checksums(parts, progress["json"])
    bad = [name for name in found if found[name] != progress["checksums"].get(name)]
    if bad:
        raise _Altered(f"{bad[0]} is not what was written")
    return parts, json.loads(progress["json"])


class _Altered(Exception):
    """What was read is not what was written."""


def load_newest(
    checkpoints: Sequence[Checkpoints], like: Sequence[TrainState]
) -> list[tuple[TrainState, dict[str, Any]] | None] | None:
    """The newest step of which the checkpoint of every seed can be read; None if there are none yet.

    A seed that the others' progress lists as diverged by then has no checkpoint of that step, and None is in its place.
    A checkpoint that cannot be read is named in a warning, and the one before it is tried.

    Raises:
      InputError: if there are checkpoints and none can be read, or they are of another network.
    """
    for step in sorted(set().union(*(one.steps for one in checkpoints)), reverse=True):
        loaded = [
            one.load(step, shape) if step in one.steps else None for one, shape in zip(checkpoints, like, strict=True)
        ]
        diverged = {seed for found in loaded if found is not None for seed in found[1].get("diverged", {})}
        if all(found is not None or str(i) in diverged for i, found in enumerate(loaded)):
            return loaded
    if any(one.damaged for one in checkpoints):
        raise InputError(
            f"no checkpoint in {checkpoints[0].folder} can be read; delete the run's folder to start again"
        )
    return None


def _only_this_process() -> AbstractContextManager[Any]:
    """No other process is waited for."""
    if jax.process_count() == 1:
        return nullcontext()
    me = jax.process_index()
    context = ocp.Context()
    context.multiprocessing.primary_host = me
    context.multiprocessing.active_processes = {me}
    context.multiprocessing.barrier_sync_key_prefix = f"reader_{me}"
    return context


def _shapes(tree: Any) -> dict[str, list[int]]:
    """The shape of every array by its path; containers of other kinds with the same keys are the same."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): list(leaf.shape) for path, leaf in leaves}


def _checksums(parts: dict[str, Any], text: str) -> dict[str, int]:
    found = {"progress": zlib.crc32(text.encode())}
    for name, tree in parts.items():
        found[name] = 0
        for leaf in jax.tree.leaves(tree):
            found[name] = zlib.crc32(np.ascontiguousarray(leaf).view(np.uint8).data, found[name])
    return found


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, _Altered) else type(error).__name__


def _not_written(folder: Path, error: Exception) -> InputError:
    return InputError(
        f"a checkpoint in {folder} could not be written ({first_line(error)[:200]}); the older ones are whole: "
        "make room on the disk, and the same command continues"
    )
