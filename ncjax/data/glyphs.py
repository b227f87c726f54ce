"""`glyphs`: characters of many faces, drawn when they are loaded; nothing is downloaded.

The images are rendered, not collected: a class is one character, an image one random face, stroke, warp and noise.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from tqdm import tqdm

from ncjax.data.benchmark import ClassImages, DataSet, Request, random_class_split

NUM_TARGET, NUM_VALIDATION, NUM_SOURCE = 20, 16, 64
SIZE = 28
IMAGES_PER_CLASS, TEST_PER_CLASS = 150, 50

# matplotlib is not imported for them: it cannot be under an MPLBACKEND that it does not know.
_FONTS = Path(str(find_spec("matplotlib").origin)).parent / "mpl-data" / "fonts" / "ttf"  # type: ignore[union-attr]

# Faces that matplotlib ships and that all have every one of CHARACTERS.
FACES = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSerif",
    "DejaVuSerif-Bold", "DejaVuSerif-Italic", "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic",
    "STIXGeneralBolIta",
)  # fmt: skip

# The letters, digits and signs that all faces share, without accented ones; of two whose renderings correlate by 0.85
# or more (`correlations`), only the first in Unicode order is kept. They were chosen under another layout of text: in
# `font`'s, r and ɼ reach 0.851.
CHARACTERS = (
    "!#$%&+0123456789<=>?@ABCDEGHJKLMNOPQRSTUVWXYZabdefgijkmnqrty¢£¤§ª¬±µ¶Æ×ØÞßæð÷øþĲ"
    "ĳŀŉŊŋŒƈƐƒƕƛƫƭƺƾǁǂɐɑɒɔɕɖɗɘəɚɜɝɞɠɣɤɧɩɫɭɮɰɲɳɷɸɹɺɻɼɾɿʁʂʅʆʇʉʊʋʍʎʏʐʑʒʕʖʗʚʛʞʡʣʤʦʧʨΓΞΣΦΨ"
    "ΩαβγζκλνξπρςτφχωϐϑϒϖϙϛϝϞϟϠϡϰϱЂЉЊЋЏДЖЛЧШЩЪЫЬЭЮЯгдмтфцєћѣҐ€ﬁ"
)

_STROKES = (0, 1, 2, 3)  # pixels added around the outline, at _ZOOM times the final resolution
_ZOOM = 4
_LONGEST_SIDE = 20  # of a character before its warp, in final pixels


def open_data_set(request: Request) -> DataSet:
    """Target, validation and source classes drawn from CHARACTERS; 64 of the 182 source classes unless asked."""
    split = random_class_split(
        len(CHARACTERS),
        target=NUM_TARGET,
        validation=NUM_VALIDATION,
        default_sources=NUM_SOURCE,
        seed=request.split_seed,
    )
    return DataSet(tuple(CHARACTERS), split, _draw_classes)


def _draw_classes(classes: Sequence[int]) -> ClassImages:
    bar = tqdm(classes, desc="glyphs", unit="class", delay=2, leave=False)
    images = np.concatenate([draw(CHARACTERS[c], IMAGES_PER_CLASS) for c in bar])
    labels = np.repeat(np.asarray(classes, np.int32), IMAGES_PER_CLASS)
    return ClassImages(
        images, labels, np.tile(np.arange(IMAGES_PER_CLASS) >= IMAGES_PER_CLASS - TEST_PER_CLASS, len(classes))
    )


def render(character: str, face: str, stroke: int = 0) -> np.ndarray:
    """One character of one face, uint8 [112, 112]: 80 pixels on its longest side, centred, white on black."""
    side, inner = _ZOOM * SIZE, _ZOOM * _LONGEST_SIDE
    drawn = font(face, inner)
    left, top, right, bottom = drawn.getbbox(character, stroke_width=stroke)
    glyph = Image.new("L", (max(1, round(right - left)), max(1, round(bottom - top))))
    ImageDraw.Draw(glyph).text((-left, -top), character, font=drawn, fill=255, stroke_width=stroke)
    scale = inner / max(glyph.size)
    glyph = glyph.resize((max(1, round(glyph.width * scale)), max(1, round(glyph.height * scale))))
    canvas = Image.new("L", (side, side))
    canvas.paste(glyph, ((side - glyph.width) // 2, (side - glyph.height) // 2))
    # `draw` samples single pixels of this; the blur keeps that from leaving ragged edges.
    return np.asarray(canvas.filter(ImageFilter.BoxBlur(_ZOOM / 2)))


def correlations(characters: str) -> np.ndarray:
    """How alike characters look, float [k, k]: the correlation of their 14 x 14 pixels in one face, mean over faces."""
    total = np.zeros((len(characters), len(characters)))
    for face in FACES:
        blocks = np.stack([render(c, face) for c in characters]).reshape(len(characters), 14, 8, 14, 8)
        total += np.corrcoef(blocks.mean((2, 4)).reshape(len(characters), -1))
    return total / len(FACES)


def draw(character: str, count: int, seed: int = 0) -> np.ndarray:
    """`count` images of one character, uint8 [count, 28, 28, 1]; the same for the same seed."""
    rng = np.random.default_rng([seed, ord(character)])
    bank = np.stack([render(character, face, stroke) for face in FACES for stroke in _STROKES])
    which = rng.integers(len(bank), size=count)

    # Where each pixel of an image comes from, about the centre and in final pixels: an affine map and a smooth wave.
    angle = rng.uniform(-0.2, 0.2, count)
    shear = rng.uniform(-0.15, 0.15, count)
    stretch = np.exp(rng.uniform(-0.15, 0.15, (count, 2)))
    cos, sin = np.cos(angle), np.sin(angle)
    affine = np.empty((count, 2, 2))
    affine[:, 0] = np.stack([cos, sin], 1) * stretch[:, :1]
    affine[:, 1] = np.stack([-sin + shear * cos, cos + shear * sin], 1) * stretch[:, 1:]
    grid = np.stack(np.meshgrid(np.arange(SIZE), np.arange(SIZE), indexing="ij")).reshape(2, -1) - (SIZE - 1) / 2
    source = (affine @ grid).astype(np.float32)
    source += rng.uniform(-1.5, 1.5, (count, 2, 1)).astype(np.float32)
    frequency = rng.uniform(-0.3, 0.3, (count, 2, 2))
    phase = rng.uniform(0, 2 * np.pi, (count, 2, 1))
    source += np.sin((frequency @ grid + phase).astype(np.float32))

    pixel = ((source + SIZE / 2) * _ZOOM).astype(np.int32)
    inside = ((pixel >= 0) & (pixel < SIZE * _ZOOM)).all(1)
    row, column = pixel.clip(0, SIZE * _ZOOM - 1).transpose(1, 0, 2)
    ink = np.where(inside, bank[which[:, None], row, column], 0).astype(np.float32)

    brightness = rng.uniform(0.7, 1.0, (count, 1)).astype(np.float32)
    noise = rng.standard_normal(ink.shape, np.float32) * rng.uniform(5, 20, (count, 1)).astype(np.float32)
    return (ink * brightness + noise).clip(0, 255).astype(np.uint8).reshape(count, SIZE, SIZE, 1)


def font(face: str, size: int) -> ImageFont.FreeTypeFont:
    """A face that matplotlib ships."""
    path = _FONTS / f"{face}.ttf"
    # Pillow's other layout moves some characters by a pixel, and is there only where the system has FriBidi.
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)
