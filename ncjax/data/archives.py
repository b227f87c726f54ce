"""Archives of data sets: finding, downloading and checking them; and the cache folder."""

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
    """Returns the folder of downloads and prepared files: NCJAX_CACHE_DIR, or ncjax/data in the user's cache folder."""
    chosen = os.environ.get("NCJAX_CACHE_DIR")
    if chosen:
        return expand(chosen)
    try:
        return expand(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "ncjax" / "data"
    except InputError:
        raise InputError("there is no home folder to keep data in: set HOME, or NCJAX_CACHE_DIR to a folder") from None


def md5(path: Path) -> str:
    """Computes the MD5 checksum of a file, in hexadecimal."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "md5").hexdigest()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error


def check_md5(path: Path, expected: str, url: str) -> None:
    """Raises InputError unless the file has the official checksum."""
    checksum = md5(path)
    if checksum != expected:
        raise InputError(
            f"{path} has MD5 checksum {checksum}, not the official {expected}: it is incomplete or altered; "
            f"download it again from {url}"
        )


def find(data_dir: Path, choices: Iterable[Sequence[str]]) -> list[Path] | None:
    """Finds the first group of files, given by paths relative to data_dir, that exists whole."""
    for group in choices:
        paths = [data_dir / name for name in group]
        if all(path.is_file() for path in paths):
            return paths
    return None


def download(url: str, expected_md5: str) -> Path:
    """Downloads a file into the cache folder, unless it is there, and checks its checksum.

    Raises:
      InputError: if it cannot be downloaded, or its checksum is wrong.
    """
    path = cache_dir() / "downloads" / url.rsplit("/", 1)[-1]
    if path.exists():
        check_md5(path, expected_md5, f"{url} (delete the file first)")
        return path
    advice = f"download {url} by hand and give its folder as data_dir"
    # a unique name, since two processes may download at once; not a temporary file, whose permissions are stricter than
    # those of the cache folder
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
        checksum = md5(part)
        if checksum != expected_md5:
            raise InputError(f"{url} sent a file of MD5 checksum {checksum}, not the official {expected_md5}; {advice}")
        part.replace(path)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise InputError(f"cannot download {url} to {path.parent}: {reason}; {advice}") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    return path


def remove_abandoned(folder: Path, pattern: str) -> None:
    """Removes the leftovers of processes that were killed at least a day ago from a folder."""
    for path in abandoned(folder, pattern):
        with contextlib.suppress(FileNotFoundError):  # removed by another process
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()


def abandoned(folder: Path, pattern: str) -> Iterator[Path]:
    """Yields the leftovers of processes that were killed at least a day ago in a folder."""
    for path in folder.glob(pattern):
        with contextlib.suppress(FileNotFoundError):  # another process has just ended
            if time.time() - path.stat().st_mtime > _ABANDONED_AFTER:
                yield path


def check_member_names(archive: Path, names: Iterable[str]) -> None:
    """Raises InputError for an archive with paths outside its own folder."""
    for name in names:
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts:
            raise InputError(f"{archive} holds {name!r}, a path outside its own folder; it is not the official archive")


def digest(facts: Mapping[str, object]) -> str:
    """Computes a short digest of the origin of prepared files."""
    text = "\n".join(f"{key}={facts[key]}" for key in sorted(facts))
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]  # file names may need it
