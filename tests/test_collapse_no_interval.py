"""Where no interval of a measure is given, and the reason that is said."""

import numpy as np
import pytest
from oracles_collapse import clusters

from ncjax.collapse import intervals
from ncjax.errors import InputError

pytestmark = pytest.mark.cheap_compilation


@pytest.mark.slow
@pytest.mark.parametrize(("k", "d", "resolved"), [(20, 19, False), (10, 16, True), (20, 16, False)])
def test_nc1_has_no_interval_where_the_class_means_are_not_resolved(k, d, resolved):
    """With about as many classes as dimensions the means hardly spread in some direction; there it covered little."""
    means = np.random.default_rng(7).normal(size=(k, d)) * 0.5
    y = np.repeat(np.arange(k), 100)
    x = (means[y] + np.random.default_rng(0).normal(size=(len(y), d))).astype(np.float32)
    class_means = np.stack([x[y == c].mean(0, dtype=np.float64) for c in range(k)])
    values, directions = np.linalg.eigh(np.cov(class_means.T, bias=True))
    used = slice(-min(k - 1, d), None)
    within = (((x - class_means[y]) @ directions[:, used]) ** 2).mean(0)
    assert (np.max(within / values[used]) / 100 <= 2 / 3) == resolved
    found = intervals(x, y)
    assert (found.nc1 is not None) == resolved
    assert resolved or "little more than the noise of the samples" in found.reasons["nc1"]


def test_infinite_metrics_have_no_interval_and_say_why():
    x, y, _, _ = clusters(4, 6, 5)
    x[y == 2] = x[y == 1]
    got = intervals(x, y, over="classes")
    assert got.cdnv is None
    assert "infinite" in got.reasons["cdnv"]
    alone = intervals(*clusters(4, 6, 5, sd=1e-3)[:2], over="classes")
    assert "is the same" in alone.reasons["ncc_accuracy"]
    assert got.nc1_quotient is not None
    assert "needs a head" in got.reasons["nc4"]
    one = np.eye(5, dtype=np.float32)[np.arange(24) % 4]
    one[5] += 0.1  # without this sample, collapse is complete
    point = intervals(one, np.arange(24) % 4)
    assert point.cdnv is None
    assert "has no logarithm" in point.reasons["cdnv"]


def test_bad_input_is_named():
    x, y, _, _ = clusters(4, 6, 5)
    for kwargs, message in [
        ({"over": "pairs"}, "give 'samples' or 'classes'"),
        ({"confidence": 95}, "between 0 and 1"),
    ]:
        with pytest.raises(InputError, match=message):
            intervals(x, y, **kwargs)
    with pytest.raises(InputError, match="fewer than 4 samples of class 0, 1"):
        intervals(x[:9], np.arange(9) // 3 % 3)
    with pytest.raises(InputError, match="2 classes: an interval over classes needs 3"):
        intervals(x, y % 2, over="classes")
    x[3] = np.nan
    with pytest.raises(InputError, match="not finite"):
        intervals(x, y)


def test_no_interval_where_samples_are_too_few_and_why():
    rng = np.random.default_rng(0)
    found = intervals(rng.normal(size=(24, 5)).astype(np.float32), np.arange(24) % 4)
    for name in ("cdnv", "debiased_cdnv", "directional_cdnv", "nc1", "nc2_equinorm", "nc2_equiangular"):
        assert getattr(found, name) is None, name
        assert found.reasons[name].startswith("no interval: "), name
    assert "too few to tell the distance" in found.reasons["cdnv"]


@pytest.mark.slow
def test_two_class_means_are_a_simplex_whatever_they_are():
    """NC2 of two classes is 0, so that it has no interval: nor over classes where two of three are left."""
    x, y, _, _ = clusters(3, 8, 5, sd=0.3)
    found = intervals(x, y, over="classes")
    assert found.nc2_equiangular is None
    assert found.nc2_equinorm is None
    assert "with one of three classes left out, two class means are equally far" in found.reasons["nc2_equiangular"]
    assert found.cdnv is not None
    over_samples = intervals(x, y)
    assert over_samples.nc2_equiangular is not None
    two = intervals(x[y < 2], y[y < 2])
    assert two.nc2_equinorm is None
    assert two.nc2_equiangular is None
    assert two.cdnv.low < two.cdnv.estimate < two.cdnv.high
