"""Few-shot accuracy on the standard benchmarks, beside published numbers.

Claim: plain pretraining on all source classes and a simple head reach few-shot accuracy near published accuracy.
Paper: Galanti, György, Hutter (ICLR 2022, arXiv 2112.15121), its table; published numbers of ProtoNet, RFS, SKD,
inv-equ, SMKD, PAL and COSOC with their sources and what their protocols do differently: common/published.py.
Plotted: 5-way 1-shot and 5-shot accuracy on target classes with the heads ncc, ridge and logistic; the penalty of ridge
and logistic is chosen on the validation classes, if a data set has any, on the features of each run. Mean and 95 % t
interval over seeds; the table also gives the interval over episodes, which published intervals cover, and the wider
interval over classes.
Expect: smoke runs far below the published numbers, which are of networks a hundred times larger, trained to the end.

Command: python experiments/few_shot_table.py [--preset=small|paper --data_dir=PATH]
Time: smoke 340 s on two CPU cores with --data_dir, and 108 s for the runs of glyphs if no other figure has trained
them; paper, on CIFAR-FS, FC100 and EMNIST, and with --mini_imagenet=PATH of ImageNet's files on miniImageNet, not yet
run.
Results, and estimates for small, which is not yet run either: RESULTS.md.
The smoke preset uses glyphs alone; with --data_dir=PATH, a folder with cifar-100-python/ and emnist/, also CIFAR-FS and
EMNIST, 500 steps each.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import ncjax
from common import drawing, grids, sweep
from common.cache import cached_json
from common.published import PUBLISHED, Published
from ncjax.errors import InputError
from ncjax.eval.intervals import COLUMNS, half_widths_note
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
_HALVES = ("ci95", "target_ci95")


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
    if options.preset == "small":
        return [sweep.Point(options.dataset, grids.reference(options))]
    points = [sweep.Point("glyphs", grids.reference(options))]
    if options.data_dir is not None:
        whole |= {"min_steps": 500, "batch_size": 64, "preset": "small"}  # all images; smoke takes 50 a class
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
    datasets = {outcome.point.label: outcome.point.config.dataset for outcome in figures.finished}
    show(
        [table(name, of_seeds, PUBLISHED.get(datasets[name], ())) for name, of_seeds in results.items()], options.format
    )
    figure, panels = drawing.row_of_panels(len(results), 5.2, 4.8)
    for axes, (name, of_seeds) in zip(panels, results.items(), strict=True):
        draw_data_set(axes, name, of_seeds, PUBLISHED.get(datasets[name], ()))
    figure.suptitle("5-way accuracy, ± 95 % over seeds; crosses: published", fontsize=10)
    published = {
        name: [dataclasses.asdict(row) for row in PUBLISHED.get(name, ())] for name in sorted({*datasets.values()})
    }
    figures.save(figure, {"episodes": episodes, "accuracy": results, "published": published})


def table(name: str, of_seeds: list[dict[str, Any]], published: Sequence[Published] = ()) -> Table:
    """Tabulates the accuracy of each head on one data set, with published numbers."""
    rows = []
    for i, shots in enumerate(SHOTS):
        for head in HEADS:
            cells = [result[f"{head}/5w{shots}s"] for result in of_seeds]
            # as many ways as classes leave no interval over classes, which is null in the file
            halves = [
                100 * float(np.mean([math.nan if cell[key] is None else cell[key] for cell in cells]))
                for key in _HALVES
            ]
            rows.append(
                [f"5-way {shots}-shot", head, Mean.of(cell["accuracy"] for cell in cells).percent()]
                + ["–" if math.isnan(half) else f"{half:.2f}" for half in halves]
                + [", ".join(sorted({cell["head"] for cell in cells}))]
            )
        for row in published:
            value, half = (row.one_shot, row.five_shot)[i]
            text = f"{value:.4g}" + ("" if half is None else f" ± {half:.2g}")
            rows.append([f"5-way {shots}-shot", f"{row.method}, {row.network} (published)", text, "", "", ""])
    header = ["task", "head", "accuracy, % ↑", *(COLUMNS[name] for name in _HALVES), "tuned"]
    notes = [
        "↑ higher is better. ± beside an accuracy: 95 % t interval over seeds, none for one seed; over episodes where "
        "published.",
        half_widths_note(_HALVES),
        *(f"{row.method}: {row.source}{f'; {row.differs}' if row.differs else ''}." for row in published),
    ]
    return Table(header, rows, f"{name}, {len(of_seeds)} seeds", notes, left=2)


def draw_data_set(axes: Axes, name: str, of_seeds: list[dict[str, Any]], published: Sequence[Published] = ()) -> None:
    """Draws the accuracy of each head on one data set, with published numbers."""
    for i, shots in enumerate(SHOTS):
        color = SHOT_COLORS[i]
        means = [Mean.of(result[f"{head}/5w{shots}s"]["accuracy"] for result in of_seeds) for head in HEADS]
        drawing.plot_means(axes, range(len(HEADS)), means, f"{shots}-shot", scale=100, fmt="o", color=color)
        values = [(row.one_shot, row.five_shot)[i][0] for row in published]
        axes.plot(range(len(HEADS), len(HEADS) + len(values)), values, "x", color=color)
    names = [*HEADS, *(row.method for row in published)]
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize="small")
    axes.axvline(len(HEADS) - 0.5, color="grey", linewidth=0.5)
    axes.margins(x=0.1)
    axes.set_title(name)
    axes.set_ylabel("accuracy on target classes (%)")
    axes.legend(fontsize="x-small")


if __name__ == "__main__":
    sweep.main(__doc__, grid, draw, options=Options)
