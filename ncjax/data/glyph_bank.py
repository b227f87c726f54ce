"""`python -m ncjax.data.glyph_bank`: draws the outlines for `glyphs` from matplotlib's fonts into glyphs.npz.

It was run once: glyphs.npz comes with ncjax, so that the images do not depend on the user's Pillow and FreeType. Other
versions of them may draw other pixels at the edges of outlines, and so make another data set.
"""

from pathlib import Path

import matplotlib
import numpy as np
import PIL
from PIL import Image, ImageDraw, ImageFont, features

from ncjax.data.glyphs import CHARACTERS, EM, OUTLINE_SIDE, SIZE

# the fonts of matplotlib that have all CHARACTERS
FACES = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSerif",
    "DejaVuSerif-Bold", "DejaVuSerif-Italic", "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic",
    "STIXGeneralBolIta",
)  # fmt: skip


def render(character: str, face: str) -> tuple[np.ndarray, int]:
    """Draws a character.

    Returns:
      Its outline, bool [80, 80], centred, with 80 pixels on the longest side of its box; and that side at the size EM.
    """
    drawn = font(face, EM)
    left, top, right, bottom = drawn.getbbox(character)
    glyph = Image.new("L", (max(1, round(right - left)), max(1, round(bottom - top))))
    ImageDraw.Draw(glyph).text((-left, -top), character, font=drawn, fill=255)
    size = max(glyph.size)
    width, height = (max(1, round(side * OUTLINE_SIDE / size)) for side in glyph.size)
    glyph = glyph.resize((width, height))
    canvas = Image.new("L", (OUTLINE_SIDE, OUTLINE_SIDE))
    canvas.paste(glyph, ((OUTLINE_SIDE - width) // 2, (OUTLINE_SIDE - height) // 2))
    return np.asarray(canvas) > 127, size


def correlations(characters: str) -> np.ndarray:
    """Computes the similarity of characters: the correlation of their 14 x 14 pixels, mean over faces, float [k, k]."""
    total = np.zeros((len(characters), len(characters)))
    margin = (4 * SIZE - OUTLINE_SIDE) // 2
    for face in FACES:
        pixels = np.stack([np.pad(render(c, face)[0], margin) for c in characters])
        blocks = pixels.reshape(len(characters), 14, 8, 14, 8).mean((2, 4))
        total += np.corrcoef(blocks.reshape(len(characters), -1))
    return total / len(FACES)


def font(face: str, size: int) -> ImageFont.FreeTypeFont:
    """Opens a font that comes with matplotlib."""
    path = Path(matplotlib.get_data_path(), "fonts", "ttf", f"{face}.ttf")
    # Pillow's other layout moves some characters by a pixel, and needs FriBidi
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)


def write(path: Path) -> None:
    """Writes `outlines`, one bit a pixel, and `sizes`, both [characters, faces, …], and the programs that drew them."""
    drawn = [[render(character, face) for face in FACES] for character in CHARACTERS]
    np.savez_compressed(
        path,
        outlines=np.packbits([[outline for outline, _ in row] for row in drawn], axis=-1),
        sizes=np.array([[size for _, size in row] for row in drawn], np.uint16),
        drawn_by=np.array(
            [
                ("pillow", PIL.__version__),
                ("freetype", str(features.version("freetype2"))),
                ("fonts of matplotlib", matplotlib.__version__),
            ]
        ),
    )


if __name__ == "__main__":
    write(Path(__file__).with_name("glyphs.npz"))
