"""One self-contained HTML page of images and their predictions, in the style of the report.

Needs Jinja2, which the extra `report` installs: `pip install -e ".[report]"`.
"""

import base64
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ncjax.eval import Predictions
from ncjax.progress import progress
from ncjax.templates import render

MOST_SHOWN = 1000
_SIDE = 144


def page(paths: Sequence[Path], predictions: Predictions, *, title: str, support: int, expected: Sequence[str]) -> str:
    """Writes the whole page as HTML text.

    Args:
      paths: files of the n images.
      predictions: predictions for these images.
      title: title of the page.
      support: number of labelled images.
      expected: lines about the accuracy to expect; the last is a caveat.
    """
    order = np.argsort(predictions.margin, kind="stable")
    shown: list[dict[str, object]] = []
    for i in progress(order[:MOST_SHOWN].tolist(), "drawing", "image"):
        probability = "" if predictions.probabilities is None else f"{100 * predictions.probabilities[i].max():.0f} %"
        shown.append(
            {
                "name": predictions.names[i],
                "runner_up": predictions.runner_up[i],
                "margin": f"{predictions.margin[i]:.3g}",
                "probability": probability,
                "file": paths[i].name,
                "picture": _thumbnail(paths[i]),
                "unsure": len(shown) < len(paths) // 10,
            }
        )
    counts = Counter(predictions.names.tolist())
    return render(
        "predictions.html",
        title=title,
        images=len(paths),
        support=support,
        classes=[(name, counts[name]) for name in predictions.class_names],
        expected=expected,
        shown=shown,
    )


def _thumbnail(path: Path) -> str:
    """Encodes a small copy of the image as JPEG in base64."""
    with Image.open(path) as opened:
        opened.draft(None, (2 * _SIDE, 2 * _SIDE))
        picture = ImageOps.exif_transpose(opened)
        picture.thumbnail((_SIDE, _SIDE))
        content = io.BytesIO()
        if picture.mode.startswith("I;16"):
            picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
        picture.convert("RGB").save(content, "JPEG", quality=85)
    return base64.b64encode(content.getvalue()).decode()
