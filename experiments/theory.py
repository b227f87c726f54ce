"""Bounds and prediction of few-shot error beside the measured error.

Claim: target CDNV and its relatives bound the few-shot error of the nearest class centre; the bounds hold, and fall as
training collapses the target classes.
Paper: Galanti, György, Hutter (ICLR 2022, arXiv 2112.15121); Luthra, Yang, Galanti (2025, arXiv 2506.04411); Luthra,
Salunkhe, Galanti (2026, arXiv 2603.03530). The prediction, which is no bound, is from second moments (Sorscher,
Ganguli, Sompolinsky, PNAS 2022).
Plotted: left, 5-way error of the trained network against shots, with bounds and prediction, means over seeds; middle,
the same over training steps for the largest number of shots; right, prediction against measured error for every
checkpoint, number of shots and seed. Error bars are 95 % over episodes of the same images.
Expect: no bound below the measured error; most above 1, where they say nothing; the prediction near the diagonal.

Command: python experiments/theory.py [--preset=small|paper --data_dir=PATH]
Time: smoke 26 s on two CPU cores, with the runs of collapse_during_training.py, whose checkpoints are all kept; paper,
CIFAR-FS with wrn-28-4, not yet run.
Results, and estimates for small, which is not yet run either: RESULTS.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import ncjax
from common import drawing, grids, sweep
from ncjax.plots import log_axis, mark_vacuous
from ncjax.progress import progress
from ncjax.runs import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ncjax.data import Split

SHOTS = (1, 2, 5, 10, 20, 50)
EPISODES = 2000
MEASURED = {"predicted": "predicted (no bound)", "measured": "measured"}


def grid(options: sweep.Options) -> list[sweep.Point]:
    """Makes the reference alone."""
    return [sweep.Point("reference", grids.reference(options))]


def compare(run: Run, step: int, target: Split, shots: list[int]) -> dict[str, Any]:
    """Computes bounds, prediction and measured error at a checkpoint, each for every number of shots."""
    target_features = ncjax.features(run.restore(step), target)
    ways = min(5, len(target.class_names))
    theory = ncjax.collapse.theory(target_features, target.labels, ways=ways, shots=shots)
    reports = [
        ncjax.eval.feature_episodes(target_features, target.labels, ways=ways, shots=n, queries=15, episodes=EPISODES)
        for n in shots
    ]
    return {
        "seed": run.config.seed,
        "step": step,
        "bounds": {name.strip(): values.tolist() for name, values in theory.bounds().items()},
        "predicted": theory.predicted.tolist(),
        "measured": [1 - report.accuracy for report in reports],
        "measured/ci95": [report.ci95 for report in reports],
    }


def draw(figures: sweep.Figures) -> None:
    """Draws the three panels, and prints violated bounds and the error of the prediction."""
    target = sweep.benchmark(figures.runs[0], figures.options.data_dir).target
    fewest = int(np.bincount(target.labels).min())
    shots = [n for n in SHOTS if n + 15 <= fewest]
    # without the untrained network: its classes can hardly be told apart, and no bound says anything
    pairs = [(run, int(record["step"] or 0)) for run in figures.runs for record in run.records[1:]]
    checkpoints = [compare(run, step, target, shots) for run, step in progress(pairs, "checkpoints")]
    figure, (left, middle, right) = drawing.row_of_panels(3, height=4.8)
    draw_bounds(left, middle, checkpoints, shots)
    figure.legend(loc="outside lower center", ncols=4, fontsize="small")
    draw_prediction(right, checkpoints, shots)
    violated = [
        name
        for checkpoint in checkpoints
        for name, values in checkpoint["bounds"].items()
        for value, error, half in zip(values, checkpoint["measured"], checkpoint["measured/ci95"], strict=True)
        if value < error - half
    ]
    names = list(checkpoints[0]["bounds"])
    below_1 = {name: sum(v < 1 for checkpoint in checkpoints for v in checkpoint["bounds"][name]) for name in names}
    off = [
        abs(predicted - measured)
        for checkpoint in checkpoints
        for predicted, measured in zip(checkpoint["predicted"], checkpoint["measured"], strict=True)
    ]
    print(
        f"{len(checkpoints)} checkpoints x {len(shots)} shots; violated: {', '.join(sorted(set(violated))) or 'none'}"
    )
    print("below 1: " + ", ".join(f"{name} {count}" for name, count in below_1.items()))
    print(f"|predicted - measured|: mean {np.mean(off):.4f}, largest {np.max(off):.4f}")
    figure.suptitle(f"Theory and measurement, {len(figures.runs)} seeds")
    figures.save(figure, {"shots": shots, "checkpoints": checkpoints, "below_1": below_1, "violated": violated})


def draw_bounds(left: Axes, middle: Axes, checkpoints: list[dict[str, Any]], shots: list[int]) -> None:
    """Draws bounds, prediction and error against shots at the last step, and over steps at the most shots."""
    steps = sorted({checkpoint["step"] for checkpoint in checkpoints})

    def mean(step: int, shot: int, name: str) -> float:
        of_step = [checkpoint for checkpoint in checkpoints if checkpoint["step"] == step]
        return float(np.mean([(checkpoint["bounds"] | checkpoint)[name][shot] for checkpoint in of_step]))

    labels = {**{name: f"bound: {name}" for name in checkpoints[0]["bounds"]}, **MEASURED}
    for i, (name, label) in enumerate(labels.items()):
        style: dict[str, Any] = {"color": f"C{(i + 2) % 10}", "linestyle": "--"}
        if name in MEASURED:
            style = {"color": "C1" if name == "predicted" else "C0", "linestyle": "-"}
        left.plot(shots, [mean(steps[-1], j, name) for j in range(len(shots))], marker=".", label=label, **style)
        middle.plot(steps, [mean(step, len(shots) - 1, name) for step in steps], marker=".", **style)
    log_axis(left, "x", shots)
    left.set_xlabel(f"shots (step {steps[-1]})")
    middle.set_xlabel(f"step ({shots[-1]} shots)")
    mark_vacuous(left, shots[0])
    middle.axhline(1, color="C3", linewidth=1)
    for axes in (left, middle):
        log_axis(axes, "y")
        axes.set_ylabel("NCC error, 5 ways")


def draw_prediction(axes: Axes, checkpoints: list[dict[str, Any]], shots: list[int]) -> None:
    """Draws measured against predicted error, a colour for each number of shots."""
    for j, n in enumerate(shots):
        predicted, measured, bars = (
            [checkpoint[name][j] for checkpoint in checkpoints] for name in ("predicted", "measured", "measured/ci95")
        )
        axes.errorbar(predicted, measured, bars, fmt="o", markersize=4, label=f"{n} shots" if n > 1 else "1 shot")
    errors = [error for checkpoint in checkpoints for error in checkpoint["measured"]]
    ends = [min(errors) * 0.8, max(errors) * 1.2]
    axes.plot(ends, ends, "k--", linewidth=1)
    log_axis(axes, "x")
    log_axis(axes, "y")
    axes.set_xlabel("predicted NCC error")
    axes.set_ylabel("measured NCC error")
    axes.legend(fontsize="small")


if __name__ == "__main__":
    sweep.main(__doc__, grid, draw)
