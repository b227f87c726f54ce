"""Measures of samples labelled by superclass."""

import json

import numpy as np
import oracles_collapse as oracles
import pytest
from oracles_collapse import assert_matches, clusters

from ncjax.collapse import measure, measure_stream
from ncjax.errors import InputError

NAMES = ["tree", "bird", "tree", "fish", "bird", "fish"]
X, Y, _, _ = clusters(6, 20, 10, unbalanced=True, offset=10.0)
EXPECTED = oracles.all_metrics(X, np.asarray(NAMES)[Y])


def test_superclasses_are_measured_as_labels():
    collapse = measure(X, Y + 3, superclasses=NAMES)
    assert_matches(collapse.superclasses, EXPECTED)
    assert list(collapse.superclasses.classes) == ["bird", "fish", "tree"]
    np.testing.assert_array_equal(collapse.superclasses.counts.sum(), len(Y))
    assert collapse.superclasses.cdnv > collapse.cdnv
    assert "superclass CDNV" in str(collapse)
    assert json.loads(collapse.to_json())["superclasses"]["cdnv"] == collapse.superclasses.cdnv
    assert collapse.superclasses.nc3 is None
    assert measure(X, Y).superclasses is None


def test_superclasses_of_absent_classes_are_left_out():
    names = ["moss", "bird", *NAMES, "bird"]
    for superclasses in (names, np.asarray(names), np.unique(names, return_inverse=True)[1]):
        collapse = measure(X, Y + 2, num_classes=9, superclasses=superclasses)
        assert_matches(collapse.superclasses, EXPECTED)
        assert len(collapse.superclasses.absent) == 1
    assert list(measure(X, Y + 2, num_classes=9, superclasses=names).superclasses.absent) == ["moss"]


def test_a_stream_measures_them_in_one_pass_where_it_allows():
    batches = [(X[:50], Y[:50]), (X[50:], Y[50:])]
    assert_matches(measure_stream(batches, superclasses=NAMES).superclasses, EXPECTED)
    once = measure_stream(iter(batches), superclasses=NAMES).superclasses
    assert once.cdnv == pytest.approx(EXPECTED["cdnv"], rel=1e-5)
    assert once.directional_cdnv is None


def test_each_class_its_own_superclass_gives_the_measures_of_classes():
    collapse = measure(X, Y, superclasses=range(6))
    assert collapse.superclasses.cdnv == pytest.approx(collapse.cdnv, rel=1e-6)


@pytest.mark.parametrize(
    ("superclasses", "words"),
    [
        (NAMES[:5], "5 superclasses for 6 classes"),
        (["tree"] * 6, "all classes are of superclass tree"),
        ([*NAMES[:5], None], "superclasses: labels have type object"),
        (np.zeros((6, 2)), "superclasses: labels have shape"),
        ([0.5] * 6, "superclasses: .* no whole numbers"),
    ],
)
def test_mistakes_are_one_line(superclasses, words):
    with pytest.raises(InputError, match=words) as raised:
        measure(X, Y, superclasses=superclasses)
    assert "\n" not in str(raised.value)
