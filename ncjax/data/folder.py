"""`folder`: the user's own images, one sub-folder a class."""

from collections.abc import Iterator
from pathlib import Path

from ncjax.data import images
from ncjax.data.benchmark import PARTS, ClassSplit, DataSet, Request, given_class_split, own_class_split
from ncjax.errors import InputError

DEFAULT_SIZE = 84


def open_data_set(request: Request) -> DataSet:
    """Classes in data_dir/<class>/, split by split_seed, or in data_dir/source/<class>/, validation/… and target/….

    Raises InputError for a folder without classes, a class without images, a class in two parts.
    """
    root = request.data_dir
    if root is None or not root.is_dir():
        raise InputError("folder needs data_dir=PATH, a folder with one sub-folder of images for each class")
    given = {part: images.subfolders(root / part) for part in PARTS if (root / part).is_dir()}
    if given and not {"source", "target"} <= given.keys():
        raise InputError(f"{root} has {' and '.join(given)}, but a given split needs source and target folders")
    others = [f.name for f in images.subfolders(root) if given and f.name not in PARTS]
    if others:
        raise InputError(
            f"{root} has {', '.join(others)} beside source and target; a given split has the folders "
            f"{', '.join(PARTS)} and no others: rename or move what is none of them"
        )
    folders = [f for part in given.values() for f in part] if given else images.subfolders(root)
    if not folders:
        raise InputError(f"{root} has no sub-folders; put the images of each class in a sub-folder of its name")
    names = [f.name for f in folders]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise InputError(
            f"class {twice[0]!r} is in more than one of {', '.join(given)} of {root}; a class has one place"
        )
    files = {label: images.listing(folder) for label, folder in enumerate(folders)}
    for label, paths in files.items():
        if not paths:
            raise InputError(f"class folder {folders[label]} has no images of a format that Pillow reads")
    split = _split(given, names, request.split_seed)
    every = [path for paths in files.values() for path in paths]

    def encoded() -> Iterator[images.Encoded]:
        for label, paths in files.items():
            for path in paths:
                yield images.Encoded(label, str(path), path)

    prepared = images.prepare(
        "folder",
        encoded,
        source=root,
        class_names=names,
        facts=images.stamps(every, root),
        size=request.image_size or DEFAULT_SIZE,
        channels=images.channels_of(every),
        count=len(every),
        skip_corrupt=request.skip_corrupt,
    )
    return DataSet(prepared.class_names, split, prepared.read, prepared.leave_in_files, prepared.decoded_bytes)


def _split(given: dict[str, list[Path]], names: list[str], seed: int) -> ClassSplit:
    if not given:
        return own_class_split(len(names), seed)
    parts = {part: [f.name for f in given.get(part, [])] for part in PARTS}
    return given_class_split(names, parts["source"], parts["validation"], parts["target"], seed)
