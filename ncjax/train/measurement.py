"""What a run records of its network at one step: collapse on the three sets of classes, and few-shot accuracy."""

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
      rows: indices into it, the same number of each class.
      clusters: whether collapse can be measured on them, or only accuracy, since there is one image a class.
    """

    split: Split
    rows: np.ndarray
    clusters: bool = True


@dataclass(frozen=True)
class Measurement:
    """What is measured at each step of a run, chosen once.

    Attributes:
      sets: the three sets by their name in the record; without "source_test" where no source images are held out.
      per_class: images a class on which collapse is measured, in each of the sets.
      ways: classes an episode.
      queries: images of a class that an episode classifies, by the number of shots.
      episodes: episodes of each kind.
      seed: draws the episodes: the same for every run of one class split, so that runs compare in pairs.
    """

    sets: dict[str, Subset]
    per_class: int
    ways: int
    queries: dict[int, int]
    episodes: int
    seed: int


class NotFinite(InputError):
    """The network's features, or their squares, are not finite, though its weights are."""


def plan(benchmark: Benchmark, config: Resolved) -> Measurement:
    """Chooses the images and the kinds of episode.

    The number of images a class is the least that any class of the three sets has, `measure_per_class` at most, so that
    the three values of CDNV carry the same bias of finite samples. Shots for which some target class has too few images
    are left out; of a source_test with a single image in some class, which has no variance, only the accuracy is
    measured.

    Raises:
      InputError: if a class of source_train or target has a single image, or there is one target class.
    """
    if len(benchmark.target.class_names) < 2:
        raise InputError("there is one target class; few-shot episodes and CDNV need at least 2")
    named = {
        "source_train": benchmark.source_train,
        "source_test": benchmark.source_test,
        "target": benchmark.target,
    }
    splits = {name: split for name, split in named.items() if split is not None}
    fewest = {name: int(np.bincount(split.labels, minlength=split.num_classes).min()) for name, split in splits.items()}
    clusters = {name: name != "source_test" or count != 1 for name, count in fewest.items()}
    for name, count in fewest.items():
        if count < 2 and clusters[name]:
            raise InputError(f"{name} has a class with {count} images: a within-class variance needs at least 2")
    per_class = min(config.measure_per_class, *(fewest[name] for name in splits if clusters[name]))
    target = fewest["target"]
    queries = {shots: min(15, target - shots) for shots in SHOTS if target > shots}
    return Measurement(
        sets={
            name: Subset(split, _rows(split, per_class if clusters[name] else 1), clusters[name])
            for name, split in splits.items()
        },
        per_class=per_class,
        ways=min(5, len(benchmark.target.class_names)),
        queries=queries,
        episodes=config.measure_episodes,
        seed=config.split_seed,
    )


def _rows(split: Split, per_class: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    chosen = [
        rng.choice(np.flatnonzero(split.labels == label), per_class, replace=False)
        for label in range(len(split.class_names))
    ]
    return np.sort(np.concatenate(chosen))


def measure(params: Classifier, measurement: Measurement, *, step: int, epoch: float) -> Record:
    """One record: flat keys, deterministic values; None stands for a value that is not finite.

    That is infinity, or a number that overflowed on the way: JSON has neither.

    `loss` and the accuracies of the source sets are those of the head on the measured images, unaugmented and in
    evaluation mode.

    Raises:
      NotFinite: if the features of some image, or their squares, are not finite; then there is nothing to measure.
      InputError: if images cannot be read.
    """
    record: Record = {"step": step, "epoch": epoch}
    weights, bias = map(np.asarray, params.network.head(params.variables))
    for name, subset in measurement.sets.items():
        labels = subset.split.labels[subset.rows]
        k = len(subset.split.class_names)
        if name == "target":
            # every target image takes part in episodes; collapse is measured on as many as in the other sets
            all_features, _ = features_and_logits(params, subset.split)
            with _named_not_finite():
                found = collapse.measure(all_features[subset.rows], labels, num_classes=k)
        else:
            features, logits = features_and_logits(params, subset.split.images[subset.rows])
            if subset.clusters:
                with _named_not_finite():
                    found = collapse.measure(features, labels, num_classes=k, weights=weights, bias=bias)
            if name == "source_train":
                record["loss"] = _finite(_cross_entropy(logits, labels))
            record[f"{name}/accuracy"] = float(np.mean(logits.argmax(-1) == labels))
        if subset.clusters:
            record |= {f"{name}/{key}": _finite(value) for key, value in _summary(found).items()}
    with local_mesh(), _named_not_finite():
        record |= _few_shot(all_features, measurement)
    return record


@contextmanager
def _named_not_finite() -> Iterator[None]:
    """What the rooms of arrays refuse of a network's features is their values: `plan` has checked all else."""
    try:
        yield
    except InputError as error:
        reason = re.split("[:;]", str(error))[0]  # what it advises is not for this case
        raise NotFinite(f"the features could not be measured ({reason})") from error


def features_and_logits(params: Classifier, images_or_split: Split | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both of all images, also where one is needed alone: a run has one program for it, and compiles no other."""
    features, logits = outputs(params, images_or_split, ("features", "logits"))
    return features, logits


def _few_shot(features: np.ndarray, measurement: Measurement) -> Record:
    record: Record = {}
    for head in HEADS:
        for shots, queries in measurement.queries.items():
            report = feature_episodes(
                features,
                measurement.sets["target"].split.labels,
                ways=measurement.ways,
                shots=shots,
                queries=queries,
                episodes=measurement.episodes,
                head=head,
                seed=measurement.seed,
            )
            key = f"target/{head}/{measurement.ways}w{shots}s"
            record[key], record[f"{key}/ci95"] = report.accuracy, report.ci95
    return record


def _summary(found: collapse.Collapse) -> dict[str, float | int | None]:
    values: dict[str, float | int | None] = {
        "cdnv": found.cdnv,
        "cdnv_median": found.cdnv_median,
        "debiased_cdnv": found.debiased_cdnv,
        "debiased_cdnv/unresolved_pairs": len(found.unresolved_pairs),
        "directional_cdnv": found.directional_cdnv,
        "nc1": found.nc1,
        "nc1_quotient": found.nc1_quotient,
        "nc2_equinorm": found.nc2_equinorm,
        "nc2_equiangular": found.nc2_equiangular,
        "ncc_accuracy": found.ncc_accuracy,
    }
    if found.nc3 is not None:
        values |= {"nc3": found.nc3, "nc4": found.nc4}
    return values


def _finite(value: float | int | None) -> float | int | None:
    return None if value is None or not math.isfinite(value) else value


def _cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return float(np.mean(np.log(np.exp(shifted).sum(-1)) - shifted[np.arange(len(labels)), labels]))


def steps_to_measure(total_steps: int, steps_per_epoch: float, measurements: int) -> list[int]:
    """The steps at which a run is measured: 0, about geometrically spaced whole epochs, and the last.

    Of a run that has too few epochs for that, half of the last step, a quarter and so on. `measurements` counts all but
    the first and the last.
    """
    epochs = total_steps / steps_per_epoch
    if epochs > measurements:
        between = steps_per_epoch * np.round(np.geomspace(1, epochs, measurements + 1))[:-1]
        between = between[between < total_steps - steps_per_epoch / 2]
    else:
        between = total_steps / 2.0 ** np.arange(1, measurements + 1)
    return sorted({0, *(round(step) for step in between), total_steps})
