"""`measure` and `cdnv` against the float64 oracles, at collapse too, and on bad input."""

import jax.numpy as jnp
import numpy as np
import oracles_collapse as oracles
import pytest

from ncjax.collapse import cdnv, measure

# NC2 and NC3 tend to 0 at collapse, where a relative error has no meaning.
TENDS_TO_ZERO = {"nc2_equinorm", "nc2_equiangular", "nc3"}
COUNTED = {"nc1_rank", "ncc_accuracy", "nc4"}


def clusters(k=12, n=40, d=48, *, sd=1.0, offset=0.0, seed=0, unbalanced=False):
    """Features around class means in general position, shuffled labels, and a head."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(5, 2 * n, k) if unbalanced else np.full(k, n)
    labels = rng.permutation(np.repeat(np.arange(k), counts))
    features = rng.normal(size=(k, d))[labels] + offset + sd * rng.normal(size=(len(labels), d))
    return features.astype(np.float32), labels, rng.normal(size=(k, d)).astype(np.float32), rng.normal(size=k)


def assert_matches(collapse, expected, rtol=1e-5):
    for name, value in expected.items():
        got = getattr(collapse, name)
        if name in COUNTED:
            assert got == value, name
        elif name in TENDS_TO_ZERO:
            assert abs(got - value) <= max(1e-6, 1e-3 * abs(value)), name
        else:
            assert got == pytest.approx(value, rel=rtol), name


@pytest.mark.parametrize("offset", [0.0, 10.0, 100.0])
@pytest.mark.parametrize("sd", [1.0, 1e-3])
def test_measure_is_the_oracle_to_float32_rounding(sd, offset):
    x, y, w, b = clusters(sd=sd, offset=offset, unbalanced=True)
    collapse = measure(x, y, weights=w, bias=b)
    assert_matches(collapse, oracles.all_metrics(x, y, w, b))
    np.testing.assert_allclose(collapse.cdnv_pairs, oracles.pairs(x, y), rtol=1e-5)
    np.testing.assert_allclose(collapse.directional_cdnv_pairs, oracles.directional_pairs(x, y), rtol=1e-5)
    assert float(cdnv(jnp.asarray(x), jnp.asarray(y, jnp.int32), 12)) == pytest.approx(
        collapse.cdnv, rel=1e-6
    )


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_features_give_the_value_of_those_features(dtype):
    x, y, w, b = clusters(offset=10.0)
    rounded = jnp.asarray(x).astype(dtype)
    assert_matches(measure(rounded, y, weights=w, bias=b), oracles.all_metrics(np.asarray(rounded), y, w, b))
