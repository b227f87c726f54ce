"""NC5 and NECO of `measure(ood=...)`: against scikit-learn by the authors' steps, at collapse, with bad input."""

import json

import numpy as np
import pytest
from oracles_collapse import clusters, means_and_variances
from oracles_directions import cosine
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from ncjax.collapse import measure, measure_stream
from ncjax.errors import InputError

pytestmark = pytest.mark.cheap_compilation


def neco(x, ood, components):
    """The steps of the authors' code for convolutional networks."""
    scaler = StandardScaler().fit(x)
    inside, outside = scaler.transform(x), scaler.transform(ood)
    pca = PCA().fit(inside)
    return [
        np.linalg.norm(pca.transform(z)[:, :components], axis=1) / np.linalg.norm(z, axis=1) for z in (inside, outside)
    ]


@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize(("k", "n", "d"), [(6, 50, 120), (4, 15, 100)])
def test_nc5_and_neco_are_those_of_scikit_learn(k, n, d, offset):
    """The second size has fewer samples than dimensions."""
    x, y, _, _ = clusters(k, n, d, offset=offset)
    ood = (2 * np.random.default_rng(1).normal(size=(77, d)) + offset).astype(np.float32)
    found = measure(x, y, ood=ood).ood
    wide, far = x.astype(np.float64), ood.astype(np.float64)
    means, _ = means_and_variances(x, y)
    assert found.nc5 == pytest.approx(np.mean([abs(cosine(m, far.mean(0))) for m in means]), rel=1e-9)
    inside, outside = neco(wide, far, k - 1)
    np.testing.assert_allclose(found.neco_scores, inside, rtol=1e-6)
    np.testing.assert_allclose(found.neco_scores_ood, outside, rtol=1e-6)
    assert (found.neco, found.neco_ood) == pytest.approx((inside.mean(), outside.mean()), rel=1e-6)
    expected = roc_auc_score(np.repeat([1, 0], [len(x), 77]), np.concatenate([inside, outside]))
    assert found.neco_auroc == pytest.approx(expected, abs=1e-9)
    assert (found.components, found.samples, found.reasons) == (k - 1, 77, {})


def test_at_collapse_neco_is_1_and_orthogonal_samples_have_nc5_0():
    y = np.arange(60) % 4
    frame = np.linalg.qr(np.random.default_rng(0).normal(size=(12, 5)))[0].T
    x = 3 * frame[y]
    elsewhere = frame[4] + np.zeros((9, 12))
    found = measure(x, y, ood=elsewhere).ood
    assert found.nc5 == pytest.approx(0, abs=1e-7)
    np.testing.assert_allclose(found.neco_scores, 1, rtol=1e-6)
    assert found.neco_ood < 0.9
    assert found.neco_auroc == 1
    assert measure(x, y, ood=x).ood.neco_auroc == pytest.approx(0.5)


def test_columns_that_never_vary_are_not_divided():
    """Units that are off on the samples and on elsewhere: the standard scaler leaves them as they are."""
    x, y, _, _ = clusters(4, 15, 10)
    x[:, 3] = 0.1
    ood = np.random.default_rng(0).normal(size=(8, 10)).astype(np.float32)
    found = measure(x, y, ood=ood).ood
    np.testing.assert_allclose(
        found.neco_scores_ood, neco(x.astype(np.float64), ood.astype(np.float64), 3)[1], rtol=1e-6
    )


def test_what_cannot_be_computed_is_none_and_says_why():
    x, y, _, _ = clusters(9, 20, 4)
    found = measure(x, y, ood=x).ood
    assert found.neco is found.neco_auroc is found.neco_scores is None
    assert "8 principal components of 4 dimensions" in found.reasons["neco"]
    assert found.nc5 is not None
    zero = measure(x, y, ood=np.zeros((3, 4))).ood
    assert zero.nc5 is None
    assert "it has no direction" in zero.reasons["nc5"]
    equal = measure(np.ones((6, 4)), np.arange(6) % 3, ood=np.ones((2, 4))).ood
    assert equal.nc5 == pytest.approx(1)
    assert "all features are equal" in equal.reasons["neco"]
    x, y, _, _ = clusters(3, 20, 8)
    middle = measure(x, y, ood=x.astype(np.float64).mean(0, keepdims=True))
    assert middle.ood.nc5 is not None
    streamed = measure_stream([(x, y)], ood=x[:5]).ood
    assert streamed.nc5 == pytest.approx(measure(x, y, ood=x[:5]).ood.nc5, rel=1e-6)
    assert "takes measure" in streamed.reasons["neco"]


def test_json_has_the_means_and_no_scores_of_samples():
    x, y, _, _ = clusters(3, 20, 8)
    collapse = measure(x, y, ood=x[:5])
    plain = json.loads(collapse.to_json())["ood"]
    assert plain["neco"] == collapse.ood.neco
    assert "neco_scores" not in plain
    assert len(json.loads(collapse.to_json(pairs=True))["ood"]["neco_scores"]) == 60
    assert "NC5" in collapse.table(all_measures=True)
    assert "NC5" not in str(collapse)


@pytest.mark.parametrize(
    ("ood", "words"),
    [
        (np.zeros((5, 7)), "ood has 7 dimensions, and features 8"),
        (np.zeros((0, 8)), "ood has no samples"),
        (np.full((5, 8), np.nan), "not finite"),
        (np.zeros(8), "shape"),
    ],
)
def test_mistakes_are_one_line(ood, words):
    x, y, _, _ = clusters(3, 20, 8)
    for function in (lambda: measure(x, y, ood=ood), lambda: measure_stream([(x, y)], ood=ood)):
        with pytest.raises(InputError, match=words) as raised:
            function()
        assert "\n" not in str(raised.value)
