"""EMNIST, balanced: 47 classes of handwritten digits and letters, turned upright.

Reference: Cohen, Afshar, Tapson, van Schaik, EMNIST: an extension of MNIST to handwritten letters, arXiv 1702.05373.
"""

import gzip
import hashlib
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from ncjax.data import archives, record_writer
from ncjax.data.class_splits import random_class_split
from ncjax.data.data_set import DataSet, Request
from ncjax.errors import InputError

VERSION = "1.0.0"
URL = "https://biometrics.nist.gov/cs_links/EMNIST/gzip.zip"
OFFICIAL_MD5 = "58c8d27c78d21e728a6bc7b3cc06412e"
NUM_TARGET = 12

_MAPPING = "emnist-balanced-mapping.txt"
_FILES = {
    f"{part}-{kind}": f"emnist-balanced-{part}-{kind}-idx{axes}-ubyte"
    for part in ("train", "test")
    for kind, axes in (("images", 3), ("labels", 1))
}


def open_data_set(request: Request, expected_md5: str = OFFICIAL_MD5) -> DataSet:
    """Opens emnist.

    Extracted files have no official checksums: they are prepared apart, under a digest of their contents.

    Args:
      request: the arguments of `load`.
      expected_md5: a replacement of the official checksum of gzip.zip, for tests.

    Raises:
      InputError: if the files are not prepared and cannot be found or downloaded, or are damaged.
    """
    made_from = None if expected_md5 == OFFICIAL_MD5 else archives.digest({"gzip.zip": expected_md5})
    archive = None if request.data_dir is None else _find_zip(request.data_dir)
    extracted = None
    if archive is not None:
        archives.check_md5(archive, expected_md5, URL)
    elif request.data_dir is not None:
        extracted = _from_folder(request.data_dir)
        made_from = archives.digest({name: hashlib.md5(content).hexdigest() for name, content in extracted.items()})

    def contents() -> record_writer.Contents:
        return _contents(extracted or _from_zip(archive or archives.download(URL, expected_md5)))

    prepared = record_writer.prepare("emnist", VERSION, made_from, contents)
    split = random_class_split(len(prepared.class_names), target=NUM_TARGET, seed=request.split_seed)
    return prepared.data_set(split)


def _find_zip(data_dir: Path) -> Path | None:
    if data_dir.is_file():
        return data_dir
    paths = archives.find(data_dir, [["gzip.zip"], ["emnist/gzip.zip"]])
    return paths[0] if paths else None


def _from_folder(data_dir: Path) -> dict[str, bytes]:
    for folder in (data_dir / "emnist", data_dir, data_dir / "gzip", data_dir / "emnist" / "gzip"):
        contents = {}
        for name in (*_FILES.values(), _MAPPING):
            for path in (folder / f"{name}.gz", folder / name):
                if path.is_file():
                    contents[name] = _unzipped(path.read_bytes(), str(path))
                    break
        if len(contents) == len(_FILES) + 1:
            return contents
    raise InputError(
        f"{data_dir} holds neither gzip.zip nor emnist/ with {_MAPPING} and the four emnist-balanced-*-ubyte.gz files; "
        f"download {URL}, or leave data_dir out to have it downloaded"
    )


def _from_zip(path: Path) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(path) as archive:
            archives.check_member_names(path, archive.namelist())
            contents = {n: _unzipped(archive.read(f"gzip/{n}.gz"), f"{path}: {n}.gz") for n in _FILES.values()}
            return contents | {_MAPPING: archive.read(f"gzip/{_MAPPING}")}
    except (zipfile.BadZipFile, KeyError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read as EMNIST's gzip.zip ({error}); download it from {URL}") from error


def _unzipped(content: bytes, where: str) -> bytes:
    if content[:2] != b"\x1f\x8b":
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{where} is incomplete or altered ({error}); download {URL} again") from error


def _contents(files: dict[str, bytes]) -> record_writer.Contents:
    arrays = {key: _idx(files[name], name) for key, name in _FILES.items()}
    names = _names(files[_MAPPING])
    for part in ("train", "test"):
        images, labels = arrays[f"{part}-images"], arrays[f"{part}-labels"]
        if images.shape != (len(labels), 28, 28) or not len(labels) or labels.max() >= len(names):
            raise InputError(f"EMNIST's {part} files do not match, or images are not 28 x 28; download {URL} again")

    def part_of(part: str) -> Callable[[], Iterator[tuple[np.ndarray, int]]]:
        # the makers store images transposed
        upright = arrays[f"{part}-images"].transpose(0, 2, 1)[..., None]
        return lambda: zip(upright, arrays[f"{part}-labels"].tolist(), strict=True)

    return record_writer.Contents(
        description="EMNIST balanced, upright: 28 x 28 grey images of handwritten digits and letters.",
        homepage="https://www.nist.gov/itl/products-and-services/emnist-dataset",
        image_shape=(28, 28, 1),
        class_names=names,
        parts={part: part_of(part) for part in ("train", "test")},
        count=len(arrays["train-labels"]) + len(arrays["test-labels"]),
    )


def _names(mapping: bytes) -> tuple[str, ...]:
    """Reads names from lines of "label code": labels are 0, 1, … in any order, the code is of a character in ASCII."""
    try:
        lines = filter(None, map(bytes.split, mapping.splitlines()))
        pairs = sorted((int(label), chr(int(code))) for label, code in lines)
    except (ValueError, OverflowError):
        pairs = []
    names = tuple(name for _, name in pairs)
    # a code that lost its last digit is no letter
    if [n for n, _ in pairs] != list(range(len(set(names)))) or not "".join(names).isalnum():
        raise InputError(
            f"{_MAPPING} is incomplete or altered: its lines must be a label and a character's code, each once; "
            f"download {URL} again"
        )
    return names


def _idx(content: bytes, name: str) -> np.ndarray:
    """Reads a uint8 array in the idx format: magic number 0x08, number of axes, their lengths, the values."""
    axes = 3 if "idx3" in name else 1
    start = 4 + 4 * axes
    if len(content) >= start and content[:4] == bytes([0, 0, 8, axes]):
        shape = struct.unpack(f">{axes}I", content[4:start])
        if len(content) - start == int(np.prod(shape)):
            return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
    raise InputError(f"{name} is incomplete or altered: its length does not fit its header; download {URL} again")
