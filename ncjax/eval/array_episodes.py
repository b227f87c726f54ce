"""Few-shot episodes on features from anywhere."""

import dataclasses
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int, Key

from ncjax.checks import as_numpy, check_lengths, check_squares, not_finite, read_features
from ncjax.devices import data_mesh, on_data_mesh
from ncjax.errors import InputError, first_line
from ncjax.eval import heads
from ncjax.eval.engine import EpisodeRequest
from ncjax.eval.episode_report import EpisodeReport
from ncjax.eval.sampling import EpisodePlan, Queries
from ncjax.eval.transforms import TRANSFORMS, transform_features


@partial(jax.tree_util.register_dataclass, data_fields=("features", "center"), meta_fields=("transform",))
@dataclasses.dataclass(frozen=True)
class FeatureSource:
    """Features that are extracted once for all episodes."""

    features: Float[Array | np.ndarray, "n d"]
    center: Float[Array | np.ndarray, " d"] | None
    transform: str

    def prepare(self) -> "FeatureSource":
        """Transforms all rows once, since episodes use each row many times."""
        return FeatureSource(transform_features(self.features, self.transform, self.center), None, "none")

    def support(self, rows: Int[Array, "W S"], key: Key[Array, ""]) -> Float[Array, "W S d"]:
        """Returns the features of the support."""
        return self.features[rows]

    def query(self, rows: Int[Array, "W Q"]) -> Float[Array, "W Q d"]:
        """Returns the features of the queries."""
        return self.features[rows]


def check_features(features: Any, labels: Any, transform: str = "none") -> Float[np.ndarray, "n d"]:
    """Reads features [n,d] as float32 on the host.

    Raises:
        InputError: As in `ncjax.checks.read_features`; or the number of labels differs, or values are not finite or so
            small that all squares vanish in float32, or are negative where the transform is "power".
    """
    array = np.asarray(read_features(features)).astype(np.float32, copy=False)
    check_lengths(array, labels)
    # NaN if any value is NaN; needs no copy, unlike isfinite
    largest = max(array.max(initial=0.0), -array.min(initial=0.0))
    if not np.isfinite(largest):
        raise not_finite(array)
    check_squares(float(largest))
    if transform == "power" and array.min(initial=0.0) < 0:
        row = int(np.argmin(array.min(axis=1)))
        raise InputError(
            f'transform="power" takes square roots, and the features of row {row} go down to {array[row].min():.3g}: '
            'it needs features of 0 or more, as after a ReLU; choose transform="l2"'
        )
    return array


def check_transform(transform: str, center: Any, width: int) -> np.ndarray | None:
    """Returns the centre [d] that the transform needs, or None.

    Raises:
        InputError: The transform is unknown, or "centered_l2" has no finite centre of that width.
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
        raise InputError(f"center is not an array of numbers ({first_line(error)}); give a vector [{width}]") from None
    if center.shape != (width,):
        raise InputError(f"center has shape {center.shape}, the features are [n, {width}]; give a vector [{width}]")
    if not np.isfinite(center).all():
        raise InputError("center is not finite; give the mean of finite source-train features")
    return center


@on_data_mesh
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
    """Evaluates the few-shot accuracy of features in many episodes, in one compiled call.

    Runs on `ncjax.devices.data_mesh()`; the episodes do not depend on its size. Another seed, other features of the
    same shape, or another value of a head's hyperparameter does not compile again.

    Args:
        features: [n,d], any array that NumPy can read; the arithmetic is float32.
        labels: [n], integers or names.
        ways: Classes in an episode.
        shots: Support rows of each class.
        queries: Query rows of each class, or "all" for every row outside the support.
        episodes: Number of episodes.
        head: As in `ncjax.eval.episodes`.
        transform: "none", "l2", "centered_l2" or "power", applied to every feature first.
        center: [d] for "centered_l2": the mean of the source-train features.
        seed: Seed of the episodes, 0..2³²-1.
        plan: Episodes to replay; ways, shots, queries, episodes and seed are then those of the plan.

    Returns:
        The report; its accuracies are fractions.

    Raises:
        InputError: An argument is out of range; raised before anything compiles.

    Examples:
        Features that have collapsed to one point per class are always classified correctly:

        >>> labels = np.repeat(np.arange(6), 20)
        >>> print(feature_episodes(np.eye(6)[labels], labels, ways=5, shots=1, episodes=100))
        5-way 1-shot ncc: 100.00 ± 0.00 % (100 episodes)
    """
    chosen = heads.get(head)
    request = EpisodeRequest.of(
        labels, ways=ways, shots=shots, queries=queries, episodes=episodes, seed=seed, plan=plan
    )
    array = check_features(features, labels, transform)
    source = FeatureSource(array, check_transform(transform, center, array.shape[1]), transform)
    return request.evaluate(source, chosen, chunk=chunk_size(request, array.shape[1]), transform=transform)


def chunk_size(request: EpisodeRequest, width: int) -> int:
    """Returns the number of episodes at a time: gathered rows fit into a CPU's cache, or keep an accelerator busy.

    On a CPU large episodes run one by one: XLA's products of several large matrices are four times slower there.
    """
    on_cpu = data_mesh().devices.flat[0].platform == "cpu"
    budget, limit = (2**23, 64) if on_cpu else (2**28, 2048)
    size = 4 * width * request.images_per_episode()
    return 1 if on_cpu and size > 2**20 else int(np.clip(budget // size, 1, limit))
