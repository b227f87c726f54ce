"""Image files of any format, decoded to arrays of one size."""

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
_SIXTEEN_BITS = re.compile(";16[BLN]")  # as in Pillow's names of pixel packings


Content: TypeAlias = bytes | Path | np.ndarray
"""The content of an image: the bytes of an image file, its path, or pixels uint8 [h, w, c] or [h, w]."""


@dataclass(frozen=True)
class Encoded:
    """An image before it is decoded.

    Attributes:
      label: its class number.
      where: its name in messages.
      content: its file or pixels.
    """

    label: int
    where: str
    content: Content


def _open(content: Content) -> Image.Image:
    if isinstance(content, np.ndarray):
        return Image.fromarray(content[..., 0] if content.ndim == 3 and content.shape[-1] == 1 else content)
    return Image.open(content if isinstance(content, Path) else io.BytesIO(content))


class Decoded(NamedTuple):
    """A decoded image.

    Attributes:
      pixels: uint8 [size, size, channels].
      mode: Pillow's mode of the file.
      transparent: whether some pixel was transparent.
    """

    pixels: np.ndarray
    mode: str
    transparent: bool


def decode(image: Encoded, size: int | None, channels: int, grey_bits: int = 16) -> Decoded:
    """Decodes an image.

    It is turned by its EXIF orientation and resized to a square with antialiasing, whatever its proportions;
    transparent pixels become white.

    Args:
      image: the image.
      size: the side of the square; None keeps the size.
      channels: 1 or 3.
      grey_bits: the number of bits that 16-bit grey uses; the upper 8 of these are kept.

    Raises:
      InputError: if it cannot be read, or has 32-bit pixels, whose range is not known; the message names the file.
    """
    try:
        if isinstance(image.content, Path) and image.content.suffix.lower() in (".heic", ".heif"):
            _register_heif()
        with _open(image.content) as opened:
            mode = opened.mode
            if size is not None:
                opened.draft(None, (2 * size, 2 * size))  # decodes JPEG at a lower resolution where possible
            picture: Image.Image = ImageOps.exif_transpose(opened)
            transparent = False
            if mode in ("I", "F"):
                raise ValueError(f"32-bit pixels, mode {mode}, have no known range: convert it to 8 or 16 bits")
            if mode.startswith("I;16"):
                # Pillow clips 16-bit grey to 255 instead of scaling it, and ignores its transparency
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
    except Exception as error:  # formats raise different errors, AVIF RuntimeError
        reason = first_line(error)
        if isinstance(image.content, Path) and is_dangling(image.content):
            reason = "a broken link"
        raise InputError(f"{image.where} cannot be read as an image ({reason})") from error


def _sixteen_bits(opened: Image.Image, picture: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """Returns the pixels of 16-bit grey, uint32 [h, w], and whether each is transparent."""
    grey = np.asarray(picture).astype(np.uint32)
    return grey, grey == opened.info.get("transparency", -1)


def bits_of_grey(name: str, contents: Iterable[Content], count: int | None = None) -> int:
    """Returns the number of bits that the 16-bit grey images of a data set use: 8, 10, 12, 14 or 16.

    Cameras and scanners write 10 to 14 bits into 16-bit files, and all images of a data set must be scaled alike.
    Prints a message about 16-bit colour images that use so few bits: Pillow reads only their upper 8 bits, so that they
    cannot be scaled.
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
        except Exception:  # `decode` reports it
            continue
    if colour_images and colour_peak < 64:  # 14 bits, or less
        remark(
            f"{name}: {colour_images} 16-bit colour images hold no value above {(colour_peak + 1 << 8) - 1} and come "
            "out dark; convert them to 8 bits a channel"
        )
    return next(bits for bits in (8, 10, 12, 14, 16) if peak < 1 << bits) if peak else 16


class Listing(NamedTuple):
    """The image files, other files and folders directly in a folder, sorted by name, without hidden ones."""

    images: list[Path]
    others: list[Path]
    folders: list[Path]


def listing(folder: Path) -> Listing:
    """Lists a folder; image files are files with the extension of a format that Pillow reads, or broken links of such.

    Raises:
      InputError: if the folder cannot be read.
    """
    try:
        with os.scandir(folder) as opened:  # faster than Path.iterdir with is_dir
            entries = sorted((e for e in opened if not e.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"cannot read the folder {folder}: {error.strerror}") from error
    extensions = _extensions()
    contents = Listing([], [], [])
    for entry in entries:
        path = folder / entry.name
        if entry.is_dir():
            contents.folders.append(path)
        elif path.suffix.lower() in extensions and (entry.is_file() or is_dangling(path)):
            contents.images.append(path)
        else:
            contents.others.append(path)
    return contents


def is_dangling(path: Path) -> bool:
    """Whether this is a broken link."""
    return path.is_symlink() and not path.exists()


@functools.cache
def _register_heif() -> bool:
    """Lets Pillow read HEIC, which many phones write, if pillow-heif is installed; returns whether it is."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def heic_hint(paths: Iterable[Path]) -> str:
    """Returns advice about HEIC images that cannot be read; empty where there are none."""
    any_heic = any(path.suffix.lower() in (".heic", ".heif") for path in paths)
    return '; HEIC needs pillow-heif: pip install "ncjax[heic]"' if any_heic and not _register_heif() else ""


def _extensions() -> set[str]:
    """Returns the file extensions of formats that Pillow reads, with readers that the caller has registered."""
    _register_heif()
    return {extension for extension, format in Image.registered_extensions().items() if format in Image.OPEN}


def files_at(places: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Collects image files: given files, whatever their extension, and images directly in given folders, by name.

    Raises:
      InputError: if a path does not exist, or a folder has no images.
    """
    files: list[Path] = []
    for place in [places] if isinstance(places, str | os.PathLike) else places:
        path = expand(place)
        if path.is_dir():
            inside = listing(path).images
            if not inside:
                raise InputError(f"{path} has no images of a format that Pillow reads; name a folder of images")
            files += inside
        elif path.exists():
            files.append(path)
        else:
            raise InputError(f"{path} does not exist; name image files, or folders of them")
    return files


def read_files(
    paths: Sequence[Path], size: int, channels: int, *, at_once: int, skip_corrupt: bool
) -> Iterator[tuple[list[Path], np.ndarray]]:
    """Yields up to `at_once` image files at a time: their paths, and uint8 [n, size, size, channels].

    With skip_corrupt, files that cannot be read are skipped, with a message at the end.

    Raises:
      InputError: if a file cannot be read; with skip_corrupt, only if no file can be read.
    """
    left_out: list[str] = []
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(paths), at_once):
            chunk = paths[start : start + at_once]
            results = list(pool.map(lambda path: attempt(Encoded(0, str(path), path), size, channels), chunk))
            good = [
                (path, result.pixels)
                for path, result in zip(chunk, results, strict=True)
                if isinstance(result, Decoded)
            ]
            for result in results:
                if isinstance(result, InputError):
                    if not skip_corrupt:
                        raise result
                    left_out.append(str(result))
            if good:
                yield [path for path, _ in good], np.stack([pixels for _, pixels in good])
    if left_out and len(left_out) == len(paths):
        raise InputError(f"none of {len(paths)} images can be read; for example {left_out[-1]}")
    for line in left_out:
        remark(f"left out: {line}")


def attempt(image: Encoded, size: int | None, channels: int, grey_bits: int = 16) -> Decoded | InputError:
    """Decodes an image; returns the error instead of raising it."""
    try:
        return decode(image, size, channels, grey_bits)
    except InputError as error:
        return error


def remark_on_rest(name: str, root: Path, listings: Sequence[Listing]) -> None:
    """Prints which contents of a data set's folders are not read."""
    others = [path for listing in listings for path in listing.others]
    if others:
        counts = Counter(path.suffix.lower() or "no extension" for path in others)
        kinds = ", ".join(f"{count} of {extension}" for extension, count in counts.most_common(5))
        remark(
            f"{name}: skipped {len(others)} files that are no images by their extensions or belong to no class "
            f"({kinds}): {_some(others, root)}{heic_hint(others)}"
        )
    extensions = _extensions()
    below = (walked for listing in listings for folder in listing.folders for walked in os.walk(folder))
    files = (Path(folder, name) for folder, _, names in below for name in names if not name.startswith("."))
    deeper = sorted(path for path in files if path.suffix.lower() in extensions)
    if deeper:
        remark(
            f"{name}: skipped {len(deeper)} images in folders inside of class folders: {_some(deeper, root)}; move "
            "them up to read them"
        )


def _some(paths: Sequence[Path], root: Path) -> str:
    shown = ", ".join(str(path.relative_to(root)) for path in paths[:5])
    return f"{shown}{' …' if len(paths) > 5 else ''}"


def stamps(paths: Iterable[Path], root: Path) -> dict[str, object]:
    """Returns the sizes and times of files, which tell whether they changed."""
    facts: dict[str, object] = {"root": str(root.resolve())}
    for path in paths:
        try:
            status = path.stat()
        except FileNotFoundError:  # a broken link
            status = path.lstat()
        facts[str(path.relative_to(root))] = (status.st_size, status.st_mtime_ns)
    return facts


def has_eight_bits(content: Content) -> bool:
    """Whether an image is known, without opening it, to have no more than 8 bits a channel (JPEG and most PNG)."""
    if isinstance(content, Path):
        return content.suffix.lower() in (".jpg", ".jpeg")
    if isinstance(content, np.ndarray):
        return True
    return content.startswith(b"\xff\xd8\xff") or (content.startswith(b"\x89PNG\r\n") and content[24:25] != b"\x10")


def channels_of(contents: Iterable[Content], count: int | None = None) -> int:
    """Returns 1 if all images that can be opened are grey, otherwise 3."""
    for content in progress_bar("looking at images", "image", iterable=contents, total=count):
        try:
            with _open(content) as image:
                if image.mode not in _GREY:
                    return 3
        except Exception:  # `decode` reports it
            continue
    return 1
