"""Labels of every integer type mean the same classes, also where the type does not hold their number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ncjax.collapse import ClassMoments, cdnv, measure, measure_stream
from ncjax.collapse.inputs import checked_labels
from ncjax.collapse.moments import segments
from ncjax.train.losses import cdnv_penalty

pytestmark = pytest.mark.cheap_compilation

K, D = 300, 3


VALUE, PENALTY = (jax.jit(f, static_argnums=2) for f in (cdnv, cdnv_penalty))
UPDATE = jax.jit(ClassMoments.update)


@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", *(pytest.param(name, marks=pytest.mark.slow) for name in ("uint16", "uint32", "int64"))]
)
def test_labels_of_any_type_are_the_same_classes(dtype):
    classes = min(K, np.iinfo(dtype).max + 1)
    x = np.random.default_rng(0).normal(size=(2 * K, D)).astype(np.float32)
    wide = np.arange(2 * K, dtype=np.int32) % classes
    labels = wide.astype(dtype)
    value = float(VALUE(x, wide, K))
    assert np.isfinite(value)
    assert float(VALUE(x, labels, K)) == pytest.approx(value, rel=1e-6)
    assert float(PENALTY(x, labels, K)) == pytest.approx(value, rel=1e-6)
    np.testing.assert_array_equal(UPDATE(ClassMoments.empty(K, D), x, labels).count, np.bincount(wide, minlength=K))
    assert checked_labels(x, labels, K).counts.tolist() == np.bincount(wide).tolist()


@pytest.mark.parametrize(("dtype", "k"), [("uint8", 256), ("int8", 128), ("uint16", 2**16)])
def test_the_number_of_classes_may_be_more_than_the_type_holds(dtype, k):
    wide = np.array([0, 1, 2, k - 1])
    for labels in (wide.astype(dtype), jnp.asarray(wide, dtype)):
        assert segments(labels, k).tolist() == wide.tolist()
        assert segments(labels, k - 1).tolist() == [0, 1, 2, k - 1]
        assert segments(labels, k, jnp.asarray([True, False, True, True])).tolist() == [0, k, 2, k - 1]
    assert segments(np.array([-1, -128, 3], np.int8), 300).tolist() == [300, 300, 3]


def test_wide_labels_outside_the_classes_do_not_count():
    labels = np.array([0, 0, 1, 1, 2**32, 2**32 + 1], np.int64)
    assert segments(labels, 2).tolist() == [0, 0, 1, 1, 2, 2]
    assert segments(labels.astype(np.uint64) | np.uint64(2**63), 2).tolist() == [2] * 6
    with jax.enable_x64(True):
        assert segments(jnp.asarray(labels), 2).tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.slow
def test_labels_that_int64_does_not_hold_are_classes_too():
    """They came back negative."""
    x = np.random.default_rng(0).normal(size=(6, D)).astype(np.float32)
    labels = np.arange(6).astype(np.uint64) % 2 + np.uint64(2**63)
    for found in (measure(x, labels), measure_stream([(x, labels)])):
        assert found.classes.tolist() == [2**63, 2**63 + 1]
        assert found.worst_pair == (2**63, 2**63 + 1)
    assert checked_labels(x, labels - np.uint64(2**63 - 7), None).classes.tolist() == [7, 8]
