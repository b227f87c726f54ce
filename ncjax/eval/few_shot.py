"""A classifier of the user's own classes, fitted once on a few labelled images, for any images; kept in a file."""

import dataclasses
import io
import json
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

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
from ncjax.errors import UNREADABLE_NPZ, InputError, first_line
from ncjax.eval import heads
from ncjax.eval.arrays import check_features, check_transform
from ncjax.eval.transforms import transform_features
from ncjax.eval.tuning import feature_tune, tunable

_FORMAT = 1
_SCORERS = {scorer.__name__: scorer for scorer in (heads.Centres, heads.Directions, heads.Linear)}
_BATCHES_AT_ONCE = 16
_MOST_LEFT_OUT = 500

Images: TypeAlias = Any
"""One image uint8 [h, w, c] or [h, w], many [n, h, w, c], a Split, the path of a file or folder, or several paths; of a
classifier fitted on features without an encoder, features [n, d] or [d]."""


@dataclasses.dataclass(frozen=True, eq=False)
class Predictions:
    """What a classifier says of n images.

    Attributes:
        names: [n], the class with the highest score.
        runner_up: [n], the class with the second highest.
        margin: float32 [n], the highest score less the second highest, in the units of the head's scores.
        scores: float32 [n, k], in the order of `class_names`.
        probabilities: float32 [n, k], or None of heads that have none.
        class_names: of the k classes.
    """

    names: np.ndarray
    runner_up: np.ndarray
    margin: Float[np.ndarray, "n"]
    scores: Float[np.ndarray, "n k"]
    probabilities: Float[np.ndarray, "n k"] | None
    class_names: tuple[str, ...]


class LeaveOneOut(NamedTuple):
    """Of `images` of the support, each left out of a fit of the others, how many that fit classifies rightly."""

    correct: int
    images: int

    @property
    def accuracy(self) -> float:
        """The fraction; NaN where no class has a second image."""
        return self.correct / self.images if self.images else float("nan")


@dataclasses.dataclass(frozen=True, eq=False)
class FewShotClassifier:
    """A head fitted on the features of labelled images, with the encoder that made them; made by `fit`.

    Attributes:
        params: the encoder; None where features were given without one.
        head: as it was fitted, with its hyperparameters.
        class_names: of the k classes.
        scorer: what the head learned: a pytree, `scorer(features [M, d]) -> scores [M, k]` of transformed features.
        support: the transformed features [N, d] that it was fitted on.
        labels: [N], 0..k-1.
        transform: "none", "l2" or "centered_l2".
        center: [d] of "centered_l2".
        image_shape: (h, w, c) of the images that it takes; None without an encoder.
        probe: [4, d], what the encoder makes of four fixed images of that shape: its identity.
        batch_size: images a compiled call; fewer are filled up, so that images of any number compile once.
    """

    params: Classifier | None
    head: Any
    class_names: tuple[str, ...]
    scorer: Any
    support: Float[np.ndarray, "N d"]
    labels: Int[np.ndarray, "N"]
    transform: str = "none"
    center: Float[np.ndarray, "d"] | None = None
    image_shape: tuple[int, int, int] | None = None
    probe: Float[np.ndarray, "4 d"] | None = None
    batch_size: int = 32

    def classify(self, images: Images) -> Predictions:
        """Classes, runners-up, margins and scores of images.

        Raises:
            InputError: Images of another size or number of channels, features of another width, none at all; a file
                that cannot be read.
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
        """The names of the classes, [n]; of one image, its name. Raises as `classify`."""
        return _of_one(images, self, self.classify(images).names)

    def scores(self, images: Images) -> Float[np.ndarray, "*n k"]:
        """The head's scores [n, k], of one image [k]; those of ridge lack a constant that all classes share.

        Raises as `classify`.
        """
        return _of_one(images, self, self.classify(images).scores)

    def margin(self, images: Images) -> Any:
        """The highest score less the second highest, [n]; of one image, a number. Raises as `classify`."""
        return _of_one(images, self, self.classify(images).margin)

    def probabilities(self, images: Images) -> Float[np.ndarray, "*n k"]:
        """Probabilities of the classes [n, k], of one image [k]: as the support has them, not calibrated beyond it.

        Raises:
            InputError: As `classify`; also for a head whose scores are no probabilities.
        """
        if not self.has_probabilities:
            raise InputError(f'head {self.head} has scores and margins, but no probabilities; fit with head="logistic"')
        return _of_one(images, self, self.classify(images).probabilities)

    @property
    def has_probabilities(self) -> bool:
        """Whether the head models probabilities: logistic does."""
        return getattr(self.head, "name", None) == "logistic"

    def leave_one_out(self) -> LeaveOneOut:
        """Fits the head without each image of the support in turn, and classifies that one.

        An image that is the only one of its class is passed over; of more than 500 images, 500 are left out in turn.
        """
        counts = np.bincount(self.labels, minlength=len(self.class_names))
        rows = np.flatnonzero(counts[self.labels] > 1)
        if len(rows) > _MOST_LEFT_OUT:
            rows = np.random.default_rng(0).choice(rows, _MOST_LEFT_OUT, replace=False)
        if not len(rows):
            return LeaveOneOut(0, 0)
        right = _leave_out(self.head, self.support, self.labels, rows, len(self.class_names))
        return LeaveOneOut(int(np.sum(right)), len(rows))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes one file, an .npz: the head, the support's features, the names, the encoder's identity.

        The encoder's weights are not in it, nor any image.

        Raises:
            InputError: The head is one of the user's own, or the file cannot be written.
        """
        if type(self.scorer).__name__ not in _SCORERS or not isinstance(self.head, heads.Head):
            raise InputError(f"head {self.head} is not one of {', '.join(heads.HEADS)}: only these can be saved")
        header = {
            "format": _FORMAT,
            "head": self.head.name,
            "hyperparameters": {name: float(value) for name, value in self.head.hyperparameters.items()},
            "scorer": type(self.scorer).__name__,
            "class_names": self.class_names,
            "transform": self.transform,
            "image_shape": self.image_shape,
            "batch_size": self.batch_size,
        }
        arrays: dict[str, Any] = {
            "support": self.support,
            "labels": self.labels,
            "center": self.center,
            "probe": self.probe,
        }
        arrays |= {f"scorer.{name}": np.asarray(value) for name, value in self.scorer._asdict().items()}
        content = io.BytesIO()
        arrays |= {"header": json.dumps(header)}
        np.savez(content, **{name: value for name, value in arrays.items() if value is not None})
        try:
            files.write_atomically(files.expand(path), content.getvalue())
        except OSError as error:
            raise InputError(f"{path} cannot be written: {error.strerror}; choose another path") from None

    @classmethod
    def load(cls, path: str | os.PathLike[str], params: Classifier | None = None) -> "FewShotClassifier":
        """Reads what `save` wrote; nothing in the file is run.

        Args:
            path: the file.
            params: the encoder; its features of four fixed images must be those that the file holds. To be left out
                where the classifier was fitted on features without an encoder.

        Raises:
            InputError: The file cannot be read, or the encoder is missing, or another one.
        """
        place = files.expand(path)
        try:
            with place.open("rb") as file, np.load(file, allow_pickle=False) as found:
                header = json.loads(str(found["header"]))
                if header["format"] != _FORMAT:
                    raise InputError(f"{place} has format {header['format']}, this version reads {_FORMAT}")
                scorer = _SCORERS[header["scorer"]]
                loaded = cls(
                    params=params,
                    head=heads.HEADS[header["head"]](**header["hyperparameters"]),
                    class_names=tuple(header["class_names"]),
                    scorer=scorer(**{name: found[f"scorer.{name}"] for name in scorer._fields}),
                    support=found["support"],
                    labels=found["labels"],
                    transform=header["transform"],
                    center=found.get("center"),
                    image_shape=tuple(header["image_shape"]) if header["image_shape"] else None,
                    probe=found.get("probe"),
                    batch_size=header["batch_size"],
                )
        except InputError:
            raise
        except (*UNREADABLE_NPZ, KeyError, AttributeError) as error:
            raise InputError(
                f"{place} is no file of FewShotClassifier.save, or damaged ({first_line(error)})"
            ) from None
        loaded._check_encoder(place)
        return loaded

    def _check_encoder(self, path: Path) -> None:
        if (self.params is None) != (self.probe is None):
            raise InputError(
                f"{path} was fitted on features without an encoder: leave params out"
                if self.probe is None
                else f"{path} needs the encoder that it was fitted with: give params"
            )
        if self.params is None or self.probe is None or self.image_shape is None:
            return
        now = _probe(self.params, self.image_shape, self.batch_size)
        spread = float(np.linalg.norm(self.probe - self.probe.mean(axis=0)))
        if now.shape != self.probe.shape or not np.linalg.norm(now - self.probe) <= 0.01 * spread:
            raise InputError(
                f"{path} was fitted with another encoder: give the one that it was fitted with, or fit anew"
            )

    def _batches(self, images: Images) -> Iterator[np.ndarray]:
        """Images uint8 [n, h, w, c], or features, some batches at a time."""
        at_once = self.batch_size * _BATCHES_AT_ONCE
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
                f"this classifier takes {kind} [n, {', '.join(map(str, wanted))}], not {values.dtype} {list(shape)}; "
                "resize or convert what you give, or fit on such"
            )
        if shape[0] == 0:
            raise InputError("there are no images to classify: an array of length 0")
        for start in range(0, shape[0], at_once):
            yield np.asarray(values[start : start + at_once])

    def read_files(
        self, paths: Sequence[Path], *, skip_corrupt: bool = False
    ) -> Iterator[tuple[list[Path], UInt8[np.ndarray, "n h w c"]]]:
        """Image files as this classifier takes them, some at a time: resized to a square, grey or RGB.

        Args:
            paths: the files.
            skip_corrupt: leaves out files that cannot be read, instead of raising.

        Raises:
            InputError: A file cannot be read; the classifier takes features, or images that are no squares.
        """
        if self.image_shape is None:
            raise InputError("this classifier was fitted on features: give features, not files")
        height, width, channels = self.image_shape
        if height != width:
            raise InputError(f"files are resized to squares, this classifier takes {height}x{width}: give arrays")
        at_once = self.batch_size * _BATCHES_AT_ONCE
        return image_files.read_files(paths, height, channels, at_once=at_once, skip_corrupt=skip_corrupt)

    def _score(self, batch: np.ndarray) -> Float[np.ndarray, "n k"]:
        """Scores of images or features, in calls of one shape."""
        features = batch if self.params is None else _extract(self.params, batch, self.batch_size)
        features = check_features(features, range(len(features)))
        return np.concatenate(
            [
                np.asarray(_scores(self.scorer, filled, self.center, self.transform))[:count]
                for filled, count in _filled(features, self.batch_size)
            ]
        )


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
    """A classifier of new classes from some labelled images of each, or from their features.

    Args:
        params: the encoder, of a run or from elsewhere; None to fit on features and classify features.
        images: uint8 [n, h, w, c]; a Split, which brings its labels and names; or features [n, d] of such images.
        labels: [n], whole numbers or names; to be left out with a Split.
        head: "ridge", "logistic", "ncc", "cosine", a head of `ncjax.eval.heads`, or one of your own.
        transform: "none", "l2" or "centered_l2", applied to every feature first.
        center: [d] for "centered_l2"; `params.feature_mean` where it is left out.
        class_names: of the classes, in the order of their sorted labels; by default the labels themselves.
        validation: other classes to choose the head's hyperparameter on, as `ncjax.eval.tune` does: a Split, or
            (features, labels). None leaves it as it is.
        image_shape: (h, w, c) of the images; only needed with an encoder where features are given.
        batch_size: images a compiled call.

    Returns:
        The classifier; every number of images then runs through one compiled program.

    Raises:
        InputError: Less than two classes, labels that do not fit, an unknown head; otherwise as `ncjax.features` and
            `ncjax.eval.episodes`.
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
        array = np.concatenate(
            [
                _extract(params, array[i : i + 16 * batch_size], batch_size)
                for i in range(0, len(array), 16 * batch_size)
            ]
        )
    elif params is not None and image_shape is None:
        raise InputError("features with an encoder: give image_shape=(h, w, c) too, of the images that they are of")
    features = check_features(array, codes)
    if center is None and params is not None:
        center = params.feature_mean
    center = check_transform(transform, center, features.shape[1])
    if validation is not None:
        chosen = _tuned(params, validation, chosen, len(names), int(counts.min()), transform, center)
    support = np.asarray(transform_features(features, transform, center))
    scorer, _ = on_data_mesh(_fit)(chosen, support, codes, len(names))
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
        probe=None if params is None or image_shape is None else _probe(params, image_shape, batch_size),
        batch_size=batch_size,
    )


def _class_names(given: Sequence[str] | None, values: np.ndarray) -> tuple[str, ...]:
    names = tuple(value.decode() if isinstance(value, bytes) else str(value) for value in values.tolist())
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
    """The head with the value that is best in tasks of validation classes like the one at hand."""
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
    """Whether each of these rows is classified rightly by a fit on the others, bool [m]."""
    head, others = _in_float32(head), jnp.arange(len(labels) - 1)

    def one(row: Array) -> Array:
        kept = others + (others >= row).astype(others.dtype)
        scorer, _ = heads.fit(head, support[kept], labels[kept], ways)
        return jnp.argmax(scorer(support[row][None])[0]) == labels[row]

    right: Array = jax.lax.map(one, rows)
    return right


def _in_float32(head: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), head)


def _extract(params: Classifier, images: Any, batch_size: int) -> Float[np.ndarray, "n d"]:
    """`ncjax.features` in batches of one size, whatever the number of images: nothing compiles again."""
    count = len(images)
    images = np.asarray(images)
    fill = -count % batch_size
    if fill:
        images = np.concatenate([images, np.zeros((fill, *images.shape[1:]), images.dtype)])
    return np.asarray(extract_features(params, images, batch_size=batch_size))[:count]


def _filled(rows: np.ndarray, batch_size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Batches of one size, the last with zeros at its end, and how many rows of each are real."""
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        count = len(batch)
        yield np.concatenate([batch, np.zeros((batch_size - count, rows.shape[1]), rows.dtype)]), count


def _probe(params: Classifier, image_shape: tuple[int, int, int], batch_size: int) -> Float[np.ndarray, "4 d"]:
    """The features of four fixed images: two ramps and two of noise, the same whatever NumPy's generators do."""
    height, width, channels = image_shape
    size = height * width * channels
    noise = (np.arange(2 * size, dtype=np.uint64) * np.uint64(2654435761) >> np.uint64(9)) % np.uint64(256)
    down = np.broadcast_to(np.linspace(0, 255, height)[:, None, None], image_shape)
    across = np.broadcast_to(np.linspace(255, 0, width)[None, :, None], image_shape)
    pictures = np.stack([down, across, *noise.reshape(2, *image_shape)]).astype(np.uint8)
    return _extract(params, pictures, batch_size)


def _softmax(scores: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
    grown = np.exp(scores - scores.max(axis=1, keepdims=True))
    return grown / grown.sum(axis=1, keepdims=True)


def _is_paths(images: Any) -> bool:
    several = isinstance(images, Sequence) and len(images) > 0
    return isinstance(images, str | os.PathLike) or (several and all(isinstance(i, str | os.PathLike) for i in images))


def _of_one(images: Images, classifier: FewShotClassifier, values: Any) -> Any:
    """What was asked for: of a single image or file without its leading axis."""
    if isinstance(images, str | os.PathLike):
        one = not files.expand(images).is_dir()
    elif isinstance(images, Split) or _is_paths(images):
        one = False
    else:
        dims = np.ndim(images)
        one = dims == 1 if classifier.image_shape is None else dims in (2, 3)
    return values[0] if one else values
