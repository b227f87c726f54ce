"""Labels of every integer type mean the same classes, also where the type does not hold their number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ncjax.collapse import ClassMoments, cdnv, measure, measure_stream
from ncjax.collapse.inputs import checked_labels
from ncjax.collapse.moments import segments
from ncjax.errors import InputError
from ncjax.train.losses import cdnv_penalty

K, D = 300, 3


@pytest.fixture(scope="module")
def compiled():
    return jax.jit(cdnv, static_argnums=2), jax.jit(ClassMoments.update)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int64"])
def test_labels_of_any_type_are_the_same_classes(dtype, compiled):
    classes = min(K, np.iinfo(dtype).max + 1)
    x = np.random.default_rng(0).normal(size=(2 * K, D)).astype(np.float32)
    wide = np.arange(2 * K, dtype=np.int32) % classes
    value, update = compiled
    labels = jnp.asarray(wide) if dtype == "int64" else jnp.asarray(wide.astype(dtype))
    assert float(value(x, labels, K)) == pytest.approx(float(value(x, jnp.asarray(wide), K)), rel=1e-6)
    np.testing.assert_array_equal(update(ClassMoments.empty(K, D), x, labels).count, np.bincount(wide, minlength=K))
    assert float(cdnv_penalty(jnp.asarray(x), labels, K)) == pytest.approx(float(value(x, labels, K)), rel=1e-6)
    assert checked_labels(wide.astype(dtype), K).counts.tolist() == np.bincount(wide).tolist()


def test_as_many_classes_as_the_type_has_values(compiled):
    """num_classes itself does not fit into the type: 256 in uint8, 128 in int8."""
    for dtype, k in (("uint8", 256), ("int8", 128)):
        wide = np.arange(2 * k, dtype=np.int32) % k
        x = np.random.default_rng(0).normal(size=(2 * k, D)).astype(np.float32)
        want = float(compiled[0](x, wide, k))
        assert np.isfinite(want)
        assert float(compiled[0](x, wide.astype(dtype), k)) == pytest.approx(want, rel=1e-6)


def test_wide_labels_outside_the_classes_do_not_count():
    x = np.random.default_rng(0).normal(size=(6, D)).astype(np.float32)
    labels = np.array([0, 0, 1, 1, 2**32, 2**32 + 1], np.int64)
    assert ClassMoments.empty(2, D).update(x, labels).count.tolist() == [2, 2]
    assert ClassMoments.empty(2, D).update(x, labels.astype(np.uint64) | np.uint64(2**63)).count.tolist() == [0, 0]
    with jax.enable_x64(True):
        assert segments(jnp.asarray(labels), 2).tolist() == [0, 0, 1, 1, 2, 2]


def test_labels_that_int64_does_not_hold_are_refused():
    x = np.random.default_rng(0).normal(size=(6, D)).astype(np.float32)
    labels = np.arange(6).astype(np.uint64) % 2 + np.uint64(2**63)
    with pytest.raises(InputError, match="labels up to 9223372036854775809, more than int64 holds"):
        measure(x, labels)
    with pytest.raises(InputError, match="more than int64 holds"):
        measure_stream([(x, labels)])
    assert checked_labels(labels - np.uint64(2**63 - 7), None).classes.tolist() == [7, 8]
