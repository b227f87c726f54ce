"""Computes what the panels of one run or encoder show: features, collapse, accuracy, confusion."""

import dataclasses
from dataclasses import dataclass

import jax
import numpy as np

from ncjax import collapse, keys
from ncjax.classifier import Classifier, features
from ncjax.data import Split
from ncjax.errors import InputError
from ncjax.eval import AccuracyCurve, EpisodeReport, feature_curve
from ncjax.models import Network
from ncjax.runs import Run, open_benchmark
from ncjax.train import restore
from ncjax.train.continuation import starting_variables
from ncjax.train.measurement import rows_per_class

HEADS = ("ncc", "ridge")
"""Heads of the panel of accuracy against shots."""
SHOTS = (1, 2, 5, 20)
"""Numbers of shots of that panel; each is a program to compile, and training compiled 1 and 5 already."""
MOST_CLASSES = 40
"""Most classes in a matrix; of more, those with the largest mean CDNV are shown."""
MOST_PROJECTED_CLASSES, MOST_PROJECTED_IMAGES = 20, 1500


@dataclass(frozen=True, eq=False)
class Detail:
    """The numbers behind the panels of one run or encoder.

    Attributes:
      run: the run; None for an encoder from elsewhere.
      name: of the encoder and its data; empty for a run.
      class_names: names of the k target classes.
      labels: [n], labels of the target images.
      before: features [n, d] of the network before the first step; None for an encoder, and where a continued run's
        first weights are gone.
      after: features [n, d] at the newest checkpoint, or of the encoder.
      collapse: measures of `after`, for a run on the images of its records.
      images: the images [n, h, w, c] of the rows.
      rows: the rows of `after` on which collapse is measured.
      curves: accuracy against shots, by head.
      confused: report of the ncc head at the largest number of shots up to 5.
    """

    run: Run | None
    class_names: tuple[str, ...]
    labels: np.ndarray
    before: np.ndarray | None
    after: np.ndarray
    collapse: collapse.Collapse
    curves: dict[str, AccuracyCurve]
    confused: EpisodeReport
    images: np.ndarray
    rows: np.ndarray
    name: str = ""

    def shown_classes(self) -> np.ndarray:
        """Rows of the matrices: all classes, or the `MOST_CLASSES` that are hardest to tell from others."""
        measured = self.collapse
        if measured.k <= MOST_CLASSES:
            return np.arange(measured.k)
        return np.sort(np.argsort(-np.nanmean(measured.cdnv_pairs, axis=1), kind="stable")[:MOST_CLASSES])

    def projected(self) -> tuple[np.ndarray, np.ndarray]:
        """Classes of the projection, and the rows of their images, drawn at random where there are many."""
        classes = self.collapse.classes[:MOST_PROJECTED_CLASSES]
        per_class = max(1, MOST_PROJECTED_IMAGES // len(classes))
        rng = np.random.default_rng(0)
        rows = [np.flatnonzero(self.labels == c) for c in classes]
        return classes, np.concatenate([np.sort(rng.permutation(r)[:per_class]) for r in rows])


def initial(params: Classifier, run: Run) -> Classifier | None:
    """Rebuilds the classifier of a run as it was before the first step: from its seed, or from the run it continues.

    Returns:
      None if the run that it continues does not have those weights any more.
    """
    network = params.network
    assert isinstance(network, Network)  # never an encoder from elsewhere: the classifier of a run
    height, width, channels = run.description.data.image_shape
    shape = (height, width, channels)
    if run.config.continue_from is not None:
        try:
            variables = starting_variables(run.config, jax.eval_shape(lambda: network.init(keys.root(0), shape)))
        except InputError:
            return None
    else:
        variables = jax.jit(network.init, static_argnums=1)(keys.stream(run.config.seed, "init"), shape)
    return dataclasses.replace(params, variables=variables, feature_mean=None)


def examine(run: Run, *, data_dir: str | None = None, episodes: int = 2000) -> Detail:
    """Computes the panels of one run from its newest checkpoint and its data.

    Args:
      run: the run.
      data_dir: folder of its data, if the data has moved.
      episodes: few-shot episodes for each head and number of shots.

    Raises:
      InputError: the data or the checkpoint cannot be read.
    """
    params = restore(run.folder)
    target = open_benchmark(run.description, data_dir).target
    return examine_split(run, params, target, episodes=episodes)


def examine_split(run: Run, params: Classifier, target: Split, *, episodes: int = 2000) -> Detail:
    """Computes the panels of one run from a classifier and target images that are loaded already."""
    detail = examine_encoder(
        params, target, name="", episodes=episodes, per_class=run.description.data.measured_per_class
    )
    start = initial(params, run)
    return dataclasses.replace(detail, run=run, before=None if start is None else features(start, target))


def examine_encoder(
    params: Classifier, target: Split, *, name: str, episodes: int = 2000, per_class: int | None = None
) -> Detail:
    """Computes the panels of any classifier or encoder.

    Args:
      params: a Classifier, for example of `ncjax.encoders`.
      target: the images and classes to show.
      name: title of the page.
      episodes: few-shot episodes for each head and number of shots.
      per_class: images a class on which collapse is measured, as runs choose them; by default all.
    """
    after = features(params, target)
    fewest = int(np.bincount(target.labels).min())
    queries = max(1, min(15, fewest // 2))
    rows = np.arange(len(after))
    if per_class is not None:
        rows = rows_per_class(target.labels, target.num_classes, min(per_class, fewest))
    curves = {
        head: feature_curve(
            after,
            target.labels,
            over="shots",
            values=[shots for shots in SHOTS if shots + queries <= fewest],
            ways=min(5, target.num_classes),
            queries=queries,
            episodes=episodes,
            head=head,
        )
        for head in HEADS
    }
    return Detail(
        run=None,
        name=name,
        class_names=tuple(map(str, target.class_names)),
        labels=target.labels,
        before=None,
        after=after,
        collapse=collapse.measure(after[rows], target.labels[rows], num_classes=target.num_classes),
        images=target.images,
        rows=rows,
        curves=curves,
        confused=[report for report in curves["ncc"].reports if report.settings.shots <= 5][-1],
    )


def principal_components(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Projects rows on the two directions of largest variance.

    The largest loading of a direction is positive, which fixes its sign.

    Returns:
      Coordinates [n, 2], and each direction's share of the variance [2].
    """
    centred = values.astype(np.float64) - values.mean(0, dtype=np.float64)
    variances, directions = np.linalg.eigh(centred.T @ centred)
    axes = directions[:, ::-1][:, :2]
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])])
    share = variances[::-1][:2] / max(float(variances.sum()), 1e-300)
    flat = centred @ axes
    if flat.shape[1] == 1:
        return np.column_stack([flat, np.zeros(len(flat))]), np.array([share[0], 0.0])
    return flat, share
