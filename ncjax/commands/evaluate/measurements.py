"""Measures few-shot accuracy and collapse of features, and compares several encoders."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

import ncjax
from ncjax import collapse, plots
from ncjax.classifier import outputs
from ncjax.commands.evaluate import tables
from ncjax.commands.evaluate.options import Options, slug
from ncjax.commands.evaluate.subjects import Subject
from ncjax.errors import InputError
from ncjax.eval import AccuracyCurve, EpisodeReport, feature_curve, feature_episodes
from ncjax.eval.heads import Head
from ncjax.eval.tuning import GRID, feature_tune
from ncjax.progress import progress, remark
from ncjax.tables import Table, show
from ncjax.user_functions import load_function

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ncjax.data import Split

THEORY_SHOTS = (1, 2, 5, 10, 20, 50)


@dataclass(frozen=True)
class Evaluation:
    """The results of one subject.

    Attributes:
      numbers: everything that goes to the JSON file.
      figures: figures by name.
      measured: collapse of the features.
      reports: a report for each number of shots and head.
    """

    numbers: dict[str, Any]
    figures: dict[str, Figure]
    measured: collapse.Collapse
    reports: list[EpisodeReport]


def evaluate(options: Options, subject: Subject) -> Evaluation:
    """Measures a subject and prints its tables."""
    numbers: dict[str, Any] = {"subject": subject.name, "step": subject.step, "options": vars(options)}
    figures: dict[str, Figure] = {}
    rows = subject.collapse_rows
    features, labels, head = subject.features[rows], subject.labels[rows], (subject.weights, subject.bias)
    measured = collapse.measure(
        features,
        labels,
        weights=head[0],
        bias=head[1],
        superclasses=_superclasses(subject.split, labels),
        all_measures=True,
    )
    overs: tuple[Literal["samples", "classes"], ...] = ("samples", "classes") if options.intervals else ()
    intervals = {over: collapse.intervals(features, labels, weights=head[0], bias=head[1], over=over) for over in overs}
    more = "" if options.run is None or options.measure_per_class is not None else subject.more_images
    named = with_names(measured, subject.class_names)
    title = f"{subject.name}: collapse of {named.k} classes in {named.d} dimensions, {subject.images}"
    show([tables.collapse_table(named, intervals, title, more, every=options.all_measures)], options.format)
    numbers["collapse"] = json.loads(named.to_json())
    numbers["collapse_images"] = subject.images
    for over, of_measures in intervals.items():
        numbers[f"collapse_ci95_over_{over}"] = _interval_numbers(of_measures)
    kinds = [(head, shots) for shots in options.shots for head in options.heads]
    reports = [_report(options, subject, *kind) for kind in progress(kinds, "episodes")]
    title = f"{subject.name}: few-shot episodes of all {len(subject.labels)} images"
    _show_next([tables.episodes_table(reports, title)], options)
    numbers["episodes"] = [_report_numbers(report) for report in reports]
    if options.curves:
        numbers["curves"], figures["curves"] = _curves(options, subject)
    if options.theory:
        numbers["theory"], figures["theory"] = _theory(options, subject)
    if options.layers:
        numbers["layers"] = _layers(options, subject)
    if options.probes:
        numbers["probes"] = _probes(options, subject)
    return Evaluation(numbers, figures, named, reports)


def with_names(measured: collapse.Collapse, class_names: Sequence[str]) -> collapse.Collapse:
    """Replaces the labels of classes by their names, if there are any."""
    if not class_names:
        return measured
    names = np.asarray(class_names)
    pairs = {name: names[getattr(measured, name).astype(int)] for name in ("coincident_pairs", "unresolved_pairs")}
    first, second = measured.worst_pair
    return dataclasses.replace(
        measured, worst_pair=(str(names[first]), str(names[second])), classes=names[measured.classes], **pairs
    )


def _show_next(more: Sequence[Table], options: Options) -> None:
    """Prints tables after others."""
    print()
    show(more, options.format)


def _interval_numbers(intervals: collapse.CollapseIntervals) -> dict[str, list[float]]:
    return {
        name: [value.low, value.high] for name, value in vars(intervals).items() if isinstance(value, collapse.Interval)
    }


def _superclasses(split: Split | None, labels: np.ndarray) -> list[str] | None:
    """Returns the superclass of each class with images, if there are several."""
    if split is None or split.superclasses is None:
        return None
    names = [split.superclasses[c] for c in np.unique(labels)]
    return names if len(set(names)) > 1 else None


def _report(options: Options, subject: Subject, head: str, shots: int) -> EpisodeReport:
    """Evaluates episodes with one head and number of shots."""
    settings: dict[str, Any] = _episode_settings(options) | {
        "ways": options.ways,
        "shots": shots,
        "head": _tuned(options, subject, head, shots),
    }
    if subject.params is None:
        return feature_episodes(subject.features, subject.labels, **settings)
    if options.support_augmentations:
        assert subject.split is not None
        return ncjax.eval.episodes(
            subject.params, subject.split, support_augmentations=options.support_augmentations, **settings
        )
    return feature_episodes(subject.features, subject.labels, center=subject.params.feature_mean, **settings)


def _tuned(options: Options, subject: Subject, head: str, shots: int) -> Any:
    """Returns a head; with --tune and a hyperparameter to choose, the best on the validation classes."""
    if ":" in head:
        return Head(head, load_function(head, "head"))
    if not options.tune or head not in ("ridge", "logistic"):
        return head
    features = subject.validation_features
    assert subject.params is not None
    assert subject.validation is not None
    best = feature_tune(
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
    ((name, value),) = best.hyperparameters.items()
    first, last = GRID[name][0], GRID[name][-1]
    if value in (first, last):
        remark(f"{best}: the best value is at the end of the range that was tried, {first:g} to {last:g}")
    return best


def _episode_settings(options: Options) -> dict[str, Any]:
    return {name: getattr(options, name) for name in ("queries", "episodes", "seed", "transform")}


def _report_numbers(report: EpisodeReport) -> dict[str, Any]:
    names = (
        "accuracy",
        "ci95",
        "same_classes_ci95",
        "target_ci95",
        "not_converged",
        "largest_gradient_norm",
        "plan_hash",
    )
    return dataclasses.asdict(report.settings) | {name: getattr(report, name) for name in names}


def _curves(options: Options, subject: Subject) -> tuple[dict[str, Any], Figure]:
    """Prints and plots accuracy of the first head against shots and against ways."""
    curves = [_curve(options, subject, over) for over in ("shots", "ways")]
    head = curves[0].reports[0].settings.head
    _show_next([tables.episodes_table(curve.reports, f"accuracy against {curve.over}") for curve in curves], options)
    numbers: dict[str, Any] = {
        curve.over: [
            _report_numbers(report) | {curve.over: value}
            for value, report in zip(curve.values, curve.reports, strict=True)
        ]
        for curve in curves
    }
    return numbers, plots.plot_curves(curves, f"{head}, {subject.name}")


def _curve(options: Options, subject: Subject, over: Any) -> AccuracyCurve:
    """Evaluates the first head over shots or ways; it is tuned at --ways and the last of --shots."""
    settings = _episode_settings(options) | {"ways": options.ways, "shots": options.shots[-1]}
    del settings[over]
    head = _tuned(options, subject, options.heads[0], options.shots[-1])
    center = None if subject.params is None else subject.params.feature_mean
    return feature_curve(subject.features, subject.labels, over=over, head=head, center=center, **settings)


def _theory(options: Options, subject: Subject) -> tuple[dict[str, Any], Figure]:
    """Prints and plots bounds and prediction beside the measured NCC error, on features without a transform."""
    fewest = int(np.unique(subject.labels, return_counts=True)[1].min())
    shots = [n for n in THEORY_SHOTS if n + options.queries <= fewest]
    if not shots:
        raise InputError(
            f"--theory: a class has {fewest} images, too few for 1 shot and {options.queries} queries; lower --queries"
        )
    theory = collapse.theory(subject.features, subject.labels, ways=options.ways, shots=shots)
    plain = dataclasses.replace(options, transform="none", support_augmentations=0)
    errors = [1 - _report(plain, subject, "ncc", n).accuracy for n in progress(shots, "measured error")]
    _show_next([tables.theory_table(theory, errors)], options)
    numbers = {"shots": shots, "bounds": theory.bounds(), "predicted": theory.predicted, "measured": errors}
    return numbers, plots.plot_theory(theory, errors, subject.name)


def _layers(options: Options, subject: Subject) -> list[dict[str, Any]]:
    """Prints collapse of every stage, from the input on."""
    assert subject.params is not None
    assert subject.split is not None
    stages = subject.stages or outputs(subject.params, subject.split, ("stages",))[0]
    rows = subject.collapse_rows
    through = collapse.through_layers([stage[rows] for stage in stages], subject.labels[rows])
    _show_next([tables.layers_table(through)], options)
    return [{"width": stage.d, "cdnv": stage.cdnv, "ncc_accuracy": stage.ncc_accuracy} for stage in through.stages]


def _probes(options: Options, subject: Subject) -> dict[str, Any]:
    """Prints the probes of the source classes."""
    assert subject.params is not None
    assert subject.source is not None
    train, test = (ncjax.features(subject.params, split, batch_size=options.batch_size) for split in subject.source)
    report = ncjax.eval.probes(train, subject.source[0].labels, test, subject.source[1].labels, seed=options.seed)
    _show_next([report.table(f"{subject.name}: probes trained on source_train and tested on source_test")], options)
    return report.to_json()


def combine(
    options: Options, subjects: Sequence[Subject], evaluations: Sequence[Evaluation]
) -> tuple[dict[str, Any], dict[str, Figure]]:
    """Returns the numbers and figures of all subjects; prints a table that compares them if there are several."""
    first = evaluations[0]
    if len(evaluations) == 1:
        return first.numbers, first.figures
    names = [subject.params.network.name for subject in subjects if subject.params is not None]
    measured, reports = ([getattr(each, name) for each in evaluations] for name in ("measured", "reports"))
    _show_next(tables.encoders_tables(names, measured, reports), options)
    differences = {
        name: [_difference(report, base) for report, base in zip(evaluation.reports, first.reports, strict=True)]
        for name, evaluation in zip(names[1:], evaluations[1:], strict=True)
    }
    figures = {
        f"{slug(name)}.{kind}": figure
        for name, evaluation in zip(names, evaluations, strict=True)
        for kind, figure in evaluation.figures.items()
    }
    return {"encoders": [each.numbers for each in evaluations], f"less {names[0]}": differences}, figures


def _difference(report: EpisodeReport, base: EpisodeReport) -> dict[str, Any]:
    pair = report.compare(base)
    settings = {name: getattr(report.settings, name) for name in ("head", "ways", "shots")}
    return settings | {name: getattr(pair, name) for name in ("difference", "ci95", "target_ci95")}
