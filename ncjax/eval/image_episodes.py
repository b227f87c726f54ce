"""Few-shot episodes on images."""

import dataclasses
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh
from jaxtyping import Array, Float, Int, Key, UInt8

from ncjax.checks import whole_number
from ncjax.classifier import Classifier, extract, features as extract_features
from ncjax.data import Benchmark, Split
from ncjax.data.augment import augment
from ncjax.devices import data_mesh, on_data_mesh
from ncjax.errors import InputError
from ncjax.eval import heads
from ncjax.eval.array_episodes import FeatureSource, check_features, check_transform, chunk_size, feature_episodes
from ncjax.eval.curves import AccuracyCurve, Over, trace_curve
from ncjax.eval.engine import EpisodeRequest
from ncjax.eval.episode_report import EpisodeReport
from ncjax.eval.sampling import EpisodePlan, Queries
from ncjax.eval.transforms import transform_features
from ncjax.eval.tuning import feature_tune, tunable
from ncjax.models.encoder import EagerEncoder

_IMAGE_SETTINGS = ("support_augmentations", "extract_per_episode")


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("params", "images", "features", "center"),
    meta_fields=("transform", "augmentations"),
)
@dataclasses.dataclass(frozen=True)
class ImageSource:
    """Features extracted within each episode: those of the support, and those of queries if `features` is None."""

    params: Classifier
    images: UInt8[Array | np.ndarray, "n h w c"]
    features: Float[Array | np.ndarray, "n d"] | None
    center: Float[Array | np.ndarray, " d"] | None
    transform: str
    augmentations: int

    def prepare(self) -> "ImageSource":
        """Transforms features that were extracted for all episodes."""
        if self.features is None:
            return self
        return dataclasses.replace(self, features=transform_features(self.features, self.transform, self.center))

    def support(self, rows: Int[Array, "W S"], key: Key[Array, ""]) -> Float[Array, "W N d"]:
        """Extracts features of each image, or of `augmentations` random variants of it."""
        images = self.images[rows.reshape(-1)]
        if self.augmentations:
            images = jnp.repeat(images, self.augmentations, axis=0)
            images = augment(key, images, self.params.augmentation)
        return self._extract(images).reshape(rows.shape[0], images.shape[0] // rows.shape[0], -1)

    def query(self, rows: Int[Array, "W Q"]) -> Float[Array, "W Q d"]:
        """Extracts or looks up features of queries, which are never augmented."""
        if self.features is not None:
            return self.features[rows]
        return self._extract(self.images[rows.reshape(-1)]).reshape(*rows.shape, -1)

    def _extract(self, images: Array) -> Array:
        return transform_features(extract(self.params, images), self.transform, self.center)


@on_data_mesh
def episodes(
    params: Classifier,
    split: Split,
    *,
    ways: int = 5,
    shots: int = 5,
    queries: Queries = 15,
    episodes: int = 10_000,
    head: Any = "ncc",
    transform: str = "none",
    center: Any = None,
    support_augmentations: int = 0,
    seed: int = 0,
    plan: EpisodePlan | None = None,
    extract_per_episode: bool = False,
) -> EpisodeReport:
    """Evaluates the few-shot accuracy of a classifier's features in many episodes, in one compiled call.

    Extracts features once for all episodes, since in evaluation mode an image always has the same features. Augmented
    support is extracted for each episode within the compiled call, vmapped over episodes.

    Args:
        params: The classifier.
        split: Images and labels, usually `benchmark.target`.
        ways: Classes in an episode.
        shots: Support images of each class.
        queries: Query images of each class, or "all" for every image outside the support.
        episodes: Number of episodes.
        head: "ncc", "cosine", "ridge", "logistic", a head of `ncjax.eval.heads`, or your own.
        transform: "none", "l2", "centered_l2" or "power", applied to every feature first.
        center: [d] for "centered_l2"; defaults to `params.feature_mean`.
        support_augmentations: m > 0 replaces each support image by m random variants under the augmentation that
            the classifier was trained with (Tian et al. 2020, arXiv 2003.11539); queries are not augmented.
        seed: Seed of the episodes and the augmentations, 0..2³²-1.
        plan: Episodes to replay; ways, shots, queries, episodes and seed are then those of the plan.
        extract_per_episode: Extracts all images within each episode, also without augmentation: gives the same numbers
            slower, without holding features of the whole split in memory.

    Returns:
        The report; its accuracies are fractions.

    Raises:
        InputError: An argument is out of range.
    """
    chosen = heads.get(head)
    if not isinstance(split, Split):
        hint = "; give one of its splits, for example benchmark.target" if isinstance(split, Benchmark) else ""
        raise InputError(f"split is a {type(split).__name__}, not an ncjax.data.Split{hint}")
    request = EpisodeRequest.of(
        split.labels, ways=ways, shots=shots, queries=queries, episodes=episodes, seed=seed, plan=plan
    )
    support_augmentations = whole_number("support_augmentations", support_augmentations)
    if support_augmentations < 0:
        raise InputError(f"support_augmentations={support_augmentations}: give 0 for none, or more")
    if support_augmentations and params.augmentation == "none":
        raise InputError(
            f"support_augmentations={support_augmentations}, but the classifier was trained without augmentation: "
            'give 0, or set it with params.replace(augmentation="crop_flip")'
        )
    if transform == "power" and (support_augmentations or extract_per_episode):
        raise InputError(
            'transform="power" checks that features are not negative, which it cannot do within an episode: leave out '
            "support_augmentations and extract_per_episode"
        )
    width = jax.eval_shape(extract, params, split.images[:1]).shape[1]
    center = check_transform(transform, _center(params, center), width)
    class_names = tuple(split.class_names[label] for label in request.names)
    if not support_augmentations and not extract_per_episode:
        extracted = check_features(extract_features(params, split), split.labels, transform)
        source: FeatureSource | ImageSource = FeatureSource(extracted, center, transform)
        chunk = chunk_size(request, width)
    else:
        query_features = None
        if not extract_per_episode:
            query_features = check_features(extract_features(params, split), split.labels, transform)
        source = ImageSource(params, split.images, query_features, center, transform, support_augmentations)
        on_cpu = data_mesh().devices.flat[0].platform == "cpu"
        images = request.ways * request.shots * max(1, support_augmentations)
        images += request.images_per_episode() - request.ways * request.shots if extract_per_episode else 0
        chunk = max(1, (256 if on_cpu else 4096) // images)
    with _mesh_for(source):
        return request.evaluate(
            source,
            chosen,
            chunk=chunk,
            transform=transform,
            class_names=class_names,
            support_augmentations=support_augmentations,
        )


def _mesh_for(source: FeatureSource | ImageSource) -> AbstractContextManager[Any]:
    """Returns the context of a one-device mesh if episodes call an encoder back, which runs one batch at a time anyway.

    Several CPU devices that call back hang: JAX copies the images to the first device, which waits for its own call.
    """
    if not isinstance(source, ImageSource) or not isinstance(source.params.network, EagerEncoder):
        return nullcontext()
    first = next(device for device in data_mesh().devices.flat if device.process_index == jax.process_index())
    return jax.set_mesh(Mesh(np.asarray([first]), ("data",), axis_types=(AxisType.Auto,)))


def _center(params: Classifier, center: Any) -> Any:
    """Defaults to the source-train mean; only "centered_l2" uses it."""
    return params.feature_mean if center is None else center


@on_data_mesh
def curve(
    params: Classifier,
    split: Split,
    *,
    over: Over = "shots",
    values: Sequence[int | str] | None = None,
    **settings: Any,
) -> AccuracyCurve:
    """Evaluates the accuracy of a classifier's features at several numbers of shots or ways.

    Extracts features once for all values, unless support is augmented.

    Args:
        params: The classifier.
        split: Images and labels.
        over: "shots" or "ways".
        values: Numbers of shots or ways, with the default of `feature_curve`.
        **settings: As in `episodes`.

    Raises:
        InputError: As in `episodes`; or `over` is neither "shots" nor "ways".
    """

    extracted = cache(lambda: extract_features(params, split))

    def evaluate(**settings: Any) -> EpisodeReport:
        if settings.get("support_augmentations") or settings.get("extract_per_episode"):
            return episodes(params, split, **settings)
        plain = {name: value for name, value in settings.items() if name not in _IMAGE_SETTINGS}
        plain["center"] = _center(params, plain.get("center"))
        report = feature_episodes(extracted(), split.labels, **plain)
        return dataclasses.replace(report, class_names=tuple(split.class_names[i] for i in report.class_names))

    return trace_curve(evaluate, split.labels, over, values, settings)


@on_data_mesh
def tune(
    params: Classifier,
    validation: Split | None,
    *,
    head: str | heads.Head = "ridge",
    transform: str = "none",
    center: Any = None,
    **settings: Any,
) -> heads.Head:
    """Returns the head with the hyperparameter that is most accurate on validation classes.

    Args:
        params: The classifier.
        validation: `benchmark.validation`, never the target classes.
        head: "ridge" or "logistic", or a `Head` with one hyperparameter.
        transform: As in `episodes`.
        center: As in `episodes`.
        **settings: As in `ncjax.eval.feature_tune`.

    Returns:
        The head; ``str(head)`` shows the chosen value.

    Raises:
        InputError: The data set has no validation classes; otherwise as in `feature_tune`.
    """
    if validation is None:
        raise InputError("this data set has no validation classes to tune on; give the head's hyperparameter instead")
    head = tunable(head)
    return feature_tune(
        extract_features(params, validation),
        validation.labels,
        head=head,
        transform=transform,
        center=_center(params, center),
        **settings,
    )
