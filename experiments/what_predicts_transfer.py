"""What predicts transfer? Every measure of target features beside few-shot accuracy, over models of about one size.

Question: which measure ranks encoders as their few-shot accuracy on new classes does? Does directional CDNV rank better
than CDNV, and the predicted error better than both? And does any rank better than "take the larger model" or "take the
model of higher source accuracy"?
Paper: Galanti, György, Hutter (ICLR 2022, arXiv 2112.15121) for CDNV; Luthra, Yang, Galanti (2025, arXiv 2506.04411)
for its directional form; You et al. (ICML 2021) and later work for LogME and other scores, which are judged by τ_w too.
Plotted: Kendall's τ_w of each measure with 1-shot and 5-shot accuracy of the nearest class centre, a row of panels for
each data set; 95 % jackknife intervals over target classes and over models. Models differ in number of source classes
and images, optimisation, regularisation and family, with 79 to 179 thousand parameters on CIFAR-FS: a configuration
each.
Expect: the predicted error first for its own number of shots, since it uses the same features; directional CDNV before
CDNV; the number of parameters last.

Command: python experiments/what_predicts_transfer.py [--preset=small --data_dir=PATH]
Time: smoke, 8 models of glyphs, minutes on two cores (not timed alone); small, 23 models each of CIFAR-FS and EMNIST
(PATH has cifar-100-python/ and emnist/), 1,000 steps of 64 images for each model: not yet run. Results: RESULTS.md.
Resumable: finished runs, features and measured numbers are read back.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from common import grids, sweep
from common.score_settings import Settings
from ncjax import plots
from ncjax.errors import InputError
from ncjax.progress import progress
from ncjax.runs import Run
from ncjax.train import Config

if TYPE_CHECKING:
    from common.ranking import Ranking

PRESETS = ("smoke", "small")
SMOKE: tuple[dict[str, Any], ...] = (
    {"num_source_classes": 5}, {"num_source_classes": 20}, {"learning_rate": 0.01}, {"mixup": 0.2},
    {"weight_decay": 5e-3}, {"network": "conv-10-1"}, {"network": "mlp-2-32"},
)  # fmt: skip
SMALL: tuple[dict[str, Any], ...] = (
    {"num_source_classes": 5}, {"num_source_classes": 10}, {"num_source_classes": 20},
    {"samples_per_class": 30}, {"samples_per_class": 100},
    {"learning_rate": 0.01}, {"learning_rate": 0.4}, {"schedule": "constant"}, {"batch_size": 16},
    {"weight_decay": 0.0}, {"weight_decay": 5e-3},
    {"label_smoothing": 0.1}, {"mixup": 0.2}, {"dropout": 0.3}, {"cdnv_penalty": 0.1}, {"augmentation": "none"},
    {"network": "conv-10-1"}, {"network": "conv-16-1"}, {"network": "wrn-16-1"}, {"network": "conv4"},
    {"network": "mlp-2-32"}, {"network": "vit-2-64-4"},
)  # fmt: skip
"""The settings of each model that differ from the reference, wrn-10-1."""
SHOTS = (1, 5)


@dataclass(frozen=True)
class Options(sweep.Options):
    """Options of the experiment."""

    preset: Literal["smoke", "small"] = "smoke"
    """smoke: 8 models of glyphs, which need no download. small: 23 models each of CIFAR-FS and EMNIST, hours on two
    cores."""
    seeds: int = 1
    """Runs of each configuration; they count as one model for the intervals over models."""


def _reference(options: Options, dataset: str) -> Config:
    if options.preset == "smoke":
        return Config(
            preset="smoke", epochs=1, min_steps=200, batch_size=32, measurements=0, measure_episodes=500,
            num_source_classes=64, samples_per_class=50,
        )  # fmt: skip
    return Config(
        dataset=dataset, data_dir=grids.data_folder(options, dataset), network="wrn-10-1", preset="small", epochs=1,
        min_steps=1000, batch_size=64, measurements=0, measure_episodes=1000,
    )  # fmt: skip


def grid(options: Options) -> list[sweep.Point]:
    """Makes the reference and a point for each change, on each data set.

    Raises:
      InputError: the small preset has no data.
    """
    if options.preset == "small" and options.data_dir is None:
        raise InputError("give --data_dir=PATH, a folder with cifar-100-python/ and emnist/")
    points = []
    for dataset in ("glyphs",) if options.preset == "smoke" else ("cifar_fs", "emnist"):
        plain = _reference(options, dataset)
        points.append(sweep.Point("reference", plain, group=dataset))
        for change in SMOKE if options.preset == "smoke" else SMALL:
            label = ", ".join(f"{name}={value}" for name, value in change.items())
            points.append(sweep.Point(label, dataclasses.replace(plain, **change), group=dataset))
    return points


def measure(figures: sweep.Figures) -> dict[str, Ranking]:
    """Measures all finished models of each data set."""
    # these import JAX, and --help has been answered without it
    from common.candidates import of_run
    from common.model_scores import score
    from common.ranking import Ranking

    options = figures.options
    settings = Settings(heads=("ncc", "ridge"), shots=SHOTS, probes=True, complexity=True)
    rankings = {}
    for name, outcomes in figures.groups().items():
        models = [
            of_run(run, name=f"{outcome.point.label}{_seed(run, options)}")
            for outcome in outcomes
            for run in outcome.runs
        ]
        if len(models) < 2:
            raise InputError(f"{len(models)} finished run of {name}: a ranking takes two or more")
        first = models[0].run
        assert first is not None
        split = sweep.benchmark(first, grids.data_folder(options, name)).target
        cache = options.out / "features"
        rankings[name] = Ranking.of([score(model, split, settings, cache) for model in progress(models, name)])
    return rankings


def _seed(run: Run, options: sweep.Options) -> str:
    return "" if options.seeds == 1 else f", seed {run.config.seed}"


def draw(figures: sweep.Figures) -> None:
    """Prints the tables and what they answer, and draws a row of panels for each data set."""
    from common.model_scores import outcome_name
    from common.ranking import draw_panel

    rankings = measure(figures)
    outcomes = [outcome_name("ncc", 5, shots) for shots in SHOTS]
    most = max(len(ranking.ranks[outcome]) for ranking in rankings.values() for outcome in outcomes)
    figure = plots.new_figure(6.2 * len(outcomes), (1.4 + 0.25 * most) * len(rankings), "What predicts transfer?")
    panels = figure.subplots(len(rankings), len(outcomes), squeeze=False)
    for row, (name, ranking) in zip(panels, rankings.items(), strict=True):
        print(f"{name}\n{ranking.models()}")
        for axes, outcome in zip(row, outcomes, strict=True):
            print(f"{name}, {outcome}\n{ranking.table(outcome)}")
            draw_panel(axes, f"{name}, {outcome}, {ranking.independent} models", ranking.ranks[outcome])
        print(*(ranking.verdict(outcome) for outcome in ranking.ranks), sep="\n")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize="small")
    answers = {name: _answers(name, ranking, outcomes) for name, ranking in rankings.items()}
    rankings_json = {name: ranking.to_json() for name, ranking in rankings.items()}
    figures.save(figure, {"rankings": rankings_json, "answers": answers})


def _answers(name: str, ranking: Ranking, outcomes: list[str]) -> list[dict[str, Any]]:
    """Prints and returns differences in τ_w: does the first measure of a pair rank better?"""
    from common.measures import BASELINES, predicted_name

    answers = []
    for outcome, shots in zip(outcomes, SHOTS, strict=True):
        best = next(rank.measure for rank in ranking.ranks[outcome] if rank.measure not in BASELINES)
        predicted = predicted_name(shots)
        pairs = [("directional_cdnv", "cdnv"), (predicted, "cdnv"), (predicted, "directional_cdnv")]
        for first, second in pairs + [(best, baseline) for baseline in BASELINES]:
            difference = ranking.difference(outcome, first, second)
            print(
                f"{name}, {outcome}: τ_w of {first} less that of {second} {difference.value:+.2f}, over classes "
                f"{difference.over_classes}, over models {difference.over_models}"
            )
            answers.append({"outcome": outcome, "first": first, "second": second, **dataclasses.asdict(difference)})
    return answers


if __name__ == "__main__":
    sweep.main(__doc__, grid, draw, options=Options)
