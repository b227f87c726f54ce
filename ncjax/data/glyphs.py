"""`glyphs`: rendered characters, without a download.

A class is a character; an image has a random font, stroke width, warp and noise. The images are the same bytes on every
machine: outlines come with ncjax (drawn by `ncjax.data.glyph_bank`) and are warped in integer arithmetic. No font is
rendered, no floating-point number is rounded, and only the raw bits of NumPy's generator are used, which do not change
between versions.
"""

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.resources import files
from typing import NamedTuple

import numpy as np

from ncjax.data.class_splits import random_class_split
from ncjax.data.data_set import ClassImages, DataSet, Request
from ncjax.errors import InputError
from ncjax.progress import progress

NUM_TARGET, NUM_VALIDATION, NUM_SOURCE = 20, 16, 64
SIZE = 28
IMAGES_PER_CLASS, TEST_PER_CLASS = 150, 50

# Letters without accents, digits and signs that all fonts of the bank have; of two characters whose outlines correlate
# by 0.85 or more (`glyph_bank.correlations`), only the first in Unicode order is kept.
CHARACTERS = (
    "!#$%&+0123456789<=>?@ABCDEGHJKLMNOPQRSTUVWXYZabdefgijkmnqrty¢£¤§ª¬±µ¶Æ×ØÞßæð÷øþĲ"
    "ĳŀŉŊŋŒƈƐƒƕƛƫƭƺƾǁǂɐɑɒɔɕɖɗɘəɚɜɝɞɠɣɤɧɩɫɭɮɰɲɳɷɸɹɺɻɼɾɿʁʂʅʆʇʉʊʋʍʎʏʐʑʒʕʖʗʚʛʞʡʣʤʦʧʨΓΞΣΦΨ"
    "ΩαβγζκλνξπρςτφχωϐϑϒϖϙϛϝϞϟϠϡϰϱЂЉЊЋЏДЖЛЧШЩЪЫЬЭЮЯгдмтфцєћѣҐ€ﬁ"
)

OUTLINE_SIDE = 80  # pixels; the longest side of every outline in the bank
EM = 320  # pixels; the font size that the bank's sizes are measured at

_ZOOM = 4  # pixels of an outline for each pixel of an image
_CANVAS = _ZOOM * SIZE
_STROKES = (0, 1, 2, 3)  # added around an outline, in 80ths of the font size
_BLUR = 5  # pixels of an outline; without blur, sampled edges would be ragged
_PARAMETERS = 16  # random numbers for an image, without the noise of its pixels
_ONE = 1 << 16  # a fixed-point number counts 65536ths
_TURN = 4096  # angles are counted in 4096ths of a turn
# No entry is near a rounding tie, so that every mathematical library gives the same numbers.
_SINE = np.array([round(math.sin(2 * math.pi * i / _TURN) * _ONE) for i in range(_TURN)], np.int64)


def open_data_set(request: Request) -> DataSet:
    """Draws target, validation and source classes from CHARACTERS; by default 64 of the 182 source classes are used."""
    split = random_class_split(
        len(CHARACTERS),
        target=NUM_TARGET,
        validation=NUM_VALIDATION,
        default_sources=NUM_SOURCE,
        seed=request.split_seed,
    )
    return DataSet(tuple(CHARACTERS), split, _draw_classes, made_with=bank().drawn_by)


def _draw_classes(classes: Sequence[int]) -> ClassImages:
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # NumPy draws without holding the interpreter's lock
        drawn = [pool.submit(draw, CHARACTERS[c], IMAGES_PER_CLASS) for c in classes]
        images = np.concatenate([task.result() for task in progress(drawn, "glyphs", "class")])
    labels = np.repeat(np.asarray(classes, np.int32), IMAGES_PER_CLASS)
    return ClassImages(
        images, labels, np.tile(np.arange(IMAGES_PER_CLASS) >= IMAGES_PER_CLASS - TEST_PER_CLASS, len(classes))
    )


def draw(character: str, count: int, seed: int = 0) -> np.ndarray:
    """Draws images of one of CHARACTERS, uint8 [count, 28, 28, 1].

    Image i depends only on the character, the seed and i.

    Raises:
      InputError: if the character is not in CHARACTERS.
    """
    ink, sizes = _ink(character)
    bits = np.random.PCG64(np.random.SeedSequence([seed, ord(character)]))
    raw = bits.random_raw((count, _PARAMETERS + SIZE * SIZE))
    unit = iter((raw[:, :_PARAMETERS, None] >> np.uint64(33)).astype(np.int64).swapaxes(0, 1))

    def between(low: int, high: int) -> np.ndarray:
        """Draws random integers from low, …, high - 1, int64 [count, 1]."""
        return low + (next(unit) * (high - low) >> 31)

    def fixed(low: float, high: float) -> np.ndarray:
        """Draws random fixed-point numbers between low and high, int64 [count, 1]."""
        return between(round(low * _ONE), round(high * _ONE))

    face, stroke = between(0, len(sizes)), between(0, len(_STROKES))
    # a stroke makes an outline larger on both sides; shrinking undoes that
    size = sizes[face]
    shrink = (size + 2 * stroke * EM // 80) * _ONE // size

    # An affine map about the centre, a shift and a smooth wave give the place in the outline of each pixel of an image.
    # The centre of an image lies between two pixels, so that places are fixed-point numbers of half pixels.
    half_pixels = 2 * np.arange(SIZE, dtype=np.int64) - (SIZE - 1)
    down, right = np.repeat(half_pixels, SIZE), np.tile(half_pixels, SIZE)
    angle = between(-130, 131)  # 0.2 radian to either side
    cos, sin = _SINE[angle + _TURN // 4 & _TURN - 1], _SINE[angle & _TURN - 1]
    shear = fixed(-0.15, 0.15)
    inside = np.ones((), bool)
    pixel = []
    for from_down, from_right in ((cos, sin), (-sin + (shear * cos >> 16), cos + (shear * sin >> 16))):
        stretch = _exp(fixed(-0.15, 0.15))
        place = (from_down * stretch >> 16) * down + (from_right * stretch >> 16) * right
        place += 2 * fixed(-1.5, 1.5)
        # Phases have 8 more bits than angles; 25033 a half pixel is 0.3 radian a pixel.
        phase = between(-25033, 25034) * down + between(-25033, 25034) * right + between(0, _TURN << 8)
        place += 2 * _SINE[phase >> 8 & _TURN - 1]
        place = place * shrink >> 16
        index = (place * (_ZOOM // 2) >> 16) + _CANVAS // 2
        inside = inside & (index >= 0) & (index < _CANVAS)
        pixel.append(index.clip(0, _CANVAS - 1))
    covered = np.where(inside, ink[stroke, face, pixel[0], pixel[1]], 0)  # of _BLUR²

    brightness = fixed(0.7 * 255 / _BLUR**2, 255 / _BLUR**2)
    # The sum of 8 uniform bytes is nearly normal, with mean 1020 and variance 8 (256² - 1) / 12.
    pixels = raw[:, _PARAMETERS:]
    noise = np.full(pixels.shape, -1020, np.int64)
    for byte in range(8):
        noise += (pixels >> np.uint64(8 * byte) & np.uint64(255)).astype(np.int64)
    noise *= fixed(5 / 209.02, 20 / 209.02)
    return (covered * brightness + noise >> 16).clip(0, 255).astype(np.uint8).reshape(count, SIZE, SIZE, 1)


def _exp(x: np.ndarray) -> np.ndarray:
    """Computes the exponential of small fixed-point numbers, by its series to the third power."""
    return _ONE + x + (x * x >> 17) + (x * x * x) // (6 << 32)


class Bank(NamedTuple):
    """Outlines of characters, in the order of CHARACTERS, in several fonts, in the order of `glyph_bank.FACES`.

    Attributes:
      outlines: bool [characters, faces, 80, 80], centred.
      sizes: the longest side of each character's box in pixels at the font size EM, int64 [characters, faces].
      drawn_by: the programs that drew them, with their versions.
    """

    outlines: np.ndarray
    sizes: np.ndarray
    drawn_by: dict[str, str]


@cache
def bank() -> Bank:
    """Reads the outlines that come with ncjax."""
    with (files("ncjax.data") / "glyphs.npz").open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return Bank(
            np.unpackbits(arrays["outlines"], axis=-1).astype(bool),
            arrays["sizes"].astype(np.int64),
            dict(arrays["drawn_by"].tolist()),
        )


def _ink(character: str) -> tuple[np.ndarray, np.ndarray]:
    """Counts the covered pixels among the 5 x 5 around each pixel.

    Returns:
      The counts, uint8 [strokes, faces, 112, 112]; the sizes of the character, [faces].
    """
    number = CHARACTERS.find(character)
    if number < 0 or len(character) != 1:
        raise InputError(f"{character!r} is no character of glyphs; choose one of {CHARACTERS}")
    outlines, sizes = bank().outlines[number], bank().sizes[number]
    margin = (_CANVAS - OUTLINE_SIDE) // 2
    distance = _squared_distance(np.pad(outlines, ((0, 0), (margin, margin), (margin, margin))))
    radii = np.array(_STROKES, np.int32) * (EM * OUTLINE_SIDE // 80)  # times the size of the face
    scaled = distance * np.square(sizes).astype(np.int32)[:, None, None]
    ink = (scaled <= np.square(radii)[:, None, None, None]).astype(np.uint8)
    for axis in (2, 3):  # the margin is blank, so that nothing wraps around
        ink = np.sum([np.roll(ink, step, axis) for step in range(-(_BLUR // 2), _BLUR // 2 + 1)], 0, np.uint8)
    return ink, sizes


def _squared_distance(shapes: np.ndarray, reach: int = 8) -> np.ndarray:
    """Computes each pixel's squared distance to the shape in bool [n, h, w], int32; inexact above reach²."""
    distance = np.where(shapes, 0, 4 * reach**2).astype(np.int32)
    for _ in range(2):  # along columns, then along rows: squared distances add up
        nearest = distance.copy()
        for step in range(1, reach + 1):
            for to, of in ((slice(step, None), slice(-step)), (slice(-step), slice(step, None))):
                np.minimum(nearest[:, to], distance[:, of] + step**2, out=nearest[:, to])
        distance = nearest.swapaxes(1, 2)
    return distance
