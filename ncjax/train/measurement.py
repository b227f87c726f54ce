"""The measurements that make a record: collapse on the three sets of classes, and few-shot accuracy."""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from ncjax import collapse
from ncjax.classifier import Classifier, outputs
from ncjax.data import Benchmark, Split
from ncjax.errors import InputError
from ncjax.eval import feature_episodes
from ncjax.train.config import Resolved
from ncjax.train.hosts import local_mesh

Record = dict[str, float | int | None]

SHOTS = (1, 5)
HEADS = ("ncc", "ridge")


@dataclass(frozen=True)
class Subset:
    """The images of a split on which collapse is measured.

    Attributes:
      split: the whole split.
      rows: indices into it, the same number for each class.
      has_variance: whether collapse can be measured, or only accuracy, since there is one image a class.
    """

    split: Split
    rows: np.ndarray
    has_variance: bool = True


@dataclass(frozen=True)
class MeasurementPlan:
    """The images and episodes of a run's measurements, chosen once.

    Attributes:
      sets: the sets by their name in the record; "source_test" is missing if no source images are held out.
      per_class: images a class on which collapse is measured, in every set.
      ways: classes an episode.
      queries: query images a class in an episode, by the number of shots.
      episodes: episodes of each kind.
      seed: of the episodes; equal for all runs of a class split, so that runs can be compared in pairs.
    """

    sets: dict[str, Subset]
    per_class: int
    ways: int
    queries: dict[int, int]
    episodes: int
    seed: int


class NotFinite(InputError):
    """The features or their squares are not finite, though the weights are."""


def plan(benchmark: Benchmark, config: Resolved) -> MeasurementPlan:
    """Chooses the images and the kinds of episode.

    Collapse is measured on the same number of images a class in all sets, so that their CDNV has the same bias of
    finite samples: the size of the smallest class, but at most `measure_per_class`. Shots for which some target class
    has too few images are left out. If source_test has a class of a single image, which has no variance, only accuracy
    is measured on it.

    Raises:
      InputError: if a class of source_train or target has a single image, or there is one target class.
    """
    if len(benchmark.target.class_names) < 2:
        raise InputError("there is one target class; few-shot episodes and CDNV need at least 2")
    all_splits = {
        "source_train": benchmark.source_train,
        "source_test": benchmark.source_test,
        "target": benchmark.target,
    }
    splits = {name: split for name, split in all_splits.items() if split is not None}
    fewest = {name: int(np.bincount(split.labels, minlength=split.num_classes).min()) for name, split in splits.items()}
    has_variance = {name: name != "source_test" or count != 1 for name, count in fewest.items()}
    for name, count in fewest.items():
        if count < 2 and has_variance[name]:
            raise InputError(f"{name} has a class with {count} images: a within-class variance needs at least 2")
    per_class = min(config.measure_per_class, *(fewest[name] for name in splits if has_variance[name]))
    target = fewest["target"]
    queries = {shots: min(15, target - shots) for shots in SHOTS if target > shots}
    return MeasurementPlan(
        sets={
            name: Subset(
                split,
                rows_per_class(split.labels, split.num_classes, per_class if has_variance[name] else 1),
                has_variance[name],
            )
            for name, split in splits.items()
        },
        per_class=per_class,
        ways=min(5, len(benchmark.target.class_names)),
        queries=queries,
        episodes=config.measure_episodes,
        seed=config.split_seed,
    )


def rows_per_class(labels: np.ndarray, num_classes: int, per_class: int) -> np.ndarray:
    """Returns the rows on which runs measure collapse: `per_class` of each class, the same in every run.

    Args:
      labels: [n], in 0..num_classes-1, each at least `per_class` times.
      num_classes: the number of classes.
      per_class: rows of each class.
    """
    rng = np.random.default_rng(0)
    chosen = [rng.choice(np.flatnonzero(labels == label), per_class, replace=False) for label in range(num_classes)]
    return np.sort(np.concatenate(chosen))


def measure(params: Classifier, plan: MeasurementPlan, *, step: int, epoch: float) -> Record:
    """Measures a network.

    `loss` and the accuracies of the source sets are of the linear head on the measured images, unaugmented and in
    evaluation mode.

    Returns:
      A record: flat keys, deterministic values. None is a value that is not finite, which JSON cannot hold.

    Raises:
      NotFinite: if the features of some image, or their squares, are not finite.
      InputError: if images cannot be read.
    """
    record: Record = {"step": step, "epoch": epoch}
    weights, bias = map(np.asarray, params.network.head(params.variables))
    for name, subset in plan.sets.items():
        labels = subset.split.labels[subset.rows]
        k = len(subset.split.class_names)
        if name == "target":
            # episodes use all target images; collapse is measured on as many images a class as in the other sets
            all_features, _ = features_and_logits(params, subset.split)
            with _explained_not_finite():
                measured = collapse.measure(all_features[subset.rows], labels, num_classes=k)
        else:
            features, logits = features_and_logits(params, subset.split.images[subset.rows])
            if subset.has_variance:
                with _explained_not_finite():
                    measured = collapse.measure(features, labels, num_classes=k, weights=weights, bias=bias)
            if name == "source_train":
                record["loss"] = _finite(_cross_entropy(logits, labels))
            record[f"{name}/accuracy"] = float(np.mean(logits.argmax(-1) == labels))
        if subset.has_variance:
            record |= {f"{name}/{key}": _finite(value) for key, value in _summary(measured).items()}
    with local_mesh(), _explained_not_finite():
        record |= _few_shot(all_features, plan)
    return record


@contextmanager
def _explained_not_finite() -> Iterator[None]:
    """Turns InputError into NotFinite: `plan` has checked everything but the features' values."""
    try:
        yield
    except InputError as error:
        reason = re.split("[:;]", str(error))[0]  # without the advice, which is not for this case
        raise NotFinite(f"the features could not be measured ({reason})") from error


def features_and_logits(params: Classifier, images_or_split: Split | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Always computes both, so that a run compiles one program."""
    features, logits = outputs(params, images_or_split, ("features", "logits"))
    return features, logits


def _few_shot(features: np.ndarray, plan: MeasurementPlan) -> Record:
    record: Record = {}
    for head in HEADS:
        for shots, queries in plan.queries.items():
            report = feature_episodes(
                features,
                plan.sets["target"].split.labels,
                ways=plan.ways,
                shots=shots,
                queries=queries,
                episodes=plan.episodes,
                head=head,
                seed=plan.seed,
            )
            key = f"target/{head}/{plan.ways}w{shots}s"
            record[key], record[f"{key}/ci95"] = report.accuracy, report.ci95
    return record


def _summary(measured: collapse.Collapse) -> dict[str, float | int | None]:
    values: dict[str, float | int | None] = {
        "cdnv": measured.cdnv,
        "cdnv_median": measured.cdnv_median,
        "debiased_cdnv": measured.debiased_cdnv,
        "debiased_cdnv/unresolved_pairs": len(measured.unresolved_pairs),
        "directional_cdnv": measured.directional_cdnv,
        "nc1": measured.nc1,
        "nc1_quotient": measured.nc1_quotient,
        "nc2_equinorm": measured.nc2_equinorm,
        "nc2_equiangular": measured.nc2_equiangular,
        "ncc_accuracy": measured.ncc_accuracy,
    }
    if measured.nc3 is not None:
        values |= {"nc3": measured.nc3, "nc4": measured.nc4}
    return values


def _finite(value: float | int | None) -> float | int | None:
    return None if value is None or not math.isfinite(value) else value


def _cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return float(np.mean(np.log(np.exp(shifted).sum(-1)) - shifted[np.arange(len(labels)), labels]))


def steps_to_measure(total_steps: int, steps_per_epoch: float, measurements: int) -> list[int]:
    """Returns the steps at which a run is measured: 0, about geometrically spaced whole epochs, and the last.

    If there are too few epochs, the steps between are a half of the last step, a quarter and so on. `measurements` is
    the number of steps between the first and the last.
    """
    epochs = total_steps / steps_per_epoch
    if epochs > measurements:
        between = steps_per_epoch * np.round(np.geomspace(1, epochs, measurements + 1))[:-1]
        between = between[between < total_steps - steps_per_epoch / 2]
    else:
        between = total_steps / 2.0 ** np.arange(1, measurements + 1)
    return sorted({0, *(round(step) for step in between), total_steps})
