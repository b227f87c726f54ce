"""The logistic head where a support has more rows than dimensions and its classes overlap, against scikit-learn."""

import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from ncjax.eval import feature_episodes, heads

FIT = jax.jit(lambda x, y, C: heads.fit_logistic(x, y, 5, C))


def overlapping(scale: float, separation: float = 0.35, seed: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Twenty rows of each of five classes in 16 dimensions."""
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(5), 20)
    x = scale * (separation * rng.normal(size=(5, 16))[y] + rng.normal(size=(100, 16)))
    return x.astype(np.float32), y


@pytest.mark.parametrize("separation", [0.35, 2.0])
@pytest.mark.parametrize("scale", [0.01, 1.0, 10.0, 100.0])
def test_weights_and_predictions_are_scikit_learns(scale: float, separation: float) -> None:
    """At scale 10 the weights were 44 % off, and said to have converged."""
    x, y = overlapping(scale, separation)
    queries, _ = overlapping(scale, separation, seed=9)
    for penalty in (1e-3, 1.0, 1e3):
        found, info = FIT(x, y, np.float32(penalty))
        assert info["converged"]
        peer = LogisticRegression(C=penalty, tol=1e-10, max_iter=1000, solver="newton-cholesky")
        peer.fit(x.astype(np.float64), y)
        weights = peer.coef_ - peer.coef_.mean(axis=0)
        assert np.linalg.norm(found.weights - weights) <= 1e-2 * np.linalg.norm(weights)
        same = np.argmax(found(queries), axis=1) == peer.predict(queries.astype(np.float64))
        assert same.mean() >= 0.999


@pytest.mark.slow
def test_episodes_of_many_overlapping_shots_all_converge() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(8), 60)
    features = 10 * (0.35 * rng.normal(size=(8, 16))[labels] + rng.normal(size=(480, 16)))
    report = feature_episodes(features, labels, shots=20, episodes=300, head="logistic")
    assert report.not_converged <= 3
