"""Weak scaling over forced CPU devices, the bytes that collectives move, and what they cost on accelerators, estimated.

    python benchmarks/scaling.py                    # 1, 2, 4 and 8 devices, wrn-10-1: minutes on two cores
    python benchmarks/scaling.py --network=wrn-28-4 --side=32 --channels=3 --batch=1 --counts 8    # and the estimate
    python benchmarks/scaling.py --quick            # 1 and 2 devices, small, to try the script

Each number of devices is a process of its own, and each device gets the same work: a batch of training images, a number
of episodes, a batch of streamed features. The devices share this machine's cores, so that time cannot stay constant as
on real devices; "efficiency" is the work done in a second by all devices, over that of the first number. It falls below
1 by what dividing the work costs: collectives, and smaller pieces. It exceeds 1 where one device left a core idle.

Bytes are read from the compiled programs (XLA's dump after optimisation): the results of all collective operations of
one call, for the training step one step, for episodes all of them, for streams one batch.

The estimate is no measurement. Assumed: a ring, that is, 2 (n - 1)/n of the bytes through each device's link, at the
link's bandwidth of the data sheet; a latency for each collective; nothing overlapped with computation. The time of a
step on one device is measured for a GPU and assumed for a v5e, for which it is marked.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

PROGRAMS = {
    "jit_one_step": "training step",
    "jit__evaluate": "episodes",
    "jit__add": "stream, first pass",
    "jit__add_residuals": "stream, second pass",
}
COLLECTIVE = re.compile(r" = (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(")
SHAPE = re.compile(r"(pred|[a-z]+\d+)\[([\d,]*)\]")


class Link(NamedTuple):
    """Devices that are joined, for the estimate.

    Attributes:
      devices: their number.
      bandwidth: bytes a second through a device's links in one direction, of the data sheet.
      latency: seconds of a small all-reduce, assumed.
      step: seconds of a step of wrn-28-4 in bfloat16 with 64 images a device.
      source: where `step` comes from.
    """

    devices: int
    bandwidth: float
    latency: float
    step: float
    source: str


LINKS = {
    "8 H200, NVLink": Link(8, 450e9, 20e-6, 2.79e-3, "measured on one H200 (benchmarks/training.py)"),
    "v5e-64": Link(64, 100e9, 20e-6, 14e-3, "ASSUMED: a tenth of 197 TFLOP/s, the share that an H200 reached"),
}


def collectives(text: str) -> list[tuple[str, int]]:
    """Returns the kind and the bytes of the result of each collective in a compiled program's text."""
    return [(kind, sum(size(*shape) for shape in SHAPE.findall(result))) for result, kind in COLLECTIVE.findall(text)]


def size(dtype: str, dimensions: str) -> int:
    """Returns the bytes of an array, for example of "f32" and "3,3,16"."""
    bits = 8 if dtype == "pred" else int(re.sub(r"\D", "", dtype))
    return bits // 8 * int(np.prod([int(n) for n in dimensions.split(",") if n], dtype=np.int64))


def estimate(moved: list[tuple[str, int]], link: Link) -> float:
    """Returns the seconds of these collectives among the devices of a link, under the assumptions above."""
    share = 2 * (link.devices - 1) / link.devices
    return sum(link.latency + share * count / link.bandwidth for _, count in moved)


def best(call: Callable[[], object], rounds: int) -> float:
    """Returns the least time of some calls after the first, which compiles."""
    call()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def work(flags: argparse.Namespace) -> dict[str, float]:
    """Returns units of work a second of this process's devices."""
    import jax
    import jax.numpy as jnp
    import optax

    from ncjax import devices, models
    from ncjax.collapse import measure_stream
    from ncjax.eval import feature_episodes
    from ncjax.train.losses import Objective
    from ncjax.train.step import Batch
    from ncjax.train.trainer import Setup, resident_trainer

    count, rng = jax.device_count(), np.random.default_rng(0)
    batch, shape = flags.batch * count, (flags.side, flags.side, flags.channels)
    images = rng.integers(0, 256, (max(2 * batch, 64), *shape), np.uint8)
    labels = np.arange(len(images), dtype=np.int32) % 64
    pixel = jnp.full(flags.channels, 0.5)
    network = models.create(flags.network, 64)
    setup = Setup(
        network, optax.sgd(0.1, momentum=0.9), Objective(), "shift", batch, len(images), shape, devices.data_mesh()
    )
    trainer = resident_trainer(setup, Batch(jnp.asarray(images), jnp.asarray(labels), pixel, pixel), [0])
    states = trainer.initial

    def steps() -> None:
        nonlocal states
        states, _ = trainer.run(states, 0, flags.steps)

    features = rng.standard_normal((64 * 40, 64), np.float32)
    classes = np.arange(len(features)) % 64
    episodes = flags.episodes * count
    rows = rng.standard_normal((flags.rows * count, 256), np.float32)
    stream = [(rows, np.arange(len(rows)) % 64)] * 4
    return {
        "training step": flags.steps * batch / best(steps, flags.rounds),
        "episodes": episodes / best(lambda: feature_episodes(features, classes, episodes=episodes), flags.rounds),
        "stream": 4 * len(rows) / best(lambda: measure_stream(stream, num_classes=64), flags.rounds),
    }


def run(count: int, arguments: list[str], dump: Path) -> dict[str, float]:
    """Runs `work` in a process with this many CPU devices, which writes its compiled programs to `dump`."""
    xla = f"--xla_dump_to={dump} --xla_dump_hlo_as_text --xla_dump_hlo_module_re={'|'.join(PROGRAMS)}"
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(count), "XLA_FLAGS": xla, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, __file__, "--work", *arguments], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.stderr)
    rates: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return rates


def main() -> None:
    """Prints both tables, and the estimate for the training step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="wrn-10-1")
    parser.add_argument("--side", type=int, default=28)
    parser.add_argument("--channels", type=int, default=1)
    parser.add_argument("--batch", type=int, default=16, help="images a device")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--episodes", type=int, default=1000, help="a device")
    parser.add_argument("--rows", type=int, default=4096, help="streamed features of a batch, a device")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 2, 4, 8], help="numbers of devices, ascending")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.quick:
        flags.batch, flags.steps, flags.episodes, flags.rows, flags.rounds = 4, 1, 100, 256, 1
        flags.counts = [1, 2]
    if flags.work:
        print(json.dumps(work(flags)))
        return
    arguments = [argument for argument in sys.argv[1:] if argument != "--work"]
    counts, rates = flags.counts, {}
    with tempfile.TemporaryDirectory() as folder:
        for count in counts:
            rates[count] = run(count, arguments, Path(folder, str(count)))
        programs = {
            title: collectives(path.read_text())
            for name, title in PROGRAMS.items()
            for path in Path(folder, str(counts[-1])).glob(f"*.{name}.*after_optimizations.txt")
        }
    print(f"{len(os.sched_getaffinity(0))} cores, {flags.network}, {flags.side} x {flags.side} x {flags.channels}")
    print(f"{'efficiency':<20}" + "".join(f"{count:>4} devices" for count in counts))
    for name, one in rates[counts[0]].items():
        print(f"{name:<20}" + "".join(f"{rates[count][name] / one:>12.2f}" for count in counts))
    print(f"\n{f'{counts[-1]} devices, a call':<20}{'collectives':>12}{'kB':>12}   kinds")
    for title, moved in programs.items():
        kinds = ", ".join(sorted({kind for kind, _ in moved}))
        print(f"{title:<20}{len(moved):>12}{sum(count for _, count in moved) / 1e3:>12.1f}   {kinds}")
    if "training step" in programs and flags.network == "wrn-28-4":  # whose step the links tell the time of
        print("\nESTIMATE of a training step, not measured")
        for name, link in LINKS.items():
            seconds = estimate(programs["training step"], link)
            print(
                f"{name:<20}{1e3 * seconds:.2f} ms of collectives beside {1e3 * link.step:.1f} ms of computation: "
                f"efficiency {link.step / (link.step + seconds):.2f}; {link.source}"
            )


if __name__ == "__main__":
    main()
