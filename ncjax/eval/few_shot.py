"""Fits a classifier of the user's own classes on a few labelled images."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from ncjax.checks import as_numpy, encode_labels, whole_number
from ncjax.classifier import Classifier, features as extract_features
from ncjax.data import Benchmark, Split
from ncjax.devices import on_data_mesh
from ncjax.errors import InputError
from ncjax.eval import fixed_batches, heads
from ncjax.eval.array_episodes import check_features, check_transform
from ncjax.eval.few_shot_classifier import FewShotClassifier, in_float32
from ncjax.eval.transforms import transform_features
from ncjax.eval.tuning import feature_tune, tunable


@on_data_mesh
def fit(
    params: Classifier | None,
    images: Any,
    labels: Any = None,
    *,
    head: Any = "ridge",
    transform: str = "none",
    center: Any = None,
    class_names: Sequence[str] | None = None,
    validation: Any = None,
    image_shape: tuple[int, int, int] | None = None,
    batch_size: int = 32,
) -> FewShotClassifier:
    """Fits a classifier of new classes on a few labelled images of each, or on their features.

    Args:
        params: The encoder, of a run or from elsewhere; None to fit on features and to classify features.
        images: uint8 [n, h, w, c]; a Split, which has labels and class names; or features [n, d].
        labels: [n], whole numbers or names; None with a Split.
        head: "ridge", "logistic", "ncc", "cosine", a head of `ncjax.eval.heads`, or your own.
        transform: "none", "l2", "centered_l2" or "power", applied to every feature first.
        center: [d] for "centered_l2"; defaults to `params.feature_mean`.
        class_names: Names of the classes in the order of their sorted labels; defaults to the labels.
        validation: Other classes on which to choose the head's hyperparameter, as `ncjax.eval.tune` does: a Split, or
            (features, labels). None keeps the hyperparameter.
        image_shape: (h, w, c) of the images; needed only for features with an encoder.
        batch_size: Images in a compiled call.

    Returns:
        The classifier, which runs one compiled program for any number of images.

    Raises:
        InputError: There are fewer than two classes, labels do not match the images, or the head is unknown; otherwise
            as in `ncjax.features` and `ncjax.eval.episodes`.
    """
    chosen = heads.get(head)
    batch_size = whole_number("batch_size", batch_size)
    if batch_size < 1:
        raise InputError(f"batch_size={batch_size}: it must be at least 1")
    if isinstance(images, Benchmark):
        raise InputError("images is a Benchmark; give one of its splits, for example benchmark.target")
    if isinstance(images, Split):
        if labels is not None:
            raise InputError("a Split has labels of its own: leave labels out, or give its images")
        labels = np.asarray(images.class_names)[images.labels]
        images = images.images
    elif labels is None:
        raise InputError("images without labels: give one label an image")
    values, codes, counts = encode_labels(labels)
    names = _class_names(class_names, values)
    array = images if hasattr(images, "shape") and hasattr(images, "dtype") else as_numpy("images", images)
    if array.ndim == 4:
        if params is None:
            raise InputError("images without an encoder: give params, or the images' features [n, d]")
        if len(array) != len(codes):
            raise InputError(f"{len(array)} images but {len(codes)} labels; give one label an image")
        image_shape = tuple(array.shape[1:])
        array = fixed_batches.extract_features(params, array, batch_size)
    elif params is not None and image_shape is None:
        raise InputError("features with an encoder: give image_shape=(h, w, c) too, the shape of their images")
    features = check_features(array, codes, transform)
    if center is None and params is not None:
        center = params.feature_mean
    center = check_transform(transform, center, features.shape[1])
    if validation is not None:
        chosen = _tuned(params, validation, chosen, len(names), int(counts.min()), transform, center)
    support = np.asarray(transform_features(features, transform, center))
    scorer, _ = _fit(chosen, support, codes, len(names))
    return FewShotClassifier(
        params=params,
        head=chosen,
        class_names=names,
        scorer=jax.tree.map(np.asarray, scorer),
        support=support,
        labels=codes,
        transform=transform,
        center=center,
        image_shape=image_shape if params is not None else None,
        probe=None if params is None or image_shape is None else fixed_batches.probe(params, image_shape, batch_size),
        batch_size=batch_size,
    )


def _class_names(given: Sequence[str] | None, labels: np.ndarray) -> tuple[str, ...]:
    """Returns the given names, or the sorted labels as names; raises InputError unless each class has a name."""
    names = tuple(label.decode() if isinstance(label, bytes) else str(label) for label in labels.tolist())
    if len(names) < 2:
        raise InputError(f"all labels are {names[0]!r}: give images of two classes or more" if names else "no labels")
    if given is None:
        return names
    if isinstance(given, str) or len(given) != len(names) or len(set(given)) != len(names):
        raise InputError(f"class_names must be {len(names)} different names, in the order of the labels {names[:5]}")
    return tuple(str(name) for name in given)


def _tuned(
    params: Classifier | None, validation: Any, head: Any, ways: int, shots: int, transform: str, center: Any
) -> Any:
    """Returns the head with the hyperparameter that is most accurate in similar tasks of validation classes."""
    if isinstance(validation, Split):
        if params is None:
            raise InputError("validation images without an encoder: give (features, labels) of validation classes")
        validation = extract_features(params, validation), validation.labels
    features, labels = validation
    counts = encode_labels(labels)[2]
    shots = max(1, min(shots, int(counts.min()) - 1))
    queries = max(1, min(15, int(counts.min()) - shots))
    return feature_tune(
        features,
        labels,
        head=tunable(head),
        ways=min(ways, len(counts)),
        shots=shots,
        queries=queries,
        transform=transform,
        center=center,
    )


@partial(jax.jit, static_argnames="ways")
def _fit(head: Any, support: Array, labels: Array, ways: int) -> tuple[Any, Any]:
    return heads.fit(in_float32(head), support, labels, ways)
