"""`folder`: the user's own images, one sub-folder a class."""

from collections.abc import Iterator
from pathlib import Path

from ncjax.data import images, labelled
from ncjax.data.benchmark import (
    PARTS,
    PARTS_HELP,
    ClassSplit,
    DataSet,
    Request,
    given_class_split,
    own_class_split,
    part_named,
)
from ncjax.errors import InputError

DEFAULT_SIZE = 84


def open_data_set(request: Request) -> DataSet:
    """Classes in data_dir/<class>/, split by split_seed, or in data_dir/source/<class>/, validation/… and target/….

    The three may also have the names train, val and test, or meta-train, meta-val and meta-test. Files that are no
    images, and images in other places, are passed over, and that is said.
    Raises InputError for a folder without classes, a class without images, a class in two parts.
    """
    root = request.data_dir
    if root is None or not root.is_dir():
        raise InputError("folder needs data_dir=PATH, a folder with one sub-folder of images for each class")
    top = images.listing(root)
    given = _parts(root, top.folders)
    above = [top, *(images.listing(folder) for folder in given.values())]
    folders = [folder for listing in (above[1:] or above) for folder in listing.folders]
    for path in (path for listing in above for path in listing.others):
        if images.is_dangling(path):  # it may have been a class
            raise InputError(f"{path} is a link to what is not there; fix or remove it")
    if not folders:
        raise InputError(f"{root} has no sub-folders; put the images of each class in a sub-folder of its name")
    names = [f.name for f in folders]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise InputError(
            f"class {twice[0]!r} is in more than one of {', '.join(f.name for f in given.values())} of {root}; a class "
            "has one place, for target classes are ones that training has not seen"
        )
    listings = [images.listing(folder) for folder in folders]
    # Images beside the class folders are no images of a class.
    rest = [images.Listing([], listing.images + listing.others, []) for listing in above]
    images.remark_on_rest("folder", root, [*rest, *listings])
    for folder, listing in zip(folders, listings, strict=True):
        if not listing.images:
            raise InputError(f"class folder {folder} has no images of a format that Pillow reads")
    split = _split(given, folders, request.split_seed)
    every = [path for listing in listings for path in listing.images]

    def encoded() -> Iterator[images.Encoded]:
        for label, listing in enumerate(listings):
            for path in listing.images:
                yield images.Encoded(label, str(path), path)

    prepared = labelled.prepare(
        "folder",
        encoded,
        source=root,
        class_names=names,
        facts=images.stamps(every, root),
        size=request.image_size or DEFAULT_SIZE,
        channels=images.channels_of(every),
        count=len(every),
        skip_corrupt=request.skip_corrupt,
        grey_bits=lambda: images.bits_of_grey("folder", every),
    )
    return prepared.data_set(split)


def _parts(root: Path, folders: list[Path]) -> dict[str, Path]:
    """The folders of a given split, by part, in the order of PARTS; none where the split is to be drawn."""
    given: dict[str, Path] = {}
    for folder in folders:
        part = part_named(folder.name)
        if part is None or _is_class(folder):
            continue
        if part in given:
            raise InputError(f"{root} has {given[part].name} and {folder.name}, both of which mean {part}; keep one")
        given[part] = folder
    if not given:
        return {}
    present = " and ".join(given[part].name for part in PARTS if part in given)
    if not {"source", "target"} <= given.keys():
        raise InputError(f"{root} has {present}, but a given split needs source and target folders ({PARTS_HELP})")
    others = [folder.name for folder in folders if folder not in given.values()]
    if others:
        raise InputError(
            f"{root} has {', '.join(others)} beside {present}; a given split has folders for {PARTS_HELP}, and no "
            "others: rename or move what is none of them"
        )
    return {part: given[part] for part in PARTS if part in given}


def _is_class(folder: Path) -> bool:
    """Whether this holds the files of one class, which may be called "train", and not the folders of several."""
    inside = images.listing(folder)
    return bool(inside.images or inside.others) and not inside.folders


def _split(given: dict[str, Path], folders: list[Path], seed: int) -> ClassSplit:
    if not given:
        return own_class_split(len(folders), seed)
    parts = {part: [f.name for f in folders if f.parent == given.get(part)] for part in PARTS}
    return given_class_split([f.name for f in folders], parts["source"], parts["validation"], parts["target"], seed)
