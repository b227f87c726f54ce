"""Few-shot accuracy on the standard benchmarks, beside published numbers.

Claim: plain pretraining on all source classes and a simple head give few-shot accuracy near the published one.
Paper: Galanti, György, Hutter (ICLR 2022, arXiv 2112.15121), its table; published numbers from RFS (Tian et al., ECCV
2020, arXiv 2003.11539, ResNet-12, without distillation) and of Prototypical Networks with four convolutions. Those
(Snell et al., NeurIPS 2017) are older than both data sets: their numbers on CIFAR-FS are as reported by Bertinetto et
al. (ICLR 2019, arXiv 1805.08136), on FC100 as reported in later work.
Plotted: 5-way 1-shot and 5-shot accuracy on target classes with the heads ncc, ridge and logistic; the penalty of ridge
and logistic is chosen on the validation classes, where a data set has any, on the features of each run. Mean and 95 % t
interval over seeds; the table also gives the interval over episodes, which is what published ones cover, and the wider
one over classes.
Expect: smoke runs far below the published numbers, which are of networks a hundred times larger, trained to the end.

Command: python experiments/few_shot_table.py [--preset=paper --data_dir=PATH]
The smoke preset is of glyphs alone; with --data_dir=PATH, a folder with cifar-100-python/ and emnist/, also of CIFAR-FS
and EMNIST, 500 steps each.
smoke: 340 s with --data_dir on two cores of an AMD EPYC with little else to do, the glyphs runs re-used, which take 108
s more (2026-11-26). The best head, over 2,000 episodes: glyphs 82.3 ± 1.8 % (1-shot, logistic, ± over three seeds) and
93.5 ± 0.5 % (5-shot, ridge); one run each, ± over episodes: CIFAR-FS, after a single epoch, 41.5 ± 0.5 % (ridge) and
52.8 ± 0.5 % (logistic); EMNIST 75.8 ± 0.5 % (ncc) and 87.1 ± 0.4 % (logistic). Intervals over classes are ± 4 to 14
points.
paper: CIFAR-FS, FC100 and EMNIST, and with --mini_imagenet=PATH of ImageNet's files miniImageNet: not yet run.
"""

import math
from dataclasses import dataclass
from typing import Any

import class_population
import drawing
import numpy as np
import stats
import sweep

from ncjax import features
from ncjax.errors import InputError
from ncjax.eval import feature_episodes, feature_tune
from ncjax.files import expand
from ncjax.plots import SHOT_COLORS
from ncjax.progress import progress
from ncjax.runs import Run

HEADS = ("ncc", "ridge", "logistic")
SHOTS = (1, 5)
TUNING_EPISODES = 500
PUBLISHED: dict[str, dict[str, tuple[tuple[float, float | None], ...]]] = {
    "cifar_fs": {"RFS": ((71.5, 0.8), (86.0, 0.5)), "ProtoNet": ((55.5, None), (72.0, None))},
    "fc100": {"RFS": ((42.6, 0.7), (59.1, 0.6)), "ProtoNet": ((35.3, None), (48.6, None))},
    "mini_imagenet": {"RFS": ((62.02, 0.63), (79.64, 0.44))},
}
"""Accuracy and 95 % interval in percent, 1-shot and 5-shot; RFS with ResNet-12, ProtoNet with four layers,
as later work reported it."""


@dataclass(frozen=True)
class Options(sweep.Options):
    """What the table asks."""

    mini_imagenet: str | None = None
    """Folder of ImageNet's files, for miniImageNet."""
    episodes: int | None = None
    """Few-shot episodes of each kind; by default 2000 (smoke) or 10,000 (paper)."""


def grid(options: Options) -> list[sweep.Point]:
    """A run of each data set."""
    if options.episodes is not None and options.episodes < 2:
        raise InputError(f"episodes={options.episodes}: it must be at least 2")
    whole: dict[str, Any] = {"num_source_classes": None, "samples_per_class": None}
    if options.preset == "paper":
        # all of CIFAR-100's source classes and images, in the words of the other figures, which share these runs
        cifar = {"cifar_fs": 64, "fc100": class_population.SOURCE_CLASSES}
        folders = {name: place(options, name) for name in (*cifar, "emnist")}
        if options.mini_imagenet is not None:
            folders["mini_imagenet"] = options.mini_imagenet
        sizes = {name: {"num_source_classes": cifar[name]} if name in cifar else whole for name in folders}
        return [
            sweep.Point(name, sweep.reference(options, dataset=name, data_dir=where, **sizes[name]))
            for name, where in folders.items()
        ]
    points = [sweep.Point("glyphs", sweep.reference(options))]
    if options.data_dir is not None:
        whole |= {"min_steps": 500, "batch_size": 64}
        for name in ("cifar_fs", "emnist"):
            config = sweep.reference(options, dataset=name, data_dir=place(options, name), **whole)
            points.append(sweep.Point(name, config, seeds=1))
    return points


def place(options: sweep.Options, name: str) -> str | None:
    """Where a data set's archive is: a sub-folder of its name, or the folder itself."""
    if options.data_dir is None or not (expand(options.data_dir) / name).is_dir():
        return options.data_dir
    return str(expand(options.data_dir) / name)


def evaluate(run: Run, episodes: int, data_dir: str | None = None) -> dict[str, Any]:
    """Accuracy and intervals of each head and number of shots; kept in the run's folder, few_shot.json."""
    settings = {"episodes": episodes, "heads": HEADS, "shots": SHOTS, "tuning_episodes": TUNING_EPISODES}
    return sweep.kept(run.folder / "few_shot.json", settings, lambda: measure(run, episodes, data_dir))


def measure(run: Run, episodes: int, data_dir: str | None = None) -> dict[str, Any]:
    """`evaluate`, computed."""
    benchmark, params = sweep.benchmark(run, data_dir), run.restore()
    target = features(params, benchmark.target)
    validation = None if benchmark.validation is None else features(params, benchmark.validation)
    found: dict[str, Any] = {"episodes": episodes}
    for head in HEADS:
        for shots in SHOTS:
            chosen: Any = head
            if head != "ncc" and validation is not None:
                assert benchmark.validation is not None
                chosen = feature_tune(
                    validation, benchmark.validation.labels, head=head, shots=shots, episodes=TUNING_EPISODES
                )
            report = feature_episodes(target, benchmark.target.labels, shots=shots, head=chosen, episodes=episodes)
            found[f"{head}/5w{shots}s"] = {
                "head": report.settings.head,
                "accuracy": report.accuracy,
                "ci95": report.ci95,
                "target_ci95": report.target_ci95,
            }
    return found


def draw(figures: sweep.Figures) -> None:
    """The table, and a panel for each data set."""
    options = figures.options
    assert isinstance(options, Options)
    episodes = options.episodes or (2000 if options.preset == "smoke" else 10_000)
    found = {
        o.point.label: [evaluate(run, episodes, o.point.config.data_dir) for run in o.runs]
        for o in progress(figures.finished, "few-shot episodes")
    }
    figure, panels = drawing.panels(len(found), 4.6, 4.2)
    for axes, (name, runs) in zip(panels, found.items(), strict=True):
        print(
            f"{name}, {len(runs)} seeds: accuracy ± 95 % t over seeds (none for one); over episodes; over new classes"
        )
        for i, shots in enumerate(SHOTS):
            means = []
            for head in HEADS:
                cells = [run[f"{head}/5w{shots}s"] for run in runs]
                means.append(stats.Mean.of(cell["accuracy"] for cell in cells))
                # as many ways as classes leave no interval over classes, which is null in the file
                wide = [
                    100 * float(np.mean([math.nan if cell[key] is None else cell[key] for cell in cells]))
                    for key in ("ci95", "target_ci95")
                ]
                print(
                    f"  5-way {shots}-shot {head:<9} {means[-1].percent()} %; "
                    f"± {wide[0]:.2f}; ± {wide[1]:.2f}   {', '.join(sorted({cell['head'] for cell in cells}))}"
                )
            drawing.plot_means(
                axes, range(len(HEADS)), means, f"{shots}-shot", scale=100, fmt="o", color=SHOT_COLORS[i]
            )
            for style, (source, values) in zip(("--", ":"), PUBLISHED.get(name, {}).items(), strict=False):
                value, half = values[i]
                axes.axhline(value, color=SHOT_COLORS[i], linestyle=style, linewidth=1, label=f"{source}, {shots}-shot")
                print(f"  5-way {shots}-shot {source} (published) {value}{'' if half is None else f' ± {half}'} %")
        axes.set_xticks(range(len(HEADS)), HEADS)
        axes.margins(x=0.2)
        axes.set_title(name)
        axes.set_ylabel("accuracy on target classes (%)")
        axes.legend(fontsize="x-small")
    figure.suptitle("5-way accuracy, ± 95 % over seeds; published: RFS, ProtoNet", fontsize=10)
    figures.save(figure, {"episodes": episodes, "accuracy": found, "published": PUBLISHED})


if __name__ == "__main__":
    sweep.main(__doc__, grid, draw, options=Options)
