"""`folder`: the user's own images, one sub-folder a class."""

from pathlib import Path

from ncjax.data import images, labelled
from ncjax.data.class_splits import PARTS, PARTS_HELP, part_named
from ncjax.data.data_set import DataSet, Request
from ncjax.errors import InputError


def open_data_set(request: Request) -> DataSet:
    """Classes in data_dir/<class>/, split by split_seed, or in data_dir/source/<class>/, validation/… and target/….

    The three may also have the names train, val and test, or meta-train, meta-val and meta-test. With `class_split`
    that split divides the classes, and a class may be in several of these. With `nested`, images of a class may lie one
    folder deeper. The official folder of CUB-200-2011 is read from its images/. Files that are no images, and images in
    other places, are passed over, and that is said.
    Raises InputError for a folder without classes, a class without images, a class in two parts.
    """
    root = request.data_dir
    if root is None or not root.is_dir():
        raise InputError("folder needs data_dir=PATH, a folder with one sub-folder of images for each class")
    if (root / "images.txt").is_file() and (root / "images").is_dir():  # CUB-200-2011
        root = root / "images"
    top = images.listing(root)
    given = _parts(root, top.folders, divided=request.class_split is None)
    above = [top, *(images.listing(folder) for folder in given.values())]
    folders = [folder for listing in (above[1:] or above) for folder in listing.folders]
    for path in (path for listing in above for path in listing.others):
        if images.is_dangling(path):  # it may have been a class
            raise InputError(f"{path} is a link to what is not there; fix or remove it")
    if not folders:
        raise InputError(f"{root} has no sub-folders; put the images of each class in a sub-folder of its name")
    names = list(dict.fromkeys(folder.name for folder in folders))
    if request.class_split is None and len(names) < len(folders):
        every = [folder.name for folder in folders]
        twice = min(name for name in names if every.count(name) > 1)
        raise InputError(
            f"class {twice!r} is in more than one of {', '.join(f.name for f in given.values())} of {root}; a class "
            "has one place, for target classes are ones that training has not seen"
        )
    listings = [_listing(folder, request.nested) for folder in folders]
    # Images beside the class folders are no images of a class.
    rest = [images.Listing([], listing.images + listing.others, []) for listing in above]
    images.remark_on_rest("folder", root, [*rest, *listings])
    for folder, listing in zip(folders, listings, strict=True):
        if not listing.images:
            raise InputError(f"class folder {folder} has no images of a format that Pillow reads{_hint(listing)}")
    number = {name: i for i, name in enumerate(names)}
    files = [(number[f.name], path) for f, listing in zip(folders, listings, strict=True) for path in listing.images]
    parts = {part: [f.name for f in folders if f.parent == place] for part, place in given.items()}
    return labelled.open_labelled("folder", request, labelled.of_files(root, names, files, parts=parts))


def _parts(root: Path, folders: list[Path], *, divided: bool) -> dict[str, Path]:
    """The folders of a given split, by part, in the order of PARTS; none where the split is to be drawn.

    With `divided` they say which classes are source and which target, and both are needed.
    """
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
    if divided and not {"source", "target"} <= given.keys():
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


def _listing(folder: Path, nested: bool) -> images.Listing:
    """What is in a class folder; with `nested`, what is in the folders inside of it counts as if it were there."""
    found = images.listing(folder)
    if nested:
        inside = [images.listing(one) for one in found.folders]
        found = images.Listing(
            found.images + [path for one in inside for path in one.images],
            found.others + [path for one in inside for path in one.others],
            [path for one in inside for path in one.folders],
        )
    return found


def _hint(listing: images.Listing) -> str:
    """What to do about a class folder without images."""
    if any(images.listing(folder).images for folder in listing.folders):
        return "; they are one folder deeper: read them with nested"
    return images.heic_hint(listing.others)
