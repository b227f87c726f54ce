"""Measures everything on one GPU in at most ten minutes: speed, many seeds, a kill and a resumption.

    python benchmarks/accelerator.py --out=DIR --bandwidth=3350   # GB/s of the data sheet: H100 SXM 3350, H200 4800
    python benchmarks/accelerator.py --reduced --out=DIR          # the same parts, small, on a CPU: tries the script

Each part is a command with a limit of its own time; its output goes to DIR/NAME.txt. A part that fails or runs past its
limit does not stop the others. At the end a table says how each part ended; those of `pretrain.py` are compared here:

    seeds       20 seeds as one program beside one seed: the time of a step, and its ratio to 20 runs
    resumption  a run killed by SIGKILL after its first checkpoint and started again: whether its last record is that
                of a run that was not killed

A GPU's numbers: not yet run.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parent.parent
PRETRAIN = [str(ROOT / "experiments/pretrain.py")]


def parts(reduced: bool, bandwidth: float | None) -> dict[str, tuple[list[str], float]]:
    """Returns the command of each part, and its limit in seconds."""
    benchmarks = {name: str(ROOT / f"benchmarks/{name}.py") for name in ("training", "episodes", "collapse")}
    of_memory = [] if bandwidth is None else [f"--bandwidth={bandwidth}"]
    if reduced:
        return {
            "training": ([benchmarks["training"], "--steps=1", "--rounds=1", "--batch=16"], 200),
            "episodes": ([benchmarks["episodes"], "--episodes=200", "--no-peers", *of_memory], 200),
            "collapse": ([benchmarks["collapse"], "--rounds=1"], 200),
        }
    network = ["--network=wrn-28-4", "--side=32", "--channels=3", "--images=38400", "--compiled"]
    return {
        "training_bf16_64": ([benchmarks["training"], *network, "--precision=bfloat16", "--steps=150"], 100),
        "training_bf16_512": (
            [benchmarks["training"], *network, "--precision=bfloat16", "--batch=512", "--steps=40"], 100,
        ),
        "training_float32_64": ([benchmarks["training"], *network, "--steps=50"], 90),
        "episodes": ([benchmarks["episodes"], "--no-peers", *of_memory], 60),
        "collapse": ([benchmarks["collapse"], "--limits", "--batches=64"], 60),
    }  # fmt: skip


def settings(reduced: bool) -> list[str]:
    """Returns the settings of the runs of the parts "seeds" and "resumption"."""
    short = ["--measurements=0", "--measure_episodes=100"]
    if reduced:
        return [*short, "--preset=smoke", "--min_steps=0", "--num_source_classes=5", "--samples_per_class=32"]
    return [*short, "--network=wrn-10-1", "--epochs=2"]


def run(command: list[str], limit: float, out: Path) -> str:
    """Runs a command; returns how it ended."""
    start = time.monotonic()
    with out.open("w") as file:
        try:
            code = subprocess.run(
                [sys.executable, *command], stdout=file, stderr=subprocess.STDOUT, timeout=limit, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            return f"stopped after {limit:.0f} s"
    return f"{'done' if code == 0 else f'failed with {code}'} after {time.monotonic() - start:.0f} s"


def step_seconds(folder: Path) -> float:
    """Returns the median time of a step of all seeds."""
    entries = [json.loads(line) for line in (folder / "timing.jsonl").read_text().splitlines()]
    return median(entry["step_seconds"] for entry in entries if "steps" in entry)


def seeds(out: Path, reduced: bool) -> str:
    """Trains one seed and many as one program; returns the ratio of their times."""
    count = 3 if reduced else 20
    one, many = out / "one_seed", out / "many_seeds"
    for folder, number in ((one, 1), (many, count)):
        ended = run(
            [*PRETRAIN, *settings(reduced), f"--workdir={folder}", f"--seeds={number}"], 200, folder.with_suffix(".txt")
        )
        if not ended.startswith("done"):
            return ended
    ratio = step_seconds(many / "seed_0") / (count * step_seconds(one))
    return f"a step of {count} seeds takes {ratio:.2f} of the time of {count} steps"


def resumption(out: Path, reduced: bool) -> str:
    """Kills a run after its first checkpoint, continues it, and compares its end with a run that was not killed."""
    killed, whole = out / "killed", out / "whole"
    command = [*PRETRAIN, *settings(reduced)]
    start = time.monotonic()
    with (out / "killed.txt").open("w") as file:
        process = subprocess.Popen(
            [sys.executable, *command, f"--workdir={killed}"], stdout=file, stderr=subprocess.STDOUT
        )
        while process.poll() is None and not (killed / "checkpoints/0").is_dir() and time.monotonic() - start < 150:
            time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
        process.wait()
    for folder in (killed, whole):
        ended = run([*command, f"--workdir={folder}"], 150, out / f"{folder.name}_end.txt")
        if not ended.startswith("done"):
            return ended
    last = [(folder / "metrics.jsonl").read_text().splitlines()[-1] for folder in (killed, whole)]
    return "the same last record, bit for bit" if last[0] == last[1] else "ANOTHER last record"


def main() -> None:
    """Runs all parts and prints how they ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a new folder for outputs and runs")
    parser.add_argument("--bandwidth", type=float, help="GB/s")
    parser.add_argument("--reduced", action="store_true")
    parser.add_argument("--only", nargs="*", help="names of parts")
    flags = parser.parse_args()
    flags.out.mkdir(parents=True)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    todo = {
        name: lambda name=name, part=part: run(*part, flags.out / f"{name}.txt")
        for name, part in parts(flags.reduced, flags.bandwidth).items()
    } | {"seeds": lambda: seeds(flags.out, flags.reduced), "resumption": lambda: resumption(flags.out, flags.reduced)}
    for name, do in todo.items():
        if flags.only is None or name in flags.only:
            print(f"{name:<22}{do()}", flush=True)


if __name__ == "__main__":
    main()
