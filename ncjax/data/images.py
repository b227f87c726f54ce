"""Image files of any kind made into arrays of one size."""

import functools
import io
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ncjax.errors import InputError, first_line
from ncjax.files import expand
from ncjax.progress import progress_bar, remark

_GREY = {"1", "L", "I;16", "I;16L", "I;16B", "I;16N", "I", "F"}
_SIXTEEN_BITS = re.compile(";16[BLN]")  # in the way in which Pillow names how a file's pixels are packed


Content: TypeAlias = bytes | Path | np.ndarray
"""Of one image: the bytes of an image file, the file that holds them, or pixels uint8 [h, w, c] or [h, w]."""


@dataclass(frozen=True)
class Encoded:
    """One image: its class number, what to call it in messages, its content."""

    label: int
    where: str
    content: Content


def _open(content: Content) -> Image.Image:
    if isinstance(content, np.ndarray):
        return Image.fromarray(content[..., 0] if content.ndim == 3 and content.shape[-1] == 1 else content)
    return Image.open(content if isinstance(content, Path) else io.BytesIO(content))


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
        if isinstance(image.content, Path) and image.content.suffix.lower() in (".heic", ".heif"):
            _register_heif()
        with _open(image.content) as opened:
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
        hint = heic_hint([image.content]) if isinstance(image.content, Path) else ""
        raise InputError(f"{image.where} is not an image, or of a format that Pillow does not read{hint}") from error
    except Exception as error:  # every reader of a format has errors of its own: AVIF's are RuntimeErrors
        reason = first_line(error)
        if isinstance(image.content, Path) and is_dangling(image.content):
            reason = "a link to what is not there"
        raise InputError(f"{image.where} cannot be read as an image ({reason})") from error


def _sixteen_bits(opened: Image.Image, picture: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """The pixels of 16-bit grey, uint32 [h, w], and which of them are transparent."""
    grey = np.asarray(picture).astype(np.uint32)
    return grey, grey == opened.info.get("transparency", -1)


def bits_of_grey(name: str, contents: Iterable[Content], count: int | None = None) -> int:
    """How many bits the 16-bit grey images of a data set use: the least of 8, 10, 12, 14 and 16 that holds all pixels.

    Cameras and scanners write 10 to 14 bits into 16-bit files, and all images of a data set must be scaled alike.
    Says so of 16-bit colour that is as dark: Pillow reads the upper 8 bits of it alone, which leaves nothing to scale.
    """
    peak = colour_peak = colour_images = 0
    for content in progress_bar("looking at 16-bit images", "image", iterable=contents, total=count):
        if has_eight_bits(content):
            continue
        try:
            with _open(content) as image:
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


@functools.cache
def _register_heif() -> bool:
    """Lets Pillow read HEIC, the photographs of many telephones, where pillow-heif is installed."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def heic_hint(paths: Iterable[Path]) -> str:
    """What to do about HEIC images that are passed over; empty where there are none."""
    found = any(path.suffix.lower() in (".heic", ".heif") for path in paths)
    return '; HEIC needs pillow-heif: pip install "ncjax[heic]"' if found and not _register_heif() else ""


def _endings() -> set[str]:
    """Those of the formats that Pillow reads, with the readers that a caller has registered."""
    _register_heif()
    return {ending for ending, format in Image.registered_extensions().items() if format in Image.OPEN}


def files_at(places: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Image files: those named, whatever their ending, and those directly in the folders named, by name.

    Raises InputError for what is not there, and folders without images.
    """
    found: list[Path] = []
    for place in [places] if isinstance(places, str | os.PathLike) else places:
        path = expand(place)
        if path.is_dir():
            inside = listing(path).images
            if not inside:
                raise InputError(f"{path} has no images of a format that Pillow reads; name a folder that has")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise InputError(f"{path} does not exist; name image files, or folders of them")
    return found


def read_files(
    paths: Sequence[Path], size: int, channels: int, *, at_once: int, skip_corrupt: bool
) -> Iterator[tuple[list[Path], np.ndarray]]:
    """Image files as uint8 [n, size, size, channels], up to `at_once` at a time, each with its path.

    With skip_corrupt, files that cannot be read are left out, and that is said.
    Raises InputError for a file that cannot be read, with skip_corrupt only where none can.
    """
    left_out: list[str] = []
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(paths), at_once):
            chunk = paths[start : start + at_once]
            results = list(pool.map(lambda path: attempt(Encoded(0, str(path), path), size, channels), chunk))
            good = [
                (path, found.pixels) for path, found in zip(chunk, results, strict=True) if isinstance(found, Decoded)
            ]
            for found in results:
                if isinstance(found, InputError):
                    if not skip_corrupt:
                        raise found
                    left_out.append(str(found))
            if good:
                yield [path for path, _ in good], np.stack([pixels for _, pixels in good])
    if left_out and len(left_out) == len(paths):
        raise InputError(f"none of {len(paths)} images can be read; for example {left_out[-1]}")
    for line in left_out:
        remark(f"left out: {line}")


def attempt(image: Encoded, size: int | None, channels: int, grey_bits: int = 16) -> Decoded | InputError:
    """As `decode`, but what it raises is returned."""
    try:
        return decode(image, size, channels, grey_bits)
    except InputError as error:
        return error


def remark_on_rest(name: str, root: Path, listings: Sequence[Listing]) -> None:
    """Says what of the folders of a data set is not read."""
    others = [path for listing in listings for path in listing.others]
    if others:
        counts = Counter(path.suffix.lower() or "no ending" for path in others)
        kinds = ", ".join(f"{count} of {ending}" for ending, count in counts.most_common(5))
        remark(
            f"{name}: passed over {len(others)} files that are no images by their endings or belong to no class "
            f"({kinds}): {_some(others, root)}{heic_hint(others)}"
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


def has_eight_bits(content: Content) -> bool:
    """Whether pixels of more bits are out of the question without opening the image: JPEG, or PNG that says so."""
    if isinstance(content, Path):
        return content.suffix.lower() in (".jpg", ".jpeg")
    if isinstance(content, np.ndarray):
        return True
    return content.startswith(b"\xff\xd8\xff") or (content.startswith(b"\x89PNG\r\n") and content[24:25] != b"\x10")


def channels_of(contents: Iterable[Content], count: int | None = None) -> int:
    """1 if all images are grey, else 3; images that cannot be opened do not count here."""
    for content in progress_bar("looking at images", "image", iterable=contents, total=count):
        try:
            with _open(content) as image:
                if image.mode not in _GREY:
                    return 3
        except Exception:  # as in `decode`
            continue
    return 1
