"""A fitted classifier of the user's own classes: predicts, leaves samples out, is saved and loaded."""

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
from ncjax.checks import as_numpy
from ncjax.classifier import Classifier
from ncjax.data import Split, images as image_files
from ncjax.devices import on_data_mesh
from ncjax.errors import InputError
from ncjax.eval import classifier_file, fixed_batches, heads
from ncjax.eval.array_episodes import check_features
from ncjax.eval.predictions import LeaveOneOut, Predictions
from ncjax.eval.transforms import transform_features

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
        transform: "none", "l2", "centered_l2" or "power".
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
        features = check_features(features, range(len(features)), self.transform)
        scores = [
            np.asarray(_scores(self.scorer, rows, self.center, self.transform))[:count]
            for rows, count in fixed_batches.padded(features, self.batch_size)
        ]
        return np.concatenate(scores)


@on_data_mesh
@partial(jax.jit, static_argnames="transform")
def _scores(scorer: Any, features: Array, center: Array | None, transform: str) -> Array:
    scores: Array = scorer(transform_features(features, transform, center))
    return scores


@on_data_mesh
@partial(jax.jit, static_argnames="ways")
def _leave_out(head: Any, support: Array, labels: Array, rows: Array, ways: int) -> Array:
    """Returns whether each of `rows` is classified correctly by a head fitted on all other rows, bool [m]."""
    head, others = in_float32(head), jnp.arange(len(labels) - 1)

    def is_correct(row: Array) -> Array:
        kept = others + (others >= row).astype(others.dtype)
        scorer, _ = heads.fit(head, support[kept], labels[kept], ways)
        return jnp.argmax(scorer(support[row][None])[0]) == labels[row]

    correct: Array = jax.lax.map(is_correct, rows)
    return correct


def in_float32(head: Any) -> Any:
    """Converts the hyperparameters of a head, so that a compiled function takes them without promotion."""
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
