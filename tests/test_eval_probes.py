"""Standard probes beside float64 NumPy and scikit-learn, at collapse, far from the origin, and with too few samples."""

from collections.abc import Callable

import jax
import numpy as np
import pytest
from jax.sharding import Mesh
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression

import ncjax
from ncjax.errors import InputError
from ncjax.eval import ProbeReport
from ncjax.eval.discriminant_analysis import fit_discriminant
from ncjax.eval.standard_probes import held_out

CLASSES, WIDTH = 5, 12
_MEANS = np.random.default_rng(0).normal(size=(CLASSES, WIDTH))


def drawn(per_class: int, seed: int, *, noise: float = 1.4, offset: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    labels = np.repeat(np.arange(CLASSES), per_class)
    rows = _MEANS[labels] + noise * np.random.default_rng(seed).normal(size=(len(labels), WIDTH))
    return (rows + offset).astype(np.float32), labels


X, Y = drawn(30, 1)
QUERY, TRUTH = drawn(40, 2)


def only(which: str, *data: np.ndarray, **settings: object) -> ProbeReport:
    return ncjax.eval.probes(*(data or (X, Y, QUERY, TRUTH)), which=(which,), **settings)


def knn_oracle(x: np.ndarray, y: np.ndarray, query: np.ndarray, k: int, temperature: float = 0.07) -> np.ndarray:
    """The DINO protocol in float64."""
    unit, unit_query = (
        a.astype(np.float64) / np.linalg.norm(a.astype(np.float64), axis=1)[:, None] for a in (x, query)
    )
    similarity = unit_query @ unit.T
    votes = np.zeros((len(query), y.max() + 1))
    for row, values in enumerate(similarity):
        for i in np.argsort(-values)[:k]:
            votes[row, y[i]] += np.exp(values[i] / temperature)
    return votes.argmax(axis=1)


def ridge_oracle(x: np.ndarray, y: np.ndarray, query: np.ndarray, l2: float) -> np.ndarray:
    """big_vision's few-shot regression in float64: standardised, with a constant feature of 100."""
    mean, std = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64) + 1e-5

    def prepared(a: np.ndarray) -> np.ndarray:
        return np.pad((a - mean) / std, ((0, 0), (0, 1)), constant_values=100.0)

    target = 2.0 * np.eye(y.max() + 1)[y] - 1
    design = prepared(x)
    weights = np.linalg.solve(design.T @ design + l2 * np.eye(design.shape[1]), design.T @ target)
    return (prepared(query) @ weights).argmax(axis=1)


@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_neighbours_are_those_of_dino(offset: float) -> None:
    (x, y), (query, truth) = drawn(30, 1, offset=offset), drawn(40, 2, offset=offset)
    report = only("knn", x, y, query, truth, neighbours=(1, 10, 150, 200))
    for k in (1, 10, 150):
        assert report.accuracy("knn", f"k={k}") == np.mean(knn_oracle(x, y, query, k) == truth)
    assert report.accuracy("knn", "k=200") is None
    assert report.results[-1].note == "there are 150 training samples"


def test_ridge_predicts_as_big_vision_does() -> None:
    report = only("ridge", shots=(1, 5, 30, 31), draws=3)
    for shots in (1, 5, 30):
        expected = []
        for draw in range(3):
            rng = np.random.default_rng([0, draw])
            rows = np.concatenate([rng.permutation(np.flatnonzero(c == Y))[:shots] for c in range(CLASSES)])
            expected.append(np.mean(ridge_oracle(X[rows], Y[rows], QUERY, 1024.0) == TRUTH))
        assert report.accuracy("ridge", "1 shot" if shots == 1 else f"{shots} shots") == pytest.approx(
            np.mean(expected)
        )
    assert report.accuracy("ridge", "31 shots") is None
    assert report.results[-1].note == "class 0 has 30 training samples"
    assert report.results[0].covers == "other draws of the shots"


@pytest.mark.parametrize(("per_class", "shrinkage"), [(30, 0.0), (30, 0.3), (3, 0.1)])
def test_discriminant_analysis_is_that_of_scikit_learn(per_class: int, shrinkage: float) -> None:
    x, y = drawn(per_class, 1, offset=50.0)
    x, y = x[per_class // 2 :], y[per_class // 2 :]  # unequal priors
    query = QUERY + 50
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage or None).fit(x.astype(np.float64), y)
    expected = theirs.decision_function(query.astype(np.float64))
    scores = fit_discriminant(x, y, CLASSES, shrinkage)(query)
    np.testing.assert_allclose(scores - scores[:, :1], expected - expected[:, :1], rtol=1e-5, atol=1e-5)
    report = only("lda", x, y, query, TRUTH)
    assert report.results[0].setting == ("shrinkage 0" if per_class == 30 else "shrinkage 0.1")
    assert ("samples for 12 dimensions" in report.results[0].note) == (per_class == 3)


@pytest.mark.slow  # compiles the solver for two shapes
def test_logistic_chooses_c_on_training_samples_and_fits_as_scikit_learn() -> None:
    cs = (1e-3, 1e-2, 1e-1, 1.0)
    held = held_out(Y, CLASSES, 0)
    assert np.bincount(Y[held]).tolist() == [6] * CLASSES

    def fitted(C: float, rows: np.ndarray) -> LogisticRegression:
        return LogisticRegression(C=C, tol=1e-8, max_iter=5000).fit(X[rows], Y[rows])

    by_c = [fitted(C, ~held).score(X[held], Y[held]) for C in cs]
    best = cs[int(np.argmax(by_c))]
    result = only("logistic", cs=cs).results[0]
    assert result.setting == f"C={best:g}"
    assert result.accuracy == pytest.approx(fitted(best, held | ~held).score(QUERY, TRUTH))
    collapsed = only("logistic", *drawn(30, 1, noise=0.0, offset=100.0), *drawn(40, 2, noise=1e-4, offset=100.0))
    assert collapsed.results[0].accuracy == 1


def test_collapsed_classes_are_told_apart() -> None:
    x, y = drawn(30, 1, noise=0.0, offset=100.0)
    query, truth = drawn(40, 2, noise=1e-4, offset=100.0)
    which = ("knn", "lda", "ridge")
    report = ncjax.eval.probes(x, y, query, truth, which=which, neighbours=(5, 10), shots=(1, 5), shrinkage=0.0)
    assert [result.accuracy for result in report.results] == [1.0] * 5
    for result in report.results:  # ridge's is over draws of the shots, which all agree
        assert (result.interval is None) if result.probe == "ridge" else (result.interval.high == 1), result


def test_equal_features_and_rows_of_zeros_are_no_nan() -> None:
    x = np.ones((30, 4), np.float32)
    labels = np.repeat([0, 0, 1], 10)
    x[0] = 0
    which = ("knn", "lda", "ridge")
    report = ncjax.eval.probes(x, labels, x[5:], labels[5:], which=which, neighbours=(10,), shots=(5,))
    assert all(0 <= result.accuracy <= 1 for result in report.results if result.accuracy is not None)
    assert report.accuracy("lda") == pytest.approx(15 / 25)  # the priors decide


def test_the_number_of_devices_changes_nothing(on_devices: Callable[[int], Mesh]) -> None:
    alone = only("knn")
    with jax.set_mesh(on_devices(8)):
        assert only("knn") == alone


def test_names_tables_and_json() -> None:
    names = np.array(["ant", "bee", "cat", "dog", "elk"])
    report = only("lda", X, names[Y], QUERY, names[TRUTH])
    assert report.accuracy("lda") == only("lda").accuracy("lda")
    assert report.table().format("csv").splitlines()[1] == 'probe,setting,"accuracy, % ↑",95 %,over,note'
    assert str(report).startswith("probes, 5 classes in 12 dimensions, 150 training and 200 test samples")
    assert report.to_json()["results"][0]["probe"] == "lda"
    with pytest.raises(InputError, match="0 results of 'knn'"):
        report.accuracy("knn")


def test_few_samples_leave_reasons() -> None:
    rows = np.arange(0, 150, 30)
    report = only("logistic", X[rows], Y[rows], QUERY, TRUTH)
    assert report.results[0].accuracy is None
    assert "none can be held out" in report.results[0].note


def test_mistakes_are_one_line() -> None:
    for data, settings, message in (
        ((X, Y, QUERY, TRUTH + 1), {}, "1 classes of the test set have no training sample, the first 5"),
        ((X, Y, QUERY[:, 1:], TRUTH), {}, "12 dimensions, test features 11"),
        ((X, Y[1:], QUERY, TRUTH), {}, "149 labels"),
        ((X, Y * 0, QUERY, TRUTH * 0), {}, "1 training classes"),
        ((X, Y, QUERY[:0], TRUTH[:0]), {}, "no test samples"),
        ((X, Y.astype(str), QUERY, TRUTH), {}, "names in one set and numbers in the other"),
        ((X, Y, QUERY * np.nan, TRUTH), {}, "not finite"),
        ((X, Y, QUERY, TRUTH), {"which": ("svm",)}, "no probe is called 'svm'"),
        ((X, Y, QUERY, TRUTH), {"which": ()}, "give a list of knn"),
        ((X, Y, QUERY, TRUTH), {"which": "knn"}, "which='knn': give a list of knn"),
        ((X, Y, QUERY, TRUTH), {"neighbours": 5}, "neighbours=5: give a list of numbers"),
        ((X, Y, QUERY, TRUTH), {"shots": (0,)}, "each must be at least 1"),
        ((X, Y, QUERY, TRUTH), {"temperature": 0.0}, "give positive numbers"),
        ((X, Y, QUERY, TRUTH), {"cs": ()}, "give positive numbers"),
        ((X, Y, QUERY, TRUTH), {"shrinkage": 2.0}, "from 0 to 1"),
    ):
        with pytest.raises(InputError, match=message):
            ncjax.eval.probes(*data, **settings)
