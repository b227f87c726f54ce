"""Transferability scores: equal to their authors' public code, defined at the edges, one line for each mistake."""

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

import ncjax
from ncjax.collapse import Ncti, transferability


def task(n: int, d: int, k: int, scale: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features [n, d] of k Gaussian classes, labels [n], and the weights [12, d] of a source head."""
    rng = np.random.default_rng(n)
    labels = rng.permutation(np.arange(n) % k)
    features = scale * (rng.normal(size=(k, d))[labels] * 0.4 + rng.normal(size=(n, d)))
    return features.astype(np.float32), labels, rng.normal(size=(12, d)).astype(np.float32)


# of thuml/LogME (LogME.py, LEEP.py) at its newest commit of 2026-11, run on the same arrays in float64
AUTHORS = {
    (300, 80, 5, 1.0): (-0.2131805332347604, -1.3474593911037889),
    (600, 128, 10, 0.15): (0.13093440315939142, -2.1340346882716146),
    (60, 100, 4, 1.0): (1.8014401391461476, -0.9640907277773754),
    (2000, 70, 20, 0.05): (0.24484676700418123, -2.9728873262067257),
}


@pytest.mark.parametrize("size", AUTHORS)
def test_logme_and_leep_are_those_of_the_authors_code(size: tuple[int, int, int, float]) -> None:
    features, labels, weights = task(*size)
    scores = transferability(features, labels, weights=weights)
    np.testing.assert_allclose([scores.logme, scores.leep], AUTHORS[size], rtol=1e-9)


def coding_rate(z: np.ndarray) -> float:
    return 0.5 * np.linalg.slogdet(np.eye(z.shape[1]) + z.T @ z / (len(z) * 1e-4))[1]


def assert_h_score(scores, x: np.ndarray, means: np.ndarray, most: int) -> None:
    expected = np.trace(np.linalg.pinv(np.cov(x.T), rcond=1e-13) @ np.cov(means.T))
    assert scores.h_score == pytest.approx(expected, rel=1e-9)
    assert scores.vci == pytest.approx(1 - expected / most, abs=1e-9)


@pytest.mark.parametrize("size", AUTHORS)
def test_the_other_scores_are_their_formulas(size: tuple[int, int, int, float]) -> None:
    """Each written down a second time as its paper has it, sample by sample and pair by pair."""
    features, labels, _ = task(*size)
    x = features.astype(np.float64)
    k = size[2]
    scores = transferability(features, labels)

    means = np.stack([x[labels == c].mean(axis=0) for c in range(k)])
    if size[0] - 1 <= size[1]:  # as many directions as samples, in which any labels give VCI 0
        assert scores.vci is scores.h_score is None
        assert "span 59 directions" in scores.reasons["vci"]
    else:
        assert_h_score(scores, x, means[labels], min(size[1], k - 1))

    centred = x - x.mean(axis=0)
    rate = coding_rate(centred) - np.mean([coding_rate(centred[labels == c]) for c in range(k)])
    assert scores.transrate == pytest.approx(rate, rel=1e-9)

    singular = np.linalg.svd(x, compute_uv=False)
    p = singular / singular.sum() + 1e-7
    assert scores.rankme == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-9)

    total = 0.0
    for i in range(k):
        for j in range(k):
            if i != j:
                u, v = (np.maximum(x[labels == c].var(axis=0), 1e-4).mean() for c in (i, j))
                both = (u + v) / 2
                distance = ((means[i] - means[j]) ** 2).sum() / both / 8 + 0.5 * np.log(both / np.sqrt(u * v))
                total += np.exp(-distance)
    assert scores.gbc == pytest.approx(-total, rel=1e-9)


@pytest.mark.parametrize("size", [(300, 80, 5, 1.0), (600, 128, 10, 0.15)])
def test_ncti_is_that_of_scikit_learns_discriminant_analysis(size: tuple[int, int, int, float]) -> None:
    """The second size is small enough in scale that covariances are shrunk."""
    features, labels, _ = task(*size)
    pca = PCA(64, svd_solver="full")
    x = pca.fit_transform(features.astype(np.float64))
    shrinkage = max(np.exp(-pca.explained_variance_[:32].sum()), 1e-10)
    assert (shrinkage == 1e-10) == (size[3] == 1.0)
    model = LinearDiscriminantAnalysis() if shrinkage == 1e-10 else LinearDiscriminantAnalysis("eigen", shrinkage)
    coordinates = model.fit_transform(x, labels)
    posterior = model.predict_proba(x)
    expected = (
        np.linalg.norm(coordinates - coordinates.mean(axis=0), ord="nuc"),
        posterior[np.arange(len(x)), labels].mean(),
        np.log(sum(np.linalg.norm(posterior[labels == c], ord="nuc") for c in range(size[2]))),
    )
    np.testing.assert_allclose(transferability(features, labels).ncti, expected, rtol=1e-8)


def test_ncti_of_several_models_is_scaled_over_them() -> None:
    parts = [Ncti(10.0, 0.5, 3.0), Ncti(20.0, 0.9, 3.0), Ncti(15.0, 0.7, 3.0)]
    np.testing.assert_allclose(Ncti.combine(parts), [0.0, 2.0, 1.0])
    with pytest.raises(ncjax.InputError, match="two or more"):
        Ncti.combine(parts[:1])


def test_tight_classes_score_better() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 8
    centres, noise = rng.normal(size=(8, 96)), rng.normal(size=(400, 96))
    loose, tight = (transferability(centres[labels] + spread * noise, labels) for spread in (2.0, 0.3))
    assert tight.vci < loose.vci
    assert tight.logme > loose.logme
    assert tight.gbc > loose.gbc
    assert tight.ncti.ncc > loose.ncti.ncc
    assert tight.transrate > 0


def test_collapse_itself_has_every_score_but_ncti() -> None:
    """All samples of a class are one point: the covariance has rank k - 1, and nothing is divided by 0."""
    labels = np.arange(200) % 5
    features = np.random.default_rng(1).normal(size=(5, 80)).astype(np.float32)[labels]
    scores = transferability(features, labels)
    assert scores.covariance_rank == 4
    assert scores.h_score == pytest.approx(4)
    assert scores.vci == pytest.approx(0, abs=1e-9)
    assert np.isfinite([scores.logme, scores.transrate, scores.rankme, scores.gbc]).all()
    assert scores.ncti is None
    assert scores.reasons["ncti"] == "the features span 4 directions: it takes 64 principal components"


def test_collapse_of_many_classes_leaves_ncti_nothing_to_whiten() -> None:
    labels = np.arange(400) % 100
    features = np.random.default_rng(1).normal(size=(100, 128)).astype(np.float32)[labels]
    scores = transferability(features, labels)
    assert scores.covariance_rank == 99
    assert scores.ncti is None
    assert scores.reasons["ncti"] == "the classes have no variance in some principal component"


def test_an_offset_changes_no_score_of_centred_features() -> None:
    features, labels, _ = task(300, 80, 5, 1.0)
    centred = transferability(features, labels)
    moved = transferability(features.astype(np.float64) + 100, labels)
    for name in ("vci", "h_score", "transrate", "gbc"):
        assert getattr(moved, name) == pytest.approx(getattr(centred, name), rel=1e-4), name


def test_names_as_labels_are_classes_too() -> None:
    features, labels, _ = task(60, 100, 4, 1.0)
    assert transferability(features, np.array(["ash", "elm", "fir", "oak"])[labels]) == transferability(
        features, labels
    )


def test_what_cannot_be_computed_is_none_and_says_why() -> None:
    labels = np.arange(20) % 4
    equal = transferability(np.zeros((20, 3)), labels)
    assert equal.vci is equal.h_score is equal.logme is equal.rankme is equal.ncti is equal.leep is None
    assert equal.reasons["vci"] == "all features are equal"
    assert equal.reasons["logme"] == "all features are 0"
    assert "64 principal components" in equal.reasons["ncti"]
    assert equal.reasons["leep"] == "no source head was given"
    assert equal.transrate == 0
    assert equal.gbc == pytest.approx(-12)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": np.zeros(20, int)}, "1 classes"),
        ({"labels": np.arange(19)}, "20 rows of features but 19 labels"),
        ({"labels": np.r_[np.arange(19) % 3, 7]}, "class 7 has one sample"),
        ({"features": np.full((20, 3), np.nan)}, "row 0 are not finite"),
        ({"weights": np.zeros((3, 5))}, "give its transpose"),
        ({"weights": np.zeros((5, 3)), "bias": np.zeros(4)}, "bias of shape"),
        ({"bias": np.zeros(4)}, "without weights"),
    ],
)
def test_mistakes_are_one_line(change: dict, words: str) -> None:
    given = {"features": np.random.default_rng(0).normal(size=(20, 3)), "labels": np.arange(20) % 4}
    with pytest.raises(ncjax.InputError, match=words):
        transferability(**(given | change))
