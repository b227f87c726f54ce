"""A run's folder: whether it holds this run, another one or none, and the lock on it."""

import fcntl
import json
import os
import shutil
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ncjax.data import Benchmark
from ncjax.errors import InputError
from ncjax.train import records as files
from ncjax.train.hosts import leads

_LOCK = ".lock"
_SEEDS = "seeds.json"
_ROWS_AT_ONCE = 4096


class Refused(InputError):
    """A folder in which this run may not be written."""


class Taken(Refused):
    """A folder in which another process is at work."""


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
        _same_settings(found, identity, workdir)
        if data is not None:
            _same_data(found, data, workdir)
        return found
    except OSError as error:
        raise Refused(f"cannot write to {workdir}: {error.strerror}; choose another --workdir") from None


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


def _same_settings(old: dict[str, Any], now: dict[str, Any], workdir: Path) -> None:
    before = old.get("identity", {})
    differs = [
        f"{key} {before.get(key)!r} there, {now.get(key)!r} here"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    if differs:
        raise Refused(f"{workdir} holds another run ({'; '.join(differs)}); choose another --workdir")


def _same_data(old: dict[str, Any], now: dict[str, Any], workdir: Path) -> None:
    before = old.get("data", {})
    if before.get("fingerprint") != now["fingerprint"]:
        raise Refused(f"{workdir} holds another run (other images or labels); choose another --workdir")
    if before.get("augmentation") != now["augmentation"]:
        raise Refused(
            f"{workdir} holds another run (augmentation {before.get('augmentation')!r} there, "
            f"{now['augmentation']!r} here); choose another --workdir"
        )


def fingerprint(benchmark: Benchmark) -> str:
    """Tells other data from the same: checksums of the images and labels that are trained and measured on."""
    sums = [
        _checksum(array)
        for split in (benchmark.source_train, benchmark.source_test, benchmark.target)
        if split is not None
        for array in (split.images, split.labels)
    ]
    return "-".join(f"{s:08x}" for s in sums)


def _checksum(array: Any) -> int:
    found = 0
    for start in range(0, len(array), _ROWS_AT_ONCE):
        found = zlib.crc32(np.ascontiguousarray(array[start : start + _ROWS_AT_ONCE]).data, found)
    return found


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
    if not leads():
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
    if not leads():
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
            _same_settings(found, description["identity"], workdir)
            _same_data(found, description["data"], workdir)
        files.write_atomically(workdir / "config.json", json.dumps(description, indent=2) + "\n")
        yield
