"""Evaluates a finished run, a pretrained encoder, or features: few-shot accuracy and neural collapse, with intervals.

python experiments/evaluate.py --run=runs/glyphs-wrn-10-1-…: ncc, ridge and logistic heads on the target classes.
python experiments/evaluate.py --run=PATH --tune --theory --layers: hyperparameters by validation classes, the bounds
of theory beside the measured error, and collapse at every depth.
python experiments/evaluate.py --encoder=timm:resnet18 --dataset=cifar_fs --data_dir=PATH: a pretrained encoder, also
hf:NAME_OR_FOLDER, torchvision:NAME or package.module:function; several --encoder in one table, on the same episodes.
python experiments/evaluate.py --features=file.npz: arrays `features` [n, d] and `labels` [n], from any encoder.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import encoder_features
import jax
import numpy as np
from tyro.conf import UseAppendAction

import ncjax
from ncjax import cli, collapse, plots, runs
from ncjax.classifier import outputs
from ncjax.data import Split
from ncjax.errors import UNREADABLE_NPZ, InputError
from ncjax.eval import AccuracyCurve, EpisodeReport, feature_curve, feature_episodes
from ncjax.eval.tuning import GRID, feature_tune
from ncjax.files import is_replaceable
from ncjax.progress import progress
from ncjax.train import read_config
from ncjax.train.checkpoint import find

if TYPE_CHECKING:
    from matplotlib.figure import Figure

THEORY_SHOTS = (1, 2, 5, 10, 20, 50)


@dataclass(frozen=True)
class Options:
    """What to evaluate, and how."""

    run: Path | None = None
    """Folder of a run of pretrain.py."""
    features: Path | None = None
    """Instead of a run: an .npz file with arrays `features` [n, d] and `labels` [n], of target classes."""
    encoder: UseAppendAction[tuple[str, ...]] = ()
    """Instead of a run: timm:NAME, hf:NAME_OR_FOLDER, torchvision:NAME or package.module:function, a function that
    returns a Classifier, a torch module or an NNX model. May be given more than once."""
    random_weights: bool = False
    """Encoders with random weights: the untrained baseline."""
    dataset: str | None = None
    """The images for --encoder; see python -m ncjax.data."""
    data_dir: str | None = None
    """Where the images for --encoder are; or where the run's data is, if it is no longer where it was."""
    split_seed: int = 0
    """Draws the target classes of --dataset, where its split is random."""
    image_size: int | None = None
    """What --encoder sees, pixels a side, in the place of its own configuration's."""
    stages: tuple[str, ...] = ()
    """Names of inner modules of --encoder, for --layers."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 runs torch modules of --encoder under autocast."""
    batch_size: int = 64
    """Images at a time through --encoder."""
    save_features: Path | None = None
    """Keeps the features of --encoder in this .npz file, which --features reads."""
    step: int | None = None
    """Checkpoint of the run; the newest by default."""
    split: Literal["target", "validation", "source_test", "source_train"] = "target"
    """Which classes and images of the run's data set."""
    heads: tuple[Literal["ncc", "cosine", "ridge", "logistic"], ...] = ("ncc", "ridge", "logistic")
    """Heads to evaluate."""
    ways: int = 5
    """Classes an episode."""
    shots: tuple[int, ...] = (1, 5)
    """Support images a class; one table row for each."""
    queries: int = 15
    """Query images a class."""
    episodes: int = 10_000
    """Number of episodes."""
    transform: Literal["none", "l2", "centered_l2"] = "none"
    """What is done to features first; centered_l2 subtracts the mean of source-train."""
    support_augmentations: int = 0
    """Random variants of each support image, under the augmentation of training; runs only."""
    seed: int = 0
    """Seed of the episodes."""
    tune: bool = False
    """Choose the hyperparameters of ridge and logistic on the validation classes, without augmentation; runs only."""
    intervals: bool = False
    """Intervals of the measures of collapse, over samples and over classes."""
    curves: bool = False
    """Accuracy of the first head against the number of shots and of ways, with a figure."""
    theory: bool = False
    """Bounds and prediction of the NCC error beside the measured one, with a figure."""
    layers: bool = False
    """CDNV and nearest-class-mean accuracy of every stage of the network; runs only."""
    out: Path | None = None
    """Where the JSON goes; by default evaluation.json in the run's folder (source_test.evaluation.json and so on for
    other splits than target, step_0.evaluation.json and so on with --step), or FILE.evaluation.json beside the
    features. Figures are named alike, in figures/; with --out they go beside that file: OUT.curves.png."""

    @property
    def folder(self) -> Path:
        """The run's, that of the features, or that of all encoders."""
        if self.run is not None:
            return self.run
        if self.encoder:
            return Path("runs/encoders")
        assert self.features is not None
        return self.features.parent

    @property
    def prefix(self) -> str:
        """What the names of files begin with, so that one evaluation leaves the files of another as they are."""
        if self.features is not None:
            return f"{self.features.stem}."
        if self.encoder:
            names = [encoder_features.slug(spec) for spec in self.encoder]
            untrained = "-random" if self.random_weights else ""
            part = "" if self.split == "target" else f"{self.split}."
            return f"{self.dataset}.{part}{'+'.join(names)[:120]}{untrained}."
        split = "" if self.split == "target" else f"{self.split}."
        return split + ("" if self.step is None else f"step_{self.step}.")

    @property
    def json_file(self) -> Path:
        """Where the numbers go."""
        return self.out or self.folder / f"{self.prefix}evaluation.json"

    def figure_file(self, name: str) -> Path | None:
        """Where a figure goes; None where --out is a device or a pipe, which have no place beside them."""
        if self.out is None:
            return self.folder / "figures" / f"{self.prefix}{name}.png"
        if not is_replaceable(self.out):
            return None
        return self.out.with_name(f"{self.out.name.removesuffix('.json')}.{name}.png")

    def check_places(self) -> None:
        """Raises InputError where a file that is asked for cannot be written."""
        figures = [name for name in ("curves", "theory") if getattr(self, name)]
        cli.check_out(self.json_file, self.save_features, *map(self.figure_file, figures))


@dataclass(frozen=True)
class Subject:
    """Features to evaluate, and the model behind them where there is one; `step` is its checkpoint."""

    name: str
    features: np.ndarray
    labels: np.ndarray
    step: int | None = None
    params: ncjax.Classifier | None = None
    split: Split | None = None
    validation: Split | None = None
    weights: jax.Array | None = None
    bias: jax.Array | None = None
    stages: tuple[np.ndarray, ...] = ()

    @cached_property
    def validation_features(self) -> np.ndarray:
        """Of the validation classes, which hyperparameters are chosen on.

        Raises:
          InputError: there are none.
        """
        assert self.params is not None
        if self.validation is None:
            raise InputError("this data set has no validation classes for --tune to choose on: leave it out")
        return ncjax.features(self.params, self.validation)


def load_run(options: Options) -> Subject:
    """The classifier of a run and the chosen split of its data.

    Raises:
      InputError: no run there, its data cannot be read or is not what it was trained on, no such split.
    """
    assert options.run is not None
    described = read_config(options.run)
    options.check_places()
    step = find(options.run / "checkpoints", options.step)
    params = ncjax.restore(options.run, step)
    benchmark = runs.open_benchmark(described, options.data_dir)
    split = getattr(benchmark, options.split)
    if split is None:
        raise InputError(f"this run's data has no {options.split} images; choose another --split")
    if options.transform == "centered_l2" and params.feature_mean is None:
        raise InputError("--transform=centered_l2 takes the mean feature at the end of training: leave out --step")
    head = params.network.head(params.variables) if options.split.startswith("source") else (None, None)
    return Subject(
        f"{options.split}, all images, of {options.run}" + ("" if options.step is None else f", step {step}"),
        ncjax.features(params, split),
        split.labels,
        step,
        params,
        split,
        benchmark.validation,
        *head,
    )


def load_encoders(options: Options) -> Iterator[Subject]:
    """The encoders, one after the other, with their features of the chosen split; all are tried before the first.

    Raises:
      InputError: an encoder or the data cannot be loaded, or do not fit, or an option is of runs.
    """
    if options.step is not None or options.transform == "centered_l2":
        raise InputError("--step and --transform=centered_l2 need a run of pretrain.py: leave them out with --encoder")
    if options.save_features is not None and len(options.encoder) > 1:
        raise InputError("--save_features keeps the features of one --encoder: give one")
    if options.layers and not options.stages:
        raise InputError("--layers of an encoder needs --stages, the names of its inner modules")
    options.check_places()
    sys.path.append(os.getcwd())  # where a user's own package.module:function is
    part = options.split
    benchmark = encoder_features.load_benchmark(options.dataset, options.data_dir, part, options.split_seed)
    settings = {name: getattr(options, name) for name in ("random_weights", "image_size", "stages", "precision")}
    loaded = [encoder_features.load_encoder(spec, benchmark, part, **settings) for spec in options.encoder]
    for spec, params in zip(options.encoder, loaded, strict=True):
        extracted = encoder_features.extract(
            spec, params, benchmark, part, batch_size=options.batch_size, layers=options.layers
        )
        if options.save_features is not None:
            encoder_features.save(options.save_features, extracted)
        yield Subject(
            f"{params.network.name}, {options.dataset} {part}",
            extracted.features,
            extracted.split.labels,
            None,
            params,
            extracted.split,
            benchmark.validation,
            stages=extracted.stages,
        )


def load_features(options: Options) -> Subject:
    """Features from a file.

    Raises:
      InputError: it cannot be read, or lacks an array, or an option needs a run.
    """
    path = options.features
    assert path is not None
    for name, value in (("tune", options.tune), ("layers", options.layers), ("step", options.step)):
        if value:
            raise InputError(f"--{name} needs a run of pretrain.py: give --run instead of --features")
    if options.support_augmentations or options.transform == "centered_l2":
        raise InputError("--support_augmentations and --transform=centered_l2 need a run: give --run, not --features")
    if path.suffix != ".npz":
        raise InputError(f"{path} is no .npz file; save one with np.savez(path, features=…, labels=…)")
    try:
        with np.load(path) as arrays:
            missing = [name for name in ("features", "labels") if name not in arrays.files]
            found = {name: arrays[name] for name in ("features", "labels") if name not in missing}
            origin = [str(arrays[name]) for name in ("encoder", "dataset") if name in arrays.files]
    except UNREADABLE_NPZ as error:
        raise InputError(f"{path} cannot be read as an .npz file: {error}") from None
    if missing:
        raise InputError(f"{path} has no array {missing[0]!r}; save one with np.savez(path, features=…, labels=…)")
    labels = found["labels"]
    if labels.ndim != 1:
        raise InputError(f"labels of {path} have shape {labels.shape}; give one label a row of features, [n]")
    options.check_places()
    return Subject(f"{path} ({' on '.join(origin)})" if origin else str(path), found["features"], labels)


@dataclass(frozen=True)
class Evaluation:
    """What was printed of a subject: its numbers for JSON, its figures by their names, and what comparisons need."""

    numbers: dict[str, Any]
    figures: dict[str, Figure]
    measured: collapse.Collapse
    reports: list[EpisodeReport]


def evaluate(options: Options, subject: Subject) -> Evaluation:
    """Prints the tables of a subject."""
    chosen = json.loads(json.dumps(vars(options), default=str))
    result: dict[str, Any] = {"subject": subject.name, "step": subject.step, "options": chosen}
    figures: dict[str, Figure] = {}
    print(f"{subject.name}: {len(subject.labels)} images\n")
    measured = collapse.measure(subject.features, subject.labels, weights=subject.weights, bias=subject.bias)
    print(measured, "\n")
    result["collapse"] = json.loads(measured.to_json())
    if options.intervals:
        for over in ("samples", "classes"):
            found = collapse.intervals(
                subject.features, subject.labels, weights=subject.weights, bias=subject.bias, over=over
            )
            print(found, "\n")
            result[f"collapse_ci95_over_{over}"] = {
                name: [finite(value.low), finite(value.high)]
                for name, value in vars(found).items()
                if isinstance(value, collapse.Interval)
            }
    kinds = [(head, shots) for shots in options.shots for head in options.heads]
    reports = [report(options, subject, *kind) for kind in progress(kinds, "episodes")]
    for one in reports:
        print(one.summary())
    result["episodes"] = [as_json(one) for one in reports]
    if options.curves:
        traced = [curve(options, subject, over) for over in ("shots", "ways")]
        name = traced[0].reports[0].settings.head
        print(*(f"\n{name}\n{one}" for one in traced), sep="\n")
        result["curves"] = {
            one.over: [as_json(r) | {one.over: v} for v, r in zip(one.values, one.reports, strict=True)]
            for one in traced
        }
        figures["curves"] = plots.plot_curves(traced, f"{name}, {subject.name}")
    if options.theory:
        result["theory"], figures["theory"] = theory(options, subject)
    if options.layers:
        result["layers"] = layers(subject)
    return Evaluation(result, figures, measured, reports)


def head_of(options: Options, subject: Subject, head: str, shots: int) -> Any:
    """The head, tuned on validation classes where that is asked and the head has something to tune."""
    if not options.tune or head not in ("ridge", "logistic"):
        return head
    features = subject.validation_features
    assert subject.params is not None
    assert subject.validation is not None
    chosen = feature_tune(
        features,
        subject.validation.labels,
        head=head,
        transform=options.transform,
        center=subject.params.feature_mean,
        seed=options.seed,
        ways=options.ways,
        shots=shots,
        queries=options.queries,
    )
    ((name, value),) = chosen.hyperparameters.items()
    if value in (GRID[name][0], GRID[name][-1]):
        print(f"{chosen}: the best of those tried is at their end, {GRID[name][0]:g} to {GRID[name][-1]:g}")
    return chosen


def settings_of(options: Options) -> dict[str, Any]:
    """What every evaluation has in common."""
    names = ("queries", "episodes", "seed", "transform")
    return {name: getattr(options, name) for name in names}


def report(options: Options, subject: Subject, head: str, shots: int) -> EpisodeReport:
    """Episodes with one head."""
    chosen = head_of(options, subject, head, shots)
    settings = settings_of(options) | {"ways": options.ways, "shots": shots, "head": chosen}
    if subject.params is None:
        return feature_episodes(subject.features, subject.labels, **settings)
    if options.support_augmentations:
        assert subject.split is not None
        return ncjax.eval.episodes(
            subject.params, subject.split, support_augmentations=options.support_augmentations, **settings
        )
    return feature_episodes(subject.features, subject.labels, center=subject.params.feature_mean, **settings)


def curve(options: Options, subject: Subject, over: Any) -> AccuracyCurve:
    """Accuracy of the first head against shots or ways; tuned at --ways and the last of --shots, as the table's."""
    settings = settings_of(options) | {"ways": options.ways, "shots": options.shots[-1]}
    del settings[over]
    head = head_of(options, subject, options.heads[0], options.shots[-1])
    center = None if subject.params is None else subject.params.feature_mean
    return feature_curve(subject.features, subject.labels, over=over, head=head, center=center, **settings)


def theory(options: Options, subject: Subject) -> tuple[dict[str, Any], Figure]:
    """Bounds and prediction beside the measured NCC error, on the features as they are: numbers and figure."""
    plain = dataclasses.replace(options, transform="none", support_augmentations=0)
    fewest = int(np.unique(subject.labels, return_counts=True)[1].min())
    shots = [n for n in THEORY_SHOTS if n + options.queries <= fewest]
    if not shots:
        raise InputError(
            f"--theory: a class has {fewest} images, too few for 1 shot and {options.queries} queries; lower --queries"
        )
    found = collapse.theory(subject.features, subject.labels, ways=options.ways, shots=shots)
    errors = [1 - report(plain, subject, "ncc", n).accuracy for n in progress(shots, "measured error")]
    print(f"\n{found.table(errors)}")
    values = {name: [finite(v) for v in bound] for name, bound in found.bounds().items()}
    predicted = [finite(v) for v in found.predicted]
    numbers = {"shots": shots, "bounds": values, "predicted": predicted, "measured": errors}
    return numbers, plots.plot_theory(found, errors, subject.name)


def layers(subject: Subject) -> list[dict[str, Any]]:
    """Collapse at every depth, from the input's side."""
    assert subject.params is not None
    assert subject.split is not None
    stages = subject.stages or outputs(subject.params, subject.split, ("stages",))[0]
    found = collapse.through_layers(stages, subject.labels)
    print(f"\n{found}")
    return [
        {"width": stage.d, "cdnv": finite(stage.cdnv), "ncc_accuracy": stage.ncc_accuracy} for stage in found.stages
    ]


def as_json(one: EpisodeReport) -> dict[str, Any]:
    """A report's numbers; those that are not finite are null."""
    return {
        **dataclasses.asdict(one.settings),
        "accuracy": one.accuracy,
        **{name: finite(getattr(one, name)) for name in ("ci95", "same_classes_ci95", "target_ci95")},
        "not_converged": one.not_converged,
        "largest_gradient_norm": finite(one.largest_gradient_norm),
        "plan_hash": one.plan_hash,
    }


def finite(value: float) -> float | None:
    """A number that JSON has, or None."""
    return float(value) if np.isfinite(value) else None


def together(
    options: Options, subjects: list[Subject], evaluated: list[Evaluation]
) -> tuple[dict[str, Any], dict[str, Figure]]:
    """The numbers and figures of one subject; or of several, with a table that compares them, printed."""
    if len(evaluated) == 1:
        return evaluated[0].numbers, evaluated[0].figures
    names = [subject.params.network.name for subject in subjects if subject.params is not None]
    table = encoder_features.compare(names, [one.measured for one in evaluated], [one.reports for one in evaluated])
    print(f"\n{table}")
    differences = [
        [as_difference(report, first) for report, first in zip(one.reports, evaluated[0].reports, strict=True)]
        for one in evaluated[1:]
    ]
    figures = {
        f"{encoder_features.slug(name)}.{which}": figure
        for name, one in zip(names, evaluated, strict=True)
        for which, figure in one.figures.items()
    }
    less_first = dict(zip(names[1:], differences, strict=True))
    return {"encoders": [one.numbers for one in evaluated], f"less {names[0]}": less_first}, figures


def as_difference(report: EpisodeReport, first: EpisodeReport) -> dict[str, Any]:
    """A paired difference's numbers."""
    pair = report.compare(first)
    settings = {name: getattr(report.settings, name) for name in ("head", "ways", "shots")}
    intervals = {"ci95": finite(pair.ci95), "target_ci95": finite(pair.target_ci95)}
    return {**settings, "difference": pair.difference, **intervals}


def main() -> None:
    """Runs what the command line says."""
    options = cli.read_options(Options, __doc__)
    with cli.one_line_errors():
        cli.start_backend()
        if not options.heads or not options.shots:
            raise InputError("give at least one of --heads and one of --shots")
        if options.curves and options.support_augmentations:
            raise InputError("--curves is of features extracted once: leave out --support_augmentations, or --curves")
        if options.tune and options.split == "validation":
            raise InputError(
                "--tune chooses by the classes that --split=validation would report: leave one of them out"
            )
        if (options.run is not None) + (options.features is not None) + bool(options.encoder) != 1:
            raise InputError("give either --run=PATH of a run, or --features=FILE.npz, or --encoder=SPEC")
        if not options.encoder and (options.save_features is not None or options.random_weights):
            raise InputError("--save_features and --random_weights are of --encoder: give one, or leave them out")
        if options.encoder:
            subjects = list(load_encoders(options))
        else:
            subjects = [load_run(options) if options.run is not None else load_features(options)]
        evaluated = [evaluate(options, subject) for subject in subjects]
        result, figures = together(options, subjects, evaluated)
        cli.write(options.json_file, json.dumps(result, indent=2, allow_nan=False) + "\n")
        print(f"\nwritten to {options.json_file}")
        for name, figure in figures.items():
            place = options.figure_file(name)
            if place is None:
                print(f"no figure of {name}: there is no place beside --out={options.out}", file=sys.stderr)
            else:
                plots.save(figure, place)


if __name__ == "__main__":
    main()
