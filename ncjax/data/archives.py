"""Finding, fetching and checking the files that data sets are made from."""

import contextlib
import hashlib
import http.client
import os
import shutil
import time
import urllib.request
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from ncjax.errors import InputError
from ncjax.files import expand
from ncjax.progress import progress_bar

_ABANDONED_AFTER = 24 * 3600  # seconds


def cache_dir() -> Path:
    """Where downloads and prepared files are kept: NCJAX_CACHE_DIR, else ncjax/data in the user's cache folder."""
    chosen = os.environ.get("NCJAX_CACHE_DIR")
    if chosen:
        return expand(chosen)
    try:
        return expand(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "ncjax" / "data"
    except InputError:
        raise InputError("there is no home folder to keep data in: set HOME, or NCJAX_CACHE_DIR to a folder") from None


def md5(path: Path) -> str:
    """The MD5 checksum of a file, in hexadecimal."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "md5").hexdigest()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error


def check_md5(path: Path, expected: str, url: str) -> None:
    """Raises InputError unless the file is the official one."""
    found = md5(path)
    if found != expected:
        raise InputError(
            f"{path} has MD5 checksum {found}, not the official {expected}: it is incomplete or altered; "
            f"fetch it again from {url}"
        )


def find(data_dir: Path, choices: Iterable[Sequence[str]]) -> list[Path] | None:
    """The first of several groups of files of which all are there; paths are relative to data_dir."""
    for group in choices:
        paths = [data_dir / name for name in group]
        if all(path.is_file() for path in paths):
            return paths
    return None


def download(url: str, expected_md5: str) -> Path:
    """The file at url in the cache folder, fetched unless it is there already; its checksum is that expected."""
    path = cache_dir() / "downloads" / url.rsplit("/", 1)[-1]
    if path.exists():
        check_md5(path, expected_md5, f"{url} (delete the file first)")
        return path
    advice = f"fetch {url} by hand and name its folder with data_dir"
    # A name of its own, so that two processes fetching at once do not write into one file; opened as any file, so that
    # whoever may read the cache folder may read this.
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(path.parent, f"{path.name}.*.part")
        with part.open("xb") as file, urllib.request.urlopen(url, timeout=60) as reply:
            total = int(reply.headers.get("Content-Length") or 0) or None
            with progress_bar(path.name, "B", total=total, unit_scale=True) as bar:
                while block := reply.read(1 << 20):
                    file.write(block)
                    bar.update(len(block))
        found = md5(part)
        if found != expected_md5:
            raise InputError(f"what {url} sent has MD5 checksum {found}, not the official {expected_md5}; {advice}")
        part.replace(path)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise InputError(f"cannot download {url} to {path.parent}: {reason}; {advice}") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    return path


def remove_abandoned(folder: Path, pattern: str) -> None:
    """Removes what processes that were killed a day ago, or before, have left in a folder."""
    for left in abandoned(folder, pattern):
        with contextlib.suppress(FileNotFoundError):  # another process has just done so
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink()


def abandoned(folder: Path, pattern: str) -> Iterator[Path]:
    """What processes that were killed a day ago, or before, have left in a folder."""
    for left in folder.glob(pattern):
        with contextlib.suppress(FileNotFoundError):  # another process has just ended
            if time.time() - left.stat().st_mtime > _ABANDONED_AFTER:
                yield left


def check_member_names(archive: Path, names: Iterable[str]) -> None:
    """Raises InputError for an archive with paths that climb out of its folder, whether or not they are read."""
    for name in names:
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts:
            raise InputError(f"{archive} holds {name!r}, a path outside its own folder; it is not the official archive")


def digest(facts: Mapping[str, object]) -> str:
    """A short name for what prepared files were made from."""
    text = "\n".join(f"{key}={facts[key]}" for key in sorted(facts))
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]  # as file names may need
