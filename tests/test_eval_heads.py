"""Every head against float64 NumPy or scikit-learn, also where classes have collapsed."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles_eval as oracles
import pytest
from sklearn.linear_model import LogisticRegression, RidgeClassifier

from ncjax.errors import InputError
from ncjax.eval import heads, logistic_regression
from ncjax.eval.heads import Linear
from ncjax.eval.transforms import transform_features

DIM = 32
COUNT = 12
"""Episodes at once: tests of one shape compile once."""


def episodes(
    count: int, ways: int, shots: int, kind: str = "raw", *, seed: int = 0, queries: int = 15
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Supports [E,N,d], labels [N] and queries [E,M,d] in float32 of classes as a network might make them."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(ways), shots)
    asked = np.repeat(np.arange(ways), queries)
    means = rng.standard_normal((count, ways, DIM))
    within = rng.standard_normal((2, count, ways * max(shots, queries), DIM))
    if kind == "relu":
        support = np.maximum(3 * means[:, labels] + 6 * within[0][:, : len(labels)], 0)
        query = np.maximum(3 * means[:, asked] + 6 * within[1][:, : len(asked)], 0)
    else:
        spread = {"raw": 1.5, "normed": 1.5, "collapsed": 0.0, "nearly collapsed": 1e-3, "offset": 1.5, "tiny": 1.5}
        scatter = spread.get(kind, 1.0)
        support = means[:, labels] + scatter * within[0][:, : len(labels)]
        query = means[:, asked] + scatter * within[1][:, : len(asked)]
        if kind == "correlated":  # all rows nearly the same
            shared = 5 * rng.standard_normal((count, 1, DIM))
            support, query = shared + 0.05 * support, shared + 0.05 * query
        if kind == "one direction":  # nearly of rank one
            axis = rng.standard_normal((count, 1, DIM))
            support, query = support[:, :, :1] * axis + 0.01 * support, query[:, :, :1] * axis + 0.01 * query
        if kind == "offset":
            support, query = support + 100, query + 100
        if kind == "tiny":
            support, query = 1e-3 * support, 1e-3 * query
        if kind == "normed":
            support /= np.linalg.norm(support, axis=-1, keepdims=True)
            query /= np.linalg.norm(query, axis=-1, keepdims=True)
    return support.astype(np.float32), labels, query.astype(np.float32)


# Jitted once for the whole module, so that cases of one shape compile once.
@partial(jax.jit, static_argnames="ways")
def solve_all(head: Any, support: Any, labels: Any, query: Any, ways: int) -> tuple[Any, Any]:
    return jax.vmap(lambda s, q: head(s, labels, q, ways))(support, query)


@partial(jax.jit, static_argnames="ways")
def fit_all(support: Any, labels: Any, ways: int, C: Any) -> tuple[Any, Any]:
    return jax.vmap(lambda s: heads.fit_logistic(s, labels, ways, C))(support)


def scores(head: Any, support: np.ndarray, labels: np.ndarray, query: np.ndarray, ways: int) -> tuple[np.ndarray, Any]:
    if head.name == "logistic":  # whose solver compiles for seconds: one program serves all queries
        fitted, info = fit_all(support, labels, ways, jnp.float32(head.hyperparameters["C"]))
        return np.asarray(jax.vmap(Linear.__call__)(fitted, jnp.asarray(query))), info
    logits, info = solve_all(head, support, labels, query, ways)
    return np.asarray(logits), info


@pytest.mark.parametrize("kind", ["raw", "relu", "collapsed", "offset"])
@pytest.mark.parametrize(("name", "ways"), [("ncc", 5), ("ncc", 40), ("cosine", 5)])
def test_nearest_centres(name: str, ways: int, kind: str):
    support, labels, query = episodes(COUNT, ways, 5, kind)
    logits, _ = scores(heads.get(name), support, labels, query, ways)
    oracle = getattr(oracles, f"{name}_scores")
    expected = np.stack([oracle(s, labels, q, ways) for s, q in zip(support, query, strict=True)])
    # Centres and differences each carry float32's rounding of the features themselves.
    scale = np.abs(query).max() if name == "ncc" else 1.0
    rounding = 3e-6 * scale * np.sqrt(np.abs(expected).max()) if name == "ncc" else 2e-6
    np.testing.assert_allclose(logits, expected, atol=rounding, rtol=3e-6)


def test_what_is_zero_has_no_cosine():
    support = np.array([[1.0, 0, 0], [0, 0, 0], [-1.0, 0, 0]], np.float32)
    query = np.array([[1.0, 2, 0], [0, 0, 0]], np.float32)
    logits, _ = scores(heads.cosine(), support[None], np.arange(3), query[None], 3)
    np.testing.assert_allclose(logits[0], [[5**-0.5, 0, -(5**-0.5)], [0, 0, 0]], atol=1e-6)


@pytest.mark.parametrize("ways", [5, 40])
def test_ncc_tells_collapsed_classes_apart_far_from_the_origin(ways: int):
    # ‖q‖² + ‖μ‖² - 2q·μ in float32 has an error of 1e4 · 1e-7 · DIM here, a thousand times the distances.
    rng = np.random.default_rng(0)
    means = np.float32(100 + 1e-3 * rng.standard_normal((ways, DIM)))
    labels = np.repeat(np.arange(ways), 4)
    logits, _ = scores(heads.ncc(), means[None, labels], labels, means[None, labels], ways)
    np.testing.assert_array_equal(np.argmax(logits[0], axis=1), labels)


@pytest.mark.parametrize(
    ("ways", "shots", "kind", "alpha"),
    [
        (5, 1, "raw", 1.0),
        (5, 1, "normed", 1.0),
        (5, 5, "raw", 1.0),
        (5, 5, "normed", 1.0),
        (5, 5, "relu", 1.0),
        (5, 20, "raw", 1.0),
        (5, 20, "normed", 1.0),
        (2, 5, "raw", 1.0),
        (5, 5, "offset", 1.0),
        (5, 5, "collapsed", 1.0),
        (5, 5, "correlated", 1.0),
        (5, 20, "one direction", 1.0),
        (5, 5, "raw", 1e-3),
        (5, 20, "relu", 1e3),
    ],
)
def test_ridge_is_ridge_classifier(ways: int, shots: int, kind: str, alpha: float):
    support, labels, query = episodes(25, ways, shots, kind)
    logits, _ = scores(heads.ridge(alpha), support, labels, query, ways)
    same, clear = [], []
    for s, q, got in zip(support.astype(np.float64), query.astype(np.float64), logits, strict=True):
        peer = RidgeClassifier(alpha=alpha).fit(s, labels)
        decision = peer.decision_function(q)
        if ways == 2:
            decision = np.stack([-decision, decision], axis=1)
        np.testing.assert_allclose(less_first(got), less_first(decision), atol=5e-4)
        top = np.sort(decision, axis=1)
        clear.append(top[:, -1] - top[:, -2] > 1e-3)
        same.append(got.argmax(axis=1) == peer.predict(q))
    same, clear = np.concatenate(same), np.concatenate(clear)
    assert same[clear].all()
    assert same.mean() >= 0.999


def less_first(values: np.ndarray) -> np.ndarray:
    """Scores [n, ways] less those of the first way: what decides, and what heads need to give."""
    return values - values[:, :1]


def test_ridge_in_the_primal_and_in_the_dual():
    support, labels, query = episodes(20, 5, 5)
    assert len(labels) < DIM
    fitted = jax.jit(lambda s, q: heads.fit_ridge(s, labels, 5, 2.0)(q))
    for s, q in zip(support, query, strict=True):
        for width in (DIM, 8):
            peer = RidgeClassifier(alpha=2.0).fit(s[:, :width].astype(np.float64), labels)
            got = fitted(s[:, :width], q[:, :width])
            np.testing.assert_allclose(got, peer.decision_function(q[:, :width]), atol=2e-5)


@pytest.mark.parametrize("scale", [1e-10, *(pytest.param(scale, marks=pytest.mark.slow) for scale in (1e-4, 1e-6))])
def test_small_features_are_told_apart_by_ridge_and_logistic(scale: float):
    support, labels, query = episodes(COUNT, 5, 5)
    decisions = []
    support, query = (scale * array for array in (support, query))
    logits, _ = scores(heads.ridge(1.0), support, labels, query, 5)
    for s, q, got in zip(support.astype(np.float64), query.astype(np.float64), logits, strict=True):
        centred = s - s.mean(axis=0)  # as the eigenvalues vanish beside alpha, ridge's scores are these times 2 / alpha
        decision = (q - s.mean(axis=0)) @ (centred.T @ np.eye(5)[labels])
        np.testing.assert_array_equal(got.argmax(axis=1), decision.argmax(axis=1))
        decisions.append(decision.argmax(axis=1))
    logits, info = scores(heads.logistic(1.0), support, labels, query, 5)
    assert np.asarray(info["converged"]).all()
    assert np.mean(logits.argmax(axis=2) == decisions) >= 0.999  # to first order in C its weights are those of ridge


def assert_logistic_fit(support: np.ndarray, labels: np.ndarray, ways: int, C: float) -> tuple[Any, Any]:
    """Coefficients and intercepts to 1e-3 of the float64 oracle's, and all episodes converged."""
    linear, info = fit_all(support, labels, ways, jnp.float32(C))
    bias = np.asarray(linear.bias, np.float64)
    bias -= bias.mean(axis=1, keepdims=True)
    for e in range(len(support)):
        weights, intercepts = oracles.fit_logistic(support[e], labels, ways, C)
        size = np.linalg.norm(weights)
        assert np.linalg.norm(linear.weights[e] - weights) <= 1e-3 * size
        # An intercept is compared with the scores that it is added to.
        reach = max(np.abs(intercepts).max(), size * np.linalg.norm(support[e] - support[e].mean(0), axis=1).max())
        assert np.abs(bias[e] - intercepts).max() <= 1e-3 * reach
    assert np.asarray(info["converged"]).all()
    return linear, info


@pytest.mark.parametrize(
    ("ways", "shots", "kind", "C"),
    [
        pytest.param(5, 1, "raw", 1.0, marks=pytest.mark.slow),
        pytest.param(5, 1, "normed", 1.0, marks=pytest.mark.slow),
        (5, 5, "normed", 1.0),
        (5, 5, "raw", 1.0),
        (5, 5, "relu", 1.0),
        pytest.param(2, 5, "raw", 1.0, marks=pytest.mark.slow),
        (5, 5, "raw", 100.0),
        (5, 5, "raw", 0.01),
        (5, 5, "collapsed", 1.0),
        (5, 5, "nearly collapsed", 1.0),
        (5, 5, "correlated", 1.0),
        (5, 5, "one direction", 1.0),
        (5, 5, "offset", 1.0),
        (5, 5, "tiny", 1.0),
        pytest.param(3, 20, "relu", 1.0, marks=pytest.mark.slow),
    ],
)
def test_logistic_coefficients(ways: int, shots: int, kind: str, C: float):
    support, labels, _ = episodes(COUNT, ways, shots, kind, seed=3)
    assert_logistic_fit(support, labels, ways, C)


def test_two_ways_have_the_penalty_of_scikit_learns_binary_loss():
    support, labels, query = episodes(1, 2, 5)
    peer = LogisticRegression(C=3.0, tol=1e-10, solver="newton-cholesky").fit(support[0].astype(np.float64), labels)
    found, info = jax.jit(lambda s, q: heads.logistic(3.0)(s, labels, q, 2))(support[0], query[0])
    assert info["converged"]
    decision = peer.decision_function(query[0])
    np.testing.assert_allclose(found[:, 1] - found[:, 0], decision, atol=1e-3 * np.abs(decision).max())


def test_the_oracle_is_scikit_learns_logistic_regression():
    for ways in (2, 5):
        support, labels, _ = episodes(3, ways, 5, seed=4)
        for s in support.astype(np.float64):
            peer = LogisticRegression(C=3.0, tol=1e-10, solver="newton-cholesky").fit(s, labels)
            weights, bias = oracles.fit_logistic(s, labels, ways, 3.0)
            if ways == 2:
                weights, bias = weights[1:] - weights[:1], bias[1:] - bias[:1]
            np.testing.assert_allclose(weights, peer.coef_, atol=1e-6)
            np.testing.assert_allclose(bias, peer.intercept_, atol=1e-6)


def assert_agreement(count: int, shots: int, kind: str) -> None:
    support, labels, query = episodes(count, 5, shots, kind, seed=shots)
    logits, info = scores(heads.logistic(), support, labels, query, 5)
    assert np.asarray(info["converged"]).all()
    same = []
    for s, q, got in zip(support.astype(np.float64), query.astype(np.float64), logits, strict=True):
        peer = LogisticRegression(C=1.0, tol=1e-8, solver="newton-cholesky").fit(s, labels)
        same.append(got.argmax(axis=1) == peer.predict(q))
    assert np.mean(same) >= 0.999


@pytest.mark.parametrize("kind", ["raw", "normed"])
def test_logistic_predicts_as_logistic_regression(kind: str):
    assert_agreement(COUNT, 5, kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["raw", "normed", "relu"])
@pytest.mark.parametrize("shots", [1, 5, 20])
def test_logistic_predicts_as_logistic_regression_on_a_thousand_episodes(shots: int, kind: str):
    assert_agreement(1000, shots, kind)


@pytest.mark.parametrize("ways", [5, pytest.param(2, marks=pytest.mark.slow)])
def test_a_support_without_any_information(ways: int):
    support, labels, query = episodes(COUNT, ways, 5)
    for value in (0.0, 3.0):
        for name in heads.HEADS:
            logits, info = scores(
                heads.get(name), np.full_like(support, value), labels, np.full_like(query, value), ways
            )
            np.testing.assert_allclose(logits, np.broadcast_to(logits[..., :1], logits.shape), atol=1e-5)
            assert np.all(info.get("converged", True))


@pytest.mark.cheap_compilation
def test_logistic_says_when_it_did_not_converge(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(logistic_regression, "_MAX_NEWTON", 2)
    support, labels, _ = episodes(1, 5, 5, "relu")
    _, info = jax.jit(lambda s: heads.fit_logistic(s, jnp.asarray(labels), 5))(support[0])
    assert not info["converged"]
    assert info["gradient_norm"] > 1e-4


def test_the_reported_gradient_bounds_the_error():
    support, labels, _ = episodes(COUNT, 5, 5, "raw", seed=8)
    linear, info = fit_all(support, labels, 5, jnp.float32(1))
    for e in range(COUNT):
        weights, _ = oracles.fit_logistic(support[e], labels, 5, 1.0)
        error = np.linalg.norm(linear.weights[e] - weights) / np.linalg.norm(weights)
        assert error <= info["gradient_norm"][e] + 2e-6


def test_labels_in_any_order():
    support, labels, query = episodes(COUNT, 5, 5)
    order = np.random.default_rng(0).permutation(25)
    for name in heads.HEADS:
        expected, _ = scores(heads.get(name), support, labels, query, 5)
        got, _ = scores(heads.get(name), support[:, order], labels[order], query, 5)
        np.testing.assert_allclose(got, expected, atol=1e-3 * np.abs(expected).max())


def test_labels_known_while_tracing():
    """They take another way to the class means."""
    support, labels, query = episodes(COUNT, 5, 5)
    expected, _ = scores(heads.ncc(), support, labels, query, 5)
    known = jax.jit(jax.vmap(lambda s, q: heads.ncc()(s, labels, q, 5)[0]))(support, query)
    np.testing.assert_allclose(known, expected, rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, np.float64, np.int32])
def test_features_of_any_type_are_computed_with_in_float32(dtype: Any):
    seen = []

    def solve(support: jax.Array, labels: jax.Array, query: jax.Array, ways: int) -> tuple[jax.Array, dict]:
        seen.append((support, query))
        return jnp.zeros((len(query), ways)), {}

    rows = np.arange(-6, 6).reshape(4, 3)  # exact in all types
    heads.Head("own", solve)(rows.astype(dtype), np.arange(4), rows.astype(dtype), 4)
    for array in seen[0]:
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, rows)


@pytest.mark.parametrize("make", [heads.ridge, heads.logistic])
def test_one_head_takes_one_penalty(make: Any):
    support, labels, query = episodes(1, 5, 4)
    with pytest.raises(InputError, match=r"is an array \[2\]: one head takes one number"):
        make(np.array([1.0, 2.0]))(support[0], labels, query[0], 5)


@pytest.mark.parametrize("value", [0, -1.0, np.nan, np.inf, "1", None, np.array([1.0, 0.0]), 1e300, 1e-300])
def test_penalties_are_positive(value: Any):
    for make, name in ((heads.ridge, "alpha"), (heads.logistic, "C")):
        with pytest.raises(InputError, match=f"{name}=.*give a positive number"):
            make(value)


def test_heads_by_name():
    assert str(heads.get("ridge")) == "ridge(alpha=1)"
    assert str(heads.get(heads.logistic(0.5))) == "logistic(C=0.5)"
    with pytest.raises(InputError, match=r"unknown head 'svm'; the heads are ncc, cosine, ridge, logistic"):
        heads.get("svm")
    with pytest.raises(InputError, match="float"):
        heads.get(1.0)


def test_transforms():
    rng = np.random.default_rng(0)
    x = (50 + rng.standard_normal((6, 4))).astype(np.float32)
    x[2] = 0
    center = rng.standard_normal(4).astype(np.float32)
    norm = np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    np.testing.assert_array_equal(transform_features(x, "none"), x)
    np.testing.assert_allclose(transform_features(x, "power"), np.sqrt(x.astype(np.float64)), rtol=2e-7)
    np.testing.assert_allclose(transform_features(x, "l2"), x / np.where(norm > 0, norm, 1), rtol=3e-7)
    moved = x.astype(np.float64) - center
    expected = moved / np.linalg.norm(moved, axis=1, keepdims=True)
    np.testing.assert_allclose(transform_features(x, "centered_l2", center), expected, rtol=1e-5)
    extreme = np.float32([[1e37, -1e37], [1e-37, 1e-37]])
    np.testing.assert_allclose(transform_features(extreme, "l2"), np.float32([[1, -1], [1, 1]]) / np.sqrt(2), rtol=1e-6)
