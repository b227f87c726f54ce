"""Checkpoints of a run: weights, optimiser and records together, through orbax."""

import errno
import json
import re
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from ncjax.errors import InputError, first_line
from ncjax.train.hosts import max_over_processes
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
        self._pending: ocp.AsyncResponse[bool] | None = None
        self.damaged: set[int] = set()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with self._named(), closing(self._manager):
                self.wait()
        except InputError:
            if error is None:
                raise

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

        One of the same step is left as it is, unless it could not be read. The first in a folder is written at once and
        read back, so that a disk that does not keep it is found out before hours of training.

        Raises:
          InputError: if this one, or the one before it, could not be written or read back.
        """
        step = int(state.step)
        if step in self.steps and step not in self.damaged:
            return
        is_first = not self.steps
        # as text, since orbax's own JSON does not keep the order of keys
        text = json.dumps(progress)
        parts: dict[str, Any] = {"variables": state.variables, "optimizer": state.optimizer}
        parts["progress"] = {"json": text, "checksums": _checksums(parts, text)}
        self.wait()
        with self._named():
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
            _load(self.folder, step, _abstract(state))
        except Exception as error:  # orbax and tensorstore raise many kinds for a damaged file
            reason = _reason(error)
        (lost,) = max_over_processes(bool(reason))
        if lost:
            raise InputError(
                f"the first checkpoint in {self.folder} was written, but cannot be read back "
                f"({reason or 'by another process'}); choose a --workdir on another disk"
            )

    def wait(self) -> None:
        """Waits for the checkpoint that is still being written.

        Only the result of orbax's response ends the thread, and closes the three files, that each response holds.

        Raises:
          InputError: if it could not be written.
        """
        if self._pending is not None:
            pending, self._pending = self._pending, None
            with self._named():
                pending.result()

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Turns what is wrong with the disk, which orbax and tensorstore say in many kinds of error, into one line."""
        try:
            yield
        except InputError:
            raise
        except Exception as error:
            raise _not_written(self.folder, error) from error

    def load(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """The checkpoint at `step`, in the shapes, types and placement of `like`.

        None, and a warning, if it cannot be read.

        Raises:
          InputError: if it is of another network or optimiser.
        """
        found = None
        try:
            found = _load(self.folder, step, _abstract(like))
        except InputError:
            raise
        except Exception as error:  # orbax and tensorstore raise many kinds for a damaged file
            warnings.warn(
                f"the checkpoint of step {step} in {self.folder} cannot be read ({_reason(error)}); "
                "going back to the one before",
                stacklevel=3,
            )
        (lost,) = max_over_processes(found is None)  # one that a single process cannot read is none
        if lost or found is None:
            self.damaged.add(step)
            return None
        parts, progress = found
        step_array = jax.device_put(np.int32(step), like.step.sharding)
        return TrainState(step_array, parts["variables"], parts["optimizer"]), progress


def _abstract(state: TrainState) -> dict[str, Any]:
    """The arrays of a checkpoint of `state`, by shape, type and placement."""
    arrays = {"variables": state.variables, "optimizer": state.optimizer}
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), arrays)


def steps_in(folder: Path) -> list[int]:
    """The steps that have a checkpoint in a folder, ascending; none if there is no such folder."""
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdecimal())


def find(folder: Path, step: int | None = None) -> int:
    """The step of the newest checkpoint, or `step` itself.

    Raises:
      InputError: if there is no such checkpoint.
    """
    steps = steps_in(folder)
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
            f"there are those of {', '.join(map(str, steps_in(folder)))}"
        ) from error
    return parts["variables"], progress


def read_progress(folder: Path, step: int) -> dict[str, Any]:
    """The progress alone of the checkpoint at `step`; a process reads it by itself.

    Raises:
      InputError: if it cannot be read.
    """
    try:
        with _only_this_process():
            return _load(folder, step, {})[1]
    except Exception as error:  # orbax and tensorstore raise many kinds for a damaged file
        raise InputError(f"the checkpoint of step {step} in {folder} cannot be read ({_reason(error)})") from error


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
    checkpoints: Mapping[int, Checkpoints], like: Sequence[TrainState]
) -> dict[int, tuple[TrainState, dict[str, Any]]] | None:
    """The newest step of which the checkpoint of every seed can be read, by seed; None if there is none.

    A seed that the others' progress lists as diverged by then has no checkpoint of that step, and is left out. A
    checkpoint that cannot be read is named in a warning, and the one before it is tried.

    Raises:
      InputError: if there are checkpoints and none can be read, they are of another network, or the seeds have been
        trained and have none of the same step.
    """
    for step in sorted(set().union(*(one.steps for one in checkpoints.values())), reverse=True):
        loaded = {}
        for seed, one in checkpoints.items():
            found = one.load(step, like[seed]) if step in one.steps else None
            if found is not None:
                loaded[seed] = found
        diverged = {int(seed) for _, progress in loaded.values() for seed in progress.get("diverged", {})}
        if loaded and checkpoints.keys() <= loaded.keys() | diverged:
            return loaded
    folders = [one.folder for one in checkpoints.values()]
    if any(one.damaged for one in checkpoints.values()):
        raise InputError(f"no checkpoint in {folders[0]} can be read; delete the run's folder to start again")
    if any(step > 0 for one in checkpoints.values() for step in one.steps):
        raise InputError(
            f"no step has a checkpoint in each of {', '.join(map(str, folders))}, and seeds are trained together: "
            "bring back the checkpoints that are gone, or delete the folder of all seeds to train anew"
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


_ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make room on the disk"),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "allow more open files (ulimit -n)"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "make the folder writable"),
    **dict.fromkeys((errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR), "move away what stands in its place"),
    errno.EFBIG: "allow larger files (ulimit -f)",
}


def _not_written(folder: Path, error: Exception) -> InputError:
    return InputError(
        f"a checkpoint in {folder} could not be written ({first_line(error)[:200]}); the older ones are whole: "
        f"{_ADVICE.get(_errno(error) or 0, 'see to that')}, and the same command continues"
    )


def _errno(error: BaseException | None) -> int | None:
    """The system's number of what went wrong, which orbax wraps in other exceptions and tensorstore in text."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error.errno
        if found := re.search(r"(?:os_error_code='|OS error )(\d+)", str(error)):
            return int(found[1])
        error = error.__cause__ or error.__context__
    return None
