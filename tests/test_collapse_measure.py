"""`measure` and `cdnv` against the float64 oracles, at collapse too, and on bad input."""

import jax.numpy as jnp
import numpy as np
import oracles_collapse as oracles
import pytest
from oracles_collapse import assert_matches, clusters

from ncjax.collapse import cdnv, measure


@pytest.mark.parametrize("offset", [0.0, 10.0, 100.0])
@pytest.mark.parametrize("sd", [1.0, 1e-3])
def test_measure_is_the_oracle_to_float32_rounding(sd, offset):
    x, y, w, b = clusters(sd=sd, offset=offset, unbalanced=True)
    collapse = measure(x, y, weights=w, bias=b)
    assert_matches(collapse, oracles.all_metrics(x, y, w, b))
    np.testing.assert_allclose(collapse.cdnv_pairs, oracles.pairs(x, y), rtol=1e-5)
    np.testing.assert_allclose(collapse.directional_cdnv_pairs, oracles.directional_pairs(x, y), rtol=1e-5)
    assert float(cdnv(jnp.asarray(x), jnp.asarray(y, jnp.int32), 12)) == pytest.approx(collapse.cdnv, rel=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_features_give_the_value_of_those_features(dtype):
    x, y, w, b = clusters(offset=10.0)
    rounded = jnp.asarray(x).astype(dtype)
    assert_matches(measure(rounded, y, weights=w, bias=b), oracles.all_metrics(np.asarray(rounded), y, w, b))
