"""A run's folder: whether it holds this run, another one or none, and the lock on it."""

import dataclasses
import fcntl
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ncjax.errors import InputError
from ncjax.train import records as files
from ncjax.train.config import Config, default_workdir, differences, has_fixed_data, identity, run_name
from ncjax.train.hosts import is_lead_process

_LOCK = ".lock"
_SEEDS = "seeds.json"


class Refused(InputError):
    """A folder in which this run may not be written."""


class Taken(Refused):
    """A folder in which another process is at work."""


def located(config: Config, data_fingerprint: Callable[[], str], *, own_data: bool) -> Path:
    """The run's default folder, or the one beside it that holds the same run under another name.

    That is a run of an earlier version of ncjax, which named it otherwise, or one whose data was read from another
    folder. Data is read for this only where such a run is found and its settings do not say which images it saw.

    Args:
      config: the settings, filled in.
      data_fingerprint: reads the data of this run.
      own_data: whether that is the caller's own benchmark.
    """
    named = default_workdir(config)
    if named.exists() or not os.access(named.parent, os.R_OK | os.X_OK):
        return named
    for folder in sorted(named.parent.glob("*")):
        if not folder.name.startswith(f"{run_name(config)}-"):
            continue
        found = _same_run(folder, config)
        if found is not None and (
            not (own_data or reads_other_data(found, config)) or found["data"].get("fingerprint") == data_fingerprint()
        ):
            return folder
    return named


def _same_run(folder: Path, config: Config) -> dict[str, Any] | None:
    """What config.json says of the run of these settings, or its first seed, in this folder; None of another one."""
    with suppress(InputError, OSError):
        if config.seeds > 1:
            if _read_seeds(folder) != config.seeds:
                return None
            folder, config = folder / "seed_0", dataclasses.replace(config, seeds=1)
        found = files.read_config(folder)
        if not differences(found, identity(config)):
            return found
    return None


def reads_other_data(described: dict[str, Any], config: Config) -> bool:
    """Whether the run that a config.json describes may have seen other data, so that fingerprints must tell."""
    if described["data"].get("name") != config.dataset:
        return True  # a caller's own benchmark
    return not has_fixed_data(config) and described["config"].get("data_dir") != config.data_dir


def described(workdir: Path, identity: dict[str, Any], data: dict[str, Any] | None) -> dict[str, Any] | None:
    """What config.json says of a run that was begun in this folder; None where one may begin.

    Args:
      workdir: the folder.
      identity: of the run that is to go on there.
      data: of it too, the "fingerprint" and the "augmentation", where they are known.

    Raises:
      Refused: if the folder holds another run or other data, or nothing can be written there.
      InputError: if config.json cannot be read.
    """
    try:
        if not (workdir / "config.json").exists():
            _check_free(workdir)
            return None
        found = files.read_config(workdir)
        _check_same(found, identity, data, workdir)
        return found
    except OSError as error:
        raise Refused(f"cannot write to {workdir}: {error.strerror}; choose another --workdir") from None


# orbax looks for what it has written by a pattern that begins with the folder's path, and takes gs: for a bucket
_NO_PATH_FOR_ORBAX = re.compile(r"[*?\\]|\[[^/]+\]|(^|/)[A-Za-z][A-Za-z0-9+.-]+:(/|$)|[\ud800-\udfff]")


def check_path(workdir: Path) -> None:
    """Raises Refused where checkpoints could be written, and not read."""
    if found := _NO_PATH_FOR_ORBAX.search(str(workdir.absolute())):
        raise Refused(
            f"checkpoints cannot be kept in {str(workdir.absolute())!r}: orbax does not read paths with {found[0]!r}; "
            "rename that folder or choose another --workdir"
        )


def _check_free(workdir: Path) -> None:
    """Looks, without writing, whether a run may begin here."""
    if (workdir / _SEEDS).exists():
        raise Refused(f"{workdir} holds the runs of {_read_seeds(workdir)} seeds, not of one; choose another --workdir")
    if workdir.is_dir() and any(path.suffix != ".partial" and path.name != _LOCK for path in workdir.iterdir()):
        raise Refused(f"{workdir} is not empty and holds no run; choose another --workdir")
    above = next(path for path in (workdir, *workdir.absolute().parents) if path.exists())
    if not above.is_dir():
        raise Refused(f"cannot write to {workdir}: {above} is not a folder; choose another --workdir")
    if not os.access(above, os.W_OK | os.X_OK):
        raise Refused(f"cannot write to {workdir}: no permission in {above}; choose another --workdir")


def _check_same(old: dict[str, Any], identity: dict[str, Any], data: dict[str, Any] | None, workdir: Path) -> None:
    """Raises Refused if config.json is that of a run of other settings or, where `data` says of which, other data."""
    differs = differences(old, identity)
    if not differs and data is not None:
        before = old["data"]
        if before.get("fingerprint") != data["fingerprint"]:
            differs = ["other images or labels"]
        elif before.get("augmentation") != data["augmentation"]:
            differs = [f"augmentation {before.get('augmentation')!r} there, {data['augmentation']!r} here"]
    if differs:
        raise Refused(f"{workdir} holds another run ({'; '.join(differs)}); choose another --workdir")


def check_seeds(workdir: Path, seeds: int) -> None:
    """Looks, without writing, whether this is the folder of as many seeds, or can become it.

    Raises:
      Refused: if it holds something else, or cannot be written.
    """
    if (workdir / "config.json").exists():
        raise Refused(f"{workdir} holds a run of one seed, {seeds} were asked for; choose another --workdir")
    if (workdir / _SEEDS).exists():
        if _read_seeds(workdir) != seeds:
            raise Refused(
                f"{workdir} holds the runs of {_read_seeds(workdir)} seeds, {seeds} were asked for; "
                "choose another --workdir"
            )
        return
    _check_free(workdir)


def write_seeds(workdir: Path, seeds: int) -> None:
    """Makes the folder of many seeds, which `check_seeds` has looked at.

    Raises:
      Refused: if it cannot be written.
    """
    if not is_lead_process():
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        files.write_atomically(workdir / _SEEDS, json.dumps({"seeds": seeds}) + "\n")
    except OSError as error:
        raise Refused(f"cannot write to {workdir}: {error.strerror}; choose another --workdir") from None


def _read_seeds(workdir: Path) -> int:
    try:
        return int(json.loads((workdir / _SEEDS).read_text())["seeds"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Refused(f"{workdir / _SEEDS} cannot be read: {error}; choose another --workdir") from None


def check_space(workdir: Path, state_bytes: int, checkpoints: int) -> None:
    """Raises InputError if the disk has no room for so many more checkpoints."""
    needed = checkpoints * state_bytes + 2**24
    free = shutil.disk_usage(workdir).free
    if free < needed:
        raise InputError(
            f"{workdir} has {free / 2**20:.0f} MiB free, its checkpoints need {needed / 2**20:.0f} MiB: "
            "free some space, or choose a --workdir on another disk"
        )


@contextmanager
def claim(workdir: Path, description: dict[str, Any]) -> Iterator[None]:
    """Makes a run's folder with its config.json, and keeps other runs out of it.

    Raises:
      Taken: if another process is at work in it.
      Refused: if it holds other data, or cannot be written.
    """
    if not is_lead_process():
        yield
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = (workdir / _LOCK).open("w")
    except OSError as error:
        raise Refused(f"cannot write to {workdir}: {error.strerror}; choose another --workdir") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Taken(f"another process is at work in {workdir}; wait for it or stop it") from None
        except OSError as error:  # some network file systems have no locks
            warnings.warn(
                f"{workdir} cannot be locked ({error.strerror}): see to it that one process at a time writes there",
                stacklevel=2,
            )
        if (workdir / "config.json").exists():
            found = files.read_config(workdir)  # another process may have begun a run since `described` looked
            _check_same(found, description["identity"], description["data"], workdir)
            description = description | {"executions": executions(found)}
        files.write_atomically(workdir / "config.json", json.dumps(description, indent=2) + "\n")
        yield


def executions(described: dict[str, Any]) -> list[dict[str, Any]]:
    """Where and how a run was computed: one entry an execution, with the "first_step" that it did.

    A run of a version that kept no such list has one entry, of what it said last.
    """
    return list(described.get("executions", [{"first_step": 0, **described.get("versions", {})}]))


# What may differ between two executions of a run without a change to its numbers; keys.py pins the generator.
_HARMLESS = ("first_step", "python", "jax_default_prng_impl", "jax_threefry_partitionable")


def add_execution(workdir: Path, execution: dict[str, Any]) -> None:
    """Notes in config.json that the run goes on, and warns where that is otherwise than before.

    Entries whose steps are all done again are dropped.
    """
    described = files.read_config(workdir)
    before = [entry for entry in executions(described) if entry["first_step"] < execution["first_step"]]
    changed = [
        f"{name} {before[-1][name]}, now {value}"
        for name, value in execution.items()
        if before and name not in _HARMLESS and name in before[-1] and before[-1][name] != value
    ]
    if changed:
        warnings.warn(
            f"{workdir} goes on at step {execution['first_step']} otherwise than before ({'; '.join(changed)}): its "
            'numbers may differ from those of an uninterrupted run; config.json lists both under "executions"',
            stacklevel=2,
        )
    described["executions"] = [*before, execution]
    files.write_atomically(workdir / "config.json", json.dumps(described, indent=2) + "\n")
