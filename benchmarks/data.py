"""Preparing data sets and reading them back, beside the loops over the same files that one writes without a library.

    python benchmarks/data.py                    # a folder of 10,000 JPEG images, made for the purpose
    python benchmarks/data.py --data_dir=PATH    # also CIFAR-100 and EMNIST, from the archives or folders in PATH

"prepare" writes the files of a fresh cache folder, and reads them; "read back" opens them as every later start does.
Both are of one call each in a process of its own, imports not counted. A loop only decodes into an array, in one
process: it keeps nothing that could be read back.

Measured on two idle cores of an AMD EPYC, 2026-11-26, --data_dir given:

    CIFAR-100, 60,000 images      prepare 32.1 s, read back 10.3 s    a loop over its pickles    0.9 s
    EMNIST balanced, a subset     prepare  6.6 s, read back  2.4 s
    10,000 JPEG images to 84x84   prepare 24.7 s, read back  5.1 s    a loop with Pillow        12.0 s

On two idle cores of an AMD EPYC with AVX-512, 2026-11-27:

    CIFAR-100, 60,000 images      prepare 13.1 s, read back  4.2 s    a loop over its pickles    0.5 s
    EMNIST balanced, a subset     prepare  2.2 s, read back  0.8 s
    10,000 JPEG images to 84x84   prepare 12.7 s, read back  2.9 s    a loop with Pillow         6.5 s

Prepared images are PNG in ArrayRecord files: read one by one in any order, which streaming needs, and checked; the
price is decoding them again.
"""

import argparse
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from ncjax.files import expand

LOAD = """
import sys, time
import tensorflow_datasets  # which ncjax.data imports when it is needed
from ncjax import data
start = time.perf_counter()
loaded = data.load(sys.argv[1], data_dir=sys.argv[2])
print(time.perf_counter() - start)
"""


def ours(name: str, data_dir: Path, cache: Path) -> tuple[float, float]:
    """Seconds of the first and of the second `load`."""
    environment = os.environ | {"NCJAX_CACHE_DIR": str(cache)}

    def once() -> float:
        command = [sys.executable, "-c", LOAD, name, str(data_dir)]
        return float(subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout)

    return once(), once()


def make_folder(root: Path, images: int, classes: int = 20, side: int = 160) -> None:
    """Photographs are smooth, and so are these: noise of 20 pixels a side, enlarged."""
    rng = np.random.default_rng(0)
    for c in range(classes):
        (root / f"class_{c:02d}").mkdir(parents=True)
        for i in range(images // classes):
            small = Image.fromarray(rng.integers(0, 256, (20, 20, 3), np.uint8))
            small.resize((side, side), Image.Resampling.BICUBIC).save(root / f"class_{c:02d}" / f"{i}.jpg")


def pillow_loop(root: Path) -> None:
    paths = sorted(root.glob("*/*.jpg"))
    resample = Image.Resampling.LANCZOS
    np.stack([np.asarray(Image.open(path).convert("RGB").resize((84, 84), resample)) for path in paths])


def pickle_loop(folder: Path) -> None:
    for name in ("train", "test"):
        with open(folder / name, "rb") as file:
            found = pickle.load(file, encoding="bytes")
        np.ascontiguousarray(found[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


def timed(call: Callable[[], None]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def row(name: str, seconds: tuple[float, float], loop: tuple[str, float] | None) -> None:
    text = f"{name:<36} prepare {seconds[0]:6.1f} s   read back {seconds[1]:6.1f} s"
    if loop is not None:
        text += f"   {loop[0]} {loop[1]:.1f} s: {seconds[0] / loop[1]:.2f} and {seconds[1] / loop[1]:.2f} of it"
    print(text, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=expand, help="holds CIFAR-100 and EMNIST")
    parser.add_argument("--images", type=int, default=10_000, help="in the folder of JPEG images")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        cache = Path(scratch) / "cache"
        if flags.data_dir is not None:
            seconds = ours("cifar_fs", flags.data_dir, cache)
            extracted = flags.data_dir / "cifar-100-python"
            loop = ("a loop over its pickles", timed(lambda: pickle_loop(extracted))) if extracted.is_dir() else None
            row("CIFAR-100, 60,000 images", seconds, loop)
            row("EMNIST balanced", ours("emnist", flags.data_dir, cache), None)
        root = Path(scratch) / "images"
        make_folder(root, flags.images)
        seconds = ours("folder", root, cache)
        row(
            f"folder, {flags.images:,} JPEG images to 84x84",
            seconds,
            ("a loop with Pillow", timed(lambda: pillow_loop(root))),
        )


if __name__ == "__main__":
    main()
