"""The catalog of data sets, and `load`."""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from ncjax.data.benchmark import Benchmark
from ncjax.data.data_set import Request, build, check_source_classes
from ncjax.errors import InputError
from ncjax.files import expand


@dataclass(frozen=True)
class Entry:
    """The catalog entry of a data set.

    Attributes:
      module: the module of ncjax.data whose open_data_set(Request) opens the data set.
      summary: what it holds.
      source: where it comes from.
      licence: of its images.
      augmentation: the kind that suits its images; None to decide by the number of channels.
      prepared: the name of its prepared files in the cache; None where nothing is prepared.
      options: the arguments of `load` that not every data set takes.
      source_classes: the most source classes, where they do not depend on options; None where only the data tells.
    """

    module: str
    summary: str
    source: str
    licence: str
    augmentation: str | None
    prepared: str | None = None
    options: frozenset[str] = frozenset()
    source_classes: int | None = None


_CIFAR_SOURCE = "https://www.cs.toronto.edu/~kriz/cifar.html"
_CIFAR_LICENCE = "none stated by its makers; they ask to cite Krizhevsky, Learning Multiple Layers of Features, 2009"

_OF_IMAGES = frozenset({"image_size", "skip_corrupt", "class_split"})
_OF_COLUMNS = frozenset({"image_column", "label_column"})

CATALOG: dict[str, Entry] = {
    "glyphs": Entry(
        "glyphs",
        "characters rendered from matplotlib's fonts: 64 of 182 source, 16 validation, 20 target classes by "
        "split_seed, 150 images a class (source: 100 and 50), 28x28x1; the same bytes on every machine",
        "outlines that come with ncjax, warped when loaded; no download",
        "the fonts' own: Bitstream Vera and Arev (DejaVu), SIL Open Font License (STIX)",
        "shift",
        source_classes=182,
    ),
    "cifar_fs": Entry(
        "cifar",
        "CIFAR-100 by the split of CIFAR-FS: 64 source, 16 validation, 20 target classes, 600 images each, 32x32x3",
        _CIFAR_SOURCE,
        _CIFAR_LICENCE,
        "crop_flip",
        "cifar100",
        source_classes=64,
    ),
    "fc100": Entry(
        "cifar",
        "CIFAR-100 by the split of FC100, along superclasses: 60 source, 20 validation, 20 target classes, 600 images "
        "each, 32x32x3",
        _CIFAR_SOURCE,
        _CIFAR_LICENCE,
        "crop_flip",
        "cifar100",
        source_classes=60,
    ),
    "cifar100": Entry(
        "cifar",
        "CIFAR-100: 64 source, 16 validation, 20 target classes by split_seed, 600 images each, 32x32x3",
        _CIFAR_SOURCE,
        _CIFAR_LICENCE,
        "crop_flip",
        "cifar100",
        frozenset({"class_split"}),
        source_classes=64,
    ),
    "cifar10": Entry(
        "cifar",
        "CIFAR-10: 5 source and 5 target classes by split_seed, 6000 images each, 32x32x3",
        _CIFAR_SOURCE,
        _CIFAR_LICENCE,
        "crop_flip",
        "cifar10",
        source_classes=5,
    ),
    "emnist": Entry(
        "emnist",
        "EMNIST balanced, handwritten digits and letters: 35 source and 12 target classes by split_seed, 2800 images "
        "each, 28x28x1",
        "https://www.nist.gov/itl/products-and-services/emnist-dataset",
        "none stated by its makers; derived from NIST Special Database 19, a work of the US government",
        "shift",
        "emnist",
        source_classes=35,
    ),
    "omniglot": Entry(
        "omniglot",
        "handwritten characters: 964 background classes are source, 659 evaluation classes target, 20 images each, "
        "28x28x1; four times as many with rotations",
        "https://github.com/brendenlake/omniglot",
        "MIT",
        "shift",
        "omniglot",
        frozenset({"image_size", "rotations"}),
        source_classes=964,
    ),
    "mini_imagenet": Entry(
        "mini_imagenet",
        "ImageNet by the split of Ravi & Larochelle: 64 source, 16 validation, 20 target classes, 600 images each, "
        "84x84x3; from ImageNet's files under data_dir",
        "https://image-net.org/download",
        "ImageNet's terms of access: non-commercial research and education",
        "crop_flip",
        "mini_imagenet",
        frozenset({"image_size", "skip_corrupt"}),
        source_classes=64,
    ),
    "folder": Entry(
        "folder",
        "your own images under data_dir: a sub-folder a class, optionally below source/, validation/ and target/ (or "
        "train/, val/ and test/)",
        "yours",
        "yours",
        None,
        "folder",
        _OF_IMAGES | {"nested"},
    ),
    "csv": Entry(
        "csv_lists",
        "your own images by .csv files of lines filename,label: a file, or a folder of files, beside a folder images/",
        "yours",
        "yours",
        None,
        "csv",
        _OF_IMAGES | _OF_COLUMNS,
    ),
    "parquet": Entry(
        "parquet",
        "Parquet files with columns of images and labels, as on the Hugging Face hub: a file or a folder",
        "yours",
        "yours",
        None,
        "parquet",
        _OF_IMAGES | _OF_COLUMNS,
    ),
    "tfds": Entry(
        "tfds",
        "tfds:NAME or tfds:NAME:VERSION, an image data set that tensorflow-datasets has prepared under data_dir",
        "https://www.tensorflow.org/datasets/catalog/overview",
        "see tensorflow-datasets",
        None,
        "tfds",
        _OF_IMAGES | _OF_COLUMNS,
    ),
    "pickles": Entry(
        "pickles",
        "pickles and arrays from few-shot repositories, in the folder data_dir: miniImageNet, CIFAR-FS, "
        "FC100, tieredImageNet",
        "yours",
        "yours",
        None,
        "pickles",
        _OF_IMAGES,
    ),
    "npz": Entry(
        "npz",
        "your own arrays `images` and `labels` (and `class_names`, `split`) in the file data_dir",
        "yours",
        "yours",
        None,
        options=frozenset({"class_split"}),
    ),
}


def names() -> tuple[str, ...]:
    """Returns the names of the data sets that `load` knows."""
    return tuple(CATALOG)


def load(
    name: str,
    *,
    data_dir: str | Path | None = None,
    num_source_classes: int | None = None,
    source_test_per_class: int | None = None,
    samples_per_class: int | None = None,
    split_seed: int = 0,
    image_size: int | None = None,
    rotations: bool = False,
    skip_corrupt: bool = False,
    class_split: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    nested: bool = False,
    stream_above: int | None = None,
) -> Benchmark:
    """Loads a data set as images of source, validation and target classes.

    Args:
      name: one of `names()`; for tfds with the data set after a colon, as in tfds:cifar100 or tfds:cifar100:3.0.2.
      data_dir: the folder of the data set's official archive or of the user's own images; a single archive (CIFAR,
        EMNIST, ImageNet) may be given itself, and for npz the file. Without it, prepared files are read from the cache
        folder or, where there are none, made from the archive, which is downloaded. mini_imagenet and the user's own
        data (folder, csv, parquet, pickles, npz) need it, glyphs ignores it, tfds defaults to its own folder.
      num_source_classes: the number of source classes to use, at least 2, drawn by `split_seed`; a smaller number gives
        a subset. None for all, or 64 of the 182 of glyphs.
      source_test_per_class: images of each source class held out as source_test; 0 for none. None for the makers' test
        images (100 of 600 for CIFAR-100, 50 of 150 for glyphs, …) or, where there are none, a sixth of each class,
        rounded down, but at least one image; of the user's own images a third, at most 20, if that is more. The makers'
        test images are held out first, others at random.
      samples_per_class: the most images a class in source_train, drawn by `split_seed` from the images not held out.
      split_seed: seed of every random choice of classes and images.
      image_size: side in pixels that images are resized to, at least 8; for mini_imagenet, folder, csv, parquet (84 by
        default), tfds (the data set's own if it has one, else 84), pickles (their own) and omniglot (28) only.
      rotations: omniglot only: a character turned by 90, 180 and 270 degrees is three more classes.
      skip_corrupt: skip images that cannot be read, and report their number; for the user's own images.
      class_split: which classes are source, validation and target: cifar_fs, fc100, mini_imagenet, cub, tiered_imagenet
        or a .json file of lists under these three words, matched to the data's class names, wnids or numbers. Missing
        and unused classes are reported. For cifar100 and the user's own data.
      image_column: csv, parquet and tfds only: the column of images, where several columns have a suitable type.
      label_column: the column of labels, likewise.
      nested: folder only: images may also lie one folder deeper than their class.
      stream_above: if source_train has more bytes than this, its images stay in the prepared files and are read when
        they are indexed; never by default. Images of glyphs, omniglot and npz are always in memory: 0 is refused for
        them, a larger number changes nothing.

    Raises:
      InputError: for an unknown name, a missing, truncated or altered archive, damaged prepared files, an image that
        cannot be read, more source classes or held-out images than exist, too few classes or images, an argument out
        of its range or not for this data set.
    """
    kind, _, which = name.partition(":") if isinstance(name, str) else (name, "", "")
    entry = CATALOG.get(kind)
    if entry is None or (which and kind != "tfds"):
        raise InputError(f"unknown data set {name!r}; choose one of {', '.join(CATALOG)}")
    at_least = {
        "num_source_classes": (num_source_classes, 2),
        "source_test_per_class": (source_test_per_class, 0),
        "samples_per_class": (samples_per_class, 1),
        "split_seed": (split_seed, 0),
        "image_size": (image_size, 8),
    }
    for argument, (value, least) in at_least.items():
        if value is not None and value < least:
            raise InputError(f"{argument}={value}: it must be at least {least}")
    given: dict[str, object] = {
        "image_size": image_size, "rotations": rotations, "skip_corrupt": skip_corrupt, "class_split": class_split,
        "image_column": image_column, "label_column": label_column, "nested": nested,
    }  # fmt: skip
    for option, chosen in given.items():
        if chosen not in (None, False) and option not in entry.options:
            takers = ", ".join(n for n, e in CATALOG.items() if option in e.options)
            raise InputError(f"{name} takes no {option}; it is for {takers}")
    known = None if rotations or class_split is not None else entry.source_classes
    if num_source_classes is not None and known is not None:
        check_source_classes(name, num_source_classes, known)
    folder = None if data_dir is None else expand(data_dir)
    if folder is not None and not folder.exists():
        raise InputError(f"data_dir {str(data_dir)!r} does not exist")
    request = Request(
        name, folder, split_seed, image_size, rotations, skip_corrupt, class_split, image_column, label_column, nested
    )
    return build(
        name,
        import_module(f"ncjax.data.{entry.module}").open_data_set(request),
        augmentation=entry.augmentation,
        num_source_classes=num_source_classes,
        source_test_per_class=source_test_per_class,
        samples_per_class=samples_per_class,
        stream_above=stream_above,
        seed=split_seed,
    )
