"""Removal of files in the cache folder that no load reads any more."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ncjax.data import archives, own_images, prepared_files, record_writer
from ncjax.errors import InputError


@dataclass(frozen=True)
class Leftover:
    """A file or folder that can be removed, and the reason."""

    path: Path
    reason: str

    @property
    def num_bytes(self) -> int:
        """The size of its contents."""
        files = self.path.rglob("*") if self.path.is_dir() else [self.path]
        return sum(path.lstat().st_size for path in files if path.is_file())


def leftovers() -> list[Leftover]:
    """Finds what can be removed from the cache folder.

    These are files prepared from the user's own images that are damaged, of an earlier version of ncjax, or whose
    images are gone or have changed (newer files have the same settings); and leftovers of processes that were killed at
    least a day ago. Official archives, and files prepared from them, stay.
    """
    cache = archives.cache_dir()
    places = [
        (cache, f"*/{record_writer.SCRATCH}*"),
        (cache, f"local/*/*/{record_writer.SCRATCH}*"),
        (cache, "downloads/*.part"),
    ]
    killed = [path for folder, pattern in places for path in archives.abandoned(folder, pattern)]
    return [*_unread(cache), *(Leftover(path, "left by a process that was killed") for path in killed)]


def _unread(cache: Path) -> Iterator[Leftover]:
    newest: dict[tuple[object, ...], Path] = {}
    folders = (path for name in own_images.KINDS for path in cache.glob(f"local/*/{name}/[!.]*") if path.is_dir())
    for folder in sorted(folders, key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            prepared = prepared_files.open_prepared(folder)
        except InputError:
            yield Leftover(folder, "damaged")
            continue
        if prepared is None:
            continue
        if prepared.source is None:
            yield Leftover(folder, f"of an earlier version of ncjax, replaced by {own_images.VERSION}")
        elif not os.path.exists(prepared.source):
            yield Leftover(folder, f"{prepared.source} does not exist any more")
        else:
            key = (folder.parent.name, prepared.source, *sorted(prepared.settings.items()))
            if newest.setdefault(key, folder) != folder:
                yield Leftover(folder, f"{prepared.source} has changed since")


def remove(leftover: Leftover) -> None:
    """Deletes a leftover.

    Raises:
      InputError: if it cannot be deleted.
    """
    path = leftover.path
    try:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"cannot remove {path}: {error.strerror}") from error
    if path.is_relative_to(archives.cache_dir() / "local"):
        with contextlib.suppress(OSError):  # not empty: files of other versions
            path.parent.rmdir()
            path.parent.parent.rmdir()
