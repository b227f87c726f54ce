"""A classifier of the user's own classes, fitted on a few labelled images."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from ncjax import files
from ncjax.checks import as_numpy, encode_labels, whole_number
from ncjax.classifier import Classifier
from ncjax.classifier import features as extract_features
from ncjax.data import Benchmark, Split
from ncjax.data import images as image_files
from ncjax.devices import on_data_mesh
from ncjax.errors import InputError
from ncjax.eval import classifier_file, fixed_batches, heads
from ncjax.eval.array_episodes import check_features, check_transform
from ncjax.eval.predictions import LeaveOneOut, Predictions
from ncjax.eval.transforms import transform_features
from ncjax.eval.tuning import feature_tune, tunable

_MAX_LEFT_OUT = 500

Images: TypeAlias = Any
"""One image uint8 [h, w, c] or [h, w], many [n, h, w, c], a Split, the path of a file or folder, or several paths;
for a classifier that was fitted on features without an encoder, features [n, d] or [d]."""


@dataclasses.dataclass(frozen=True, eq=False)
class FewShotClassifier:
    """A head fitted on features of labelled images, with the encoder of those features. Made by `fit`.

    Attributes:
        params: The encoder; None if the head was fitted on features without an encoder.
        head: The head with its hyperparameters.
        class_names: The k classes.
        scorer: The fitted head, a pytree: `scorer(features [M, d]) -> scores [M, k]` for transformed features.
        support: The transformed features [N, d] that the head was fitted on.
        labels: [N], 0..k-1.
        transform: "none", "l2" or "centered_l2".
        center: [d], for "centered_l2".
        image_shape: (h, w, c) of the images that the encoder takes; None without an encoder.
        probe: [4, d], the encoder's features of four fixed images of that shape, which identify it.
        batch_size: Images in a compiled call; smaller batches are padded, so that nothing compiles again.
    """

    params: Classifier | None
    head: Any
    class_names: tuple[str, ...]
    scorer: Any
    support: Float[np.ndarray, "N d"]
    labels: Int[np.ndarray, " N"]
    transform: str = "none"
    center: Float[np.ndarray, " d"] | None = None
    image_shape: tuple[int, int, int] | None = None
    probe: Float[np.ndarray, "4 d"] | None = None
    batch_size: int = 32

    def classify(self, images: Images) -> Predictions:
        """Computes classes, runners-up, margins and scores.

        Raises:
            InputError: There are no images, they have another size or number of channels (or features another width),
                or a file cannot be read.
        """
        scores = np.concatenate([self._score(batch) for batch in self._batches(images)])
        order = np.argsort(-scores, axis=1, kind="stable")[:, :2]
        best, second = np.take_along_axis(scores, order, axis=1).T
        names = np.asarray(self.class_names)
        return Predictions(
            names=names[order[:, 0]],
            runner_up=names[order[:, 1]],
            margin=best - second,
            scores=scores,
            probabilities=_softmax(scores) if self.has_probabilities else None,
            class_names=self.class_names,
        )

    def predict(self, images: Images) -> Any:
        """Returns the class names [n], or the name for one image. Raises what `classify` raises."""
        return _without_batch(images, self, self.classify(images).names)

    def scores(self, images: Images) -> Float[np.ndarray, "*n k"]:
        """Returns the head's scores [n, k], or [k] for one image; ridge scores lack a constant that all classes share.

        Raises what `classify` raises.
        """
        return _without_batch(images, self, self.classify(images).scores)

    def margin(self, images: Images) -> Any:
        """Returns the highest score minus the second highest, [n] or a number. Raises what `classify` raises."""
        return _without_batch(images, self, self.classify(images).margin)

    def probabilities(self, images: Images) -> Float[np.ndarray, "*n k"]:
        """Returns class probabilities [n, k], or [k] for one image, which are not calibrated beyond the support.

        Raises:
            InputError: The head has no probabilities, or as in `classify`.
        """
        if not self.has_probabilities:
            raise InputError(f'head {self.head} has scores and margins, but no probabilities; fit with head="logistic"')
        return _without_batch(images, self, self.classify(images).probabilities)

    @property
    def has_probabilities(self) -> bool:
        """Whether the head models probabilities, as logistic does."""
        return getattr(self.head, "name", None) == "logistic"

    def leave_one_out(self) -> LeaveOneOut:
        """Classifies each support image with the head fitted on all others.

        Skips images that are alone in their class; of more than 500 images, uses 500 at random.
        """
        counts = np.bincount(self.labels, minlength=len(self.class_names))
        rows = np.flatnonzero(counts[self.labels] > 1)
        if len(rows) > _MAX_LEFT_OUT:
            rows = np.random.default_rng(0).choice(rows, _MAX_LEFT_OUT, replace=False)
        if not len(rows):
            return LeaveOneOut(0, 0)
        correct = _leave_out(self.head, self.support, self.labels, rows, len(self.class_names))
        return LeaveOneOut(int(np.sum(correct)), len(rows))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes an .npz file: the head, the support's features, the class names, and the encoder's identity.

        Holds neither the encoder's weights nor images.

        Raises:
            InputError: The head is user-defined, or the file cannot be written.
        """
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "params"}
        classifier_file.write(files.expand(path), fields)

    @classmethod
    def load(cls, path: str | os.PathLike[str], params: Classifier | None = None) -> "FewShotClassifier":
        """Reads a file that `save` wrote, without running anything in it.

        Args:
            path: The file.
            params: The encoder that the classifier was fitted with, which the file identifies by its features of four
                fixed images; None for a classifier fitted on features.

        Raises:
            InputError: The file cannot be read, or the encoder is missing or is another one.
        """
        place = files.expand(path)
        classifier = cls(params=params, **classifier_file.read(place))
        classifier._check_encoder(place)
        return classifier

    def _check_encoder(self, path: Path) -> None:
        if (self.params is None) != (self.probe is None):
            raise InputError(
                f"{path} was fitted on features without an encoder: leave params out"
                if self.probe is None
                else f"{path} needs the encoder that it was fitted with: give params"
            )
        if self.params is None or self.probe is None or self.image_shape is None:
            return
        now = fixed_batches.probe(self.params, self.image_shape, self.batch_size)
        spread = float(np.linalg.norm(self.probe - self.probe.mean(axis=0)))
        if now.shape != self.probe.shape or not np.linalg.norm(now - self.probe) <= 0.01 * spread:
            raise InputError(
                f"{path} was fitted with another encoder: give the encoder that it was fitted with, or fit again"
            )

    def _batches(self, images: Images) -> Iterator[np.ndarray]:
        """Yields images uint8 [n, h, w, c], or features [n, d], some batches at a time."""
        at_once = self.batch_size * fixed_batches.BATCHES_AT_ONCE
        if _is_paths(images):
            for _, pixels in self.read_files(image_files.files_at(images)):
                yield pixels
            return
        values = images.images if isinstance(images, Split) else images
        if not hasattr(values, "shape") or not hasattr(values, "dtype"):
            values = as_numpy("images", values)
        wanted = self.support.shape[1:] if self.image_shape is None else self.image_shape
        shape = tuple(values.shape)
        if self.image_shape is not None and shape == wanted[:2] and wanted[2] == 1:
            shape, values = wanted, np.asarray(values)[..., None]
        if shape == wanted:
            shape, values = (1, *shape), np.asarray(values)[None]
        if shape[1:] != wanted or (self.image_shape is not None and values.dtype != np.uint8):
            kind = "features" if self.image_shape is None else "uint8 images"
            raise InputError(
                f"this classifier takes {kind} [n, {', '.join(map(str, wanted))}], not {values.dtype} {list(shape)}: "
                f"convert these, or fit a classifier on {kind} like them"
            )
        if shape[0] == 0:
            raise InputError("there are no images to classify: an array of length 0")
        for start in range(0, shape[0], at_once):
            yield np.asarray(values[start : start + at_once])

    def read_files(
        self, paths: Sequence[Path], *, skip_corrupt: bool = False
    ) -> Iterator[tuple[list[Path], UInt8[np.ndarray, "n h w c"]]]:
        """Yields image files with their pixels, some at a time, resized to the classifier's square, grey or RGB.

        Args:
            paths: The files.
            skip_corrupt: Whether to skip files that cannot be read, instead of raising.

        Raises:
            InputError: A file cannot be read, or the classifier takes features or images that are not square.
        """
        if self.image_shape is None:
            raise InputError("this classifier was fitted on features: give features, not files")
        height, width, channels = self.image_shape
        if height != width:
            raise InputError(f"files are resized to squares, this classifier takes {height}x{width}: give arrays")
        at_once = self.batch_size * fixed_batches.BATCHES_AT_ONCE
        return image_files.read_files(paths, height, channels, at_once=at_once, skip_corrupt=skip_corrupt)

    def _score(self, batch: np.ndarray) -> Float[np.ndarray, "n k"]:
        """Computes scores of images or features, in calls of one shape."""
        features = batch if self.params is None else fixed_batches.extract_features(self.params, batch, self.batch_size)
        features = check_features(features, range(len(features)))
        scores = [
            np.asarray(_scores(self.scorer, rows, self.center, self.transform))[:count]
            for rows, count in fixed_batches.padded(features, self.batch_size)
        ]
        return np.concatenate(scores)


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
        transform: "none", "l2" or "centered_l2", applied to every feature first.
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
    features = check_features(array, codes)
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
    return heads.fit(_in_float32(head), support, labels, ways)


@on_data_mesh
@partial(jax.jit, static_argnames="transform")
def _scores(scorer: Any, features: Array, center: Array | None, transform: str) -> Array:
    scores: Array = scorer(transform_features(features, transform, center))
    return scores


@on_data_mesh
@partial(jax.jit, static_argnames="ways")
def _leave_out(head: Any, support: Array, labels: Array, rows: Array, ways: int) -> Array:
    """Returns whether each of `rows` is classified correctly by a head fitted on all other rows, bool [m]."""
    head, others = _in_float32(head), jnp.arange(len(labels) - 1)

    def is_correct(row: Array) -> Array:
        kept = others + (others >= row).astype(others.dtype)
        scorer, _ = heads.fit(head, support[kept], labels[kept], ways)
        return jnp.argmax(scorer(support[row][None])[0]) == labels[row]

    correct: Array = jax.lax.map(is_correct, rows)
    return correct


def _in_float32(head: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), head)


def _softmax(scores: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def _is_paths(images: Any) -> bool:
    several = isinstance(images, Sequence) and len(images) > 0
    return isinstance(images, str | os.PathLike) or (several and all(isinstance(i, str | os.PathLike) for i in images))


def _without_batch(images: Images, classifier: FewShotClassifier, values: Any) -> Any:
    """Returns `values`, without their leading axis if `images` is a single image, file or row of features."""
    if isinstance(images, str | os.PathLike):
        single = not files.expand(images).is_dir()
    elif isinstance(images, Split) or _is_paths(images):
        single = False
    else:
        dims = np.ndim(images)
        single = dims == 1 if classifier.image_shape is None else dims in (2, 3)
    return values[0] if single else values
