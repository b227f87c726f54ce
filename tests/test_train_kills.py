"""A run killed repeatedly (SIGKILL), also while it writes a checkpoint, ends like a run that was never killed."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from ncjax import restore

pytestmark = pytest.mark.slow

KILLS = 20
PROGRAM = """
import jax, sys
seeds, devices, *paths = sys.argv[2:]
sys.path[:0] = paths
jax.config.update("jax_num_cpu_devices", int(devices))
jax.config.update("jax_disable_most_optimizations", True)
jax.config.update("jax_compilation_cache_dir", sys.argv[1] + "/compiled")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
import tiny, time
from pathlib import Path
from ncjax import models
from ncjax.train import Config, loop, pretrain

models.create = tiny.create
loop.SECONDS_BETWEEN_CHECKPOINTS = 0.0  # after every check
advance = loop.advance

def one_step(run, trainer, states, step, chunk):  # slowly, so that kills fall everywhere
    time.sleep(0.03)
    return advance(run, trainer, states, step, 1)

loop.advance = one_step
pretrain(
    Config(network="tiny", epochs=1, min_steps=200, batch_size=16, learning_rate=0.1, schedule="cosine",
           measurements=5, measure_episodes=20, workdir=Path(sys.argv[1]) / "run", seeds=int(seeds)),
    benchmark=tiny.benchmark(),
)
"""


def start(root: Path, seeds: int, devices: int) -> subprocess.Popen:
    root.mkdir(exist_ok=True)
    tests = Path(__file__).parent
    paths = [str(tests), str(tests.parent)]
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(root), str(seeds), str(devices), *paths],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def checkpoints(root: Path) -> set[Path]:
    return {*root.glob("run/checkpoints/*"), *root.glob("run/seed_*/checkpoints/*")}


def kill_once(process: subprocess.Popen, root: Path, rng: random.Random, inside: bool) -> tuple[bool, bool]:
    """Kills the run as soon as it writes a new checkpoint, or at a random moment, its start included.

    Returns whether it was killed, for it may have ended before, and whether that was inside a write.
    """
    before, deadline = checkpoints(root), time.monotonic() + (60 if inside else rng.uniform(2, 14))
    while process.poll() is None and time.monotonic() < deadline:
        if inside and any("tmp" in path.name for path in checkpoints(root) - before):
            break
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL, any("tmp" in path.name for path in checkpoints(root))


def assert_same_run(one: Path, other: Path) -> None:
    for described in sorted(one.glob("run/**/config.json")):
        a, b = described.parent, other / described.parent.relative_to(one)
        assert (a / "metrics.jsonl").read_bytes() == (b / "metrics.jsonl").read_bytes()
        x, y = restore(a), restore(b)
        jax.tree.map(np.testing.assert_array_equal, x.variables, y.variables)
        np.testing.assert_array_equal(x.feature_mean, y.feature_mean)
        assert not list(b.glob("checkpoints/*tmp*"))


@pytest.mark.parametrize(("seeds", "devices"), [(2, 1), (1, 2)])
@pytest.mark.usefixtures("tiny_network")
def test_kills_leave_no_trace(seeds: int, devices: int, tmp_path: Path) -> None:
    """Two seeds on one device, and one seed on two."""
    whole = start(tmp_path / "whole", seeds, devices)
    _, error = whole.communicate(timeout=300)
    assert whole.returncode == 0, error
    rng = random.Random(0)
    runs, kills, in_a_write = [tmp_path / "killed_0"], 0, 0
    while kills < KILLS:
        killed, inside = kill_once(start(runs[-1], seeds, devices), runs[-1], rng, inside=kills % 2 == 0)
        kills += killed
        in_a_write += inside
        if not killed:  # it ended: start another
            runs.append(tmp_path / f"killed_{len(runs)}")
    last = start(runs[-1], seeds, devices)
    _, error = last.communicate(timeout=300)
    assert last.returncode == 0, error
    assert in_a_write >= KILLS // 4
    for run in runs:
        assert_same_run(tmp_path / "whole", run)
