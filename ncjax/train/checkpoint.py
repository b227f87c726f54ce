"""Checkpoints of a run: weights, optimiser state and records together, through orbax."""

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from ncjax.errors import InputError
from ncjax.train.checksums import checksums
from ncjax.train.disk_errors import not_written
from ncjax.train.hosts import max_over_processes
from ncjax.train.step import TrainState

_policies = ocp.training.preservation_policies


class Checkpoints:
    """The checkpoints in one folder, written in the background; a reader sees a checkpoint whole or not at all.

    A checkpoint at step s holds `variables`, `optimizer`, and, under the name "progress", the history: JSON with the
    records up to s (`seeds.history`). It has checksums of all three. If the run averages its weights, `variables` is
    the average, and `trained` the weights that training continues from. Order, augmentation and data position are
    functions of the seed and s, and are not stored.

    The newest three checkpoints are kept, and the checkpoints of the steps `kept`.

    If there are several processes, all of them must write and load together.
    """

    def __init__(self, folder: Path, kept: Sequence[int] = ()) -> None:
        keep = _policies.AnyPreservationPolicy([_policies.LatestN(3), _policies.CustomSteps(list(kept))])
        # removes what a killed run left unfinished
        self._manager = ocp.training.Checkpointer(
            folder.absolute(), preservation_policy=keep, cleanup_tmp_directories=True
        )
        self._pending: ocp.AsyncResponse[bool] | None = None
        self.damaged: set[int] = set()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with self._explained(), closing(self._manager):
                self.wait()
        except InputError:
            if error is None:
                raise

    @property
    def folder(self) -> Path:
        """The folder of the checkpoints."""
        return Path(self._manager.directory)

    @property
    def steps(self) -> list[int]:
        """The steps that have a checkpoint, ascending."""
        return [checkpoint.step for checkpoint in self._manager.checkpoints]

    def save(self, state: TrainState, history: dict[str, Any], *, wait: bool = False) -> None:
        """Writes a checkpoint of `state`, in the background unless `wait`.

        An existing checkpoint of the same step stays, unless it could not be read. The first checkpoint in a folder is
        written at once and read back, to detect a faulty disk before hours of training.

        Raises:
          InputError: if this checkpoint, or the one before it, could not be written or read back.
        """
        step = int(state.step)
        if step in self.steps and step not in self.damaged:
            return
        is_first = not self.steps
        # as text, since orbax's JSON does not keep the order of keys
        text = json.dumps(history)
        parts = _arrays(state)
        parts["progress"] = {"json": text, "checksums": checksums(parts, text)}
        self.wait()
        # By default, devices that hold the same array each write a slice, by a program compiled for each shape.
        context = ocp.Context()
        context.array.saving.min_slice_bytes_for_replica_parallel = 2**20
        with self._explained(), context:
            self._pending = self._manager.save_checkpointables_async(
                step, parts, force=True, overwrite=step in self.damaged
            )
        if wait or is_first:
            self.wait()
        self.damaged.discard(step)
        if is_first:
            self._read_back(step, state)

    def _read_back(self, step: int, state: TrainState) -> None:
        reason = ""
        try:
            read_checkpoint(self.folder, step, abstract_arrays(state))
        except Exception as error:  # orbax and tensorstore raise many kinds for a damaged file
            reason = reason_of(error)
        (unreadable,) = max_over_processes(bool(reason))
        if unreadable:
            raise InputError(
                f"the first checkpoint in {self.folder} was written, but cannot be read back "
                f"({reason or 'by another process'}); choose a --workdir on another disk"
            )

    def wait(self) -> None:
        """Waits for the checkpoint that is being written in the background.

        orbax's response holds a thread and three open files until its result is read.

        Raises:
          InputError: if it could not be written.
        """
        if self._pending is not None:
            pending, self._pending = self._pending, None
            with self._explained():
                pending.result()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns the many kinds of error that orbax and tensorstore raise for a bad disk into an InputError."""
        try:
            yield
        except InputError:
            raise
        except Exception as error:
            raise not_written(self.folder, error) from error

    def load(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """Reads the state and the history at `step`, in the shapes, types and placement of `like`.

        Warns and returns None if some process cannot read them.

        Raises:
          InputError: if the checkpoint is of another network or optimiser.
        """
        content = None
        try:
            content = read_checkpoint(self.folder, step, abstract_arrays(like))
        except InputError:
            raise
        except Exception as error:  # orbax and tensorstore raise many kinds for a damaged file
            warnings.warn(
                f"the checkpoint of step {step} in {self.folder} cannot be read ({reason_of(error)}); "
                "going back to the checkpoint before it",
                stacklevel=3,
            )
        (unreadable,) = max_over_processes(content is None)
        if unreadable or content is None:
            self.damaged.add(step)
            return None
        step_array = jax.device_put(np.int32(step), like.step.sharding)
        arrays = content.arrays
        if like.average is None:
            return TrainState(step_array, arrays["variables"], arrays["optimizer"]), content.history
        average = arrays["variables"]
        return TrainState(step_array, arrays["trained"], arrays["optimizer"], average=average), content.history


def abstract_arrays(state: TrainState) -> dict[str, Any]:
    """Describes the arrays of a checkpoint of `state` by shape, type and placement."""
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), _arrays(state))


def _arrays(state: TrainState) -> dict[str, Any]:
    """Returns the parts of a checkpoint of `state` that are arrays."""
    arrays: dict[str, Any] = {"variables": state.classifier_variables, "optimizer": state.optimizer}
    return arrays if state.average is None else arrays | {"trained": state.variables}


def steps_in(folder: Path) -> list[int]:
    """Lists the steps that have a checkpoint in a folder, ascending; empty if there is no such folder."""
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdecimal())


def find(folder: Path, step: int | None = None) -> int:
    """Returns `step`, or the step of the newest checkpoint, after checking that it exists.

    Raises:
      InputError: if there is no such checkpoint.
    """
    steps = steps_in(folder)
    if not steps:
        raise InputError(f"no checkpoint in {folder}: has the run been started?")
    if step is not None and step not in steps:
        raise InputError(f"no checkpoint of step {step}; there are checkpoints of {', '.join(map(str, steps))}")
    return steps[-1] if step is None else step


def load_variables(folder: Path, abstract: Any, step: int) -> "Content":
    """Reads the network's variables onto this process's first device, and the history at `step`, as `read_alone`."""
    first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    placed = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=first), abstract)
    return read_alone(folder, step, {"variables": placed})


def read_alone(folder: Path, step: int, wanted: dict[str, Any]) -> "Content":
    """Reads a checkpoint as `read_checkpoint` does, without waiting for other processes; a run may still be writing.

    Raises:
      InputError: if the checkpoint cannot be read, or is of another network.
    """
    try:
        with _only_this_process():
            return read_checkpoint(folder, step, wanted)
    except InputError:
        raise
    except Exception as error:  # orbax and tensorstore raise many kinds for a damaged file
        raise InputError(
            f"the checkpoint of step {step} in {folder} cannot be read ({reason_of(error)}); "
            f"there are checkpoints of {', '.join(map(str, steps_in(folder)))}"
        ) from error


class Content(NamedTuple):
    """The content of a checkpoint.

    Attributes:
      arrays: the wanted arrays.
      history: the JSON beside them.
      checksums: of "variables", "optimizer" and "progress", as they were written.
    """

    arrays: dict[str, Any]
    history: dict[str, Any]
    checksums: dict[str, int]


def read_checkpoint(folder: Path, step: int, wanted: dict[str, Any]) -> Content:
    """Reads the wanted arrays of a checkpoint and its history, and compares them with their checksums.

    Raises:
      InputError: if the arrays have other shapes than `wanted`.
      CheckpointAltered: if a checksum or a part is wrong; orbax and tensorstore raise other errors for damaged files.
    """
    path = folder.absolute() / str(step)
    stored = ocp.checkpointables_metadata(path).metadata
    if not all(stored.get(name) for name in wanted):
        raise CheckpointAltered("its description is gone")
    there, here = (_shapes({name: tree[name] for name in wanted}) for tree in (stored, wanted))
    different = [name for name in sorted(there.keys() | here.keys()) if there.get(name) != here.get(name)]
    if different:
        name = max(different, key=lambda name: name.startswith("variables"))
        raise InputError(
            f"the checkpoint of step {step} in {folder} is of another network or optimizer: "
            f"{name} is {there.get(name, 'absent')} there, {here.get(name, 'absent')} here "
            f"({len(different)} arrays differ); choose another --workdir"
        )
    parts = dict(ocp.load_checkpointables(path, {**wanted, "progress": None}))
    progress = parts.pop("progress")
    sums = checksums(parts, progress["json"])
    bad = [name for name in sums if sums[name] != progress["checksums"].get(name)]
    if bad:
        raise CheckpointAltered(f"{bad[0]} is not what was written")
    return Content(parts, json.loads(progress["json"]), progress["checksums"])


class CheckpointAltered(Exception):
    """The content of a checkpoint is not what was written."""


def load_newest(
    checkpoints: Mapping[int, Checkpoints], like: Sequence[TrainState]
) -> dict[int, tuple[TrainState, dict[str, Any]]] | None:
    """Loads the newest step at which the checkpoints of all seeds can be read.

    A seed that the others' history lists as diverged has no checkpoint of that step, and is left out. If a checkpoint
    cannot be read, a warning names it and the step before is tried.

    Returns:
      State and history by seed; None if there are no checkpoints, or only of step 0 and not of all seeds.

    Raises:
      InputError: if no checkpoint can be read, they are of another network, or the seeds have been trained and have no
        common step.
    """
    for step in sorted(set().union(*(of_seed.steps for of_seed in checkpoints.values())), reverse=True):
        loaded = {}
        for seed, of_seed in checkpoints.items():
            content = of_seed.load(step, like[seed]) if step in of_seed.steps else None
            if content is not None:
                loaded[seed] = content
        diverged = {int(seed) for _, history in loaded.values() for seed in history.get("diverged", {})}
        if loaded and checkpoints.keys() <= loaded.keys() | diverged:
            return loaded
    folders = [of_seed.folder for of_seed in checkpoints.values()]
    if any(of_seed.damaged for of_seed in checkpoints.values()):
        raise InputError(f"no checkpoint in {folders[0]} can be read; delete the run's folder to start again")
    if any(step > 0 for of_seed in checkpoints.values() for step in of_seed.steps):
        raise InputError(
            f"no step has a checkpoint in each of {', '.join(map(str, folders))}, and seeds are trained together: "
            "restore the missing checkpoints, or delete the folder of all seeds to train again"
        )
    return None


def _only_this_process() -> AbstractContextManager[Any]:
    """Makes orbax not wait for other processes."""
    if jax.process_count() == 1:
        return nullcontext()
    me = jax.process_index()
    context = ocp.Context()
    context.multiprocessing.primary_host = me
    context.multiprocessing.active_processes = {me}
    context.multiprocessing.barrier_sync_key_prefix = f"reader_{me}"
    return context


def _shapes(tree: Any) -> dict[str, list[int]]:
    """Returns the shape of every array by its path, whatever the kinds of the containers."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): list(leaf.shape) for path, leaf in leaves}


def reason_of(error: Exception) -> str:
    """Says in a few words why a checkpoint cannot be read."""
    return str(error) if isinstance(error, CheckpointAltered) else type(error).__name__
