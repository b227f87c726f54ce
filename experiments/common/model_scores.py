"""Measures and few-shot accuracy of one model on target classes, as a whole and with each class left out."""

import hashlib
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

import ncjax
from common import measures
from common.cache import cached_json
from common.candidates import Candidate
from common.held_out import divide
from common.score_settings import Settings
from ncjax import Classifier
from ncjax.data import Split
from ncjax.errors import UNREADABLE_NPZ
from ncjax.eval import EpisodeReport, feature_episodes
from ncjax.eval.fixed_batches import probe
from ncjax.files import make_parent, write_atomically
from ncjax.models import Network
from ncjax.models.encoder import EagerEncoder
from ncjax.models.network import num_parameters

_PROBES = ("knn", "lda", "ridge")
_COMPLEXITY_IMAGES = 200


@dataclass(frozen=True)
class Scores:
    """The numbers of one model.

    Attributes:
      candidate: the model.
      measures: each measure [1 + k]: of all classes, and with each class left out; NaN where it has none.
      outcomes: each accuracy likewise, [1 + k] or [1].
      ci95: half width of the 95 % interval of each few-shot accuracy, over episodes.
    """

    candidate: Candidate
    measures: dict[str, np.ndarray]
    outcomes: dict[str, np.ndarray]
    ci95: dict[str, float]


def outcome_name(head: str, ways: int, shots: int) -> str:
    """Names a few-shot accuracy, such as "ncc 5w1s"."""
    return f"{head} {ways}w{shots}s"


def score(candidate: Candidate, split: Split, settings: Settings, cache: Path | None) -> Scores:
    """Measures a model; features and numbers are kept in the folder `cache` and read from there.

    They are found again by the checksum of the weights, or of the model's features of four fixed images where weights
    are not at hand, and of the images.
    """
    params = candidate.load()
    model, images = _digest_of_model(params, split), _digest_of_images(split)

    def make() -> dict[str, Any]:
        features = _features(params, split, None if cache is None else cache / f"{model}-{images}.npz")
        return _numbers(params, split, features, settings)

    if cache is None:
        made = make()
    else:
        wanted = {"settings": vars(settings), "measures": measures.scalar_names()}
        name = hashlib.sha256(repr(sorted(wanted.items())).encode()).hexdigest()[:8]
        path = cache / f"{model}-{images}-{name}.json"
        make_parent(path)
        made = cached_json(path, wanted, make)
    values = {name: np.asarray(list(map(float, column))) for name, column in made["measures"].items()}
    values["parameters"] = np.asarray([_parameters(params)])
    values["source accuracy"] = np.asarray([candidate.source_accuracy])
    k = split.num_classes
    for name in measures.BASELINES:  # of the model: the same whichever target class is left out
        values[name] = np.repeat(values[name], k + 1)
    outcomes = {name: np.asarray(list(map(float, column))) for name, column in made["outcomes"].items()}
    return Scores(candidate, values, outcomes, {name: float(half) for name, half in made["ci95"].items()})


def _numbers(params: Classifier, split: Split, features: np.ndarray, settings: Settings) -> dict[str, Any]:
    """Computes all measures and accuracies; as text, since JSON has neither infinity nor NaN."""
    whole = measures.measure(features, split.labels, settings.ways, settings.shots)
    few = _some_of_each_class(split.labels, settings.replicate_images)
    left_out = [
        measures.measure(features[rows], split.labels[rows], settings.ways, settings.shots)
        for rows in (few[split.labels[few] != c] for c in range(split.num_classes))
        if split.num_classes > max(settings.ways, 2)
    ]
    columns = {name: [whole[name], *(values[name] for values in left_out)] for name in whole}
    if settings.complexity:
        columns["geometric complexity"] = _complexity(params, split)
    outcomes: dict[str, Any] = {}
    ci95 = {}
    for head in settings.heads:
        for shots in settings.shots:
            report = _episodes(params, features, split, head, shots, settings)
            name = outcome_name(head, settings.ways, shots)
            outcomes[name], ci95[name] = [report.accuracy, *_without_each_class(report)], report.ci95
    if settings.probes:
        outcomes |= dict(_probes(features, split))
    as_text = {name: list(map(str, map(float, column))) for name, column in columns.items()}
    return {
        "measures": as_text,
        "outcomes": {name: list(map(str, map(float, column))) for name, column in outcomes.items()},
        "ci95": {name: str(half) for name, half in ci95.items()},
    }


def _episodes(
    params: Classifier, features: np.ndarray, split: Split, head: str, shots: int, settings: Settings
) -> EpisodeReport:
    return feature_episodes(
        features, split.labels, ways=settings.ways, shots=shots, queries=settings.queries, head=head,
        episodes=settings.episodes, seed=settings.seed,
    )  # fmt: skip


def _without_each_class(report: EpisodeReport) -> list[float]:
    """The mean accuracy of the episodes that do not hold class c, for each c; none if some class is in all."""
    k, ways = len(report.class_names), report.classes.shape[1]
    held = np.zeros((len(report.classes), k), bool)
    np.put_along_axis(held, report.classes, True, axis=1)
    if ways == k or held.all(axis=0).any():
        return []
    return [float(report.per_episode[~held[:, c]].mean(dtype=np.float64)) for c in range(k)]


def _probes(features: np.ndarray, split: Split) -> Iterator[tuple[str, list[float]]]:
    train, held = divide(split)
    report = ncjax.eval.probes(features[train], split.labels[train], features[held], split.labels[held], which=_PROBES)
    for result in report.results:
        setting = "" if result.probe == "lda" else f" {result.setting}"
        yield f"probe {result.probe}{setting}", [math.nan if result.accuracy is None else result.accuracy]


def _complexity(params: Classifier, split: Split) -> list[float]:
    """Geometric complexity of as many images of each class; NaN for models outside of JAX."""
    if isinstance(params.network, EagerEncoder):
        return [math.nan]
    rows = _some_of_each_class(split.labels, max(1, _COMPLEXITY_IMAGES // split.num_classes))
    per_image = ncjax.geometric_complexity(params, split.images[rows], probes=4, batch_size=32).per_image
    of_class = [per_image[split.labels[rows] != c].mean() for c in range(split.num_classes)]
    return [float(per_image.mean()), *map(float, of_class)]


def _some_of_each_class(labels: np.ndarray, most: int) -> np.ndarray:
    """Draws at most `most` rows of each class; returns them in ascending order."""
    order = np.random.default_rng(0).permutation(len(labels))
    rows = [order[labels[order] == label][:most] for label in np.unique(labels)]
    return np.sort(np.concatenate(rows))


def _features(params: Classifier, split: Split, path: Path | None) -> np.ndarray:
    if path is not None:
        try:
            with np.load(path) as file:
                kept: np.ndarray = file["features"]
                return kept
        except UNREADABLE_NPZ:
            pass  # it is missing, or was not written whole
    features = np.asarray(ncjax.features(params, split, batch_size=128))
    if path is not None:
        content = io.BytesIO()
        np.savez(content, features=features)
        make_parent(path)
        write_atomically(path, content.getvalue())
    return features


def _digest_of_model(params: Classifier, split: Split) -> str:
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves((params.variables, params.mean, params.std)):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    digest.update(f"{params.network.name}|{params.preprocessing}".encode())
    if not isinstance(params.network, Network):
        height, width, channels = split.images.shape[1:]
        digest.update(np.ascontiguousarray(probe(params, (height, width, channels), 4)).tobytes())
    return digest.hexdigest()[:16]


def _digest_of_images(split: Split) -> str:
    digest = hashlib.sha256(np.ascontiguousarray(split.labels).tobytes())
    for start in range(0, len(split), 4096):
        digest.update(np.ascontiguousarray(split.images[start : start + 4096]).tobytes())
    return digest.hexdigest()[:16]


def _parameters(params: Classifier) -> float:
    """Counts the trained numbers; NaN for a program that does not show them."""
    if isinstance(params.network, Network):
        return float(num_parameters(params.variables))
    module = getattr(getattr(params.network, "run", None), "module", None)
    if module is not None:
        return float(sum(parameter.numel() for parameter in module.parameters()))
    sizes: Sequence[int] = [leaf.size for leaf in jax.tree.leaves(params.variables)]
    return float(sum(sizes)) if sizes else math.nan
