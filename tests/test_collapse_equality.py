"""Results that hold arrays are compared and hashed by value."""

import copy
import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from oracles_collapse import clusters

from ncjax.collapse import (
    ClassGeometry,
    ClassMoments,
    Collapse,
    CollapseIntervals,
    Interval,
    LayerCollapse,
    Theory,
    measure,
    through_layers,
)
from ncjax.errors import InputError
from ncjax.eval import EpisodeReport

X, Y, _, _ = clusters(4, 8, 5)


def filled(kind, **values):
    """A result whose other fields are arrays."""
    names = (field.name for field in dataclasses.fields(kind) if field.init)
    return kind(**{name: np.arange(3.0) for name in names} | values)


@pytest.mark.parametrize("kind", [Collapse, CollapseIntervals, LayerCollapse, Theory, EpisodeReport])
def test_results_are_equal_by_value(kind):
    one = filled(kind, **{dataclasses.fields(kind)[0].name: {"a": Interval(0.0, 1.0, np.nan), "b": [np.ones(2)]}})
    same = copy.deepcopy(one)
    assert one == same
    assert hash(one) == hash(same)
    assert one != "another type"
    for field in dataclasses.fields(kind):
        other = dataclasses.replace(one, **{field.name: np.arange(3.0) + 1})
        assert one != other, field.name
        assert len({one, same, other}) == 2


def test_measuring_again_gives_an_equal_result():
    found = measure(X, Y)
    assert found == measure(X.copy(), Y)
    assert found != measure(X[::-1] * 2 + 1, Y)
    assert through_layers([X, X], Y) == through_layers(np.stack([X, X]), Y)
    pairs = found.cdnv_pairs.copy()
    pairs[0, 0] = -np.float32(np.nan)
    assert dataclasses.replace(found, cdnv_pairs=pairs) == found
    assert dataclasses.replace(found, nc1=0.0) == dataclasses.replace(found, nc1=-0.0)


def test_moments_and_geometry_which_may_be_traced_are_compared_by_identity():
    geometry = ClassGeometry.of_population(jnp.eye(2), jnp.stack([jnp.eye(2)] * 2))
    for one in (ClassMoments.empty(4, 5), geometry):
        assert one == one
        assert one != dataclasses.replace(one)
        assert isinstance(hash(one), int)


def test_stages_that_are_no_list_are_named():
    with pytest.raises(InputError, match=r"stages is a ndarray of shape \(32, 5\): give a list"):
        through_layers(X, Y)
    with pytest.raises(InputError, match="stages is a NoneType"):
        through_layers(None, Y)
