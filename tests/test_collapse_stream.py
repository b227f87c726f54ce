"""Class moments and `measure_stream`: merged is whole, in any order, grouping, padding and sharding."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import oracles_collapse as oracles
import pytest
from hypothesis import given, settings, strategies as st
from oracles_collapse import assert_matches, clusters

from ncjax.collapse import ClassMoments, measure, measure_stream
from ncjax.devices import sharded
from ncjax.errors import InputError

K, D = 5, 7


update = jax.jit(ClassMoments.update)
merge = jax.jit(ClassMoments.merge)


def moments_of(x, y):
    return update(ClassMoments.empty(K, x.shape[1]), x, y.astype(np.int32))


def batches_of(x, y, sizes):
    """The samples in batches of these sizes, the last one whatever is left."""
    edges = np.cumsum(sizes)
    return list(zip(np.split(x, edges), np.split(y, edges), strict=True))


def test_moments_are_the_oracle():
    x, y, _, _ = clusters(K, 30, D, offset=100.0, sd=1e-2, unbalanced=True)
    moments = moments_of(x, y)
    means, variances = oracles.means_and_variances(x, y)
    np.testing.assert_array_equal(moments.count, np.bincount(y))
    np.testing.assert_allclose(moments.mean, means, rtol=1e-7)
    np.testing.assert_allclose(np.float64(moments.anchor) + np.float64(moments.offset), means, rtol=1e-9)
    np.testing.assert_allclose(moments.centred_mean, means - means.mean(0), atol=1e-6)
    np.testing.assert_allclose(moments.variance, variances, rtol=1e-6)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 99),
    cuts=st.lists(st.integers(0, 60), min_size=2, max_size=2),
    order=st.permutations(range(3)),
)
def test_merging_in_any_order_and_grouping_is_the_whole(seed, cuts, order):
    x, y, _, _ = clusters(K, 12, D, seed=seed, offset=100.0, sd=1e-2)
    x, y = jnp.asarray(x), jnp.asarray(y, jnp.int32)
    row = jnp.arange(60)
    low, high = min(cuts), max(cuts)
    masks = [row < low, (row >= low) & (row < high), row >= high]  # some of them may be empty
    empty = ClassMoments.empty(K, D)
    a, b, c = (update(empty, x, y, masks[i]) for i in order)
    whole = update(empty, x, y, row < 60)
    for merged in (
        merge(merge(a, b), c),
        merge(a, merge(b, c)),
        merge(merge(merge(empty, c), empty), merge(a, b)),
    ):
        np.testing.assert_array_equal(merged.count, whole.count)
        np.testing.assert_allclose(merged.mean, whole.mean, rtol=2e-7)
        np.testing.assert_allclose(merged.square, whole.square, rtol=2e-6)
        atol = 2e-6 * float(jnp.abs(whole.centred_mean).max())
        np.testing.assert_allclose(merged.centred_mean, whole.centred_mean, atol=atol)


def test_thousands_of_merges_do_not_wear_the_moments_out():
    x, y, _, _ = clusters(3, 4000, 8, offset=100.0, sd=1e-3)

    def step(moments, batch):
        return moments.update(*batch), None

    batches = jnp.asarray(x.reshape(3000, 4, 8)), jnp.asarray(y.reshape(3000, 4), jnp.int32)
    moments, _ = jax.jit(lambda b: jax.lax.scan(step, ClassMoments.empty(3, 8), b))(batches)
    means, variances = oracles.means_and_variances(x, y)
    np.testing.assert_allclose(moments.variance, variances, rtol=1e-5)
    np.testing.assert_allclose(np.float64(moments.anchor) + np.float64(moments.offset), means, rtol=1e-9)


def test_rows_that_do_not_count_have_no_effect():
    x, y, _, _ = clusters(K, 12, D)
    padded = np.concatenate([x, np.full((3, D), np.nan, np.float32)])
    labels = np.concatenate([y, [0, 1, 2]]).astype(np.int32)
    mask = np.arange(63) < 60
    empty, expected = ClassMoments.empty(K, D), moments_of(x, y)
    chex.assert_trees_all_close(update(empty, padded, labels, mask), expected, rtol=1e-6)
    outside = np.where(mask, labels, np.asarray([-1, K], np.int32)[np.arange(63) % 2])
    chex.assert_trees_all_close(update(empty, np.nan_to_num(padded), outside), expected, rtol=1e-6)


def test_moments_of_other_sizes_do_not_broadcast():
    for classes, dim in ((1, D), (K, 1)):
        with pytest.raises(AssertionError, match="shape"):
            merge(ClassMoments.empty(classes, dim), ClassMoments.empty(K, D))


def test_a_sharded_batch_is_reduced_by_collectives(on_devices):
    x, y, _, _ = clusters(K, 64, D, offset=10.0)
    update = jax.jit(lambda x, y: ClassMoments.empty(K, D).update(x, y))
    whole = jax.tree.map(np.asarray, update(jnp.asarray(x), jnp.asarray(y, jnp.int32)))
    mesh = on_devices(8)
    with jax.set_mesh(mesh):
        placed = jax.device_put((x, y.astype(np.int32)), sharded(mesh))
        compiled = update.lower(*placed).compile()
        parts = compiled(*placed)
        assert parts.square.sharding.is_fully_replicated
        chex.assert_trees_all_close(jax.tree.map(np.asarray, parts), whole, rtol=1e-5, atol=1e-5)
    program = compiled.as_text()
    assert "all-reduce" in program
    assert "all-gather" not in program  # no device sees another's features


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_stream_is_measure(offset):
    x, y, w, b = clusters(9, 50, 24, offset=offset, sd=1e-2 if offset else 1.0, unbalanced=True)
    y = 80 + y  # labels in any order of arrival, none of them a position
    batches = batches_of(x, y, [64, 100, 7, 100])
    streamed = measure_stream(batches, weights=w, bias=b)
    assert_matches(streamed, oracles.all_metrics(x, y, w, b))
    whole = measure(x, y, weights=w, bias=b)
    np.testing.assert_allclose(streamed.cdnv_pairs, whole.cdnv_pairs, rtol=1e-5)
    np.testing.assert_allclose(streamed.directional_cdnv_pairs, whole.directional_cdnv_pairs, rtol=1e-5)
    np.testing.assert_array_equal(streamed.classes, whole.classes)
    np.testing.assert_array_equal(streamed.counts, whole.counts)
    again = measure_stream(lambda: iter(batches[::-1]), weights=w, bias=b)
    assert_matches(again, oracles.all_metrics(x, y, w, b))


def test_stream_of_padded_batches_with_absent_classes():
    x, y, w, b = clusters(6, 20, 10)
    y = y + 2
    padded = [
        (
            np.concatenate([f, np.full((5, 10), np.nan)]),
            np.append(t, [-9] * 5),
            np.arange(len(t) + 5) < len(t),
        )
        for f, t in batches_of(x, y, [50, 50])
    ]
    head = np.zeros((10, 10), np.float32)
    head[2:8] = w
    bias = np.full(10, 99.0)  # of the absent classes, which must not be chosen
    bias[2:8] = b
    collapse = measure_stream(padded, num_classes=10, weights=head, bias=bias)
    assert_matches(collapse, oracles.all_metrics(x, y, w, b))
    np.testing.assert_array_equal(collapse.absent, [0, 1, 8, 9])


def test_an_iterator_gets_the_metrics_of_one_pass():
    x, y, w, _ = clusters(6, 20, 10)
    whole = measure(x, y, weights=w)
    once = measure_stream(iter(batches_of(x, y, [50, 50])), weights=w)
    for name in (
        "cdnv",
        "cdnv_median",
        "debiased_cdnv",
        "nc1_quotient",
        "nc2_equinorm",
        "nc2_equiangular",
        "nc3",
    ):
        assert getattr(once, name) == pytest.approx(getattr(whole, name), rel=1e-5), name
    for name in ("directional_cdnv", "directional_cdnv_pairs", "nc1", "nc4", "ncc_accuracy"):
        assert getattr(once, name) is None, name
    assert "second pass" in str(once)


def test_stream_names_what_is_wrong():
    x, y, _, _ = clusters(6, 20, 10)
    with pytest.raises(InputError, match="no batches"):
        measure_stream([])
    with pytest.raises(InputError, match="their squares overflow"):
        measure_stream([(x * 1e25, y)])
    with pytest.raises(InputError, match="batch 1 has features of 9 dimensions, earlier batches of 10"):
        measure_stream([(x, y), (x[:, :9], y)])
    bad = x.copy()
    bad[50, 0] = np.nan
    with pytest.raises(InputError, match="the first in row 50"):  # the second batch is padded
        measure_stream([(bad[:40], y[:40]), (bad[40:50], y[40:50]), (bad[50:], y[50:])])
    bad = x.copy()
    bad[77, 3:5] = np.nan
    with pytest.raises(InputError, match="2 values of the features are not finite, the first in row 77"):
        measure_stream(batches_of(bad, y, [50, 50]))
    with pytest.raises(InputError, match="batch 1 has 50 rows"):
        measure_stream([(x[:50], y[:50]), (x[50:100], y[50:99])])
    with pytest.raises(InputError, match=r"outside 0\.\.3"):
        measure_stream(batches_of(x, y, [50]), num_classes=4)
    calls = iter([batches_of(x, y, [50]), batches_of(x, y, [50])[:1]])
    with pytest.raises(InputError, match="other samples"):
        measure_stream(lambda: next(calls))
