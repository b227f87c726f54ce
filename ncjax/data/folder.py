"""`folder`: the user's own images, in one sub-folder for each class."""

from pathlib import Path

from ncjax.data import images, own_images
from ncjax.data.class_splits import PARTS, PARTS_HELP, part_named
from ncjax.data.data_set import DataSet, Request
from ncjax.errors import InputError


def open_data_set(request: Request) -> DataSet:
    """Opens classes in data_dir/<class>/, split at random, or in data_dir/source/<class>/, validation/… and target/….

    The part folders may also be called train, val and test, or meta-train, meta-val and meta-test. With `class_split`,
    that split divides the classes, and a class may be in several part folders. With `nested`, images of a class may lie
    one folder deeper. The official folder of CUB-200-2011 is read from its images/. Files that are no images, and
    images in other places, are skipped with a message.

    Raises:
      InputError: if there are no classes, a class has no images, or a class is in two parts.
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
            raise InputError(f"{path} is a broken link; fix or remove it")
    if not folders:
        raise InputError(f"{root} has no sub-folders; put the images of each class in a sub-folder of its name")
    names = list(dict.fromkeys(folder.name for folder in folders))
    if request.class_split is None and len(names) < len(folders):
        every = [folder.name for folder in folders]
        twice = min(name for name in names if every.count(name) > 1)
        raise InputError(
            f"class {twice!r} is in more than one of {', '.join(f.name for f in given.values())} of {root}; a class "
            "must be in one part, since training must not see target classes"
        )
    listings = [_listing(folder, request.nested) for folder in folders]
    # images beside the class folders belong to no class
    rest = [images.Listing([], listing.images + listing.others, []) for listing in above]
    images.remark_on_rest("folder", root, [*rest, *listings])
    for folder, listing in zip(folders, listings, strict=True):
        if not listing.images:
            raise InputError(f"class folder {folder} has no images of a format that Pillow reads{_hint(listing)}")
    number = {name: i for i, name in enumerate(names)}
    files = [(number[f.name], path) for f, listing in zip(folders, listings, strict=True) for path in listing.images]
    parts = {part: [f.name for f in folders if f.parent == place] for part, place in given.items()}
    return own_images.open_labelled("folder", request, own_images.of_files(root, names, files, parts=parts))


def _parts(root: Path, folders: list[Path], *, divided: bool) -> dict[str, Path]:
    """Finds the part folders, in the order of PARTS; returns an empty dictionary if there are none.

    With `divided`, they divide the classes, and source and target folders are required.
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
            "others: rename or move the rest"
        )
    return {part: given[part] for part in PARTS if part in given}


def _is_class(folder: Path) -> bool:
    """Whether this is a class folder, which may be called "train", and not a folder of class folders."""
    listing = images.listing(folder)
    return bool(listing.images or listing.others) and not listing.folders


def _listing(folder: Path, nested: bool) -> images.Listing:
    """Lists a class folder; with `nested`, together with the contents of its folders."""
    listing = images.listing(folder)
    if nested:
        below = [images.listing(path) for path in listing.folders]
        listing = images.Listing(
            listing.images + [path for inner in below for path in inner.images],
            listing.others + [path for inner in below for path in inner.others],
            [path for inner in below for path in inner.folders],
        )
    return listing


def _hint(listing: images.Listing) -> str:
    """Returns advice about a class folder without images."""
    if any(images.listing(folder).images for folder in listing.folders):
        return "; they are one folder deeper: read them with nested"
    return images.heic_hint(listing.others)
