"""`measure` and `cdnv` against the float64 oracles, at collapse too, and on bad input."""

import importlib
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import oracles_collapse as oracles
import pytest
from hypothesis import given, settings, strategies as st
from oracles_collapse import assert_matches, clusters

from ncjax.collapse import cdnv, measure, measure_stream, theory
from ncjax.collapse.class_distance_variance import squared_distances
from ncjax.collapse.metrics import summary_of_samples
from ncjax.errors import InputError

# operations outside of jit compile one by one
jitted_cdnv = jax.jit(cdnv, static_argnums=2)
value_and_grad = jax.jit(jax.value_and_grad(cdnv), static_argnums=2)


@pytest.mark.parametrize("offset", [0.0, 10.0, 100.0])
@pytest.mark.parametrize("sd", [1.0, 1e-3])
def test_measure_is_the_oracle_to_float32_rounding(sd, offset):
    x, y, w, b = clusters(sd=sd, offset=offset, unbalanced=True)
    collapse = measure(x, y, weights=w, bias=b)
    assert_matches(collapse, oracles.all_metrics(x, y, w, b))
    np.testing.assert_allclose(collapse.cdnv_pairs, oracles.pairs(x, y), rtol=1e-5)
    np.testing.assert_allclose(collapse.directional_cdnv_pairs, oracles.directional_pairs(x, y), rtol=1e-5)
    assert float(jitted_cdnv(x, y.astype(np.int32), 12)) == pytest.approx(collapse.cdnv, rel=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, pytest.param(jnp.float16, marks=pytest.mark.slow)])
def test_half_precision_features_give_the_value_of_those_features(dtype):
    x, y, w, b = clusters(offset=10.0)
    rounded = jnp.asarray(x).astype(dtype)
    assert_matches(measure(rounded, y, weights=w, bias=b), oracles.all_metrics(np.asarray(rounded), y, w, b))


def test_labels_may_be_any_integers_and_absent_classes_are_left_out():
    x, y, w, b = clusters(6, 20, 10)
    whole = measure(x, y, weights=w, bias=b)
    named = measure(x, y * 7 - 20, weights=w, bias=b)
    np.testing.assert_array_equal(named.classes, np.arange(6) * 7 - 20)
    assert named.worst_pair == tuple(7 * c - 20 for c in whole.worst_pair)
    far = measure(x, y * 10**12)  # too far apart for a table
    head, bias = np.zeros((9, 10), np.float32), np.full(9, 99.0)  # would be chosen, were absent classes not left out
    head[1:7], bias[1:7] = w, b
    absent = measure(x, y + 1, num_classes=9, weights=head, bias=bias)
    np.testing.assert_array_equal(absent.absent, [0, 7, 8])
    assert "3 classes without samples left out: 0, 7, 8" in str(absent)
    for other in (named, absent):
        assert_matches(other, oracles.all_metrics(x, y, w, b))
    assert_matches(far, oracles.all_metrics(x, y))


def test_coincident_means_are_infinite_counted_and_named():
    x, y, _, _ = clusters(6, 20, 10, offset=100.0)
    x[y == 4] = x[y == 1]
    collapse = measure(x, y + 80)
    assert collapse.cdnv == collapse.cdnv_worst == collapse.debiased_cdnv == collapse.directional_cdnv == np.inf
    assert collapse.cdnv_median == pytest.approx(np.median(oracles.pairs(x, y)[np.triu_indices(6, 1)]), rel=1e-5)
    assert collapse.worst_pair == (81, 84)
    np.testing.assert_array_equal(collapse.coincident_pairs, [[81, 84]])
    assert "1 pairs with coincident means: 81–84" in str(collapse)
    assert json.loads(collapse.to_json())["cdnv"] == "inf"
    constant = measure(np.ones_like(x), y)  # 0/0
    assert constant.cdnv == np.inf
    assert len(constant.coincident_pairs) == 15
    assert constant.nc1_quotient == constant.nc1 == np.inf
    assert constant.nc1_rank == 0
    assert np.isnan(constant.nc2_equinorm)
    assert json.loads(constant.to_json())["nc2_equinorm"] is None


def test_coincidence_does_not_depend_on_the_order_of_the_samples():
    x, y, _, _ = clusters(6, 20, 10, offset=100.0, sd=0.1)
    x[y == 1] = x[y == 0][::-1]
    np.testing.assert_array_equal(measure(x, y).coincident_pairs, [[0, 1]])


def test_debiased_pairs_that_are_too_near_are_named():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 200)).astype(np.float32)
    x[4:] += 10.0
    y = np.arange(6) // 2  # classes 0 and 1 have one true mean
    collapse = measure(x, y)
    expected = oracles.pairs(x, y, debiased=True)
    np.testing.assert_array_equal(collapse.unresolved_pairs, np.argwhere(np.triu(np.isinf(expected), 1)))
    assert len(collapse.unresolved_pairs) == 1
    assert collapse.debiased_cdnv == np.inf > collapse.cdnv


def test_nc1_inverts_no_rounding_noise():
    x, y, _, _ = clusters(8, 30, 256, offset=100.0)
    x[y == 5] = x[y == 2]
    x[y == 7] = x[y == 2]
    value, rank = oracles.nc1(x, y)
    collapse = measure(x, y)
    assert collapse.nc1_rank == rank == 5
    assert collapse.nc1 == pytest.approx(value, rel=1e-5)
    x, y, _, _ = clusters(12, 30, 4)  # more classes than dimensions
    collapse = measure(x, y)
    assert collapse.nc1_rank == 4
    assert collapse.nc1 == pytest.approx(oracles.nc1(x, y)[0], rel=1e-5)


def test_a_simplex_is_fully_collapsed():
    k, d = 7, 16
    rng = np.random.default_rng(0)
    frame = np.linalg.qr(rng.normal(size=(d, k)))[0].T  # orthonormal rows
    simplex = 3.0 * (frame - frame.mean(0))
    labels = np.arange(5 * k) % k
    collapse = measure(simplex[labels] + 2.0, labels, weights=simplex, bias=-2.0 * simplex.sum(1))
    for name in ("cdnv", "directional_cdnv", "nc1", "nc1_quotient", "nc2_equinorm", "nc2_equiangular", "nc3"):
        assert 0 <= getattr(collapse, name) < 1e-6, name
    assert collapse.nc4 == collapse.ncc_accuracy == 1.0
    assert measure(simplex[labels], labels, weights=-simplex).nc3 == pytest.approx(2.0)
    assert measure(simplex[labels], labels, weights=-simplex).nc4 == 0.0


INVARIANT = ("cdnv", "debiased_cdnv", "directional_cdnv", "nc1", "nc1_quotient", "ncc_accuracy")
ANGLES = ("nc2_equinorm", "nc2_equiangular", "nc3")


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    scale=st.floats(0.01, 100.0),
    shift=st.floats(-20.0, 20.0),
)
def test_invariance_under_rotation_translation_scaling_relabelling_and_order(seed, scale, shift):
    x, y, w, _ = clusters(5, 10, 6, sd=0.3, seed=7)
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    relabel, order = rng.permutation(5), rng.permutation(len(y))
    moved = ((x @ rotation * scale + shift).astype(np.float32))[order]
    head = np.empty_like(w)
    head[relabel] = (w @ rotation).astype(np.float32)
    # The logits move by W·shift, one number a class, which the bias takes back.
    before = measure(x, y, weights=w)
    after = measure(moved, relabel[y][order], weights=head, bias=-shift * head.sum(1))
    for name in INVARIANT:
        assert getattr(after, name) == pytest.approx(getattr(before, name), rel=2e-3 if shift else 1e-4), name
    for name in ANGLES:
        assert getattr(after, name) == pytest.approx(getattr(before, name), abs=1e-4), name
    assert after.nc4 == pytest.approx(before.nc4, abs=1.5 / len(y))
    np.testing.assert_allclose(after.cdnv_pairs[np.ix_(relabel, relabel)], before.cdnv_pairs, rtol=2e-3, equal_nan=True)


def test_bad_input_is_named():
    x, y, w, b = clusters(5, 10, 6)
    bad = x.copy()
    bad[17, 2], bad[30] = np.nan, np.inf
    for features, labels, kwargs, message in [
        (bad, y, {}, "7 values of the features are not finite, in 2 of 50 rows, the first row 17"),
        (x * 1e30, y, {}, "too large for float32"),
        (x, y[:-1], {}, "50 rows of features but 49 labels"),
        (x, y + 0.5, {}, "50 labels of type float64 are no whole numbers"),
        (x, np.eye(5)[y].astype(int), {}, "give one label a row"),
        (x[0], y, {}, r"give real numbers of shape \[n, d\]"),
        (x, y, {"num_classes": 4}, r"labels lie outside 0\.\.3, the first 4 in row"),
        (x, y - 1, {"num_classes": 5}, r"labels lie outside 0\.\.4, the first -1 in row"),
        (x, np.zeros_like(y), {}, "only class 0 has samples"),
        (x, np.where(np.arange(50) == 3, 77, y), {}, "only one sample of class 77"),
        (x[:0], y[:0], {}, "no samples"),
        (x, y, {"bias": b}, "a bias without weights"),
        (x, y, {"weights": w.T}, "Flax Dense kernel"),
        (x, y, {"weights": np.zeros((64, 6))}, "give num_classes=64"),
        (x, y, {"weights": w, "bias": b[:-1]}, r"bias of shape \(4,\) for 5 classes"),
        (x, y, {"weights": w * np.nan}, "weights or bias hold values that are not finite"),
    ]:
        with pytest.raises(InputError, match=message) as raised:
            measure(features, labels, **kwargs)
        assert "\n" not in str(raised.value)
    far = 1e-3 * np.asarray(x, np.float64) + 1e4
    with pytest.raises(InputError, match="float32 cannot hold both; subtract the mean"):
        measure(far, y)
    assert measure(far - far.mean(0), y).cdnv == pytest.approx(oracles.all_metrics(far, y)["cdnv"], rel=1e-5)
    for values in (x[:, :0], x + 1j):
        with pytest.raises(InputError, match="give real numbers of shape"):
            measure(values, y)


def test_json_and_table():
    x, y, w, _ = clusters(5, 10, 6)
    collapse = measure(x, y, weights=w)
    plain = json.loads(collapse.to_json(pairs=True))
    assert plain["cdnv"] == collapse.cdnv
    assert plain["counts"] == [10] * 5
    assert plain["cdnv_pairs"][0][0] is None
    assert "cdnv_pairs" not in json.loads(collapse.to_json())
    assert str(collapse).startswith("5 classes, 10 samples each, 6 dimensions\nCDNV ")
    assert "NC3" not in str(measure(x, y))


def test_measuring_again_does_not_trace_again():
    tracing = chex.assert_max_traces(summary_of_samples, n=1)
    counted = jax.jit(tracing, static_argnames="num_classes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib.import_module("ncjax.collapse.metrics"), "_measured", counted)
        for seed in range(3):
            x, y, w, _ = clusters(5, 10, 6, seed=seed)
            measure(x, y + seed, weights=w)


def test_sharded_features_give_the_numbers_of_one_device(on_devices):
    x, y, w, b = clusters(7, 43, 12, offset=10.0)  # 301 rows do not divide by 8
    with jax.set_mesh(on_devices(8)):
        collapse = measure(x, y, weights=w, bias=b)
    assert_matches(collapse, oracles.all_metrics(x, y, w, b))
    np.testing.assert_allclose(collapse.cdnv_pairs, oracles.pairs(x, y), rtol=1e-5)


@pytest.mark.slow
def test_a_stream_over_many_devices_gives_the_numbers_of_one(on_devices):
    x, y, w, b = clusters(7, 43, 12, offset=10.0)
    with jax.set_mesh(on_devices(8)):
        collapse = measure_stream([(x[:150], y[:150]), (x[150:], y[150:])], weights=w, bias=b)
    assert_matches(collapse, oracles.all_metrics(x, y, w, b))
    np.testing.assert_allclose(collapse.cdnv_pairs, oracles.pairs(x, y), rtol=1e-5)


def test_cdnv_has_finite_gradients_where_collapse_is_complete():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(12, 3)).astype(np.float32)
    y = np.arange(12, dtype=np.int32) % 4
    collapsed = x[:4][np.arange(12) % 4]
    same_mean = x.copy()
    same_mean[y == 1] = x[y == 0]
    for features, expected in [(collapsed, 0.0), (x, None), (same_mean, np.inf)]:
        value, gradient = value_and_grad(features, y, 7)  # three classes are absent
        expected = oracles.mean_of_pairs(oracles.pairs(x, y)) if expected is None else expected
        assert float(value) == pytest.approx(expected, rel=1e-5)
        assert np.isfinite(gradient).all()
    value, gradient = value_and_grad(x, np.zeros(12, np.int32), 7)  # no pair at all
    assert np.isnan(value)
    np.testing.assert_array_equal(gradient, 0.0)


def test_cdnv_ignores_masked_rows_in_value_and_gradient():
    x, y, _, _ = clusters(4, 6, 5)
    mask = np.arange(24) < 20
    poisoned = np.where(mask[:, None], x, np.float32(np.nan))
    value, gradient = value_and_grad(poisoned, y.astype(np.int32), 4, mask)
    assert float(value) == pytest.approx(oracles.mean_of_pairs(oracles.pairs(x[:20], y[:20])), rel=1e-5)
    np.testing.assert_array_equal(gradient[20:], 0.0)
    assert np.isfinite(gradient).all()


def test_the_gradient_of_cdnv_is_its_derivative():
    x, y, _, _ = clusters(4, 6, 5, offset=10.0)
    gradient = np.asarray(value_and_grad(x, y.astype(np.int32), 4)[1])
    rng = np.random.default_rng(1)
    for _ in range(3):
        direction = rng.normal(size=x.shape)
        ahead, behind = (
            oracles.mean_of_pairs(oracles.pairs(x.astype(np.float64) + s * direction, y)) for s in (1e-5, -1e-5)
        )
        assert np.sum(gradient * direction) == pytest.approx((ahead - behind) / 2e-5, rel=1e-4)


def test_distances_do_not_depend_on_the_tiles():
    points = jnp.asarray(np.random.default_rng(0).normal(size=(300, 7000)), jnp.float32)  # more than one tile
    distance = np.asarray(jax.jit(squared_distances)(points))
    wide = np.float64(points)
    for i in (0, 7, 299):
        np.testing.assert_allclose(distance[i], np.sum((wide - wide[i]) ** 2, axis=1), rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-10, 1e10, pytest.param(1e-20, marks=pytest.mark.slow)])
def test_features_whose_fourth_powers_float32_does_not_hold_are_refused(scale):
    """Directional CDNV and the bounds came out wrong there, or infinite."""
    x, y, _, _ = clusters(5, 10, 6)
    plain = measure(x, y).directional_cdnv
    for small in (1e-7, 1e7):
        assert measure(small * x.astype(np.float64), y).directional_cdnv == pytest.approx(plain, rel=1e-4)
    with pytest.raises(InputError, match=r"(features spread by|squares vanish in float32).* multiply them"):
        measure(scale * x.astype(np.float64), y)
    if scale == 1e-10:
        with pytest.raises(InputError, match="features spread by"):
            theory(scale * x.astype(np.float64), y, ways=3)


def test_inside_jit_each_says_what_to_do(features):
    labels = np.arange(len(features)) % 4
    counted = cdnv(features, labels)
    np.testing.assert_array_equal(counted, cdnv(features, labels, 4))
    with pytest.raises(InputError, match="inside jit needs num_classes"):
        jax.jit(cdnv)(features, labels)
    with pytest.raises(
        InputError, match=r"measure reads its arguments .* call it outside\. Inside, ncjax\.collapse\.cdnv"
    ):
        jax.jit(lambda x: measure(x, labels))(features)
