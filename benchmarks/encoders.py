"""Images a second through encoders from elsewhere, beside a plain loop over the same module and batches.

    python benchmarks/encoders.py                # EfficientNet-Lite0 in torch, and an NNX model; interleaved rounds
    python benchmarks/encoders.py --rounds=20

Each round times ncjax and the loop in changing order; the ratio is the median over rounds of the loop's seconds over
ncjax's. The torch loop runs in inference mode with torch's own bicubic interpolation with antialiasing, a batch at a
time, and copies the features to one array. Needs the extra `encoders` for torch.

Measured on two idle cores of an Intel Xeon with AVX-512, 2026-11-28, torch 2.13.0, jax 0.10.2, 256 images through torch
and 2,048 through NNX; medians over 12 and over 20 rounds: 1.16 and 1.01 for torch, 0.91 and 0.96 for NNX. Neighbours on
the same machine move single runs by that much: a third run of 10 rounds gave 0.99 for NNX, whose compiled program takes
31.1 ms a batch of 64 where the loop's own takes 30.7 ms (least of 60 calls).
"""

import argparse
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import ncjax
from ncjax import encoders


def interleaved(ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> tuple[float, float, float]:
    """Returns the best seconds of both, and the median over rounds of their seconds over ours."""
    ours(), theirs()
    times = []
    for i in range(rounds):
        seconds = {}
        for call in (ours, theirs) if i % 2 else (theirs, ours):
            start = time.perf_counter()
            call()
            seconds[call] = time.perf_counter() - start
        times.append((seconds[ours], seconds[theirs]))
    found = np.asarray(times)
    return found[:, 0].min(), found[:, 1].min(), float(np.median(found[:, 1] / found[:, 0]))


def of_torch(images: np.ndarray, batch: int, size: int) -> tuple[Callable[[], object], Callable[[], object]]:
    import sys

    import torch

    sys.path.append(str(Path(__file__).parent.parent / "experiments"))
    from common import imagenet_lite0

    module = imagenet_lite0.network()
    params = imagenet_lite0.encoder(image_size=size)

    def loop() -> np.ndarray:
        found = np.empty((len(images), 1280), np.float32)
        with torch.inference_mode():
            for start in range(0, len(images), batch):
                pixels = torch.from_numpy(images[start : start + batch]).permute(0, 3, 1, 2).float()
                pixels = torch.nn.functional.interpolate(pixels, size, mode="bicubic", antialias=True)
                found[start : start + batch] = module((pixels - 127) / 128).numpy()
        return found

    return lambda: ncjax.features(params, images, batch_size=batch), loop


class Model(nnx.Module):
    """Convolutions with batch norm, with as many operations as a small residual network."""

    def __init__(self, rngs: nnx.Rngs):
        widths = (3, 32, 64, 128, 128)
        self.layers = nnx.List(
            [nnx.Conv(a, b, (3, 3), strides=1 + (i > 0), rngs=rngs) for i, (a, b) in enumerate(pairwise(widths))]
        )
        self.norms = nnx.List([nnx.BatchNorm(width, rngs=rngs) for width in widths[1:]])

    def __call__(self, x: jax.Array) -> jax.Array:
        """Computes features [n, 128]."""
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = jax.nn.relu(norm(layer(x)))
        return x.mean((1, 2))


def of_nnx(images: np.ndarray, batch: int) -> tuple[Callable[[], object], Callable[[], object]]:
    model = Model(nnx.Rngs(0))
    params = encoders.from_nnx(model, mean=0.5, std=0.25)
    model.eval()
    graph, state = nnx.split(model)

    @jax.jit
    def step(state: nnx.State, images: jax.Array) -> jax.Array:
        with jax.default_matmul_precision("highest"):
            return nnx.merge(graph, state)((images.astype(jnp.float32) / 255 - 0.5) / 0.25)

    def loop() -> np.ndarray:
        return np.concatenate(
            [np.asarray(step(state, images[start : start + batch])) for start in range(0, len(images), batch)]
        )

    return lambda: ncjax.features(params, images, batch_size=batch), loop


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, default=128, help="side of the images of EfficientNet-Lite0")
    options = parser.parse_args()
    images = np.random.default_rng(0).integers(0, 256, (options.images, 32, 32, 3), np.uint8)
    print(f"{options.images} images of 32 x 32, batches of {options.batch}, {options.rounds} rounds")
    cases = {"EfficientNet-Lite0, torch": (images, lambda x: of_torch(x, options.batch, options.size))}
    cases["NNX model, jitted"] = (np.concatenate([images] * 8), lambda x: of_nnx(x, options.batch))
    for name, (given, make) in cases.items():
        ours, theirs, ratio = interleaved(*make(given), options.rounds)
        print(
            f"{name:<28} ncjax {len(given) / ours:8.1f} images/s   plain loop {len(given) / theirs:8.1f}   "
            f"ratio of seconds, median {ratio:.3f}"
        )


if __name__ == "__main__":
    main()
