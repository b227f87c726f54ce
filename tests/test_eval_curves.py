"""Accuracy against shots and ways, and a head's hyperparameter chosen on validation classes."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from few_shot import LABELS, SETTINGS

from ncjax.errors import InputError
from ncjax.eval import EpisodePlan, feature_curve, feature_episodes, feature_tune, heads

pytestmark = pytest.mark.cheap_compilation


def test_curves(features):
    shots = feature_curve(features, LABELS, over="shots", ways=3, queries=20, episodes=100)
    assert shots.values == (1, 2, 5)  # 10 + 20 images are more than the smallest class has
    assert (np.diff(shots.accuracy) > 0).all()
    ways = feature_curve(features, LABELS, over="ways", values=[2, 7], queries=6, shots=2, episodes=100)
    assert (np.diff(ways.accuracy) < 0).all()
    assert np.isnan(ways.interval("target_ci95")[-1])
    assert "new classes" in str(ways)
    with pytest.raises(InputError, match="class 1 has 25 images"):
        feature_curve(features, LABELS, over="shots", values=[20], ways=3, queries=6, episodes=10)
    assert "–" in str(ways)
    for settings, words in (
        ({"plan": EpisodePlan.sample(LABELS, **SETTINGS)}, "leave plan= out"),
        ({"values": []}, r"values=\[\]: give a list of numbers of shots"),
        ({"values": 5}, "values=5: give a list of numbers of shots"),
        ({"values": "all"}, "values='all': give a list of numbers of shots"),
        ({"values": ["all"], "queries": 60}, "the smallest class has 25 images, and 60 are queries"),
        ({"values": [1.5]}, "shots=1.5"),
        ({"values": ["many"]}, "shots='many'"),
        ({"queries": "most"}, "queries='most'"),
    ):
        with pytest.raises(InputError, match=words):
            feature_curve(features, LABELS, **settings)
    with pytest.raises(InputError, match="no labels"):
        feature_curve(features[:0], LABELS[:0])
    with pytest.raises(InputError, match="depth"):
        feature_curve(features, LABELS, over="depth")
    with pytest.raises(InputError, match="values="):
        feature_curve(features, LABELS, over="shots", shots=3)


@pytest.mark.slow
def test_tuning_takes_the_best_value(features):
    settings = {"ways": 3, "shots": 1, "queries": 6, "episodes": 200}
    values = [100.0, 1.0, 1e-3]
    accuracy = [feature_episodes(features, LABELS, head=heads.ridge(v), **settings).accuracy for v in values]
    assert len(set(accuracy)) > 1
    chosen = feature_tune(features, LABELS, head="ridge", values=values, **settings)
    assert chosen.hyperparameters == {"alpha": values[int(np.argmax(accuracy))]}
    assert feature_tune(features, LABELS, head="logistic", values=[0.5], **settings) == heads.logistic(0.5)
    spaced = feature_tune(features, LABELS, head="ridge", values=np.array(values), **settings)
    assert spaced.hyperparameters == chosen.hyperparameters
    with pytest.raises(InputError, match=r"alpha=-1.0: give a positive number"):
        feature_tune(features, LABELS, head="ridge", values=[-1, 1], **settings)
    with pytest.raises(InputError, match="ncc"):
        feature_tune(features, LABELS, head="ncc")


def test_tuning_keeps_a_head_of_the_users_own_that_has_a_known_name(features):
    def scores(support, labels, query, ways, *, alpha):
        return jnp.zeros((len(query), ways)) + alpha, {}

    own = heads.Head("ridge", scores, {"alpha": 1.0})
    chosen = feature_tune(features, LABELS, head=own, values=(2.0, 3.0), **SETTINGS)
    assert chosen == dataclasses.replace(own, hyperparameters={"alpha": 2.0})
