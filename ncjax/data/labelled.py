"""Labelled images of the user's own, in whatever files they come: prepared once, then read like any data set."""

import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ncjax.data import archives, records
from ncjax.data.images import Encoded, attempt
from ncjax.errors import InputError
from ncjax.progress import remark

VERSION = "1.1.0"  # 1.0.0 kept the upper 8 bits of all 16-bit images
_AT_ONCE = 256


def prepare(
    name: str,
    images: Callable[[], Iterable[Encoded]],
    *,
    source: Path,
    class_names: Sequence[str],
    facts: dict[str, object],
    size: int,
    channels: int,
    count: int,
    skip_corrupt: bool,
    grey_bits: Callable[[], int] = lambda: 16,
) -> records.Prepared:
    """Prepared files of images read one after another, from `source`; `facts` tell them from others of that name.

    `grey_bits` says how many bits 16-bit grey images use; it is called only where files are prepared.
    """

    kinds: Counter[tuple[str, bool]] = Counter()
    left_out: list[str] = []
    bits = 16

    def decoded() -> Iterator[tuple[np.ndarray, int]]:
        nonlocal bits
        bits = grey_bits()
        encoded = iter(images())
        with ThreadPoolExecutor() as pool:  # Pillow decodes and resizes outside the interpreter lock
            while chunk := list(itertools.islice(encoded, _AT_ONCE)):
                for image, result in zip(
                    chunk, pool.map(lambda one: attempt(one, size, channels, bits), chunk), strict=True
                ):
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
    made_from = archives.digest({**facts, **settings})
    contents = records.Contents(
        description=f"from {os.fsencode(source.resolve()).decode(errors='backslashreplace')}",
        homepage="",
        image_shape=(size, size, channels),
        class_names=tuple(class_names),
        parts={"images": decoded},
        count=count,
        left_out=left_out,
        source=source.resolve(),
        settings=settings,
    )
    prepared = records.prepare(name, VERSION, made_from, lambda: contents)
    for line in _remarks(kinds, prepared.left_out, channels, bits):
        remark(f"{name}: {line}")
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
