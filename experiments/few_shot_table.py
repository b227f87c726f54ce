"""Few-shot accuracy on the standard benchmarks, beside published numbers.

Claim: plain pretraining on all source classes and a simple head reach few-shot accuracy near published accuracy.
Paper: Galanti, György, Hutter (ICLR 2022, arXiv 2112.15121), its table; published numbers from RFS (Tian et al., ECCV
2020, arXiv 2003.11539, ResNet-12, without distillation) and of Prototypical Networks with four convolutions. The latter
(Snell et al., NeurIPS 2017) are older than both data sets: their numbers on CIFAR-FS are as reported by Bertinetto et
al. (ICLR 2019, arXiv 1805.08136), on FC100 as reported in later work.
Plotted: 5-way 1-shot and 5-shot accuracy on target classes with the heads ncc, ridge and logistic; the penalty of ridge
and logistic is chosen on the validation classes, if a data set has any, on the features of each run. Mean and 95 % t
interval over seeds; the table also gives the interval over episodes, which published intervals cover, and the wider
interval over classes.
Expect: smoke runs far below the published numbers, which are of networks a hundred times larger, trained to the end.

Command: python experiments/few_shot_table.py [--preset=paper --data_dir=PATH]
Time: smoke 340 s on two CPU cores with --data_dir, and 108 s for the runs of glyphs if no other figure has trained
them; paper, on CIFAR-FS, FC100 and EMNIST, and with --mini_imagenet=PATH of ImageNet's files on miniImageNet, not yet
run. Results: RESULTS.md.
The smoke preset uses glyphs alone; with --data_dir=PATH, a folder with cifar-100-python/ and emnist/, also CIFAR-FS and
EMNIST, 500 steps each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import ncjax
from common import drawing, grids, sweep
from common.cache import cached_json
from ncjax.errors import InputError
from ncjax.plots import SHOT_COLORS
from ncjax.progress import progress
from ncjax.runs import Run
from ncjax.statistics import Mean
from ncjax.tables import Table, TableFormat, show

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HEADS = ("ncc", "ridge", "logistic")
SHOTS = (1, 5)
TUNING_EPISODES = 500
PUBLISHED: dict[str, dict[str, tuple[tuple[float, float | None], ...]]] = {
    "cifar_fs": {"RFS": ((71.5, 0.8), (86.0, 0.5)), "ProtoNet": ((55.5, None), (72.0, None))},
    "fc100": {"RFS": ((42.6, 0.7), (59.1, 0.6)), "ProtoNet": ((35.3, None), (48.6, None))},
    "mini_imagenet": {"RFS": ((62.02, 0.63), (79.64, 0.44))},
}
"""Accuracy and 95 % interval in percent, 1-shot and 5-shot; RFS with ResNet-12, ProtoNet with four layers as reported
by later work."""


@dataclass(frozen=True)
class Options(sweep.Options):
    """Options of the table."""

    mini_imagenet: str | None = None
    """Folder of ImageNet's files, for miniImageNet."""
    episodes: int | None = None
    """Few-shot episodes of each kind; by default 2000 (smoke) or 10,000 (paper)."""
    format: TableFormat = "text"
    """How tables are printed."""


def grid(options: Options) -> list[sweep.Point]:
    """Makes a point for each data set."""
    if options.episodes is not None and options.episodes < 2:
        raise InputError(f"episodes={options.episodes}: it must be at least 2")
    whole: dict[str, Any] = {"num_source_classes": None, "samples_per_class": None}
    if options.preset == "paper":
        # all of CIFAR-100's source classes and images, with the settings of other figures, which share these runs
        cifar = {"cifar_fs": 64, "fc100": grids.FC100_SOURCE_CLASSES}
        folders = {name: grids.data_folder(options, name) for name in (*cifar, "emnist")}
        if options.mini_imagenet is not None:
            folders["mini_imagenet"] = options.mini_imagenet
        sizes = {name: {"num_source_classes": cifar[name]} if name in cifar else whole for name in folders}
        return [
            sweep.Point(name, grids.reference(options, dataset=name, data_dir=folder, **sizes[name]))
            for name, folder in folders.items()
        ]
    points = [sweep.Point("glyphs", grids.reference(options))]
    if options.data_dir is not None:
        whole |= {"min_steps": 500, "batch_size": 64}
        for name in ("cifar_fs", "emnist"):
            config = grids.reference(options, dataset=name, data_dir=grids.data_folder(options, name), **whole)
            points.append(sweep.Point(name, config, seeds=1))
    return points


def evaluate(run: Run, episodes: int, data_dir: str | None = None) -> dict[str, Any]:
    """Returns accuracy and intervals of each head and number of shots, cached in few_shot.json in the run's folder."""
    settings = {"episodes": episodes, "heads": HEADS, "shots": SHOTS, "tuning_episodes": TUNING_EPISODES}
    return cached_json(run.folder / "few_shot.json", settings, lambda: measure(run, episodes, data_dir))


def measure(run: Run, episodes: int, data_dir: str | None = None) -> dict[str, Any]:
    """Computes accuracy and intervals of each head and number of shots."""
    benchmark, params = sweep.benchmark(run, data_dir), run.restore()
    target = ncjax.features(params, benchmark.target)
    validation = None if benchmark.validation is None else ncjax.features(params, benchmark.validation)
    cells: dict[str, Any] = {"episodes": episodes}
    for head in HEADS:
        for shots in SHOTS:
            tuned: Any = head
            if head != "ncc" and validation is not None:
                assert benchmark.validation is not None
                tuned = ncjax.eval.feature_tune(
                    validation, benchmark.validation.labels, head=head, shots=shots, episodes=TUNING_EPISODES
                )
            report = ncjax.eval.feature_episodes(
                target, benchmark.target.labels, shots=shots, head=tuned, episodes=episodes
            )
            cells[f"{head}/5w{shots}s"] = {
                "head": report.settings.head,
                "accuracy": report.accuracy,
                "ci95": report.ci95,
                "target_ci95": report.target_ci95,
            }
    return cells


def draw(figures: sweep.Figures) -> None:
    """Prints the table, and draws a panel for each data set."""
    options = figures.options
    assert isinstance(options, Options)
    episodes = options.episodes or (2000 if options.preset == "smoke" else 10_000)
    results = {
        outcome.point.label: [evaluate(run, episodes, outcome.point.config.data_dir) for run in outcome.runs]
        for outcome in progress(figures.finished, "few-shot episodes")
    }
    show([table(name, of_seeds) for name, of_seeds in results.items()], options.format)
    figure, panels = drawing.row_of_panels(len(results), 4.6, 4.2)
    for axes, (name, of_seeds) in zip(panels, results.items(), strict=True):
        draw_data_set(axes, name, of_seeds)
    figure.suptitle("5-way accuracy, ± 95 % over seeds; published: RFS, ProtoNet", fontsize=10)
    figures.save(figure, {"episodes": episodes, "accuracy": results, "published": PUBLISHED})


def table(name: str, of_seeds: list[dict[str, Any]]) -> Table:
    """Tabulates the accuracy of each head on one data set, with published numbers."""
    rows = []
    for i, shots in enumerate(SHOTS):
        for head in HEADS:
            cells = [result[f"{head}/5w{shots}s"] for result in of_seeds]
            # as many ways as classes leave no interval over classes, which is null in the file
            halves = [
                100 * float(np.mean([math.nan if cell[key] is None else cell[key] for cell in cells]))
                for key in ("ci95", "target_ci95")
            ]
            rows.append(
                [f"5-way {shots}-shot", head, Mean.of(cell["accuracy"] for cell in cells).percent()]
                + ["–" if math.isnan(half) else f"{half:.2f}" for half in halves]
                + [", ".join(sorted({cell["head"] for cell in cells}))]
            )
        for source, values in PUBLISHED.get(name, {}).items():
            value, half = values[i]
            text = f"{value}" if half is None else f"{value} ± {half}"
            rows.append([f"5-way {shots}-shot", f"{source} (published)", text, "", "", ""])
    header = ["episodes", "head", "accuracy, % ↑", "± redrawn episodes", "± new classes", "tuned"]
    notes = [
        "↑ higher is better. ± beside an accuracy: 95 % t interval over seeds, none for one seed; over episodes where "
        "published."
    ]
    return Table(header, rows, f"{name}, {len(of_seeds)} seeds", notes, left=2)


def draw_data_set(axes: Axes, name: str, of_seeds: list[dict[str, Any]]) -> None:
    """Draws the accuracy of each head on one data set, with published numbers."""
    for i, shots in enumerate(SHOTS):
        color = SHOT_COLORS[i]
        means = [Mean.of(result[f"{head}/5w{shots}s"]["accuracy"] for result in of_seeds) for head in HEADS]
        drawing.plot_means(axes, range(len(HEADS)), means, f"{shots}-shot", scale=100, fmt="o", color=color)
        for style, (source, values) in zip(("--", ":"), PUBLISHED.get(name, {}).items(), strict=False):
            axes.axhline(values[i][0], color=color, linestyle=style, linewidth=1, label=f"{source}, {shots}-shot")
    axes.set_xticks(range(len(HEADS)), HEADS)
    axes.margins(x=0.2)
    axes.set_title(name)
    axes.set_ylabel("accuracy on target classes (%)")
    axes.legend(fontsize="x-small")


if __name__ == "__main__":
    sweep.main(__doc__, grid, draw, options=Options)
