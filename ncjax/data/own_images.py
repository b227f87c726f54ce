"""The user's own labelled images, in files of any format: prepared once, then read like any data set."""

import dataclasses
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from ncjax.data import archives, class_splits, images, prepared_files, record_writer
from ncjax.data.data_set import DataSet, Request
from ncjax.data.images import Encoded, attempt
from ncjax.errors import InputError
from ncjax.progress import remark

VERSION = "1.1.0"  # 1.0.0 kept the upper 8 bits of all 16-bit images
KINDS = ("folder", "csv", "parquet", "tfds", "pickles", "mini_imagenet")
"""The data sets that are prepared from the user's images, which may change."""
DEFAULT_SIZE = 84
_AT_ONCE = 256


@dataclass(frozen=True)
class Labelled:
    """Labelled images before they are decoded, as the module of each format describes them.

    Attributes:
      root: the folder or file of the images.
      class_names: the names of all classes, by class number.
      read: yields the images, on each call from the start, in an order determined by the files.
      count: the number of images.
      facts: properties that tell them from other images at this root, such as `images.stamps`.
      parts: names of the source, validation and target classes, where the files divide them; otherwise empty.
      size: the default side in pixels.
      channels: 1 or 3; None to decide by the images.
      superclasses: the superclass of each class by name, where the files have them.
    """

    root: Path
    class_names: Sequence[str]
    read: Callable[[], Iterator[Encoded]]
    count: int
    facts: Mapping[str, object]
    parts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    size: int = DEFAULT_SIZE
    channels: int | None = None
    superclasses: Mapping[str, str] = field(default_factory=dict)


def open_labelled(kind: str, request: Request, labelled: Labelled) -> DataSet:
    """Divides the classes, and prepares the images unless they are prepared already.

    Raises:
      InputError: if the split does not fit, before images are prepared; or images cannot be read.
    """
    split, superclasses = class_splits.choose(
        request.class_split, labelled.class_names, labelled.parts, request.split_seed
    )
    prepared = _prepare(kind, request, labelled)
    return dataclasses.replace(
        prepared.data_set(split, labelled.superclasses or superclasses), by_class=True, is_own=True
    )


def _prepare(kind: str, request: Request, labelled: Labelled) -> prepared_files.PreparedFiles:
    size, skip_corrupt = request.image_size or labelled.size, request.skip_corrupt
    channels = labelled.channels or images.channels_of((image.content for image in labelled.read()), labelled.count)
    kinds: Counter[tuple[str, bool]] = Counter()
    left_out: list[str] = []
    bits = 16
    bits_are_known = labelled.channels is not None

    def decoded() -> Iterator[tuple[np.ndarray, int]]:
        nonlocal bits, bits_are_known
        encoded = labelled.read()
        with ThreadPoolExecutor() as pool:  # Pillow decodes and resizes outside the interpreter lock
            while chunk := list(itertools.islice(encoded, _AT_ONCE)):
                if not bits_are_known and not all(images.has_eight_bits(image.content) for image in chunk):
                    # images before this one do not depend on the number of bits
                    bits = images.bits_of_grey(kind, (image.content for image in labelled.read()), labelled.count)
                    bits_are_known = True
                results = pool.map(partial(attempt, size=size, channels=channels, grey_bits=bits), chunk)
                for image, result in zip(chunk, results, strict=True):
                    if not isinstance(result, InputError):
                        kinds[result.mode, result.transparent] += 1
                        yield result.pixels, image.label
                    elif skip_corrupt:
                        left_out.append(image.where)
                        last = result
                    else:
                        raise InputError(f"{result}; fix or remove it, or skip such images with --skip_corrupt")
        if not kinds:
            raise InputError(f"none of {len(left_out)} images can be read; for example {last}")

    settings = {"image_size": size, "channels": channels, "skip_corrupt": skip_corrupt}
    made_from = archives.digest({**labelled.facts, **settings})
    contents = record_writer.Contents(
        description=f"from {os.fsencode(labelled.root.resolve()).decode(errors='backslashreplace')}",
        homepage="",
        image_shape=(size, size, channels),
        class_names=tuple(labelled.class_names),
        parts={"images": decoded},
        count=labelled.count,
        left_out=left_out,
        source=labelled.root.resolve(),
        settings=settings,
    )
    prepared = record_writer.prepare(kind, VERSION, made_from, lambda: contents)
    for line in _remarks(kinds, prepared.left_out, channels, bits):
        remark(f"{kind}: {line}")
    return prepared


def _remarks(kinds: Counter[tuple[str, bool]], left_out: Sequence[str], channels: int, bits: int) -> Iterator[str]:
    """Describes images that were converted or left out; `kinds` counts images by mode and transparency."""
    wanted = "L" if channels == 1 else "RGB"
    converted = {kind: n for kind, n in sorted(kinds.items()) if kind != (wanted, False)}
    if converted:
        texts = (f"{n} of mode {mode}{' with transparency' if clear else ''}" for (mode, clear), n in converted.items())
        white = "; transparent pixels became white" if any(clear for _, clear in converted) else ""
        yield f"{', '.join(texts)} turned to {'grey' if channels == 1 else 'RGB'}{white}"
    if bits < 16:
        yield f"16-bit grey holds {bits} bits: {(1 << bits) - 1} became white, not 65535"
    if left_out:
        more = " …" if len(left_out) > 5 else ""
        yield f"left out {len(left_out)} images that cannot be read: {', '.join(left_out[:5])}{more}"


def of_files(
    root: Path,
    class_names: Sequence[str],
    files: Sequence[tuple[int, Path]],
    *,
    facts: Mapping[str, object] | None = None,
    parts: Mapping[str, Sequence[str]] | None = None,
    channels: int | None = None,
) -> Labelled:
    """Describes images in a file each, given as pairs of class number and path; `facts` are added to the files'."""

    def read() -> Iterator[Encoded]:
        for label, path in files:
            yield Encoded(label, str(path), path)

    stamps = images.stamps((path for _, path in files), root)
    return Labelled(root, class_names, read, len(files), {**stamps, **(facts or {})}, parts or {}, channels=channels)
