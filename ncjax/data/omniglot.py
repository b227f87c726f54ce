"""Omniglot: 1623 handwritten characters of 50 alphabets, 20 images each; white on black.

Reference: Lake, Salakhutdinov, Tenenbaum, Human-level concept learning through probabilistic program induction,
Science 2015.
"""

import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from ncjax.data import archives, images, prepared_files, record_writer
from ncjax.data.class_splits import given_class_split
from ncjax.data.data_set import ClassImages, DataSet, Request
from ncjax.errors import InputError

VERSION = "1.0.0"
URL = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/"
CHECKSUMS = {
    "images_background.zip": "68d2efa1b9178cc56df9314c21c6e718",
    "images_evaluation.zip": "6b91aef0f799c5bb55b94e3f2daec811",
}
DEFAULT_SIZE = 28
_TURNS = ("", " 90°", " 180°", " 270°")


def open_data_set(request: Request, checksums: Mapping[str, str] = CHECKSUMS) -> DataSet:
    """Opens the characters of the background set as source classes, and of the evaluation set as target classes.

    With rotations, every character turned by 90, 180 and 270 degrees is three more classes of the same part.

    Args:
      request: the arguments of `load`.
      checksums: a replacement of the official checksums, for tests; such archives are prepared apart.

    Raises:
      InputError: if the archives are not prepared and cannot be found or downloaded, or their checksums are wrong.
    """
    size = request.image_size or DEFAULT_SIZE
    special: dict[str, object] = {} if size == DEFAULT_SIZE else {"image_size": size}
    if checksums != CHECKSUMS:
        special |= checksums
    archive_paths = None if request.data_dir is None else _find(request.data_dir, checksums)

    def contents() -> record_writer.Contents:
        paths = archive_paths or [archives.download(URL + name, md5) for name, md5 in checksums.items()]
        return _contents(paths, size)

    prepared = record_writer.prepare("omniglot", VERSION, archives.digest(special) if special else None, contents)
    turns = _TURNS if request.rotations else _TURNS[:1]
    names = tuple(name + turn for turn in turns for name in prepared.class_names)
    parts = {part: [name for name in names if name.startswith(f"{part}/")] for part in ("background", "evaluation")}
    split = given_class_split(names, parts["background"], [], parts["evaluation"], request.split_seed)
    return DataSet(names, split, lambda classes: _read(prepared, classes), made_with=prepared.made_with)


def _read(prepared: prepared_files.PreparedFiles, classes: Sequence[int]) -> ClassImages:
    upright = len(prepared.class_names)
    upright_images = prepared.read(sorted({c % upright for c in classes}))
    turned = []
    for turn in range(len(_TURNS)):
        wanted = [c % upright for c in classes if c // upright == turn]
        chosen = np.isin(upright_images.labels, wanted)
        images_of_turn = np.rot90(upright_images.images[chosen], turn, axes=(1, 2))
        turned.append((images_of_turn, upright_images.labels[chosen] + turn * upright))
    return ClassImages(np.concatenate([t[0] for t in turned]), np.concatenate([t[1] for t in turned]))


def _find(data_dir: Path, checksums: Mapping[str, str]) -> list[Path]:
    names = list(checksums)
    paths = archives.find(data_dir, [names, [f"omniglot/{name}" for name in names]])
    if paths is None:
        raise InputError(
            f"{data_dir} is no folder with {' and '.join(names)}; download {' and '.join(URL + n for n in names)}, "
            "or leave data_dir out to have them downloaded"
        )
    for path in paths:
        archives.check_md5(path, checksums[path.name], URL + path.name)
    return paths


def _contents(paths: Sequence[Path], size: int) -> record_writer.Contents:
    drawings: list[images.Encoded] = []
    names: list[str] = []
    for path in paths:
        part = path.stem.removeprefix("images_")
        try:
            with zipfile.ZipFile(path) as archive:
                archives.check_member_names(path, archive.namelist())
                for member in sorted(n for n in archive.namelist() if n.endswith(".png")):
                    # images_background/<alphabet>/<character>/<drawing>.png
                    _, alphabet, character, _ = PurePosixPath(member).parts
                    name = f"{part}/{alphabet}/{character}"
                    if not names or names[-1] != name:
                        names.append(name)
                    drawings.append(images.Encoded(len(names) - 1, f"{path}: {member}", archive.read(member)))
        except (zipfile.BadZipFile, ValueError, EOFError, zlib.error) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"{path} cannot be read as Omniglot's {path.name} ({error}); download it from {URL}{path.name}"
            ) from error

    def decoded() -> Iterator[tuple[np.ndarray, int]]:
        for drawing in drawings:
            yield 255 - images.decode(drawing, size, 1).pixels, drawing.label

    return record_writer.Contents(
        description="Omniglot: handwritten characters, background and evaluation set, white on black.",
        homepage="https://github.com/brendenlake/omniglot",
        image_shape=(size, size, 1),
        class_names=tuple(names),
        parts={"images": decoded},
        count=len(drawings),
    )
