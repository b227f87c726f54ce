"""Reports equal a loop over the plan in NumPy, on any number of devices; what knows nothing scores chance."""

import jax
import numpy as np
import oracles_eval as oracles
import pytest
from few_shot import LABELS, SETTINGS

from ncjax.eval import EpisodePlan, array_episodes, feature_episodes


@pytest.mark.parametrize("queries", [6, pytest.param("all", marks=pytest.mark.slow)])
def test_a_report_is_a_loop_over_its_plan(features, queries):
    settings = SETTINGS | {"queries": queries, "seed": 3}
    plan = EpisodePlan.sample(LABELS, **settings)
    report = feature_episodes(features, LABELS, **settings)
    confusion = np.zeros((7, 7), int)
    for e in range(150):
        classes = LABELS[plan.support_index[e, :, 0]]
        support = features[plan.support_index[e]].reshape(12, -1)
        shares = []
        for w, rows in enumerate(plan.query_index[e]):
            rows = rows[rows >= 0]
            taken = oracles.ncc_scores(support, np.repeat(np.arange(3), 4), features[rows], 3).argmax(axis=1)
            np.add.at(confusion, (classes[w], classes[taken]), 1)
            shares.append(np.mean(taken == w))
        assert report.per_episode[e] == pytest.approx(np.mean(shares), abs=1e-6)
        np.testing.assert_array_equal(report.classes[e], classes)
    np.testing.assert_array_equal(report.confusion, confusion)
    np.testing.assert_allclose(report.per_class, confusion.diagonal() / confusion.sum(axis=1))
    assert report.accuracy == pytest.approx(report.per_episode.mean(), abs=1e-6)
    assert report.plan_hash == plan.hash
    replayed = feature_episodes(features, LABELS, plan=plan)
    np.testing.assert_array_equal(replayed.per_episode, report.per_episode)
    np.testing.assert_array_equal(replayed.confusion, report.confusion)
    assert replayed.same_classes_ci95 == pytest.approx(report.same_classes_ci95, rel=1e-5)
    assert replayed.settings == report.settings


@pytest.mark.parametrize("head", ["ncc", pytest.param("logistic", marks=pytest.mark.slow)])
def test_any_number_of_devices_and_any_chunk(features, head, on_devices, monkeypatch):
    one = feature_episodes(features, LABELS, head=head, **SETTINGS)
    with jax.set_mesh(on_devices(8)):
        eight = feature_episodes(features, LABELS, head=head, **SETTINGS)
    monkeypatch.setattr(array_episodes, "chunk_size", lambda *_: 7)
    small = feature_episodes(features, LABELS, head=head, **SETTINGS)
    for other in (eight, small):
        np.testing.assert_array_equal(other.classes, one.classes)
        np.testing.assert_array_equal(other.per_episode, one.per_episode)
        np.testing.assert_array_equal(other.confusion, one.confusion)
        assert other.same_classes_ci95 == pytest.approx(one.same_classes_ci95, rel=1e-5)


def test_transforms_reach_the_head(features):
    center = features.mean(axis=0)
    moved = features - center
    unit = moved / np.linalg.norm(moved, axis=1, keepdims=True)
    expected = feature_episodes(unit, LABELS, **SETTINGS)
    report = feature_episodes(features, LABELS, transform="centered_l2", center=center, **SETTINGS)
    np.testing.assert_allclose(report.per_episode, expected.per_episode, atol=1e-6)
    assert report.settings.transform == "centered_l2"


@pytest.mark.slow
@pytest.mark.parametrize("head", ["ncc", "cosine", "ridge", "logistic"])
def test_features_that_know_nothing_score_chance(head):
    """Independent images: a leak of support into query, or of the way's number into the head, would show."""
    settings = {"head": head, "shots": 2, "episodes": 4000}
    labels = np.repeat(np.arange(40), 60)
    noise = feature_episodes(np.random.default_rng(1).standard_normal((len(labels), 24)), labels, **settings)
    assert abs(noise.accuracy - 0.2) <= noise.target_ci95
    assert noise.target_ci95 < 0.02
    identical = feature_episodes(np.ones((len(labels), 24)), labels, **settings)
    np.testing.assert_allclose(identical.per_episode, 0.2, atol=1e-6)
