"""Features, labels, plans and settings that episodes take, and those that they refuse in one line."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from few_shot import LABELS, SETTINGS

from ncjax.errors import InputError
from ncjax.eval import EpisodePlan, feature_episodes

pytestmark = pytest.mark.cheap_compilation


def test_features_and_labels_of_any_kind(features):
    expected = feature_episodes(features, LABELS, **SETTINGS)
    names = np.array(list("abcdefg"))
    for x, y in (
        (features.astype(np.float64), LABELS),
        (jnp.asarray(features), jnp.asarray(LABELS)),
        (features.tolist(), names[LABELS]),
        (features, 10 * LABELS + 3),
    ):
        report = feature_episodes(x, y, **SETTINGS)
        np.testing.assert_array_equal(report.per_episode, expected.per_episode)
    assert feature_episodes(features, names[LABELS], **SETTINGS).class_names == tuple("abcdefg")
    assert feature_episodes(jnp.asarray(features, jnp.bfloat16), LABELS, **SETTINGS).accuracy == pytest.approx(
        expected.accuracy, abs=0.02
    )


def test_features_too_large_for_their_squares(features):
    with pytest.raises(InputError, match="too large for squares in float32"):
        feature_episodes(features * 1e25, LABELS, **SETTINGS)


def test_the_power_transform_needs_features_without_negative_entries(features):
    with pytest.raises(InputError, match=r"the features of row \d+ go down to -.*; choose transform=\"l2\""):
        feature_episodes(features, LABELS, transform="power", **SETTINGS)
    positive = np.abs(features)
    report = feature_episodes(positive, LABELS, transform="power", **SETTINGS)
    by_hand = feature_episodes(np.sqrt(positive.astype(np.float64)), LABELS, **SETTINGS)
    assert report.accuracy == pytest.approx(by_hand.accuracy, abs=1e-3)  # near ties may fall the other way
    assert report.settings.transform == "power"


def test_a_plan_that_was_changed_is_refused(features):
    plan = EpisodePlan.sample(LABELS, **SETTINGS)
    replayed = feature_episodes(features, LABELS, plan=plan)
    np.testing.assert_array_equal(replayed.per_episode, feature_episodes(features, LABELS, **SETTINGS).per_episode)
    query = plan.query_index.copy()
    query[70, 1, 2] = plan.support_index[70, 1, 0]
    with pytest.raises(InputError, match="not those that seed=0 draws"):
        feature_episodes(features, LABELS, plan=dataclasses.replace(plan, query_index=query))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ways": 8}, "ways=8, but there are only 7 classes"),
        ({"ways": 1}, "ways=1"),
        ({"shots": 0}, "shots=0"),
        ({"queries": 0}, "queries=0"),
        ({"queries": "most"}, "most"),
        ({"episodes": 0}, "episodes=0"),
        ({"seed": -1}, "seed=-1"),
        ({"shots": 20}, "class 1 has 25 images, an episode needs 26 of a class"),
        ({"shots": 25, "queries": "all"}, "class 1 has 25 images, an episode needs 26"),
        ({"head": "svm"}, "unknown head 'svm'"),
        ({"transform": "whiten"}, "unknown transform 'whiten'"),
        ({"transform": "centered_l2"}, "center="),
        ({"transform": "centered_l2", "center": np.zeros(5)}, "center has shape"),
        ({"transform": "centered_l2", "center": np.full(12, np.nan)}, "center is not finite"),
        ({"episodes": 2**30}, "overflow"),
        ({"episodes": 1e4}, "episodes=10000.0: give a whole number, episodes=10000"),
        ({"ways": 2.5}, "ways=2.5: give a whole number"),
        ({"shots": "3"}, "shots='3'"),
        ({"queries": True}, "queries=True"),
        ({"seed": 0.5}, "seed=0.5"),
        ({"transform": "centered_l2", "center": "abc"}, "center is not an array"),
        ({"plan": "plan.npz"}, "plan is a str; give an EpisodePlan"),
    ],
)
def test_bad_settings(features, change, words):
    with pytest.raises(InputError, match=words):
        feature_episodes(features, LABELS, **SETTINGS | change)


def test_bad_features(features):
    broken = features.copy()
    broken[[5, 9], 3] = np.nan, np.inf
    with pytest.raises(InputError, match=r"in 2 of 212 rows, the first row 5"):
        feature_episodes(broken, LABELS, **SETTINGS)
    with pytest.raises(InputError, match="not finite"):
        feature_episodes(features.astype(np.float64) * 1e300, LABELS, **SETTINGS)
    with pytest.raises(InputError, match=r"\(212, 3, 4\)"):
        feature_episodes(features.reshape(212, 3, 4), LABELS, **SETTINGS)
    with pytest.raises(InputError, match="212 rows of features but 211 labels"):
        feature_episodes(features, LABELS[1:], **SETTINGS)
    with pytest.raises(InputError, match="212 labels of type float64 are no whole numbers"):
        feature_episodes(features, LABELS + 0.5, **SETTINGS)
    for change, words in (
        (lambda x: x.astype(np.float64) + 1e9, "float32 cannot hold"),
        (lambda x: (100 * x).astype(np.int64) + 2**40, "float32 cannot hold"),
        (lambda x: x * 1e-25, "multiply them"),
        (lambda x: x[:, :0], r"shape \(212, 0\)"),
        (lambda x: x.astype(complex), "type complex128"),
        (lambda x: x.astype(str), "give real numbers"),
        (lambda x: x.astype(jnp.bfloat16).view("V2"), "do not keep bfloat16: save float32"),
        (lambda x: [[1.0], [1.0, 2.0]], "features are no array"),
    ):
        with pytest.raises(InputError, match=words):
            feature_episodes(change(features), LABELS, **SETTINGS)
    with pytest.raises(InputError, match="one kind for all"):
        feature_episodes(features, np.array([*LABELS[:-1].tolist(), "last"], object), **SETTINGS)
    with pytest.raises(InputError, match="other labels"):
        feature_episodes(features, LABELS, plan=EpisodePlan.sample(LABELS[::-1], **SETTINGS))
