"""A classifier fitted on a few labelled images, against scikit-learn and float64 NumPy."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles_eval as oracles
import pytest
import tiny
from PIL import Image
from sklearn.linear_model import LogisticRegression, RidgeClassifier

import ncjax
from ncjax import classifier
from ncjax.errors import InputError
from ncjax.eval import FewShotClassifier, few_shot_classifier, fit, heads

SUPPORT = tiny.split(5, 6, seed=2, noise=90)
QUERIES = tiny.split(5, 8, seed=2, noise=90, draw=1)


def _project(variables: jax.Array, images: jax.Array) -> jax.Array:
    return images.reshape(len(images), -1) @ variables


def _encoder(seed: int = 0) -> ncjax.Classifier:
    return ncjax.Classifier.from_callable(_project, jax.random.normal(jax.random.key(seed), (144, 10)), mean=0.5)


@pytest.fixture(scope="module")
def params() -> ncjax.Classifier:
    return _encoder()


@pytest.fixture(scope="module")
def x(params: ncjax.Classifier) -> np.ndarray:
    return ncjax.features(params, SUPPORT).astype(np.float64)


@pytest.fixture(scope="module")
def q(params: ncjax.Classifier) -> np.ndarray:
    return ncjax.features(params, QUERIES).astype(np.float64)


def test_ridge_is_scikit_learns(params: ncjax.Classifier, x: np.ndarray, q: np.ndarray) -> None:
    fitted = fit(params, SUPPORT, head=heads.ridge(3.0))
    theirs = RidgeClassifier(alpha=3.0).fit(x, SUPPORT.labels)
    expected = theirs.decision_function(q)
    scores = fitted.scores(QUERIES)
    np.testing.assert_allclose(scores - scores[:, :1], expected - expected[:, :1], rtol=1e-3, atol=1e-4)
    found = fitted.classify(QUERIES.images)
    names = np.asarray(SUPPORT.class_names)
    np.testing.assert_array_equal(found.names, names[expected.argmax(1)])
    np.testing.assert_array_equal(found.runner_up, names[expected.argsort(1)[:, -2]])
    two = np.sort(expected, axis=1)[:, -2:]
    np.testing.assert_allclose(found.margin, two[:, 1] - two[:, 0], rtol=1e-3, atol=1e-4)
    assert found.probabilities is None


def test_scores_of_a_logistic_head_become_probabilities(params: ncjax.Classifier, x: np.ndarray, q: np.ndarray) -> None:
    theirs = LogisticRegression(C=0.01, max_iter=10_000).fit(x, SUPPORT.labels)
    learned = heads.Linear(*(np.float32(v) for v in (theirs.coef_, theirs.intercept_, np.zeros(10))))
    fitted = dataclasses.replace(fit(params, SUPPORT), head=heads.logistic(0.01), scorer=learned)
    np.testing.assert_allclose(fitted.probabilities(QUERIES), theirs.predict_proba(q), atol=1e-5)
    np.testing.assert_allclose(fitted.probabilities(QUERIES.images[3]), theirs.predict_proba(q)[3], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("ways", [2, 5])
def test_probabilities_are_scikit_learns(params: ncjax.Classifier, x: np.ndarray, q: np.ndarray, ways: int) -> None:
    rows = SUPPORT.labels < ways
    fitted = fit(params, SUPPORT.images[rows], SUPPORT.labels[rows], head=heads.logistic(0.01))
    theirs = LogisticRegression(C=0.01, max_iter=10_000, tol=1e-8).fit(x[rows], SUPPORT.labels[rows])
    np.testing.assert_allclose(fitted.probabilities(QUERIES), theirs.predict_proba(q), atol=2e-4)


def test_class_centres_are_the_oracles(params: ncjax.Classifier, x: np.ndarray, q: np.ndarray) -> None:
    for head, transform in (("ncc", "none"), ("cosine", "none"), ("ncc", "l2"), ("ncc", "centered_l2")):
        center = np.full(10, 0.25) if transform == "centered_l2" else None
        a, b = (x - center, q - center) if center is not None else (x, q)
        if transform != "none":
            a, b = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (a, b))
        expected = oracles.ncc_scores(a, SUPPORT.labels, b, 5)
        if head == "cosine":
            means = np.stack([a[SUPPORT.labels == c].mean(0) for c in range(5)])
            expected = (b @ means.T) / np.linalg.norm(b, axis=1)[:, None] / np.linalg.norm(means, axis=1)
        fitted = fit(params, SUPPORT, head=head, transform=transform, center=center)
        np.testing.assert_allclose(fitted.scores(QUERIES), expected, rtol=1e-4, atol=1e-4)


def test_leave_one_out_is_a_loop(params: ncjax.Classifier, x: np.ndarray) -> None:
    lonely = np.append(SUPPORT.labels[:-5], 7)  # class 4 has one image left, and so has class 7
    rows = len(lonely)
    fitted = fit(params, SUPPORT.images[:rows], lonely, head=heads.ridge(50.0))
    right = 0
    for i in range(rows - 2):
        kept = np.arange(rows) != i
        right += int(
            RidgeClassifier(alpha=50.0).fit(x[:rows][kept], lonely[kept]).predict(x[i : i + 1])[0] == lonely[i]
        )
    assert 0 < right < rows - 2
    assert fitted.leave_one_out() == (right, rows - 2)
    alone = fit(params, SUPPORT.images[::6], SUPPORT.labels[::6])
    assert np.isnan(alone.leave_one_out().accuracy)


def test_any_number_of_images_compiles_once(params: ncjax.Classifier) -> None:
    fitted = fit(params, SUPPORT, batch_size=8)
    fitted.predict(QUERIES.images[0])
    programs = (classifier._compiled, few_shot_classifier._scores.__wrapped__)
    before = [program._cache_size() for program in programs]
    whole = fitted.scores(QUERIES)
    for count in (1, 3, 8, 9, 40):
        np.testing.assert_array_equal(fitted.scores(QUERIES.images[:count]), whole[:count])
    np.testing.assert_array_equal(fitted.scores(list(QUERIES.images[:2])), whole[:2])
    np.testing.assert_array_equal(fitted.scores(QUERIES.images[4, :, :, 0]), whole[4])
    assert [program._cache_size() for program in programs] == before
    assert fitted.predict(QUERIES.images[4]) == np.asarray(SUPPORT.class_names)[whole[4].argmax()]
    assert np.ndim(fitted.margin(QUERIES.images[4])) == 0


@pytest.mark.parametrize("head", ["ncc", "cosine", "ridge", pytest.param("logistic", marks=pytest.mark.slow)])
def test_a_saved_classifier_is_the_same(params: ncjax.Classifier, tmp_path: Path, head: str) -> None:
    fitted = fit(params, SUPPORT, head=head, transform="l2")
    fitted.save(tmp_path / "mine.npz")
    again = FewShotClassifier.load(tmp_path / "mine.npz", params)
    np.testing.assert_array_equal(again.scores(QUERIES), fitted.scores(QUERIES))
    assert (str(again.head), again.class_names) == (str(fitted.head), fitted.class_names)
    assert again.leave_one_out() == fitted.leave_one_out()


def test_a_saved_classifier_knows_its_encoder(params: ncjax.Classifier, tmp_path: Path) -> None:
    place = tmp_path / "mine.npz"
    fit(params, SUPPORT).save(place)
    for other in (_encoder(1), params.replace(mean=jnp.float32(0.6)), params.replace(variables=jnp.ones((144, 11)))):
        with pytest.raises(InputError, match=r"mine\.npz was fitted with another encoder"):
            FewShotClassifier.load(place, other)
    with pytest.raises(InputError, match="needs the encoder that it was fitted with: give params"):
        FewShotClassifier.load(place)
    whole = place.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"no archive"):
        place.write_bytes(content)
        with pytest.raises(InputError, match=r"mine\.npz is no file of FewShotClassifier\.save, or damaged"):
            FewShotClassifier.load(place, params)
    np.savez(place, features=np.zeros(3))
    with pytest.raises(InputError, match="is no file of FewShotClassifier"):
        FewShotClassifier.load(place, params)


def test_features_do_without_an_encoder(x: np.ndarray, q: np.ndarray, params: ncjax.Classifier, tmp_path: Path) -> None:
    names = np.asarray(SUPPORT.class_names)[SUPPORT.labels]
    fitted = fit(None, x, names)
    np.testing.assert_allclose(fitted.scores(q), fit(params, SUPPORT).scores(QUERIES), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(fitted.scores(q[0]), fitted.scores(q)[0])
    fitted.save(tmp_path / "mine.npz")
    np.testing.assert_array_equal(FewShotClassifier.load(tmp_path / "mine.npz").scores(q), fitted.scores(q))
    with pytest.raises(InputError, match="leave params out"):
        FewShotClassifier.load(tmp_path / "mine.npz", params)
    with pytest.raises(InputError, match="features with an encoder: give image_shape"):
        fit(params, x, names)
    both = fit(params, x, names, image_shape=(12, 12, 1))
    np.testing.assert_allclose(both.scores(QUERIES), fitted.scores(q), rtol=1e-4, atol=1e-4)


def test_a_head_of_ones_own(params: ncjax.Classifier, tmp_path: Path) -> None:
    def nearest(support: Any, labels: Any, query: Any, ways: int) -> Any:
        distance = jnp.sum((query[:, None] - support) ** 2, axis=-1)
        return -jnp.min(jnp.where(labels == jnp.arange(ways)[:, None, None], distance, jnp.inf), axis=-1).T, {}

    fitted = fit(params, SUPPORT, head=nearest)
    np.testing.assert_array_equal(fitted.predict(SUPPORT), np.asarray(SUPPORT.class_names)[SUPPORT.labels])
    with pytest.raises(InputError, match="only these can be saved"):
        fitted.save(tmp_path / "mine.npz")


@pytest.mark.slow
def test_tuned_on_validation_classes(params: ncjax.Classifier) -> None:
    validation = tiny.split(6, 12, seed=9, noise=90)
    chosen = fit(params, SUPPORT, validation=validation).head
    again = ncjax.eval.tune(params, validation, ways=5, shots=6, queries=6)
    assert (str(chosen), str(chosen) == "ridge(alpha=1)") == (str(again), False)


def test_files_and_folders(params: ncjax.Classifier, tmp_path: Path) -> None:
    for i in range(3):
        Image.fromarray(QUERIES.images[i, ..., 0]).save(tmp_path / f"{i}.png")
    fitted = fit(params, SUPPORT)
    np.testing.assert_array_equal(fitted.scores(tmp_path), fitted.scores(QUERIES.images[:3]))
    np.testing.assert_array_equal(fitted.scores([tmp_path / "2.png"]), fitted.scores(QUERIES.images[2:3]))
    assert fitted.predict(str(tmp_path / "1.png")) == fitted.predict(QUERIES.images[1])
    (tmp_path / "2.png").write_text("<html>")
    with pytest.raises(InputError, match=r"2\.png is not an image"):
        fitted.predict(tmp_path)
    with pytest.raises(InputError, match=r"nothing does not exist; name image files"):
        fitted.predict(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((3, 12, 13, 1), np.uint8), r"takes uint8 images \[n, 12, 12, 1\], not uint8 \[3, 12, 13, 1\]"),
        (np.zeros((3, 12, 12, 3), np.uint8), r"not uint8 \[3, 12, 12, 3\]"),
        (np.zeros((3, 12, 12, 1), np.float32), r"not float32 \[3, 12, 12, 1\]"),
        (np.zeros((0, 12, 12, 1), np.uint8), "there are no images to classify"),
        (np.zeros((3, 10), np.float32), r"not float32 \[3, 10\]"),
    ],
)
def test_images_of_another_kind_are_refused(params: ncjax.Classifier, images: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        fit(params, SUPPORT).predict(images)
    assert "\n" not in str(raised.value)


def test_mistakes_of_fitting_are_one_line(params: ncjax.Classifier, x: np.ndarray) -> None:
    images, labels = SUPPORT.images, SUPPORT.labels
    wrong: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
        ((params, images, np.zeros(30, int)), {}, "all labels are '0': give images of two classes or more"),
        ((params, images), {}, "images without labels"),
        ((params, images, labels[1:]), {}, "30 images but 29 labels"),
        ((params, SUPPORT, labels), {}, "a Split has labels of its own"),
        ((None, images, labels), {}, "images without an encoder: give params"),
        ((params, tiny.benchmark()), {}, "images is a Benchmark; give one of its splits"),
        ((params, images, labels), {"class_names": ["a", "b"]}, "class_names must be 5 different names"),
        ((params, images, labels), {"head": "svm"}, "unknown head 'svm'"),
        ((params, images, labels), {"batch_size": 0}, "batch_size=0: it must be at least 1"),
        ((None, x, labels), {"validation": SUPPORT}, "validation images without an encoder"),
        ((params, images, labels), {"head": "ncc", "validation": SUPPORT}, "only a head with one hyperparameter"),
    ]
    for arguments, options, message in wrong:
        with pytest.raises(InputError, match=message) as raised:
            fit(*arguments, **options)
        assert "\n" not in str(raised.value)
    with pytest.raises(InputError, match='no probabilities; fit with head="logistic"'):
        fit(params, SUPPORT).probabilities(QUERIES)
