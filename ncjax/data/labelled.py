"""Labelled images of the user's own, in whatever files they come: prepared once, then read like any data set."""

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
"""The data sets that are prepared from images of the user's, which may change."""
DEFAULT_SIZE = 84
_AT_ONCE = 256


@dataclass(frozen=True)
class Labelled:
    """Labelled images where they lie, before any is decoded: what the module of each format makes of files.

    Attributes:
      root: the folder or file that they come from.
      class_names: of all classes; an image's class number is a place among these.
      read: goes through the images, each time anew, in an order that the files alone decide.
      count: of the images.
      facts: what tells them from other images at that root, as `images.stamps` does.
      parts: names of the source, validation and target classes where the files divide them; else empty.
      size: side in pixels where the user asks for none.
      channels: 1 or 3; None to look at the images.
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


def open_labelled(kind: str, request: Request, found: Labelled) -> DataSet:
    """The data set of these images: their classes divided, and the images prepared where they are not yet.

    Raises InputError for a split that does not fit, said before images are prepared, and images that cannot be read.
    """
    split, superclasses = class_splits.choose(request.class_split, found.class_names, found.parts, request.split_seed)
    prepared = _prepare(kind, request, found)
    return dataclasses.replace(prepared.data_set(split, found.superclasses or superclasses), by_class=True)


def _prepare(kind: str, request: Request, found: Labelled) -> prepared_files.PreparedFiles:
    size, skip_corrupt = request.image_size or found.size, request.skip_corrupt
    contents = (image.content for image in found.read())
    channels = found.channels or images.channels_of(contents, found.count)
    kinds: Counter[tuple[str, bool]] = Counter()
    left_out: list[str] = []
    bits = 16
    looked = found.channels is not None

    def decoded() -> Iterator[tuple[np.ndarray, int]]:
        nonlocal bits, looked
        encoded = found.read()
        with ThreadPoolExecutor() as pool:  # Pillow decodes and resizes outside the interpreter lock
            while chunk := list(itertools.islice(encoded, _AT_ONCE)):
                if not looked and not all(images.has_eight_bits(image.content) for image in chunk):
                    # only of the images from here on it matters how many bits there are
                    bits = images.bits_of_grey(kind, (image.content for image in found.read()), found.count)
                    looked = True
                results = pool.map(partial(attempt, size=size, channels=channels, grey_bits=bits), chunk)
                for image, result in zip(chunk, results, strict=True):
                    if not isinstance(result, InputError):
                        kinds[result.mode, result.transparent] += 1
                        yield result.pixels, image.label
                    elif skip_corrupt:
                        left_out.append(image.where)
                        last = result
                    else:
                        raise InputError(f"{result}; mend or remove it, or leave such images out with skip_corrupt")
        if not kinds:
            raise InputError(f"none of {len(left_out)} images can be read; for example {last}")

    settings = {"image_size": size, "channels": channels, "skip_corrupt": skip_corrupt}
    made_from = archives.digest({**found.facts, **settings})
    what = record_writer.Contents(
        description=f"from {os.fsencode(found.root.resolve()).decode(errors='backslashreplace')}",
        homepage="",
        image_shape=(size, size, channels),
        class_names=tuple(found.class_names),
        parts={"images": decoded},
        count=found.count,
        left_out=left_out,
        source=found.root.resolve(),
        settings=settings,
    )
    prepared = record_writer.prepare(kind, VERSION, made_from, lambda: what)
    for line in _remarks(kinds, prepared.left_out, channels, bits):
        remark(f"{kind}: {line}")
    return prepared


def _remarks(kinds: Counter[tuple[str, bool]], left_out: Sequence[str], channels: int, bits: int) -> Iterator[str]:
    """What was done to images that are not as the data set has them; `kinds` counts them by mode and transparency."""
    wanted = "L" if channels == 1 else "RGB"
    turned = {kind: n for kind, n in sorted(kinds.items()) if kind != (wanted, False)}
    if turned:
        which = (f"{n} of mode {mode}{' with transparency' if clear else ''}" for (mode, clear), n in turned.items())
        white = "; what is transparent became white" if any(clear for _, clear in turned) else ""
        yield f"{', '.join(which)} turned to {'grey' if channels == 1 else 'RGB'}{white}"
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
    """Images that lie in files of their own, given as pairs of class number and path; `facts` beyond the files'."""

    def read() -> Iterator[Encoded]:
        for label, path in files:
            yield Encoded(label, str(path), path)

    stamps = images.stamps((path for _, path in files), root)
    return Labelled(root, class_names, read, len(files), {**stamps, **(facts or {})}, parts or {}, channels=channels)
