"""Few-shot episodes on features from anywhere."""

import dataclasses
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int, Key

from ncjax.checks import as_numpy, check_squares, read_features
from ncjax.devices import data_mesh
from ncjax.errors import InputError, first_line
from ncjax.eval import heads
from ncjax.eval.engine import Episodes
from ncjax.eval.report import EpisodeReport
from ncjax.eval.sampling import EpisodePlan, Queries
from ncjax.eval.transforms import TRANSFORMS, transform_features


@partial(jax.tree_util.register_dataclass, data_fields=("features", "center"), meta_fields=("transform",))
@dataclasses.dataclass(frozen=True)
class FeatureSource:
    """Rows of features extracted once."""

    features: Float[Array | np.ndarray, "n d"]
    center: Float[Array | np.ndarray, "d"] | None
    transform: str

    def prepare(self) -> "FeatureSource":
        """Transforms all rows: an episode's rows are many times the rows there are."""
        return FeatureSource(transform_features(self.features, self.transform, self.center), None, "none")

    def support(self, rows: Int[Array, "W S"], key: Key[Array, ""]) -> Float[Array, "W S d"]:
        """The support's rows."""
        return self.features[rows]

    def query(self, rows: Int[Array, "W Q"]) -> Float[Array, "W Q d"]:
        """The queries' rows."""
        return self.features[rows]


def check_features(features: Any, labels: Any) -> Float[np.ndarray, "n d"]:
    """The features as float32 [n,d] on the host.

    Raises:
        InputError: As `ncjax.checks.read_features`; also for another number of rows than labels, and values that are
            not finite, or of which all squares vanish, in float32.
    """
    array = np.asarray(read_features(features)).astype(np.float32, copy=False)
    if len(array) != len(labels):
        raise InputError(f"{len(array)} rows of features but {len(labels)} labels; give one label a row")
    # the largest is NaN where any is: two passes without a copy
    largest = max(array.max(initial=0.0), -array.min(initial=0.0))
    if not np.isfinite(largest):
        bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
        raise InputError(
            f"{len(bad)} of {len(array)} rows of features are not finite in float32 (the first is row {bad[0]}); "
            "leave them out, or mend the encoder"
        )
    check_squares(float(largest))
    return array


def check_transform(transform: str, center: Any, width: int) -> np.ndarray | None:
    """The centre [d] that the transform needs, or None.

    Raises:
        InputError: Unknown transform, or no finite centre of that width for "centered_l2".
    """
    if transform not in TRANSFORMS:
        raise InputError(f"unknown transform {transform!r}; the transforms are {', '.join(TRANSFORMS)}")
    if transform != "centered_l2":
        return None
    if center is None:
        raise InputError('transform="centered_l2" needs center=, the mean [d] of the source-train features')
    center = as_numpy("values of center", center)
    try:
        center = center.astype(np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"center is no array of numbers ({first_line(error)}); give a vector [{width}]") from None
    if center.shape != (width,):
        raise InputError(f"center has shape {center.shape}, the features are [n, {width}]; give a vector [{width}]")
    if not np.isfinite(center).all():
        raise InputError("center is not finite; give the mean of finite source-train features")
    return center


def feature_episodes(
    features: Any,
    labels: Any,
    *,
    ways: int = 5,
    shots: int = 5,
    queries: Queries = 15,
    episodes: int = 10_000,
    head: Any = "ncc",
    transform: str = "none",
    center: Any = None,
    seed: int = 0,
    plan: EpisodePlan | None = None,
) -> EpisodeReport:
    """Few-shot accuracy of features from anywhere: many episodes in one compiled call.

    Runs on `ncjax.devices.data_mesh()`; the episodes are the same whatever its size. Another seed, other features
    of the same shape or another value of a head's hyperparameter does not compile again.

    Args:
        features: [n,d], any array NumPy can read; computed with in float32.
        labels: [n], integers or names.
        ways: Classes in an episode.
        shots: Support rows of each class.
        queries: Query rows of each class, or "all" that the support leaves.
        episodes: How many episodes.
        head: As of `ncjax.eval.episodes`.
        transform: "none", "l2" or "centered_l2", applied to every feature first.
        center: [d] for "centered_l2": the mean of the source-train features.
        seed: Of the episodes, 0..2³²-1.
        plan: Replays these episodes; ways, shots, queries, episodes and seed are then the plan's.

    Returns:
        The report; its accuracies are fractions.

    Raises:
        InputError: Anything above is out of range, before anything compiles.

    Examples:
        Features that have collapsed to a point a class leave nothing to get wrong:

        >>> labels = np.repeat(np.arange(6), 20)
        >>> print(feature_episodes(np.eye(6)[labels], labels, ways=5, shots=1, episodes=100))
        5-way 1-shot ncc: 100.00 ± 0.00 % (100 episodes)
    """
    chosen = heads.get(head)
    which = Episodes.of(labels, ways=ways, shots=shots, queries=queries, episodes=episodes, seed=seed, plan=plan)
    array = check_features(features, labels)
    source = FeatureSource(array, check_transform(transform, center, array.shape[1]), transform)
    return which.evaluate(source, chosen, chunk=chunk_size(which, array.shape[1]), transform=transform)


def chunk_size(which: Episodes, width: int) -> int:
    """Episodes at a time: what keeps the gathered rows in a CPU's cache, or an accelerator busy."""
    on_cpu = data_mesh().devices.flat[0].platform == "cpu"
    budget, most = (2**23, 64) if on_cpu else (2**28, 2048)
    return int(np.clip(budget // (4 * width * which.images_per_episode()), 1, most))
