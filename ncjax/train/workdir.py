"""A run's folder: whether it is free, holds this run or another, and the lock on it."""

import dataclasses
import fcntl
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from ncjax.errors import InputError
from ncjax.files import write_atomically
from ncjax.train.config import Config, default_workdir, has_fixed_data, identity, run_name, settings_of_seeds
from ncjax.train.description import Description, read_description, write_description
from ncjax.train.hosts import is_lead_process

_LOCK = ".lock"
SEEDS = "seeds.json"
"""File of a folder of several seeds, with their number."""


class WorkdirConflict(InputError):
    """This run may not be written in the folder."""


class WorkdirLocked(WorkdirConflict):
    """Another process is at work in the folder."""


class DataIdentity(NamedTuple):
    """The properties of a run's data that a continued run must share."""

    fingerprint: str
    augmentation: str


def find_workdir(config: Config, data_fingerprint: Callable[[], str], *, own_data: bool) -> Path:
    """Returns the run's default folder, or a folder beside it that holds the same run under another name.

    An earlier version of ncjax named folders differently, and the name depends on the folder that data is read from.
    The data is read only where such a run exists and its settings do not determine the images.

    Args:
      config: the settings, filled in.
      data_fingerprint: reads the data of this run.
      own_data: whether that is the caller's own benchmark.
    """
    default = default_workdir(config)
    if default.exists():
        return default
    for folder in _folders_beside(default, config):
        description = _description_of_same_run(folder, config)
        if description is not None and (
            not (own_data or may_have_other_data(description, config))
            or description.data.fingerprint == data_fingerprint()
        ):
            return folder
    return default


def _folders_beside(default: Path, config: Config) -> list[Path]:
    """Lists the folders beside the default one that may hold the same run under another name."""
    if not os.access(default.parent, os.R_OK | os.X_OK):
        return []
    return [folder for folder in sorted(default.parent.glob("*")) if folder.name.startswith(f"{run_name(config)}-")]


def continued_from(config: Config) -> Iterator[str]:
    """Yields `start_weights` of runs that have the settings of `config`, but for the weights, and are begun.

    Args:
      config: the settings, filled in, with `continue_from`.
    """
    folders = [config.workdir] if config.workdir is not None else _folders_beside(default_workdir(config), config)
    for folder in folders:
        with suppress(InputError, OSError):
            folders_of_seeds = [folder / f"seed_{i}" for i in range(config.seeds)] if config.seeds > 1 else [folder]
            begun = [read_description(seed).config for seed in folders_of_seeds]
            start = ",".join(run.start_weights or "" for run in begun)
            here = dataclasses.replace(config, start_weights=start)
            same = _description_of_same_run(folder, here)
            seeds = settings_of_seeds(here)
            if same and [run.continue_from for run in begun] == [seed.continue_from for seed in seeds]:
                yield start


def _description_of_same_run(folder: Path, config: Config) -> Description | None:
    """Reads the description of the run, or of its first seed, if it has these settings; otherwise None."""
    with suppress(InputError, OSError):
        if config.seeds > 1:
            if read_seeds(folder) != config.seeds:
                return None
            folder, config = folder / "seed_0", settings_of_seeds(config)[0]
        description = read_description(folder)
        if not description.differences(identity(config)):
            return description
    return None


def may_have_other_data(description: Description, config: Config) -> bool:
    """Whether the described run may have seen other data than `config` names, so that fingerprints must tell."""
    if description.data.name != config.dataset:
        return True  # a caller's own benchmark
    return not has_fixed_data(config) and description.settings.get("data_dir") != config.data_dir


def check_run(workdir: Path, identity: Mapping[str, Any], data: DataIdentity | None) -> Description | None:
    """Checks, without writing, that a run can begin or continue in a folder.

    Args:
      workdir: the folder.
      identity: of the run that is to be written there.
      data: of that run, where it has been read.

    Returns:
      The description of the run that was begun there; None where there is none yet.

    Raises:
      WorkdirConflict: if the folder holds another run or other data, or is not writable.
      InputError: if config.json cannot be read.
    """
    try:
        if not (workdir / "config.json").exists():
            _check_free(workdir)
            return None
        description = read_description(workdir)
        _check_same(description, identity, data, workdir)
        return description
    except OSError as error:
        raise WorkdirConflict(f"cannot write to {workdir}: {error.strerror}; choose another --workdir") from None


# orbax searches for its files by a pattern that begins with the folder's path, and takes gs: for a bucket
_UNREADABLE_BY_ORBAX = re.compile(r"[*?\\]|\[[^/]+\]|(^|/)[A-Za-z][A-Za-z0-9+.-]+:(/|$)|[\ud800-\udfff]")


def check_path(workdir: Path) -> None:
    """Raises WorkdirConflict for a path at which orbax could write checkpoints but not read them."""
    if bad := _UNREADABLE_BY_ORBAX.search(str(workdir.absolute())):
        raise WorkdirConflict(
            f"checkpoints cannot be kept in {str(workdir.absolute())!r}: orbax does not read paths with {bad[0]!r}; "
            "rename that folder or choose another --workdir"
        )


def _check_free(workdir: Path) -> None:
    if (workdir / SEEDS).exists():
        raise WorkdirConflict(
            f"{workdir} holds the runs of {read_seeds(workdir)} seeds, not of one; choose another --workdir"
        )
    if workdir.is_dir() and any(path.suffix != ".partial" and path.name != _LOCK for path in workdir.iterdir()):
        raise WorkdirConflict(f"{workdir} is not empty and holds no run; choose another --workdir")
    above = next(path for path in (workdir, *workdir.absolute().parents) if path.exists())
    if not above.is_dir():
        raise WorkdirConflict(f"cannot write to {workdir}: {above} is not a folder; choose another --workdir")
    if not os.access(above, os.W_OK | os.X_OK):
        raise WorkdirConflict(f"cannot write to {workdir}: no permission in {above}; choose another --workdir")


def _check_same(old: Description, identity: Mapping[str, Any], data: DataIdentity | None, workdir: Path) -> None:
    differences = old.differences(identity)
    if not differences and data is not None:
        if old.data.fingerprint != data.fingerprint:
            differences = ["other images or labels"]
        elif old.data.augmentation != data.augmentation:
            differences = [f"augmentation {old.data.augmentation!r} there, {data.augmentation!r} here"]
    if not differences:
        return
    advice = "choose another --workdir"
    if {text.split()[0] for text in differences} <= {"epochs", "min_steps"}:
        run = workdir.parent if (workdir.parent / SEEDS).exists() else workdir
        advice += f", or to train that run longer, leave --workdir out and give --continue_from={run}"
    raise WorkdirConflict(f"{workdir} holds another run ({'; '.join(differences)}); {advice}")


def check_seeds(workdir: Path, seeds: int) -> None:
    """Checks, without writing, that a folder holds the runs of this many seeds or can become their folder.

    Raises:
      WorkdirConflict: if it holds something else, or is not writable.
    """
    if (workdir / "config.json").exists():
        raise WorkdirConflict(f"{workdir} holds a run of one seed, {seeds} were asked for; choose another --workdir")
    if (workdir / SEEDS).exists():
        if read_seeds(workdir) != seeds:
            raise WorkdirConflict(
                f"{workdir} holds the runs of {read_seeds(workdir)} seeds, {seeds} were asked for; "
                "choose another --workdir"
            )
        return
    _check_free(workdir)


def write_seeds(workdir: Path, seeds: int) -> None:
    """Makes the folder of several seeds, which `check_seeds` has checked.

    Raises:
      WorkdirConflict: if it cannot be written.
    """
    if not is_lead_process():
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        write_atomically(workdir / SEEDS, json.dumps({"seeds": seeds}) + "\n")
    except OSError as error:
        raise WorkdirConflict(f"cannot write to {workdir}: {error.strerror}; choose another --workdir") from None


def read_seeds(workdir: Path) -> int:
    """Reads the number of seeds whose runs a folder holds.

    Raises:
      WorkdirConflict: if it cannot be read.
    """
    try:
        return int(json.loads((workdir / SEEDS).read_text())["seeds"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WorkdirConflict(f"{workdir / SEEDS} cannot be read: {error}; choose another --workdir") from None


def check_space(workdir: Path, state_bytes: int, checkpoints: int) -> None:
    """Raises InputError if the disk has no room for this many more checkpoints."""
    needed = checkpoints * state_bytes + 2**24
    free = shutil.disk_usage(workdir).free
    if free < needed:
        raise InputError(
            f"{workdir} has {free / 2**20:.0f} MiB free, its checkpoints need {needed / 2**20:.0f} MiB: "
            "free some space, or choose a --workdir on another disk"
        )


@contextmanager
def claim(workdir: Path, description: Description) -> Iterator[None]:
    """Makes a run's folder with its config.json, and keeps other processes out while the body runs.

    Raises:
      WorkdirLocked: if another process is at work in it.
      WorkdirConflict: if it holds other data, or is not writable.
    """
    if not is_lead_process():
        yield
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = (workdir / _LOCK).open("w")
    except OSError as error:
        raise WorkdirConflict(f"cannot write to {workdir}: {error.strerror}; choose another --workdir") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WorkdirLocked(f"another process is at work in {workdir}; wait for it or stop it") from None
        except OSError as error:  # some network file systems have no locks
            warnings.warn(
                f"{workdir} cannot be locked ({error.strerror}): let only one process at a time write there",
                stacklevel=2,
            )
        if (workdir / "config.json").exists():
            old = read_description(workdir)  # another process may have begun a run since `check_run`
            data = DataIdentity(description.data.fingerprint, description.data.augmentation)
            _check_same(old, description.identity, data, workdir)
            description = dataclasses.replace(description, executions=old.executions)
        write_description(workdir, description)
        yield


def is_locked(workdir: Path) -> bool:
    """Whether a process is at work in a run's folder; False where the file system has no locks."""
    try:
        with (workdir / _LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
