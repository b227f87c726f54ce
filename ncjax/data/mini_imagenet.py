"""miniImageNet: 100 classes of ImageNet by the split of Ravi & Larochelle, 600 images each, 84 x 84.

References: Vinyals et al., Matching networks, NeurIPS 2016, arXiv 1606.04080; Ravi & Larochelle, Optimization as a
model for few-shot learning, ICLR 2017.
"""

import dataclasses
import io
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from ncjax.data import archives, class_splits, csv_lists, images, own_images
from ncjax.data.class_splits import part_named
from ncjax.data.data_set import DataSet, Request
from ncjax.errors import InputError, first_line

IMAGES_PER_CLASS = 600
_TAR = "ILSVRC2012_img_train.tar"
_FETCH = (
    "ImageNet needs an account: get ILSVRC2012_img_train.tar from https://image-net.org/download; as data_dir give its "
    "folder, its extracted tree of n0…/ folders, such folders in train/, val/ and test/, or a folder of images/ with "
    "train.csv, val.csv and test.csv"
)


def open_data_set(request: Request) -> DataSet:
    """Opens the 64 training, 16 validation and 20 test classes, with the first 600 images a class by name.

    Raises:
      InputError: if there are no images, or classes are missing.
    """
    if request.data_dir is None:
        raise InputError(f"mini_imagenet needs data_dir; {_FETCH}")
    split = class_splits.read("mini_imagenet")
    part_of = dict(split.listed())
    names = sorted(part_of)
    labelled_images = _find(request.data_dir, {wnid: number for number, wnid in enumerate(names)}, part_of)
    return own_images.open_labelled(
        "mini_imagenet", request, dataclasses.replace(labelled_images, root=request.data_dir, parts=split.parts)
    )


def _find(root: Path, labels: dict[str, int], part_of: dict[str, str]) -> own_images.Labelled:
    if root.is_file():
        return _tar(root, labels)
    if all((root / f"{part}.csv").is_file() for part in ("train", "val", "test")):
        return _csv(root, labels, part_of)
    places = [root, root / "train", root / "ILSVRC2012_img_train", root / "images"]
    trees = [{wnid: place / wnid for wnid in labels if (place / wnid).is_dir()} for place in places]
    folders = max(trees, key=len)  # the first among equals
    if len(folders) < len(labels):
        folders = max(folders, _below_parts(root, part_of), key=len)
    if folders:
        if missing := sorted(labels.keys() - folders.keys()):
            raise InputError(
                f"{root} has {len(folders)} of miniImageNet's 100 classes; {', '.join(missing[:3])}"
                f"{' and others' if len(missing) > 3 else ''} are missing"
            )
        listings = {wnid: images.listing(folders[wnid]) for wnid in labels}
        images.remark_on_rest("mini_imagenet", root, list(listings.values()))
        for wnid, listing in listings.items():
            if not listing.images:
                raise InputError(f"class folder {folders[wnid]} has no images")
        return _of_files(
            root,
            list(labels),
            [(labels[w], path) for w, listing in listings.items() for path in listing.images[:IMAGES_PER_CLASS]],
        )
    if (root / _TAR).is_file():
        return _tar(root / _TAR, labels)
    raise InputError(f"{root} holds no ImageNet images; {_FETCH}")


def _below_parts(root: Path, part_of: dict[str, str]) -> dict[str, Path]:
    """Finds the class folders below train/, val/ and test/, or folders of other names for these."""
    folders: dict[str, Path] = {}
    for folder in images.listing(root).folders:
        if part_named(folder.name) is not None:
            for wnid, part in part_of.items():
                if (folder / wnid).is_dir():
                    _check_part(wnid, part, folder)
                    folders[wnid] = folder / wnid
    return folders


def _check_part(wnid: str, part: str, place: Path) -> None:
    """Raises InputError if a class is in another part than in miniImageNet's split."""
    if part_named(place.stem) != part:
        raise InputError(
            f"class {wnid} is in {place}, but is a {part} class of miniImageNet's split; move it, or use the data "
            "set folder for a split of your own"
        )


def _of_files(root: Path, names: Sequence[str], files: Sequence[tuple[int, Path]]) -> own_images.Labelled:
    facts = {"labels": [(str(path.relative_to(root)), label) for label, path in files]}
    return own_images.of_files(root, names, files, facts=facts, channels=3)


def _csv(root: Path, labels: dict[str, int], part_of: dict[str, str]) -> own_images.Labelled:
    """Reads lines of filename,label in three files, with the images in images/."""
    rows: list[tuple[int, Path]] = []
    for part in ("train", "val", "test"):
        for line in csv_lists.read(root / f"{part}.csv"):
            if line.label not in labels:
                raise InputError(
                    f"{line.list} has the line {line.image},{line.label}; labels must be those of miniImageNet"
                )
            _check_part(line.label, part_of[line.label], line.list)
            rows.append((labels[line.label], csv_lists.find_image(root, line)))
    csv_lists.check_listed_once(rows, root)
    listed = {label for label, _ in rows}
    absent = sorted(wnid for wnid, label in labels.items() if label not in listed)
    if absent:
        raise InputError(f"the csv files of {root} list no image of {len(absent)} classes, {absent[0]} among them")
    return _of_files(root, list(labels), rows)


def _tar(path: Path, labels: dict[str, int]) -> own_images.Labelled:
    """The official archive: a tar of one tar a class; read in place, nothing is extracted to disk."""

    def read() -> Iterator[images.Encoded]:
        seen = set()
        where = str(path)
        try:
            with tarfile.open(path) as outer:
                for entry in outer:
                    archives.check_member_names(path, [entry.name])
                    wnid = Path(entry.name).stem
                    inside = outer.extractfile(entry) if wnid in labels else None
                    if inside is None:
                        continue
                    seen.add(wnid)
                    where = f"{path}: {entry.name}"
                    with tarfile.open(fileobj=io.BytesIO(inside.read())) as inner:
                        members = sorted((m for m in inner if m.isfile()), key=lambda m: m.name)
                        archives.check_member_names(path, [m.name for m in members])
                        for member in members[:IMAGES_PER_CLASS]:
                            file = inner.extractfile(member)
                            if file is not None:
                                yield images.Encoded(labels[wnid], f"{path}: {member.name}", file.read())
        except (tarfile.TarError, EOFError, OSError) as error:
            raise InputError(
                f"{where} cannot be read as a tar file ({first_line(error)}); download {_TAR} again"
            ) from error
        if missing := sorted(labels.keys() - seen):
            raise InputError(
                f"{path} lacks {len(missing)} of miniImageNet's 100 classes, {missing[0]} among them; if it is cut "
                f"off, download {_TAR} again"
            )

    status = path.stat()
    facts: dict[str, object] = {"tar": str(path.resolve()), "size": status.st_size, "time": status.st_mtime_ns}
    return own_images.Labelled(path, list(labels), read, len(labels) * IMAGES_PER_CLASS, facts, channels=3)
