"""Image files of any kind made into arrays of one size."""

import io
import itertools
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from ncjax.data import archives, records
from ncjax.errors import InputError, first_line

VERSION = "1.0.0"
_GREY = {"1", "L", "I;16", "I;16L", "I;16B", "I;16N", "I", "F"}
_AT_ONCE = 256


@dataclass(frozen=True)
class Encoded:
    """One image file: its class number, what to call it in messages, its bytes or the file that holds them."""

    label: int
    where: str
    content: bytes | Path


class Decoded(NamedTuple):
    """An image as uint8 [size, size, channels], the mode that its file has, and whether any of it was transparent."""

    pixels: np.ndarray
    mode: str
    transparent: bool


def decode(image: Encoded, size: int | None, channels: int) -> Decoded:
    """The image in a file.

    Turned as its EXIF orientation says, and resized with antialiasing to a square, whatever its proportions (None: left
    as it is); what is transparent becomes white; of 16-bit grey the upper 8 bits are kept. Raises InputError, naming
    the file, if it cannot be read, or has 32-bit pixels, of which no one can say what is white.
    """
    try:
        source = image.content if isinstance(image.content, Path) else io.BytesIO(image.content)
        with Image.open(source) as opened:
            mode = opened.mode
            if size is not None:
                opened.draft(None, (2 * size, 2 * size))  # JPEG: decode at no more than the resolution needed
            picture: Image.Image = ImageOps.exif_transpose(opened)
            transparent = False
            if mode in ("I", "F"):
                raise ValueError(f"32-bit pixels, mode {mode}, have no known range: convert it to 8 or 16 bits")
            if mode.startswith("I;16"):
                # Pillow clips 16-bit grey to 255 instead of scaling it, and knows no transparency of it.
                grey = np.asarray(picture).astype(np.uint32)
                clear = grey == opened.info.get("transparency", -1)
                transparent = bool(clear.any())
                picture = Image.fromarray(np.where(clear, 255, grey >> 8).astype(np.uint8))
            elif "A" in mode or "transparency" in opened.info:
                rgba = picture.convert("RGBA")
                transparent = rgba.getchannel("A").getextrema() != (255, 255)
                picture = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
            picture = picture.convert("L" if channels == 1 else "RGB")
            if size is not None and picture.size != (size, size):
                picture = picture.resize((size, size), Image.Resampling.LANCZOS)
            return Decoded(np.asarray(picture).reshape(picture.height, picture.width, channels), mode, transparent)
    except UnidentifiedImageError as error:
        raise InputError(f"{image.where} is not an image, or of a format that Pillow does not read") from error
    except Exception as error:  # every reader of a format has errors of its own: AVIF's are RuntimeErrors
        raise InputError(f"{image.where} cannot be read as an image ({first_line(error)})") from error


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
) -> records.Prepared:
    """Prepared files of images read one after another, from `source`; `facts` tell them from others of that name."""

    kinds: Counter[tuple[str, bool]] = Counter()
    left_out: list[str] = []

    def attempt(image: Encoded) -> Decoded | InputError:
        try:
            return decode(image, size, channels)
        except InputError as error:
            return error

    def decoded() -> Iterator[tuple[np.ndarray, int]]:
        encoded = iter(images())
        with ThreadPoolExecutor() as pool:  # Pillow decodes and resizes outside the interpreter lock
            while chunk := list(itertools.islice(encoded, _AT_ONCE)):
                for image, result in zip(chunk, pool.map(attempt, chunk), strict=True):
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

    made_from = archives.digest({**facts, "image_size": size, "channels": channels, "skip_corrupt": skip_corrupt})
    contents = records.Contents(
        description=f"from {source.resolve()}",
        homepage="",
        image_shape=(size, size, channels),
        class_names=tuple(class_names),
        parts={"images": decoded},
        count=count,
        left_out=left_out,
    )
    prepared = records.prepare(name, VERSION, made_from, lambda: contents)
    for line in _remarks(kinds, prepared.left_out, channels):
        tqdm.write(f"{name}: {line}", file=sys.stderr)
    return prepared


def _remarks(kinds: Counter[tuple[str, bool]], left_out: Sequence[str], channels: int) -> Iterator[str]:
    """What was done to images that are not as the data set has them; `kinds` counts them by mode and transparency."""
    wanted = "L" if channels == 1 else "RGB"
    turned = {kind: n for kind, n in sorted(kinds.items()) if kind != (wanted, False)}
    if turned:
        which = (f"{n} of mode {mode}{' with transparency' if clear else ''}" for (mode, clear), n in turned.items())
        white = "; what is transparent became white" if any(clear for _, clear in turned) else ""
        yield f"{', '.join(which)} turned to {'grey' if channels == 1 else 'RGB'}{white}"
    if left_out:
        more = " …" if len(left_out) > 5 else ""
        yield f"left out {len(left_out)} images that cannot be read: {', '.join(left_out[:5])}{more}"


def listing(folder: Path) -> list[Path]:
    """The image files directly in a folder, by name; what Pillow knows no format for by its ending is passed over."""
    endings = {ending for ending, format in Image.registered_extensions().items() if format in Image.OPEN}
    return sorted(
        p for p in folder.iterdir() if p.suffix.lower() in endings and not p.name.startswith(".") and p.is_file()
    )


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, by name, without hidden ones."""
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def stamps(paths: Iterable[Path], root: Path) -> dict[str, object]:
    """What tells whether files changed: their sizes and times."""
    facts: dict[str, object] = {"root": str(root.resolve())}
    for path in paths:
        status = path.stat()
        facts[str(path.relative_to(root))] = (status.st_size, status.st_mtime_ns)
    return facts


def channels_of(paths: Iterable[Path]) -> int:
    """1 if all images are grey, else 3; images that cannot be opened do not count here."""
    for path in tqdm(paths, desc="looking at images", unit="image", delay=2, leave=False):
        try:
            with Image.open(path) as image:
                if image.mode not in _GREY:
                    return 3
        except Exception:  # as in `decode`
            continue
    return 1
