"""Writing of prepared files: a tensorflow-datasets folder of ArrayRecord files, without TensorFlow."""

import contextlib
import io
import logging
import os
import shutil
import tempfile
import threading
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core import shuffle as tfds_shuffle
from tqdm import tqdm

from ncjax.data.archives import cache_dir, remove_abandoned
from ncjax.data.prepared_files import PreparedFiles, folder_of, open_prepared
from ncjax.errors import InputError, first_line
from ncjax.progress import progress_bar

SCRATCH = ".incomplete-"
"""The start of the names of folders that are still being written."""


@dataclass(frozen=True)
class Contents:
    """The content of prepared files.

    Attributes:
      description: of the data set.
      homepage: of the data set.
      image_shape: (h, w, c) of all images.
      class_names: the names of all classes.
      parts: for each part ("train", "test", …) a function that yields (image uint8 [h, w, c], class number).
      count: about the number of images, for the progress bar.
      left_out: the names of images that cannot be read and are not yielded; filled while the parts are read.
      source: the folder or file of the user's images.
      settings: the settings of the preparation. Files of the same source and settings replace each other when the
        images change.
    """

    description: str
    homepage: str
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    parts: Mapping[str, Callable[[], Iterator[tuple[np.ndarray, int]]]]
    count: int | None = None
    left_out: Sequence[str] = ()
    source: Path | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


def prepare(name: str, version: str, made_from: str | None, contents: Callable[[], Contents]) -> PreparedFiles:
    """Opens the prepared files of a data set, after writing them if they do not exist.

    They are written to a scratch folder that is renamed at the end: a killed process leaves nothing that looks
    finished, and if two processes write at once, the first to end wins.

    Args:
      name: of the data set.
      version: of the prepared files.
      made_from: a digest of the files' origin; None for the official archive.
      contents: returns what to write; called only where files must be written.

    Raises:
      InputError: if existing files are damaged, or files cannot be written.
    """
    folder = folder_of(name, version, made_from)
    ready = open_prepared(folder)
    if ready is not None:
        return ready
    new = contents()
    _check_names(new.class_names)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        for place in ("*", "local/*/*"):
            remove_abandoned(cache_dir(), f"{place}/{SCRATCH}*")
        scratch = Path(tempfile.mkdtemp(prefix=SCRATCH, dir=folder.parent))
    except OSError as error:
        raise InputError(
            f"cannot write to the cache folder {folder.parent}: {error.strerror}; name another with NCJAX_CACHE_DIR"
        ) from error
    try:
        _write(name, version, new, scratch)
        # fails if another process was first, whose files are the same
        with contextlib.suppress(OSError):
            os.rename(scratch / name / version, folder)
    except (OSError, RuntimeError) as error:  # ArrayRecord's writer raises RuntimeError, for example on a full disk
        raise InputError(
            f"cannot prepare {name} in {folder.parent} ({getattr(error, 'strerror', None) or first_line(error)}); free "
            "some space, or name another cache folder with NCJAX_CACHE_DIR"
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    ready = open_prepared(folder)
    if ready is None:
        raise InputError(f"cannot move prepared files to {folder}; name another cache folder with NCJAX_CACHE_DIR")
    return ready


def _check_names(names: Sequence[str]) -> None:
    """Raises InputError for names that a UTF-8 file with one name a line cannot hold."""
    for name in names:
        if (
            name != name.strip()
            or len(name.splitlines()) != 1
            or any("\ud800" <= letter <= "\udfff" for letter in name)
        ):
            raise InputError(
                f"class {name!r} has a name with blanks at an end, of several lines, or not in UTF-8; rename it"
            )


def _write(name: str, version: str, contents: Contents, root: Path) -> None:
    bar = progress_bar(f"preparing {name}", "image", total=contents.count)
    builder_class = types.new_class(
        "".join(word.capitalize() for word in name.split("_")),
        (_ImageBuilder,),
        {"skip_registration": True},
        lambda body: body.update(name=name, VERSION=tfds.core.Version(version), contents=contents, bar=bar),
    )
    level = logging.getLogger("absl").level
    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        # hides tensorflow-datasets' own bars and messages
        with bar, _spooled(root), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            builder_class(data_dir=root, file_format="array_record").download_and_prepare(
                download_dir=root / "downloads", download_config=tfds.download.DownloadConfig(try_download_gcs=False)
            )
    finally:
        logging.getLogger("absl").setLevel(level)


class _Spool:
    """Keeps records in a temporary file, in their order, until they are written to ArrayRecord files.

    Replaces tensorflow-datasets' shuffler, which keeps up to a gigabyte in memory, and needs TensorFlow for more.
    """

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self._lengths: list[int] = []
        self.size = 0

    @property
    def num_examples(self) -> int:
        """The number of records."""
        return len(self._lengths)

    @property
    def bucket_lengths(self) -> list[int]:
        """The number of records in each bucket; there is one bucket."""
        return [len(self._lengths)]

    def add(self, key: int, data: bytes) -> bool:
        """Appends a record."""
        self._file.write(data)
        self._lengths.append(len(data))
        self.size += len(data)
        return True

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        self._file.seek(0)
        for key, length in enumerate(self._lengths):
            yield key, self._file.read(length)

    def close(self) -> None:
        """Removes the file."""
        self._file.close()


_ONE_AT_A_TIME = threading.Lock()


@contextlib.contextmanager
def _spooled(folder: Path) -> Iterator[None]:
    """Makes tensorflow-datasets keep the records of each part in a `_Spool` in this folder."""
    spools: list[_Spool] = []

    def make(**_: Any) -> _Spool:
        spools.append(_Spool(folder))
        return spools[-1]

    with _ONE_AT_A_TIME:
        original = tfds_shuffle.Shuffler
        tfds_shuffle.Shuffler = make
        try:
            yield
        finally:
            tfds_shuffle.Shuffler = original
            for spool in spools:
                with contextlib.suppress(OSError):  # a full disk has been reported already
                    spool.close()


class _ImageBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """A builder of labelled PNG images; `_write` makes a subclass for each data set."""

    VERSION = tfds.core.Version("1.0.0")
    contents: Contents
    bar: tqdm

    def _info(self) -> Any:
        features = {
            "image": tfds.features.Image(shape=self.contents.image_shape, encoding_format="png"),
            "label": tfds.features.ClassLabel(names=list(self.contents.class_names)),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.contents.description,
            homepage=self.contents.homepage,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
            disable_shuffling=True,
            # written last, when `left_out` is complete
            metadata=tfds.core.MetadataDict(
                class_names=list(self.contents.class_names),
                left_out=self.contents.left_out,
                source=None if self.contents.source is None else str(self.contents.source),
                settings=dict(self.contents.settings),
                made_with={"pillow": PIL.__version__, "numpy": np.__version__},
            ),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        return {part: self._generate_examples(images) for part, images in self.contents.parts.items()}

    def _generate_examples(self, images: Callable[[], Iterator[tuple[np.ndarray, int]]]) -> Any:
        for key, (image, label) in enumerate(images()):
            # tensorflow-datasets would call TensorFlow to encode an array
            yield key, {"image": _encode(image), "label": int(label)}
            self.bar.update()


def _encode(image: np.ndarray) -> io.BytesIO:
    # uncompressed PNG is read twice as fast, and ArrayRecord files are compressed anyway
    buffer = io.BytesIO()
    Image.fromarray(image if image.shape[-1] == 3 else image[..., 0]).save(buffer, "PNG", compress_level=0)
    buffer.seek(0)
    return buffer
