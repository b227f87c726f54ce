"""Reports equal a loop over the plan in NumPy, on any number of devices, and compile once."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import oracles_eval as oracles
import pytest

from ncjax.errors import InputError
from ncjax.eval import EpisodePlan, arrays, feature_curve, feature_episodes, feature_tune, heads

LABELS = np.repeat(np.arange(7), [30, 25, 40, 28, 33, 30, 26])
SETTINGS = {"ways": 3, "shots": 4, "queries": 6, "episodes": 150}


@pytest.fixture(scope="module")
def features() -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.standard_normal((7, 12))[LABELS] + 1.5 * rng.standard_normal((len(LABELS), 12)) + 2).astype(np.float32)


@pytest.mark.parametrize("queries", [6, "all"])
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


@pytest.mark.parametrize("head", ["ncc", "logistic"])
def test_any_number_of_devices_and_any_chunk(features, head, on_devices, monkeypatch):
    one = feature_episodes(features, LABELS, head=head, **SETTINGS)
    with jax.set_mesh(on_devices(8)):
        eight = feature_episodes(features, LABELS, head=head, **SETTINGS)
    monkeypatch.setattr(arrays, "chunk_size", lambda *_: 7)
    small = feature_episodes(features, LABELS, head=head, **SETTINGS)
    for other in (eight, small):
        np.testing.assert_array_equal(other.classes, one.classes)
        np.testing.assert_array_equal(other.per_episode, one.per_episode)
        np.testing.assert_array_equal(other.confusion, one.confusion)
        assert other.same_classes_ci95 == pytest.approx(one.same_classes_ci95, rel=1e-5)


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

    with pytest.raises(InputError, match=words):
        feature_episodes(features, LABELS, head=head, **SETTINGS)

    def solve(support, labels, query, ways, *, scale):
        return head(support, labels, query, ways)

    with pytest.raises(InputError, match="head own.*" + words):
        feature_episodes(features, LABELS, head=heads.Head("own", solve, {"scale": 1.0}), **SETTINGS)


def test_a_head_may_rule_a_class_out(features):
    def never_the_first(support, labels, query, ways):
        logits, info = heads.ncc()(support, labels, query, ways)
        return logits.at[:, 0].set(-np.inf), info | {"converged": jnp.zeros((ways, 2), jnp.int32).at[0].set(1)}

    report = feature_episodes(features, LABELS, head=never_the_first, **SETTINGS)
    assert report.accuracy < 2 / 3
    assert report.not_converged == 150  # by episode, whatever the shape and type


def test_features_too_large_for_their_squares(features):
    with pytest.raises(InputError, match="too large for squares in float32"):
        feature_episodes(features * 1e25, LABELS, **SETTINGS)


def test_a_plan_that_was_changed_is_refused(features):
    plan = EpisodePlan.sample(LABELS, **SETTINGS)
    replayed = feature_episodes(features, LABELS, plan=plan)
    np.testing.assert_array_equal(replayed.per_episode, feature_episodes(features, LABELS, **SETTINGS).per_episode)
    query = plan.query_index.copy()
    query[70, 1, 2] = plan.support_index[70, 1, 0]
    with pytest.raises(InputError, match="not those that seed=0 draws"):
        feature_episodes(features, LABELS, plan=dataclasses.replace(plan, query_index=query))


@pytest.mark.parametrize("head", [*heads.HEADS])
def test_noise_scores_chance(head):
    # Independent images: any leak of support into query, or of the way's number into the head, shows.
    noise = np.random.default_rng(1).standard_normal((40 * 60, 24))
    report = feature_episodes(noise, np.repeat(np.arange(40), 60), head=head, shots=2, episodes=4000)
    assert abs(report.accuracy - 0.2) <= report.target_ci95
    assert report.target_ci95 < 0.02


@pytest.mark.parametrize("head", [*heads.HEADS])
def test_identical_images_score_chance(head):
    report = feature_episodes(np.ones((200, 8)), np.repeat(np.arange(10), 20), head=head, shots=2, episodes=64)
    np.testing.assert_allclose(report.per_episode, 0.2, atol=1e-6)


def test_transforms_reach_the_head(features):
    center = features.mean(axis=0)
    moved = features - center
    unit = moved / np.linalg.norm(moved, axis=1, keepdims=True)
    expected = feature_episodes(unit, LABELS, head="ridge", **SETTINGS)
    report = feature_episodes(features, LABELS, head="ridge", transform="centered_l2", center=center, **SETTINGS)
    np.testing.assert_allclose(report.per_episode, expected.per_episode, atol=1e-6)
    assert report.settings.transform == "centered_l2"


def test_compare_is_paired(features):
    a = feature_episodes(features, LABELS, head="ridge", **SETTINGS)
    b = feature_episodes(features, LABELS, head=heads.ridge(3.0), **SETTINGS)
    difference = a.per_episode.astype(float) - b.per_episode
    paired = a.compare(b)
    assert paired.difference == pytest.approx(a.accuracy - b.accuracy, abs=1e-9)
    spread = difference.std(ddof=1) / np.sqrt(150)
    assert paired.ci95 == pytest.approx(1.976 * spread, rel=1e-3)
    assert paired.ci95 < a.ci95
    other = feature_episodes(features, LABELS, **SETTINGS | {"seed": 1})
    with pytest.raises(InputError, match="different episodes"):
        a.compare(other)
    # the same numbers of classes, of other names; numbers alone may stand for any
    named = (np.char.add(word, LABELS.astype(str)) for word in ("apple ", "pear "))
    apples, pears = (feature_episodes(features, names, **SETTINGS) for names in named)
    assert apples.plan_hash == pears.plan_hash == a.plan_hash
    with pytest.raises(InputError, match=r"of other classes .*'apple 0' and 'pear 0'"):
        apples.compare(pears)
    assert apples.compare(a).difference == pytest.approx(apples.accuracy - a.accuracy, abs=1e-9)
    assert "± –" in str(dataclasses.replace(paired, target_ci95=float("nan")))


def test_text(features):
    report = feature_episodes(features, LABELS, head="logistic", **SETTINGS)
    start = f"3-way 4-shot logistic(C=1): {100 * report.accuracy:.2f} ± {100 * report.ci95:.2f} % (150 episodes)"
    assert str(report) == start
    summary = report.summary()
    assert report.largest_gradient_norm == report.info["gradient_norm"].max()
    assert f"largest relative gradient {report.largest_gradient_norm:.1g}" in summary
    one = feature_episodes(features, LABELS, **SETTINGS | {"episodes": 1})
    assert str(one).endswith("± – % (1 episodes)")
    assert np.isnan(one.largest_gradient_norm)
    for words in ("other episodes from these same images", "new images of these same", "new classes and new images"):
        assert words in summary
    assert str(feature_episodes(features, LABELS, **SETTINGS)).startswith("3-way 4-shot ncc: ")


def test_curves(features):
    shots = feature_curve(features, LABELS, over="shots", ways=3, queries=6, episodes=100)
    assert shots.values == (1, 2, 5, 10)  # 20 + 6 images are more than the smallest class has
    assert (np.diff(shots.accuracy) > 0).all()
    ways = feature_curve(features, LABELS, over="ways", queries=6, shots=2, episodes=100)
    assert ways.values == (2, 5, 7)
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
        ({"transform": "centered_l2", "center": "abc"}, "center is no array"),
        ({"plan": "plan.npz"}, "plan is a str; give an EpisodePlan"),
    ],
)
def test_bad_settings(features, change, words):
    with pytest.raises(InputError, match=words):
        feature_episodes(features, LABELS, **SETTINGS | change)


def test_bad_features(features):
    broken = features.copy()
    broken[[5, 9], 3] = np.nan, np.inf
    with pytest.raises(InputError, match=r"2 of 212 rows .*the first is row 5"):
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
