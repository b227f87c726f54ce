"""CIFAR-100 and CIFAR-10, and the few-shot benchmarks that are selections of CIFAR-100's classes.

References: Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009; CIFAR-FS: Bertinetto et al., ICLR
2019, arXiv 1805.08136; FC100: Oreshkin et al., NeurIPS 2018, arXiv 1805.10123.
"""

import hashlib
import io
import pickle
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ncjax.data import archives, class_splits, record_writer
from ncjax.data.class_splits import ClassSplit, given_class_split, random_class_split
from ncjax.data.data_set import DataSet, Request
from ncjax.errors import InputError, first_line

VERSION = "1.0.0"


@dataclass(frozen=True)
class Archive:
    """An archive in the layout of CIFAR's Python version.

    Attributes:
      name: of the data set.
      folder: the folder in the archive.
      url: of the archive.
      train: the names of the pickles of training images.
      test: likewise of test images.
      meta: the pickle of class names.
      labels_key: the key of the labels in a pickle of images.
      names_key: the key of the class names in `meta`.
      checksums: the MD5 checksums of the archive file and of every pickle in it, by name.
    """

    name: str
    folder: str
    url: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    meta: str
    labels_key: str
    names_key: str
    checksums: Mapping[str, str]

    @property
    def file(self) -> str:
        """The name of the archive file."""
        return self.url.rsplit("/", 1)[-1]

    @property
    def members(self) -> tuple[str, ...]:
        """The names of the pickles."""
        return (*self.train, *self.test, self.meta)


CIFAR100 = Archive(
    name="cifar100",
    folder="cifar-100-python",
    url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
    train=("train",),
    test=("test",),
    meta="meta",
    labels_key="fine_labels",
    names_key="fine_label_names",
    checksums={
        "cifar-100-python.tar.gz": "eb9058c3a382ffc7106e4002c42a8d85",
        "train": "16019d7e3df5f24257cddd939b257f8d",
        "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
        "meta": "7973b15100ade9c7d40fb424638fde48",
    },
)
CIFAR10 = Archive(
    name="cifar10",
    folder="cifar-10-batches-py",
    url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    train=tuple(f"data_batch_{i}" for i in range(1, 6)),
    test=("test_batch",),
    meta="batches.meta",
    labels_key="labels",
    names_key="label_names",
    checksums={
        "cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a",
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
        "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
    },
)
_OFFICIAL = {"cifar_fs": CIFAR100, "fc100": CIFAR100, "cifar100": CIFAR100, "cifar10": CIFAR10}


def open_data_set(request: Request, archive: Archive | None = None) -> DataSet:
    """Opens cifar_fs, fc100, cifar100 or cifar10.

    Args:
      request: the arguments of `load`.
      archive: a replacement of the official archive, for tests; it is prepared apart.

    Raises:
      InputError: if the archive is not prepared and cannot be found or downloaded, or its checksums are wrong.
    """
    official = _OFFICIAL[request.name]
    archive = official if archive is None else archive
    made_from = None if archive == official else archives.digest(archive.checksums)
    # data_dir is checked even where prepared files exist, so that the same command has the same outcome
    paths = None if request.data_dir is None else _find(request.data_dir, archive)
    prepared = record_writer.prepare(archive.name, VERSION, made_from, lambda: _contents(archive, paths))
    superclasses = {} if archive.name == CIFAR10.name else class_splits.cifar100_superclasses()
    return prepared.data_set(_class_split(request, prepared.class_names), superclasses)


def _class_split(request: Request, class_names: tuple[str, ...]) -> ClassSplit:
    if request.name == "cifar100" and request.class_split is not None:
        return class_splits.choose(request.class_split, class_names, {}, request.split_seed)[0]
    if request.name == "cifar100":
        return random_class_split(len(class_names), target=20, validation=16, seed=request.split_seed)
    if request.name == "cifar10":
        return random_class_split(len(class_names), target=5, seed=request.split_seed)
    parts = class_splits.read(request.name).parts
    return given_class_split(class_names, parts["source"], parts["validation"], parts["target"], request.split_seed)


def _find(data_dir: Path, archive: Archive) -> tuple[Path, ...]:
    """Finds the archive file or the pickles, and checks their checksums."""
    if data_dir.is_file():
        choices: list[tuple[str, ...]] = [(data_dir.name,)]
        data_dir = data_dir.parent
    else:
        in_folder = tuple(f"{archive.folder}/{member}" for member in archive.members)
        choices = [in_folder, archive.members, (archive.file,)]
    paths = archives.find(data_dir, choices)
    if paths is None:
        raise InputError(
            f"{data_dir} holds neither {archive.folder}/ with {', '.join(archive.members)} nor {archive.file}; "
            f"download {archive.url}, or leave data_dir out to have it downloaded"
        )
    names = [archive.file] if len(paths) == 1 else archive.members
    for path, name in zip(paths, names, strict=True):
        archives.check_md5(path, archive.checksums[name], archive.url)
    return tuple(paths)


def _contents(archive: Archive, paths: tuple[Path, ...] | None) -> record_writer.Contents:
    paths = paths or (archives.download(archive.url, archive.checksums[archive.file]),)
    pickles = _read_archive(paths[0], archive) if len(paths) == 1 else _read_files(paths, archive)
    names = tuple(str(name) for name in pickles[archive.meta][archive.names_key])

    def images(members: tuple[str, ...]) -> Callable[[], Iterator[tuple[np.ndarray, int]]]:
        def generate() -> Iterator[tuple[np.ndarray, int]]:
            for member in members:
                pixels = np.asarray(pickles[member]["data"], np.uint8).reshape(-1, 3, 32, 32)
                yield from zip(
                    np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)), pickles[member][archive.labels_key], strict=True
                )

        return generate

    return record_writer.Contents(
        description=f"{archive.name}: 32 x 32 colour images of {len(names)} classes, in the official order.",
        homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
        image_shape=(32, 32, 3),
        class_names=names,
        parts={"train": images(archive.train), "test": images(archive.test)},
        count=sum(len(pickles[m][archive.labels_key]) for m in (*archive.train, *archive.test)),
    )


def _read_files(paths: tuple[Path, ...], archive: Archive) -> dict[str, dict]:
    return {m: _unpickle(p.read_bytes(), str(p), archive, m) for p, m in zip(paths, archive.members, strict=True)}


def _read_archive(path: Path, archive: Archive) -> dict[str, dict]:
    """Reads the pickles from the archive file, without extracting it to disk."""
    try:
        with tarfile.open(fileobj=io.BytesIO(path.read_bytes())) as tar:
            archives.check_member_names(path, tar.getnames())
            contents = {}
            for member in archive.members:
                file = tar.extractfile(f"{archive.folder}/{member}")
                if file is None:
                    raise KeyError(member)
                contents[member] = _unpickle(file.read(), f"{path}: {member}", archive, member)
            return contents
    except (tarfile.TarError, EOFError, KeyError) as error:
        raise InputError(
            f"{path} cannot be read as {archive.file} ({first_line(error)}); download it from {archive.url}"
        ) from error


def _unpickle(content: bytes, where: str, archive: Archive, member: str) -> dict:
    """Opens a pickle after checking its checksum, since a pickle can run any code."""
    checksum = hashlib.md5(content).hexdigest()
    if checksum != archive.checksums[member]:
        raise InputError(
            f"{where} has MD5 checksum {checksum}, not the expected {archive.checksums[member]}; it was not opened; "
            f"download it again from {archive.url}"
        )
    return pickle.loads(content, encoding="latin1")
