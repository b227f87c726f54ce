"""Both rooms read features and labels of every type alike."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ncjax.checks import as_numpy, encode_labels, read_features, read_labels
from ncjax.collapse import measure, measure_stream
from ncjax.errors import InputError
from ncjax.eval import feature_episodes

LABELS = np.repeat(np.arange(4), 12)
X = (np.random.default_rng(0).integers(0, 9, (48, 6)) + 4 * np.eye(4, 6)[LABELS].astype(int)).astype(np.float32)
SETTINGS = {"ways": 3, "shots": 2, "queries": 3, "episodes": 20}

pytestmark = pytest.mark.cheap_compilation


class Tensor:
    """What a torch tensor does that needs a gradient, or lies on a GPU."""

    def __init__(self, values: np.ndarray, bfloat16: bool = False):
        self.values, self.bfloat16 = values, bfloat16

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("Can't call numpy() on Tensor that requires grad.")

    def __len__(self):
        return len(self.values)

    def detach(self):
        return self

    def is_floating_point(self):
        return self.values.dtype.kind == "f"

    def float(self):
        return Tensor(self.values)

    def numpy(self, *, force=False):
        if self.bfloat16:
            raise TypeError("Got unsupported ScalarType BFloat16")
        return self.values if force else self.__array__()


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.astype(">f8"),
        lambda x: x.astype(">f4"),
        lambda x: x.astype(np.longdouble),
        lambda x: x.astype(">i8"),
        lambda x: x.astype(np.uint8),
        lambda x: x.astype(np.float16),
        lambda x: jnp.asarray(x, jnp.bfloat16),
        lambda x: jnp.asarray(x, jnp.int32),
        lambda x: x.tolist(),
        Tensor,
        lambda x: Tensor(x, bfloat16=True),
    ],
)
def test_features_of_any_type(change):
    given = change(X)
    assert measure(given, LABELS).cdnv == pytest.approx(measure(X, LABELS).cdnv, rel=1e-6)
    own, plain = (feature_episodes(x, LABELS, **SETTINGS).per_episode for x in (given, X))
    np.testing.assert_array_equal(own, plain)


def test_bool_features():
    assert measure(X > 4, LABELS).cdnv == pytest.approx(measure((X > 4).astype(float), LABELS).cdnv, rel=1e-6)
    assert measure(jnp.asarray(X > 4), LABELS).cdnv == pytest.approx(measure(X > 4, LABELS).cdnv, rel=1e-6)


FAR_APART = [-(2**63), 2**63 - 3, 2**63 - 2, 2**63 - 1]
NAMES = np.array(["ant", "bee", "cow", "dog"])[LABELS]


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (LABELS.astype(float), [0, 1, 2, 3]),
        (LABELS.astype(">i2"), [0, 1, 2, 3]),
        (LABELS.astype(np.uint8) + np.uint8(252), [252, 253, 254, 255]),
        (np.array([-128, -43, 42, 127], np.int8)[LABELS], [-128, -43, 42, 127]),
        (LABELS.astype(np.uint64) + np.uint64(2**63), [2**63, 2**63 + 1, 2**63 + 2, 2**63 + 3]),
        (
            np.array([-(2**63), 2**63 - 3, 2**63 - 2, 2**63 - 1], np.int64)[LABELS],
            [-(2**63), 2**63 - 3, 2**63 - 2, 2**63 - 1],
        ),
        (NAMES, ["ant", "bee", "cow", "dog"]),
        (NAMES.astype(object), ["ant", "bee", "cow", "dog"]),
        (NAMES.tolist(), ["ant", "bee", "cow", "dog"]),
        (LABELS.astype(object), [0, 1, 2, 3]),
        (Tensor(LABELS), [0, 1, 2, 3]),
        (jnp.asarray(LABELS), [0, 1, 2, 3]),
    ],
)
def test_labels_of_any_type(labels, classes):
    found = measure(X, labels)
    batches = [(X, labels)] if isinstance(labels, Tensor) else [(X[:30], labels[:30]), (X[30:], labels[30:])]
    streamed = measure_stream(batches)
    report = feature_episodes(X, labels, **SETTINGS)
    assert found.classes.tolist() == streamed.classes.tolist() == list(report.class_names) == classes
    assert found.cdnv == pytest.approx(measure(X, LABELS).cdnv, rel=1e-6)
    assert streamed.cdnv == pytest.approx(found.cdnv, rel=1e-5)
    assert set(found.worst_pair) <= set(classes)
    assert type(found.worst_pair[0]) in (int, str)


def test_names_are_written():
    found = measure(X, NAMES)
    assert f"classes {found.worst_pair[0]} and {found.worst_pair[1]}" in str(found)
    assert '"classes": ["ant", "bee", "cow", "dog"]' in found.to_json()


def front_doors(features, labels):
    yield lambda: measure(features, labels)
    yield lambda: measure_stream([(features, labels)])
    yield lambda: feature_episodes(features, labels, **SETTINGS)


FAR = np.arange(48 * 6).reshape(48, 6) % 7


@pytest.mark.parametrize(
    ("features", "labels", "words"),
    [
        (FAR + 2**31, LABELS, "float32 cannot hold both"),
        (FAR + 2**62, LABELS, "float32 cannot hold both"),
        ((FAR + 2**31).astype(np.uint32), LABELS, "float32 cannot hold both"),
        (1e-3 * FAR.astype(np.longdouble) + 10**6, LABELS, "float32 cannot hold both"),
        (1e-5 * FAR + 1e9, LABELS, "float32 cannot hold both"),
        (jnp.asarray(FAR, jnp.int32) + 2**30, LABELS, "float32 cannot hold both"),
        (1e-20 * FAR, LABELS, "squares vanish in float32: multiply them"),
        (FAR * 1j, LABELS, "features have type complex128"),
        (FAR.astype("m8[s]"), LABELS, r"features have type timedelta64\[s\]"),
        (np.ma.masked_equal(X, 3), LABELS, "features have masked values"),
        (X, LABELS + 0.5, "48 labels of type float64 are no whole numbers, the first 0.5 in row 0"),
        (X, np.where(LABELS == 1, np.nan, LABELS), "12 labels of type float64 are no whole numbers"),
        (X, (LABELS + 3000).astype(np.float16), "float16 does not tell whole numbers beyond 2048 apart"),
        (X, LABELS + 2.0**60, "float64 does not tell whole numbers"),
        (X, [*NAMES[:-1], 3.0], "one kind for all"),
        (X, np.eye(4)[LABELS], r"labels have shape \(48, 4\)"),
        (X, LABELS.astype("M8[s]"), "labels have type datetime64"),
        (X, Tensor(LABELS + 1j), "labels have type complex128"),
    ],
)
def test_one_answer_to_what_cannot_be_read(features, labels, words):
    if isinstance(labels, list):
        labels = np.array(labels, object)
    for front_door in front_doors(features, labels):
        with pytest.raises(InputError, match=words) as raised:
            front_door()
        assert "\n" not in str(raised.value)


def test_float64_of_jax_is_checked_and_rounded():
    with jax.enable_x64(True):
        for far in (jnp.asarray(FAR * 1e-3 + 1e6), jnp.asarray(FAR + 2**40)):
            assert far.dtype.itemsize == 8
            with pytest.raises(InputError, match="float32 cannot hold both"):
                read_features(far)
        assert read_features(jnp.asarray(X, jnp.float64)).dtype == np.float32
        assert isinstance(read_features(jnp.asarray(X)), jax.Array)
        with jax.numpy_dtype_promotion("standard"):  # as users have it
            assert measure(jnp.asarray(X, jnp.float64), LABELS).cdnv == pytest.approx(measure(X, LABELS).cdnv, rel=1e-6)


def test_what_float32_holds_is_taken():
    read_features(np.full((5, 3), 1e9 + 0.1))  # equal rows
    read_features(np.full((5, 3), 2**60 + 1) + np.zeros((5, 3), int))
    values = (2**40 * np.arange(6).reshape(3, 2)).astype(np.int64)
    np.testing.assert_array_equal(read_features(values), values.astype(np.float32))
    assert read_features(np.array([[1e300, 0.0]])).tolist() == [[np.inf, 0.0]]  # the caller says which row


def test_positions_and_counts():
    for labels in (np.array([7, -2, 7, 40]), np.array([7, -(10**12), 7, 10**15]), np.array(["b", "a", "b", "c"])):
        classes, position, counts = encode_labels(labels)
        assert position.dtype == np.int32
        np.testing.assert_array_equal(classes[position], labels)
        assert position.tolist() == [1, 0, 1, 2]
        assert counts.tolist() == [1, 2, 1]
    assert read_labels([]).tolist() == []
    assert read_labels(np.array([True, False])).tolist() == [1, 0]


def test_kinds_of_labels_do_not_mix_between_batches():
    with pytest.raises(InputError, match="batch 1 has labels of type"):
        measure_stream([(X, LABELS), (X, NAMES)])
    with pytest.raises(InputError, match="labels are names: leave num_classes=4 out"):
        measure(X, NAMES, num_classes=4)
    with pytest.raises(InputError, match="values of center are no array"):
        feature_episodes(X, LABELS, transform="centered_l2", center=[[1.0], [1.0, 2.0]], **SETTINGS)
    assert as_numpy("center", Tensor(X)).shape == X.shape
