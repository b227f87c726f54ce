"""Standard probes of frozen features: trained on labelled samples, tested on others of the same classes."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ncjax.checks import encode_labels, read_labels, whole_number
from ncjax.devices import on_data_mesh
from ncjax.errors import InputError
from ncjax.eval import heads
from ncjax.eval.array_episodes import check_features
from ncjax.eval.discriminant_analysis import fit_discriminant
from ncjax.eval.intervals import around, mean_interval
from ncjax.eval.nearest_neighbours import nearest_neighbours
from ncjax.eval.tuning import GRID
from ncjax.interval import Interval, share_interval
from ncjax.progress import progress
from ncjax.tables import Table

PROBES = ("knn", "lda", "ridge", "logistic")
SHRINKAGE = 0.1
"""Shrinkage of LDA's covariance if it is not of full rank."""
_HELD_OUT = 5
_OVER_SAMPLES, _OVER_DRAWS = "new samples of these classes", "other draws of the shots"


@dataclass(frozen=True)
class ProbeResult:
    """The accuracy of one probe.

    Attributes:
        probe: "knn", "lda", "ridge" or "logistic".
        setting: Its setting, such as "k=20" or "5 shots".
        accuracy: Share of the test samples that it classifies correctly; None if it cannot be computed.
        interval: 95 % interval; None without one.
        covers: What the interval covers.
        note: Why there is no accuracy, or what to know about it.
    """

    probe: str
    setting: str
    accuracy: float | None
    interval: Interval | None = None
    covers: str = ""
    note: str = ""


@dataclass(frozen=True)
class ProbeReport:
    """The results of all probes on one encoder's features.

    Attributes:
        results: One for each probe and setting.
        train: Number of training samples.
        test: Number of test samples.
        classes: Number of classes in training.
        dimensions: Number of dimensions of the features.
    """

    results: tuple[ProbeResult, ...]
    train: int
    test: int
    classes: int
    dimensions: int

    def accuracy(self, probe: str, setting: str | None = None) -> float | None:
        """Returns the accuracy of a probe; `setting` may be left out if there is one.

        Raises:
            InputError: There is no such result, or there are several.
        """
        found = [r for r in self.results if r.probe == probe and setting in (None, r.setting)]
        if len(found) != 1:
            known = ", ".join(f"{r.probe} {r.setting}".strip() for r in self.results)
            raise InputError(f"{len(found)} results of {probe!r}, setting {setting!r}; there are {known}")
        return found[0].accuracy

    def table(self, title: str = "probes") -> Table:
        """Returns a table; accuracies in percent with both ends of the interval."""
        rows = []
        for result in self.results:
            accuracy = "" if result.accuracy is None else f"{100 * result.accuracy:.2f}"
            ends = result.interval
            interval = "" if ends is None else f"{100 * ends.low:.2f} to {100 * ends.high:.2f}"
            rows.append([result.probe, result.setting, accuracy, interval, result.covers, result.note])
        title += f", {self.classes} classes in {self.dimensions} dimensions, {self.train} training and {self.test} test"
        header = ["probe", "setting", "accuracy, % ↑", "95 %", "over", "note"]
        return Table(header, rows, f"{title} samples", ["↑ higher is better."], left=2)

    def to_json(self) -> dict[str, Any]:
        """Returns plain dictionaries and lists, for JSON."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        return self.table().format()


@dataclass(frozen=True, eq=False)
class _Task:
    """Checked features and labels, which are positions among the training classes."""

    x: Float[np.ndarray, "n d"]
    y: Int[np.ndarray, " n"]
    query: Float[np.ndarray, "m d"]
    truth: Int[np.ndarray, " m"]
    names: np.ndarray
    counts: Int[np.ndarray, " k"]
    seed: int = field(default=0)

    @property
    def classes(self) -> int:
        return len(self.names)

    def single(self, probe: str, setting: str, predicted: np.ndarray, note: str = "") -> ProbeResult:
        """Returns the result of one fit, with the exact interval over test samples."""
        interval = share_interval(int(np.sum(predicted == self.truth)), len(self.truth))
        return ProbeResult(probe, setting, interval.estimate, interval, _OVER_SAMPLES, note)


@on_data_mesh
def probes(
    train_features: Any,
    train_labels: Any,
    test_features: Any,
    test_labels: Any,
    *,
    which: Sequence[str] = PROBES,
    neighbours: Sequence[int] = (10, 20, 100, 200),
    temperature: float = 0.07,
    shrinkage: float | None = None,
    shots: Sequence[int] = (1, 5, 10, 25),
    l2: float = 2.0**10,
    draws: int = 3,
    cs: Sequence[float] = GRID["C"],
    seed: int = 0,
) -> ProbeReport:
    """Evaluates features by the probes of other work: all classes at once, and a test set apart.

    - "knn": k-nearest neighbours as in DINO (Caron et al. 2021, `eval_knn.py`): unit norm, weights exp(cosine / 0.07).
      The same numbers, except that training classes absent from the test set take part.
    - "lda": linear discriminant analysis, scikit-learn's ``solver="lsqr"``, see `fit_discriminant`.
    - "ridge": N shots of each class as in big_vision (`evaluators/fewshot_lsr.py`): features centred and divided by
      their standard deviation over the shots plus 1e-5, targets ±1, penalty 1024, three draws. There the intercept is
      the weight of a constant feature of 100, here it is not penalised; with as many shots of each class, the predicted
      classes are the same. Draws are of other random numbers.
    - "logistic": multinomial, features as they are, C the best of `cs` on a fifth of each class's training samples,
      then fitted to all. A linear probe as in CLIP (Radford et al. 2021), which chooses C on a validation set in the
      same way from a finer grid.

    Args:
        train_features: [n, d].
        train_labels: [n], whole numbers or names.
        test_features: [m, d].
        test_labels: [m], of classes that have training samples.
        which: The probes to evaluate.
        neighbours: Numbers of neighbours k. More than n give no accuracy.
        temperature: Temperature of the votes.
        shrinkage: Of LDA's covariance, 0 to 1; by default 0 if n - k >= d, else 0.1.
        shots: Training samples of each class for ridge. More than the smallest class has give no accuracy.
        l2: Penalty of ridge.
        draws: Random draws of the shots; the accuracy is their mean.
        cs: Candidates for C, the strongest penalty first, since ties go to the first.
        seed: Seed of the draws and of the held-out fifth.

    Raises:
        InputError: Features or labels cannot be read, are not finite or do not fit each other; there are fewer than two
            training classes; a test class has no training sample; a setting is out of range.
    """
    _check_settings(which, neighbours, temperature, shrinkage, shots, l2, draws, cs)
    task = _read(train_features, train_labels, test_features, test_labels, seed)
    makers: dict[str, Callable[[], Iterator[ProbeResult]]] = {
        "knn": lambda: _knn(task, neighbours, temperature),
        "lda": lambda: _lda(task, shrinkage),
        "ridge": lambda: _ridge(task, shots, l2, draws),
        "logistic": lambda: _logistic(task, cs),
    }
    results = tuple(result for name in progress(which, "probes") for result in makers[name]())
    return ProbeReport(results, len(task.y), len(task.truth), task.classes, task.x.shape[1])


def _check_settings(
    which: Sequence[str],
    neighbours: Sequence[int],
    temperature: float,
    shrinkage: float | None,
    shots: Sequence[int],
    l2: float,
    draws: int,
    cs: Sequence[float],
) -> None:
    if not _is_list(which) or len(which) == 0:
        raise InputError(f"which={which!r}: give a list of {', '.join(PROBES)}")
    for name in which:
        if name not in PROBES:
            raise InputError(f"no probe is called {name!r}: give {', '.join(PROBES)}")
    for name, given in (("neighbours", neighbours), ("shots", shots), ("cs", cs)):
        if not _is_list(given):
            raise InputError(f"{name}={given!r}: give a list of numbers")
    for name, values in (("neighbours", neighbours), ("shots", shots), ("draws", (draws,))):
        if any(whole_number(name, value) < 1 for value in values):
            raise InputError(f"{name}={values}: each must be at least 1")
    for name, numbers in (("temperature", (temperature,)), ("l2", (l2,)), ("cs", cs)):
        if len(numbers) == 0 or not all(np.isfinite(value) and value > 0 for value in numbers):
            raise InputError(f"{name}={numbers}: give positive numbers")
    if shrinkage is not None and not 0 <= shrinkage <= 1:
        raise InputError(f"shrinkage={shrinkage}: give a number from 0 to 1")


def _is_list(value: Any) -> bool:
    return not isinstance(value, str) and np.ndim(value) == 1


def _read(train_features: Any, train_labels: Any, test_features: Any, test_labels: Any, seed: int) -> _Task:
    """Checks all arrays before anything is computed."""
    names, y, counts = encode_labels(train_labels)
    truth_labels = read_labels(test_labels)
    x, query = check_features(train_features, y), check_features(test_features, truth_labels)
    if x.shape[1] != query.shape[1]:
        raise InputError(f"training features have {x.shape[1]} dimensions, test features {query.shape[1]}")
    if len(names) < 2:
        raise InputError(f"{len(names)} training classes: give two or more")
    if len(query) == 0:
        raise InputError("there are no test samples")
    if (names.dtype.kind in "US") != (truth_labels.dtype.kind in "US"):
        raise InputError("labels are names in one set and numbers in the other: give both in the same way")
    absent = np.setdiff1d(truth_labels, names)
    if len(absent):
        raise InputError(
            f"{len(absent)} classes of the test set have no training sample, the first {absent[0]}: no probe can "
            "predict them; leave them out"
        )
    return _Task(x, y, query, np.searchsorted(names, truth_labels).astype(np.int32), names, counts, seed)


def _knn(task: _Task, neighbours: Sequence[int], temperature: float) -> Iterator[ProbeResult]:
    n = len(task.y)
    by_k: dict[int, np.ndarray] = {}
    if possible := [k for k in neighbours if k <= n]:
        predicted = nearest_neighbours(
            task.x, task.y, task.query, task.classes, neighbours=possible, temperature=float(temperature)
        )
        by_k = dict(zip(possible, predicted, strict=True))
    for k in neighbours:
        if k in by_k:
            yield task.single("knn", f"k={k}", by_k[k])
        else:
            yield ProbeResult("knn", f"k={k}", None, note=f"there are {n} training samples")


def _lda(task: _Task, shrinkage: float | None) -> Iterator[ProbeResult]:
    n, d = task.x.shape
    note = ""
    if shrinkage is None:
        shrinkage = 0.0 if n - task.classes >= d else SHRINKAGE
        note = "" if shrinkage == 0 else f"shrunk: {n} samples for {d} dimensions"
    scores = fit_discriminant(task.x, task.y, task.classes, float(shrinkage))(task.query)
    yield task.single("lda", f"shrinkage {shrinkage:g}", scores.argmax(axis=1), note)


def _ridge(task: _Task, shots: Sequence[int], l2: float, draws: int) -> Iterator[ProbeResult]:
    for count in shots:
        setting = f"{count} shot{'s' * (count > 1)}"
        fewest = int(task.counts.argmin())
        if task.counts[fewest] < count:
            few = f"class {task.names[fewest]} has {task.counts[fewest]} training samples"
            yield ProbeResult("ridge", setting, None, note=few)
            continue
        accuracies = []
        for draw in range(draws):
            rng = np.random.default_rng([task.seed, draw])
            rows = np.concatenate([rng.permutation(np.flatnonzero(task.y == c))[:count] for c in range(task.classes)])
            x, y = task.x[rows], task.y[rows]
            predicted, _ = _standardised(heads.ridge(l2), x, y, task.query, task.classes)
            accuracies.append(float(np.mean(np.asarray(predicted) == task.truth)))
        mean = float(np.mean(accuracies))
        varies = np.ptp(accuracies) > 0  # draws that agree by chance would leave no width
        interval = around(mean, mean_interval(np.asarray(accuracies))) if varies else None
        yield ProbeResult("ridge", setting, mean, interval, _OVER_DRAWS if interval else "", f"{draws} draws")


def _logistic(task: _Task, cs: Sequence[float]) -> Iterator[ProbeResult]:
    held = held_out(task.y, task.classes, task.seed)
    if not held.any():
        yield ProbeResult("logistic", "", None, note="each class has one sample: none can be held out to choose C")
        return
    fitted, right = task.x[~held], []
    for C in cs:
        predicted, _ = _as_they_are(heads.logistic(C), fitted, task.y[~held], task.x[held], task.classes)
        right.append(int(np.sum(np.asarray(predicted) == task.y[held])))
    best = int(np.argmax(right))
    predicted, info = _as_they_are(heads.logistic(cs[best]), task.x, task.y, task.query, task.classes)
    notes = [] if bool(info["converged"]) else ["did not converge"]
    if len(cs) > 1 and best in (0, len(cs) - 1):
        notes.append(f"C at the end of {min(cs):g} to {max(cs):g}")
    yield task.single("logistic", f"C={cs[best]:g}", np.asarray(predicted), "; ".join(notes))


def held_out(labels: Int[np.ndarray, " n"], num_classes: int, seed: int) -> Bool[np.ndarray, " n"]:
    """Chooses a fifth of each class at random, at least one sample; none of a class of one sample."""
    rng = np.random.default_rng(seed)
    chosen = np.zeros(len(labels), bool)
    for c in range(num_classes):
        rows = rng.permutation(np.flatnonzero(labels == c))
        if len(rows) > 1:
            chosen[rows[: max(1, len(rows) // _HELD_OUT)]] = True
    return chosen


@partial(jax.jit, static_argnames="ways")
def _as_they_are(
    head: heads.Head, x: Float[Array, "n d"], y: Int[Array, " n"], query: Float[Array, "m d"], ways: int
) -> tuple[Int[Array, " m"], Any]:
    scorer, info = heads.fit(head, x, y, ways)
    return jnp.argmax(scorer(query), axis=1), info


@partial(jax.jit, static_argnames="ways")
def _standardised(
    head: heads.Head, x: Float[Array, "n d"], y: Int[Array, " n"], query: Float[Array, "m d"], ways: int
) -> tuple[Int[Array, " m"], Any]:
    mean = x.mean(axis=0)
    scale = jnp.std(x, axis=0) + 1e-5
    return _as_they_are(head, (x - mean) / scale, y, (query - mean) / scale, ways)
