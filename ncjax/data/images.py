"""Image files of any kind made into arrays of one size."""

import io
import itertools
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ncjax.data import archives, records
from ncjax.errors import InputError, first_line
from ncjax.progress import progress, remark

VERSION = "1.1.0"  # 1.0.0 kept the upper 8 bits of all 16-bit images
_GREY = {"1", "L", "I;16", "I;16L", "I;16B", "I;16N", "I", "F"}
_SIXTEEN_BITS = re.compile(";16[BLN]")  # in the way in which Pillow names how a file's pixels are packed
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


def decode(image: Encoded, size: int | None, channels: int, grey_bits: int = 16) -> Decoded:
    """The image in a file.

    Turned as its EXIF orientation says, and resized with antialiasing to a square, whatever its proportions (None: left
    as it is); what is transparent becomes white; of 16-bit grey the upper 8 of the lower `grey_bits` bits are kept.
    Raises InputError, naming the file, if it cannot be read, or has 32-bit pixels, of which no one can say what is
    white.
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
                grey, clear = _sixteen_bits(opened, picture)
                transparent = bool(clear.any())
                picture = Image.fromarray(np.where(clear, 255, grey >> (grey_bits - 8)).clip(0, 255).astype(np.uint8))
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
        reason = first_line(error)
        if isinstance(image.content, Path) and is_dangling(image.content):
            reason = "a link to what is not there"
        raise InputError(f"{image.where} cannot be read as an image ({reason})") from error


def _sixteen_bits(opened: Image.Image, picture: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """The pixels of 16-bit grey, uint32 [h, w], and which of them are transparent."""
    grey = np.asarray(picture).astype(np.uint32)
    return grey, grey == opened.info.get("transparency", -1)


def bits_of_grey(name: str, paths: Sequence[Path]) -> int:
    """How many bits the 16-bit grey images of a data set use: the least of 8, 10, 12, 14 and 16 that holds all pixels.

    Cameras and scanners write 10 to 14 bits into 16-bit files, and all images of a data set must be scaled alike.
    Says so of 16-bit colour that is as dark: Pillow reads the upper 8 bits of it alone, which leaves nothing to scale.
    """
    peak = colour_peak = colour_images = 0
    for path in progress(paths, "looking at 16-bit images", "image"):
        try:
            with Image.open(path) as image:
                if image.mode.startswith("I;16"):
                    grey, clear = _sixteen_bits(image, image)
                    peak = max(peak, int(grey[~clear].max(initial=0)))
                elif _SIXTEEN_BITS.search(str(getattr(image, "tile", ""))):
                    colour_peak = max(colour_peak, int(np.asarray(image.convert("RGB")).max()))
                    colour_images += 1
        except Exception:  # as in `decode`, which says it
            continue
    if colour_images and colour_peak < 64:  # 14 bits, or less
        remark(
            f"{name}: {colour_images} 16-bit colour images hold no value above {(colour_peak + 1 << 8) - 1} and come "
            "out dark; convert them to 8 bits a channel"
        )
    return next(bits for bits in (8, 10, 12, 14, 16) if peak < 1 << bits) if peak else 16


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

    def attempt(image: Encoded) -> Decoded | InputError:
        try:
            return decode(image, size, channels, bits)
        except InputError as error:
            return error

    def decoded() -> Iterator[tuple[np.ndarray, int]]:
        nonlocal bits
        bits = grey_bits()
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


class Listing(NamedTuple):
    """What is directly in a folder, by name: image files, other files and folders; without hidden ones."""

    images: list[Path]
    others: list[Path]
    folders: list[Path]


def listing(folder: Path) -> Listing:
    """Looks into a folder; an image file is one whose ending Pillow knows a format for.

    A link to what is not there counts by its name: that it cannot be read is said when it is read.
    Raises InputError if the folder cannot be read.
    """
    try:
        with os.scandir(folder) as opened:  # knows what is a folder without asking for each
            entries = sorted((e for e in opened if not e.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"cannot read the folder {folder}: {error.strerror}") from error
    endings = _endings()
    found = Listing([], [], [])
    for entry in entries:
        path = folder / entry.name
        if entry.is_dir():
            found.folders.append(path)
        elif path.suffix.lower() in endings and (entry.is_file() or is_dangling(path)):
            found.images.append(path)
        else:
            found.others.append(path)
    return found


def is_dangling(path: Path) -> bool:
    """Whether this is a link to what is not there."""
    return path.is_symlink() and not path.exists()


def _endings() -> set[str]:
    """Those of the formats that Pillow reads, with the readers that a caller has registered."""
    return {ending for ending, format in Image.registered_extensions().items() if format in Image.OPEN}


def remark_on_rest(name: str, root: Path, listings: Sequence[Listing]) -> None:
    """Says what of the folders of a data set is not read."""
    others = [path for listing in listings for path in listing.others]
    if others:
        counts = Counter(path.suffix.lower() or "no ending" for path in others)
        kinds = ", ".join(f"{count} of {ending}" for ending, count in counts.most_common(5))
        remark(
            f"{name}: passed over {len(others)} files that are no images by their endings or belong to no class "
            f"({kinds}): {_some(others, root)}"
        )
    endings = _endings()
    below = (walked for listing in listings for folder in listing.folders for walked in os.walk(folder))
    files = (Path(folder, name) for folder, _, names in below for name in names if not name.startswith("."))
    deeper = sorted(path for path in files if path.suffix.lower() in endings)
    if deeper:
        remark(
            f"{name}: passed over {len(deeper)} images in folders inside of class folders: {_some(deeper, root)}; move "
            "them up to have them read"
        )


def _some(paths: Sequence[Path], root: Path) -> str:
    shown = ", ".join(str(path.relative_to(root)) for path in paths[:5])
    return f"{shown}{' …' if len(paths) > 5 else ''}"


def stamps(paths: Iterable[Path], root: Path) -> dict[str, object]:
    """What tells whether files changed: their sizes and times."""
    facts: dict[str, object] = {"root": str(root.resolve())}
    for path in paths:
        try:
            status = path.stat()
        except FileNotFoundError:  # a link to what is not there
            status = path.lstat()
        facts[str(path.relative_to(root))] = (status.st_size, status.st_mtime_ns)
    return facts


def channels_of(paths: Sequence[Path]) -> int:
    """1 if all images are grey, else 3; images that cannot be opened do not count here."""
    for path in progress(paths, "looking at images", "image"):
        try:
            with Image.open(path) as image:
                if image.mode not in _GREY:
                    return 3
        except Exception:  # as in `decode`
            continue
    return 1
