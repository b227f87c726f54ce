"""Collapse through the layers of a network."""

import numpy as np
import pytest
from oracles_collapse import clusters

from ncjax.collapse import measure, through_layers
from ncjax.errors import InputError

pytestmark = pytest.mark.cheap_compilation


def test_collapse_through_layers_finds_the_depth():
    stages = [clusters(5, 30, d, sd=sd)[0] for d, sd in ((3, 2.0), (16, 0.8), (24, 0.05), (24, 0.01))]
    y = clusters(5, 30, 3)[1]
    layers = through_layers(stages, y, tolerance=0.02)
    assert layers.ncc_accuracy[0] < 0.98 <= layers.ncc_accuracy[1]
    assert layers.effective_depth == 2
    np.testing.assert_allclose(layers.cdnv, [measure(x, y).cdnv for x in stages], rtol=1e-6)
    assert (np.diff(layers.cdnv) < 0).all()
    assert "effective depth: stage" in str(layers)
    assert through_layers(stages[:1], y).effective_depth is None
    assert "no stage" in str(through_layers(stages[:1], y))
    with pytest.raises(InputError, match="no stages"):
        through_layers([], y)
