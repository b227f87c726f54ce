"""Episodes are drawn without replacement, uniformly, and as a pure function of seed and number."""

import contextlib
from itertools import permutations
from typing import Any

import jax
import numpy as np
import pytest

from ncjax.errors import InputError
from ncjax.eval import EpisodePlan
from ncjax.eval.sampling import _draw, plan_hash

UNBALANCED = np.repeat(np.arange(6), [9, 30, 12, 9, 200, 17])
PINNED_SUPPORT = [[[49, 39], [4, 6]], [[260, 264], [4, 5]]]
PINNED_QUERY = [[[43, 40, 44], [8, 0, 1]], [[270, 274, 269], [0, 7, 3]]]
PINNED_HASH = "52d387f017d8a4fa"


# Every other setting, and every other number of episodes, compiles again.
SETTINGS: dict[str, Any] = {"ways": 3, "shots": 2, "queries": 4}
ALL_QUERIES = SETTINGS | {"queries": "all", "episodes": 200}
FEW, MANY = SETTINGS | {"episodes": 7}, SETTINGS | {"episodes": 20_000}


def test_images_of_an_episode_are_distinct_and_of_one_class_a_way():
    labels = np.random.default_rng(0).permutation(UNBALANCED)
    plan = EpisodePlan.sample(labels, **MANY)
    rows = np.concatenate([plan.support_index, plan.query_index], axis=2)
    assert rows.shape == (20_000, 3, 6)
    assert rows.dtype == np.int32
    classes = labels[rows]
    np.testing.assert_array_equal(classes, classes[:, :, :1].repeat(6, axis=2))
    assert (np.diff(np.sort(rows.reshape(20_000, -1))) > 0).all()
    assert (np.diff(np.sort(classes[:, :, 0])) > 0).all()


def test_every_ordered_sample_is_equally_likely():
    draws = 60_000
    bits = np.random.default_rng(0).integers(0, 2**32, (draws, 3), dtype=np.uint32)
    drawn = np.asarray(jax.jit(_draw)(bits, np.full(draws, 5, np.int32)))
    orders = list(permutations(range(5), 3))
    code = {order: i for i, order in enumerate(orders)}
    count = np.bincount([code[tuple(row)] for row in drawn.tolist()], minlength=60)
    chi2 = np.sum((count - draws / 60) ** 2 / (draws / 60))
    assert chi2 < 98.3  # the 99.9 % quantile with 59 degrees of freedom


@pytest.mark.parametrize("drawn", [1, 17, 100])
def test_a_draw_decodes_its_lehmer_code(drawn: int):
    bits = np.random.default_rng(drawn).integers(0, 2**32, (8, drawn), dtype=np.uint32)
    size = np.array([100, 100, 101, 117, 200, 1000, 5000, 70_000])
    found = np.asarray(jax.jit(_draw)(bits, size.astype(np.int32)))
    for row, count, result in zip(bits, size, found, strict=True):
        left = list(range(count))
        assert [left.pop(int(b) % len(left)) for b in row] == result.tolist()


def test_classes_and_images_are_drawn_over_their_own_counts():
    plan = EpisodePlan.sample(UNBALANCED, **MANY)
    rows = np.concatenate([plan.support_index, plan.query_index], axis=2)
    held = np.bincount(UNBALANCED[rows[:, :, 0]].ravel(), minlength=6)
    # A class is in an episode with probability 1/2.
    assert np.abs(held - 10_000).max() < 4 * np.sqrt(20_000 / 4)
    for index, drawn in ((plan.support_index, 2), (plan.query_index, 4)):
        count = np.bincount(index.ravel(), minlength=len(UNBALANCED))
        for c in range(6):
            of_class = count[c == UNBALANCED]
            share = drawn / len(of_class)
            spread = np.sqrt(held[c] * share * (1 - share))
            assert np.abs(of_class - held[c] * share).max() < 5 * spread


def test_an_episode_depends_on_seed_and_number_alone():
    few, other = (EpisodePlan.sample(UNBALANCED, **FEW, seed=seed) for seed in (5, 6))
    many = EpisodePlan.sample(UNBALANCED, **MANY, seed=5)
    np.testing.assert_array_equal(few.support_index, many.support_index[:7])
    np.testing.assert_array_equal(few.query_index, many.query_index[:7])
    assert not np.array_equal(few.support_index, other.support_index)


def test_a_seed_means_the_same_episodes_for_ever():
    # Written down once; a change that alters these must raise SAMPLER_VERSION.
    plan = EpisodePlan.sample(UNBALANCED, ways=2, shots=2, queries=3, episodes=2, seed=11)
    assert plan.support_index.tolist() == PINNED_SUPPORT
    assert plan.query_index.tolist() == PINNED_QUERY
    assert plan.hash == PINNED_HASH


def test_more_shots_keep_classes_and_queries_and_add_support():
    small = EpisodePlan.sample(UNBALANCED, **FEW)
    large = EpisodePlan.sample(UNBALANCED, **FEW | {"shots": 5})
    np.testing.assert_array_equal(small.query_index, large.query_index)
    np.testing.assert_array_equal(small.support_index, large.support_index[:, :, :2])


def test_all_queries_are_what_the_support_leaves():
    plan = EpisodePlan.sample(UNBALANCED, **ALL_QUERIES)
    assert plan.query_index.shape == (200, 3, 198)
    for support, query in zip(plan.support_index.reshape(-1, 2), plan.query_index.reshape(-1, 198), strict=True):
        c = UNBALANCED[support[0]]
        inside = query[query >= 0]
        assert (query[len(inside) :] == -1).all()
        assert sorted([*support, *inside]) == np.flatnonzero(c == UNBALANCED).tolist()


def test_a_plan_outlives_its_process(tmp_path):
    for settings in (ALL_QUERIES, FEW):
        plan = EpisodePlan.sample(UNBALANCED, **settings, seed=2**32 - 1)
        plan.save(tmp_path / "plan.npz")
        again = EpisodePlan.load(tmp_path / "plan.npz")
        np.testing.assert_array_equal(again.support_index, plan.support_index)
        np.testing.assert_array_equal(again.query_index, plan.query_index)
        assert again.hash == plan.hash
        assert again.queries == settings["queries"]
    with pytest.raises(InputError, match="there is no file"):
        EpisodePlan.load(tmp_path / "none.npz")
    written = (tmp_path / "plan.npz").read_bytes()
    for place in range(0, len(written), 7):
        damaged = bytearray(written)
        damaged[place] ^= 0x55
        (tmp_path / "damaged.npz").write_bytes(damaged)
        with contextlib.suppress(InputError):  # not every byte counts
            EpisodePlan.load(tmp_path / "damaged.npz")
    for length in (0, len(written) // 2):
        (tmp_path / "cut.npz").write_bytes(written[:length])
        with pytest.raises(InputError, match="not a plan"):
            EpisodePlan.load(tmp_path / "cut.npz")
    np.save(tmp_path / "array.npy", np.zeros(3))
    with pytest.raises(InputError, match="not a plan"):
        EpisodePlan.load(tmp_path / "array.npy")
    np.savez(tmp_path / "other.npz", a=1)
    with pytest.raises(InputError, match="not a plan"):
        EpisodePlan.load(tmp_path / "other.npz")


def test_the_hash_tells_settings_and_labels_apart():
    base = FEW | {"seed": 0}
    changes = ({"ways": 4}, {"shots": 3}, {"queries": 5}, {"queries": "all"}, {"episodes": 6}, {"seed": 1})
    hashes = [plan_hash(UNBALANCED, **base), plan_hash(UNBALANCED[::-1], **base)]
    hashes += [plan_hash(UNBALANCED, **base | change) for change in changes]
    assert len({*hashes}) == len(hashes)
    named = np.array(["cat", "dog", "eel", "fox", "gnu", "hen"])[UNBALANCED]
    assert EpisodePlan.sample(named, **base).hash == hashes[0]
