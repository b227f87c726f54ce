"""Training steps beside PyTorch: the same network, optimiser and batches, in one run, as ratios.

    python benchmarks/training.py                       # wrn-10-1 at 28 x 28, batch 64; PyTorch if it is installed
    python benchmarks/training.py --network=wrn-28-4 --side=32 --channels=3 --steps=3
    python benchmarks/training.py --growth              # over batch sizes, on one device and on all
    python benchmarks/training.py --host                # cost of the host: an epoch of 38,400 images without a network
    python benchmarks/training.py --compiled            # also with torch.compile
    python benchmarks/training.py --start               # time to the first step: first and second start

In a round ncjax and then PyTorch take some steps, so that a busy machine slows both; the ratio is the median of the
rounds' ratios. Compile time is not part of it. ncjax's step includes shuffling, gathering and augmentation; PyTorch
gets the batches that ncjax trains on, ready in its memory: the first 32, over and over. On a GPU, PyTorch uses
channels_last, with --precision=bfloat16 autocast, and with --compiled also CUDA graphs. --start begins after the
imports, and leaves out two things that both starts of a run do before the first step: reading the data, and measuring
the network at step 0.

Measured on two cores of an Intel Xeon with AVX-512 and AMX, jax 0.10.2 on two CPU devices, torch 2.13.0, float32, batch
64, 2026-11-24; the ratio is ncjax's images/s over PyTorch's, eager and eager with channels_last:

    wrn-10-1, 28 x 28 x 1, 7 rounds              44 ms a step, 1,464 images/s    0.67    0.65
    wrn-28-4, 32 x 32 x 3, 5 rounds of 2 steps   1,752 ms a step, 37 images/s    0.81    0.73
    --host                                       0.67 s an epoch
    --start, wrn-28-4, 32 x 32 x 3               9.5 s to the first step, then 2.5 s: 3.8 times sooner
    --growth, wrn-10-1, batch 16 to 256          968, 1,030, 1,374, 1,376, 1,257 images/s; one device: 1,046, 1,297,
                                                 1,331, 1,212, 1,209

PyTorch's convolutions (oneDNN) run at 230-340 GFLOP/s there, forward and backward; XLA's at 105-290, and its weight
gradients at 57-236. On two cores of an AMD EPYC with AVX2 and no AVX-512, the same versions, 2026-11-26:

    wrn-10-1, 28 x 28 x 1, 7 rounds              71 ms a step, 902 images/s      0.83    0.83    compiled 0.87
    wrn-28-4, 32 x 32 x 3, 5 rounds of 2 steps   3,089 ms a step, 21 images/s    1.02    0.97    compiled 0.98
    --host                                       1.00 s an epoch
    --start, wrn-28-4, 32 x 32 x 3               18.5 s to the first step, then 3.8 s: 4.9 times sooner

On two cores of an AMD EPYC with AVX-512, 2026-11-27:

    wrn-10-1, 28 x 28 x 1, 7 rounds              41 ms a step, 1,566 images/s    0.73    0.72    compiled 0.67
    wrn-28-4, 32 x 32 x 3, 5 rounds of 2 steps   2,064 ms a step, 31 images/s    0.87    0.77    compiled 0.79
    --host                                       0.48 s an epoch
    --start, wrn-28-4, 32 x 32 x 3               9.2 s to the first step, then 2.4 s: 3.9 times sooner

oneDNN's convolutions run at 127-258 GFLOP/s there, XLA's at 53-209, slowest where layers are narrow or strided.

"compiled" is torch.compile with channels_last; its first call took 27 s to 57 s, compiling ncjax's step 2 s to 7 s. On
the Intel machine PyTorch got a single batch over and over.

On one NVIDIA H200 with 16 CPU cores, jax 0.11.2, torch 2.11.0, wrn-28-4 at 32 x 32 x 3 with --precision=bfloat16
--images=38400 --compiled, 3 rounds, 2026-11-27; the ratios are over torch.compile, without and with CUDA graphs, and
the share is of the data sheet's 989 TFLOP/s:

    batch 64, rounds of 150 steps       3.0 ms a step, 21,377 images/s    4.05    1.17    10 % of the peak
    batch 512, rounds of 40 steps       8.5 ms a step, 60,486 images/s    1.56    1.11    28 % of the peak

PyTorch's network is compiled; its loss and optimiser are eager, and its algorithms of convolution cuDNN's own choice.
Both sizes were compiled at once by two processes, which called this file's functions without eager PyTorch, and timed
one after the other. In a process of its own a step of 64 images took 3.14 ms with XLA's default CUDA graphs, 3.02 ms
with convolutions in them, 2.79 ms with the loop in them too. In a trace, which XLA takes without graphs, its 552
kernels add up to 2.87 ms, at least 1.1 of it convolutions and 0.8 the sums of batch norm. Compiling ncjax's step took
20 s, a run's first measurement 24 s; peak device memory of a CIFAR-FS run was 1.4 GB. TPUs: not yet run.
"""

import argparse
import importlib.util
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from statistics import median
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType

CLASSES = 64
READY = 32
"""Number of batches that PyTorch trains on."""
SEED = 0
AUGMENTATION = "crop_flip"


def data(side: int, channels: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, side, side, channels), np.uint8), np.arange(count, dtype=np.int32) % CLASSES


def ncjax_steps(options: argparse.Namespace, batch: int, network=None):
    """Makes a function that takes steps and waits for them; also returns compile seconds and the trainer's setup."""
    from ncjax import devices, models
    from ncjax.train import Config
    from ncjax.train.optimizer import optimizer
    from ncjax.train.recipe import Recipe
    from ncjax.train.step import Batch
    from ncjax.train.trainer import Setup, resident_trainer

    images, labels = data(options.side, options.channels, options.images)
    network = network or models.create(options.network, CLASSES, dtype=jnp.dtype(options.precision))
    config = Config(learning_rate=0.05, schedule="constant")
    setup = Setup(
        network=network,
        tx=optimizer(config, 10_000),
        recipe=Recipe(augmentation=AUGMENTATION),
        batch_size=batch,
        num_images=len(labels),
        image_shape=images.shape[1:],
        mesh=devices.data_mesh(),
    )
    half = jnp.full(options.channels, 0.5)
    trainer = resident_trainer(setup, Batch(jnp.asarray(images), jnp.asarray(labels), half, half), [SEED])
    states, done = trainer.initial, 0

    def run(count: int) -> None:
        nonlocal states, done
        while count:
            taken = min(count, -(-(len(labels) - done * batch % len(labels)) // batch))
            states, _ = trainer.run(states, done, taken)
            done, count = done + taken, count - taken

    run(1)
    return run, trainer.compile_seconds, setup


def batches(options: argparse.Namespace, batch: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Makes the first batches of `ncjax_steps`: float32 images, shuffled, augmented and normalised, and labels."""
    from ncjax import keys
    from ncjax.classifier import normalize
    from ncjax.data.augment import augment
    from ncjax.train.step import epoch_order

    images, labels = data(options.side, options.channels, options.images)
    half = jnp.full(options.channels, 0.5)
    found = []
    for step in range(READY):
        epoch, offset = divmod(step * batch, len(labels))
        rows = np.asarray(epoch_order(SEED, epoch, len(labels), batch))[offset : offset + batch]
        varied = augment(keys.stream(SEED, "augment", step), jnp.asarray(images[rows]), AUGMENTATION)
        found.append((np.asarray(normalize(varied, half, half)), labels[rows]))
    return found


def torch_network(name: str, channels: int):
    """Makes the wide residual network as PyTorch users write it."""
    import torch
    from torch import nn

    depth, width = (int(part) for part in name.split("-")[1:])

    class Block(nn.Module):
        def __init__(self, before: int, after: int, stride: int) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.BatchNorm2d(before), nn.BatchNorm2d(after)
            self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
            self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
            changes = before != after or stride != 1
            self.shortcut = nn.Conv2d(before, after, 1, stride, bias=False) if changes else None

        def forward(self, x):
            active = torch.relu(self.norm1(x))
            y = self.conv2(torch.relu(self.norm2(self.conv1(active))))
            return y + (x if self.shortcut is None else self.shortcut(active))

    blocks, before = [], 16
    for group in range(3):
        for block in range((depth - 4) // 6):
            after = 16 * width * 2**group
            blocks.append(Block(before, after, 2 if group > 0 and block == 0 else 1))
            before = after
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, 1, 1, bias=False),
        *blocks,
        nn.BatchNorm2d(before),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(before, CLASSES),
    )


class Way(NamedTuple):
    """A way to use PyTorch: the layout of images, and the mode of torch.compile, or None without it."""

    channels_last: bool
    mode: str | None = None


def ways(*, compiled: bool) -> dict[str, Way]:
    """Returns the ways to use PyTorch that ncjax is compared with, by their names in the table."""
    on_gpu = jax.default_backend() == "gpu"
    found = {} if on_gpu else {"torch, eager": Way(False)}
    found["torch, eager, channels_last"] = Way(True)
    if compiled:
        found["torch, compiled, channels_last"] = Way(True, "default")
    if compiled and on_gpu:
        found["the same with CUDA graphs"] = Way(True, "reduce-overhead")
    return found


def torch_steps(
    options: argparse.Namespace, handed: list[tuple[np.ndarray, np.ndarray]], way: Way
) -> tuple[Callable, float]:
    """Makes a function that takes steps over the batches and waits for them; also returns seconds of the first."""
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    layout = torch.channels_last if way.channels_last else torch.contiguous_format
    network = torch_network(options.network, options.channels).to(device, memory_format=layout)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    ready = [
        (
            torch.tensor(images).permute(0, 3, 1, 2).to(device).contiguous(memory_format=layout),
            torch.tensor(labels).long().to(device),
        )
        for images, labels in handed
    ]
    endless = itertools.cycle(ready)
    call = network if way.mode is None else torch.compile(network, mode=way.mode, dynamic=False)

    def run(count: int) -> None:
        for x, y in itertools.islice(endless, count):
            torch.compiler.cudagraph_mark_step_begin()
            with torch.autocast(device, torch.bfloat16, enabled=options.precision == "bfloat16"):
                loss = torch.nn.functional.cross_entropy(call(x), y)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        loss.item()  # waits

    start = time.perf_counter()
    run(1)
    return run, time.perf_counter() - start


def timed(run: Callable[[int], None], steps: int) -> float:
    """Times a step in seconds, after a warm-up step and, on a CPU, a pause until the other library's threads stop."""
    if jax.default_backend() == "cpu":
        time.sleep(0.5)
    run(1)
    start = time.perf_counter()
    run(steps)
    return (time.perf_counter() - start) / steps


def compare(options: argparse.Namespace) -> None:
    from ncjax import devices
    from ncjax.train import throughput
    from ncjax.train.throughput import step_flops

    ours, compile_seconds, setup = ncjax_steps(options, options.batch)
    peers: dict[str, tuple[Callable, float]] = {}
    if importlib.util.find_spec("torch") is None:
        print("PyTorch is not installed: ncjax alone")
    else:
        handed = batches(options, options.batch)
        peers = {name: torch_steps(options, handed, way) for name, way in ways(compiled=options.compiled).items()}
    seconds: dict[str, list[float]] = {name: [] for name in ("ncjax", *peers)}
    for name, run in [("ncjax", ours), *((name, peer[0]) for name, peer in peers.items())]:
        timed(run, 2)  # warm
        seconds[name] = []
    for _ in range(options.rounds):
        seconds["ncjax"].append(timed(ours, options.steps))
        for name, (run, _) in peers.items():
            seconds[name].append(timed(run, options.steps))
    where = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    shape = f"{options.side} x {options.side} x {options.channels}"
    print(f"{options.network}, {shape}, batch {options.batch}, {options.precision}, {where}, {options.rounds} rounds")
    print(f"{'':34}{'ms a step':>10}{'images/s':>10}{'first call':>12}{'ncjax is':>10}")
    for name, times in seconds.items():
        first = compile_seconds if name == "ncjax" else peers[name][1]
        ratio = median(t / o for t, o in zip(times, seconds["ncjax"], strict=True))
        print(f"{name:34}{1e3 * median(times):>10.1f}{options.batch / median(times):>10.0f}{first:>10.1f} s"
              + ("" if name == "ncjax" else f"{ratio:>9.2f}x"))  # fmt: skip
    peak = throughput.peak(devices.data_mesh(), options.precision)
    flops = step_flops(setup)
    if flops is not None:
        rate = flops / median(seconds["ncjax"])
        share = "" if peak.flops is None else f": {100 * rate / peak.flops:.0f} % of the peak ({peak.source})"
        print(f"ncjax computes {rate / 1e9:,.0f} GFLOP/s, as XLA counts them{share}")


def growth(options: argparse.Namespace) -> None:
    print(f"{options.network}\n{'devices':>8}{'batch':>8}{'ms a step':>12}{'images/s':>12}")
    for devices in sorted({1, jax.device_count()}):
        mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])
        for batch in (16, 32, 64, 128, 256):
            if batch % devices:
                continue
            with jax.set_mesh(mesh):
                run, *_ = ncjax_steps(options, batch)
                seconds = median(timed(run, options.steps) for _ in range(3))
            print(f"{devices:>8}{batch:>8}{1e3 * seconds:>12.1f}{batch / seconds:>12.0f}", flush=True)


def host(options: argparse.Namespace) -> None:
    """Times an epoch of 600 steps whose network only takes the mean of each third of an image."""
    from flax import linen as nn

    from ncjax.models import Network, Output

    class Identity(nn.Module):
        @nn.compact
        def __call__(self, images: jax.Array, train: bool) -> Output:
            features = images.reshape(len(images), 3, -1).mean(-1)
            return Output(nn.Dense(CLASSES, name="head")(features), features, (features,))

    options.images, options.side, options.channels = 38_400, 32, 3
    run, *_ = ncjax_steps(options, 64, Network("identity", CLASSES, Identity()))
    seconds = [timed(run, 600) * 600 for _ in range(5)]
    print(f"an epoch of 38,400 images at batch 64 without a network: {median(seconds):.2f} s, median of five")


def start(options: argparse.Namespace) -> None:
    """Times the first step from the end of the imports, with an empty and with a filled cache of compiled programs."""
    program = (
        "import os, sys, time, jax; from ncjax import cli; sys.path.insert(0, 'benchmarks'); import training; "
        "cli.prepare_backend(); t = time.perf_counter(); options = training.parse(); "
        "run, *_ = training.ncjax_steps(options, options.batch); end = time.perf_counter(); run(1); "
        "print(end - t, time.perf_counter() - end)"
    )
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, "-c", program, *sys.argv[1:]]
        root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        environment = os.environ | {"XDG_CACHE_HOME": cache}
        environment.pop("JAX_COMPILATION_CACHE_DIR", None)  # that cache may be filled already
        taken = []
        for _ in range(2):
            done = subprocess.run(command, cwd=root, env=environment, check=True, capture_output=True, text=True)
            to_end, step = map(float, done.stdout.split())
            taken.append((to_end - step, to_end))
    for what, first, second in zip(("to its first step", "to the end of it"), *taken, strict=True):
        print(f"{options.network} {what}: first start {first:.1f} s, second {second:.1f} s, {first / second:.1f} times")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="wrn-10-1", help="wrn-N-k")
    parser.add_argument("--side", type=int, default=28)
    parser.add_argument("--channels", type=int, default=1)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--images", type=int, default=6400)
    parser.add_argument("--steps", type=int, default=20, help="steps of each library in a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--compiled", action="store_true", help="also with torch.compile")
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--host", action="store_true")
    parser.add_argument("--start", action="store_true")
    return parser.parse_args()


def main() -> None:
    options = parse()
    if options.start:
        start(options)
        return
    from ncjax import devices

    devices.use_all_cores()
    what = host if options.host else growth if options.growth else compare
    what(options)


if __name__ == "__main__":
    main()
