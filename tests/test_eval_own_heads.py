"""Heads of the user's own: what they may return, and that other numbers do not compile them again."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from few_shot import LABELS, SETTINGS

from ncjax.errors import InputError
from ncjax.eval import feature_episodes, heads

pytestmark = pytest.mark.cheap_compilation


def test_new_contents_do_not_compile_again(features):
    traces = []

    def solve(support, labels, query, ways, *, scale):
        traces.append(1)
        logits, info = heads.ncc()(support, labels, query, ways)
        return scale * logits, info

    def run(features, labels, scale, seed):
        return feature_episodes(
            features, labels, head=heads.Head("own", solve, {"scale": scale}), seed=seed, **SETTINGS
        )

    run(features, LABELS, 1.0, 0)
    first = len(traces)
    assert first >= 1
    run(features + 1, LABELS, 2.0, 1)
    run(features, LABELS[::-1], np.float32(3), 2**32 - 1)
    run(jnp.asarray(features), LABELS.astype(np.int64) + 5, jnp.float32(4), 7)
    assert len(traces) == first


def test_a_head_of_the_users_own(features):
    def nearest_neighbour(support, labels, query, ways):
        distance = jnp.square(query[:, None] - support).sum(axis=-1)
        return -jax.ops.segment_min(distance.T, labels, ways).T, {"nearest": distance.min()}

    report = feature_episodes(features, LABELS, head=nearest_neighbour, **SETTINGS)
    one_shot = SETTINGS | {"shots": 1}
    assert report.settings.head == "nearest_neighbour"
    assert report.info["nearest"].shape == (150,)
    np.testing.assert_array_equal(
        feature_episodes(features, LABELS, head=nearest_neighbour, **one_shot).per_episode,
        feature_episodes(features, LABELS, **one_shot).per_episode,
    )


def test_hyperparameters_of_any_shape_and_heads_uncalled(features):
    def solve(support, labels, query, ways, *, scale):
        return heads.ncc()(support * scale, labels, query * scale, ways)

    report = feature_episodes(features, LABELS, head=heads.Head("own", solve, {"scale": np.ones(12)}), **SETTINGS)
    assert report.settings.head == "own(scale=array[12])"
    assert feature_episodes(features, LABELS, head=heads.ridge, **SETTINGS).settings.head == "ridge(alpha=1)"


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (lambda logits: logits, "returned a"),
        (lambda logits: (logits.T, {}), r"scores of shape \(3, 18\); a head returns \(scores \[18,3\]"),
        (lambda logits: (logits[:, :2], {}), r"scores of shape \(18, 2\)"),
        (lambda logits: (logits * np.nan, {}), "not finite in 150 of 150 episodes"),
        (lambda logits: (logits - np.inf, {}), "not finite in 150 of 150 episodes"),
    ],
)
def test_what_a_head_may_not_return(features, returned, words):
    def head(support, labels, query, ways):
        return returned(heads.ncc()(support, labels, query, ways)[0])

    with pytest.raises(InputError, match="head head .*" + words):
        feature_episodes(features, LABELS, head=head, **SETTINGS)


def test_a_named_head_that_returns_something_else_is_named(features):
    def solve(support, labels, query, ways, *, scale):
        return scale * heads.ncc()(support, labels, query, ways)[0]

    with pytest.raises(InputError, match="head own returned a"):
        feature_episodes(features, LABELS, head=heads.Head("own", solve, {"scale": 1.0}), **SETTINGS)


def test_a_head_may_rule_a_class_out(features):
    def never_the_first(support, labels, query, ways):
        logits, info = heads.ncc()(support, labels, query, ways)
        return logits.at[:, 0].set(-np.inf), info | {"converged": jnp.zeros((ways, 2), jnp.int32).at[0].set(1)}

    report = feature_episodes(features, LABELS, head=never_the_first, **SETTINGS)
    assert report.accuracy < 2 / 3
    assert report.not_converged == 150  # by episode, whatever the shape and type
