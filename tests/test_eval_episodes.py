"""Episodes on images: equal to episodes on features extracted once, and augmented without a leak."""

import sys

import jax
import numpy as np
import pytest
import tiny

import ncjax
from ncjax import keys
from ncjax.data import Split
from ncjax.data.augment import augment
from ncjax.errors import InputError
from ncjax.eval import EpisodePlan, curve, episodes, feature_episodes, feature_tune, tune
from ncjax.eval.sampling import episode_key

pytestmark = pytest.mark.cheap_compilation

SETTINGS = {"ways": 3, "shots": 2, "queries": 4, "episodes": 60}


@pytest.fixture(scope="module")
def params() -> ncjax.Classifier:
    network = tiny.network()
    variables = network.init(keys.root(0), (12, 12, 1))
    return ncjax.Classifier(variables, np.float32(0.5), np.float32(0.3), network=network, augmentation="shift")


@pytest.fixture(scope="module")
def split() -> Split:
    return tiny.split(5, 22, seed=2, noise=200.0)


def scores(support, labels, query, ways):
    """A linear map of the features, so that reports can be compared to the last digits of the features."""
    return query[:, :ways] + support[:ways, :ways].sum(axis=0), {"support": support, "query": query}


def test_extraction_inside_the_episodes_changes_nothing(params, split):
    extracted = ncjax.features(params, split)
    on_features = feature_episodes(extracted, split.labels, head=scores, transform="l2", **SETTINGS)
    once = episodes(params, split, head=scores, transform="l2", **SETTINGS)
    each = episodes(params, split, head=scores, transform="l2", extract_per_episode=True, **SETTINGS)
    for report in (once, each):
        np.testing.assert_array_equal(report.per_episode, on_features.per_episode)
        for name in ("support", "query"):
            np.testing.assert_allclose(report.info[name], on_features.info[name], atol=1e-5)
    assert each.class_names == split.class_names


@pytest.mark.slow
@pytest.mark.parametrize("head", ["ncc", "logistic"])
def test_extraction_inside_the_episodes_on_many_devices(params, split, head, on_devices):
    one = episodes(params, split, head=head, **SETTINGS)
    with jax.set_mesh(on_devices(4)):
        many = episodes(params, split, head=head, extract_per_episode=True, **SETTINGS)
    np.testing.assert_allclose(many.per_episode, one.per_episode, atol=1e-5)


def test_augmented_support_is_the_training_augmentation(params, split):
    report = episodes(params, split, head=scores, support_augmentations=3, **SETTINGS)
    plan = EpisodePlan.sample(split.labels, **SETTINGS)
    key = episode_key(0, "support augmentation")
    for e in (0, 59):
        images = np.repeat(split.images[plan.support_index[e].ravel()], 3, axis=0)
        variants = augment(jax.random.fold_in(key, np.uint32(e)), images, "shift")
        assert not np.array_equal(variants, images)
        expected = ncjax.features(params, np.asarray(variants))
        np.testing.assert_allclose(report.info["support"][e], expected, atol=1e-5)
        queries = ncjax.features(params, split.images[plan.query_index[e].ravel()])
        np.testing.assert_allclose(report.info["query"][e], queries, atol=1e-5)
    assert report.settings.support_augmentations == 3
    assert "3 augmentations" in str(report)
    again = episodes(params, split, head=scores, support_augmentations=3, extract_per_episode=True, **SETTINGS)
    np.testing.assert_allclose(again.info["support"], report.info["support"], atol=1e-5)


@pytest.mark.slow
def test_other_weights_do_not_compile_again(params, split):
    traces = []

    def head(support, labels, query, ways):
        traces.append(1)
        return scores(support, labels, query, ways)

    for augmentations, inside in ((0, False), (0, True), (2, False)):
        settings = SETTINGS | {"support_augmentations": augmentations, "extract_per_episode": inside, "head": head}
        episodes(params, split, **settings)
        first = len(traces)
        other = params.replace(variables=jax.tree.map(lambda x: 0.9 * x, params.variables))
        episodes(other, split, seed=4, **settings)
        assert len(traces) == first


@pytest.mark.slow
@pytest.mark.parametrize("head", ["ncc", "cosine", "ridge", "logistic"])
def test_noise_scores_chance_with_augmented_support(params, head):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(40), 24).astype(np.int32)
    noise = Split(rng.integers(0, 256, (960, 12, 12, 1)).astype(np.uint8), labels, tuple(map(str, range(40))))
    report = episodes(params, noise, head=head, support_augmentations=2, shots=1, queries=8, episodes=1000)
    assert abs(report.accuracy - 0.2) <= report.target_ci95
    assert report.target_ci95 < 0.03


def test_the_center_is_that_of_source_train(params, split):
    extracted = np.asarray(ncjax.features(params, split))
    with pytest.raises(InputError, match="center="):
        episodes(params, split, transform="centered_l2", **SETTINGS)
    center = extracted.mean(axis=0)
    report = episodes(params.replace(feature_mean=center), split, transform="centered_l2", **SETTINGS)
    expected = feature_episodes(extracted, split.labels, transform="centered_l2", center=center, **SETTINGS)
    np.testing.assert_array_equal(report.per_episode, expected.per_episode)
    other = episodes(params.replace(feature_mean=center), split, transform="centered_l2", center=0 * center, **SETTINGS)
    unit = feature_episodes(extracted, split.labels, transform="l2", **SETTINGS)
    np.testing.assert_array_equal(other.per_episode, unit.per_episode)


def test_power_is_not_taken_within_episodes(params, split):
    with pytest.raises(InputError, match="leave out support_augmentations and extract_per_episode"):
        episodes(params, split, transform="power", extract_per_episode=True, **SETTINGS)


def test_tune_and_curve(params, split):
    settings = {"ways": 3, "shots": 2, "queries": 4, "episodes": 50}
    chosen = tune(params, split, head="ridge", values=(1e3, 1.0), **settings)
    assert chosen == feature_tune(ncjax.features(params, split), split.labels, values=(1e3, 1.0), **settings)
    with pytest.raises(InputError, match="no validation classes"):
        tune(params, None)
    with pytest.raises(InputError, match="head ncc: only a head with one hyperparameter"):
        tune(params, split, head="ncc")


@pytest.mark.slow
def test_a_curve_extracts_features_once(params, split, monkeypatch):
    settings = {"shots": 2, "queries": 4, "episodes": 50, "transform": "centered_l2"}
    params = params.replace(feature_mean=np.asarray(ncjax.features(params, split)).mean(axis=0))
    lone = episodes(params, split, ways=5, **settings)
    calls = []

    def counted(*given):
        calls.append(1)
        return ncjax.features(*given)

    monkeypatch.setattr(sys.modules["ncjax.eval.image_episodes"], "extract_features", counted)
    steps = curve(params, split, over="ways", support_augmentations=0, **settings)
    assert steps.values == (2, 5)
    assert len(calls) == 1
    assert steps.reports[0].class_names == split.class_names
    np.testing.assert_array_equal(steps.reports[1].per_episode, lone.per_episode)
    augmented = curve(params, split, over="ways", values=[2], support_augmentations=1, **settings)
    assert augmented.reports[0].settings.support_augmentations == 1


def test_bad_input(params, split):
    with pytest.raises(InputError, match=r"support_augmentations=1\.5: give a whole number"):
        episodes(params, split, support_augmentations=1.5, **SETTINGS)
    with pytest.raises(InputError, match="support_augmentations=-1"):
        episodes(params, split, support_augmentations=-1, **SETTINGS)
    with pytest.raises(InputError, match="trained without augmentation"):
        episodes(params.replace(augmentation="none"), split, support_augmentations=2, **SETTINGS)
    with pytest.raises(InputError, match="only 5 classes"):
        episodes(params, split, **SETTINGS | {"ways": 6})
