"""`python -m ncjax.data`: lists data sets and prepared files; `--preview` draws one, `--clean` removes leftovers."""

import argparse
import sys

import numpy as np
from PIL import Image

from ncjax import standard_streams
from ncjax.data.archives import cache_dir
from ncjax.data.benchmark import Split
from ncjax.data.catalog import CATALOG, load, names
from ncjax.errors import InputError
from ncjax.files import expand


def listing() -> str:
    """Describes every data set: contents, source, licence and prepared files."""
    blocks = []
    for name, entry in CATALOG.items():
        lines = [name, f"  {entry.summary}", f"  source: {entry.source}", f"  licence: {entry.licence}"]
        if entry.prepared is not None:
            lines += _prepared(entry.prepared) or ["  prepared: no"]
        blocks.append("\n".join(lines))
    return "\n\n".join([*blocks, f"cache folder: {cache_dir()}"])


def _prepared(name: str) -> list[str]:
    from ncjax.data import cleaning  # imports tensorflow-datasets, which previews of glyphs do not need
    from ncjax.data.prepared_files import open_prepared

    pattern = f"{name}/[!.]*"  # hidden folders are still being written
    lines = []
    leftovers = {leftover.path: leftover.reason for leftover in cleaning.leftovers()}
    for folder in sorted([*cache_dir().glob(pattern), *cache_dir().glob(f"local/*/{pattern}")]):
        try:
            prepared = open_prepared(folder)
        except InputError:
            lines.append(f"  damaged: delete {folder}")
            continue
        if prepared is not None:
            shape = "x".join(str(side) for side in prepared.image_shape)
            lines.append(
                f"  prepared: {folder}, {sum(prepared.counts.values())} images {shape} of "
                f"{len(prepared.class_names)} classes, {prepared.num_bytes / 1e6:.1f} MB"
                f"{', ' + prepared.description if folder.is_relative_to(cache_dir() / 'local') else ''}"
                f"{f' ({leftovers[folder]}: --clean removes it)' if folder in leftovers else ''}"
            )
    return lines


def _clean() -> None:
    from ncjax.data import cleaning

    freed = 0
    for leftover in cleaning.leftovers():
        cleaning.remove(leftover)
        freed += leftover.num_bytes
        print(f"removed {leftover.path}: {leftover.reason}, {leftover.num_bytes / 1e6:.1f} MB")
    print(f"{freed / 1e6:.1f} MB freed in {cache_dir()}")


def contact_sheet(split: Split, columns: int = 16) -> Image.Image:
    """Draws a sheet with a row for each class, of its first `columns` images."""
    _, height, width, channels = split.images.shape
    sheet = np.full((split.num_classes, height + 2, columns, width + 2, channels), 64, np.uint8)
    for label in range(split.num_classes):
        for column, image in enumerate(split.images[split.labels == label][:columns]):
            sheet[label, 1:-1, column, 1:-1] = image
    pixels = sheet.reshape(split.num_classes * (height + 2), columns * (width + 2), channels)
    return Image.fromarray(pixels if channels == 3 else pixels[..., 0])


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m ncjax.data", description="Lists the data sets, or draws one.")
    parser.add_argument("--preview", metavar="NAME", help=f"draw a contact sheet of one: {', '.join(names())}")
    parser.add_argument("--split", default="target", choices=["source_train", "source_test", "validation", "target"])
    parser.add_argument("--data_dir", help="folder of the data set's archive or images")
    parser.add_argument("--split_seed", type=int, default=0, help="seed of the random class split")
    parser.add_argument("--image_size", type=int, help="side in pixels that images are resized to")
    parser.add_argument("--rotations", action="store_true", help="turned characters are further classes (omniglot)")
    parser.add_argument("--skip_corrupt", action="store_true", help="skip images that cannot be read")
    parser.add_argument("--class_split", help="which classes are source, validation and target: a name or a .json file")
    parser.add_argument("--image_column", help="column of images (csv, parquet, tfds)")
    parser.add_argument("--label_column", help="column of labels (csv, parquet, tfds)")
    parser.add_argument("--nested", action="store_true", help="images may lie one folder deeper (folder)")
    parser.add_argument("--output", help="PNG file to write (default: <name>-<split>.png)")
    parser.add_argument(
        "--clean",
        action="store_true",
        help="remove unused files from the cache folder: prepared files that are damaged, or whose images have changed "
        "or are gone, and leftovers of killed processes",
    )
    options = parser.parse_args(arguments)
    try:
        if options.clean:
            _clean()
            return 0
        if options.preview is None:
            print(listing())
            return 0
        benchmark = load(
            options.preview,
            data_dir=options.data_dir,
            split_seed=options.split_seed,
            image_size=options.image_size,
            rotations=options.rotations,
            skip_corrupt=options.skip_corrupt,
            class_split=options.class_split,
            image_column=options.image_column,
            label_column=options.label_column,
            nested=options.nested,
        )
        split = getattr(benchmark, options.split)
        if split is None:
            raise InputError(f"{options.preview} has no {options.split}; choose another --split")
        path = expand(options.output or f"{options.preview.replace(':', '-').replace('/', '-')}-{options.split}.png")
        try:
            contact_sheet(split).save(path)
        except (OSError, ValueError) as error:
            raise InputError(f"cannot write {path}: {error}; choose another --output, such as sheet.png") from error
        print(f"{path}: {split.num_classes} rows: {' '.join(split.class_names)}")
        return 0
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    standard_streams.prepare()
    sys.exit(main())
