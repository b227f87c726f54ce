"""VCI, H-score, RankMe and α-ReQ of `measure`: oracles in float64, at collapse, at offsets, with few samples."""

import numpy as np
import oracles_directions as oracles
import pytest
from oracles_collapse import clusters

from ncjax.collapse import measure, transferability

pytestmark = pytest.mark.cheap_compilation


def spectra(x, y):
    return measure(x, y, all_measures=True).spectra


@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize(("k", "n", "d"), [(6, 50, 120), (9, 20, 4)])
def test_spectra_are_the_oracle(k, n, d, offset):
    x, y, _, _ = clusters(k, n, d, offset=offset, unbalanced=True)
    found = spectra(x, y)
    expected = oracles.vci_and_h_score(x, y)
    np.testing.assert_allclose([found.vci, found.h_score], expected, rtol=1e-6)
    assert found.rankme == pytest.approx(oracles.rankme(x), rel=1e-6)
    assert found.covariance_rank == d
    if d >= 100:
        assert found.alpha_req == pytest.approx(oracles.alpha_req(x), rel=1e-6)
    else:
        assert found.alpha_req is None
        assert found.reasons == {"alpha_req": "the features span 4 directions: it fits the eigenvalues 11 to 100"}


def test_alpha_of_a_power_law_is_its_exponent():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(600, 150)))[0]
    basis -= basis.mean(0)
    basis = np.linalg.qr(basis)[0]  # orthonormal columns of mean 0
    x = 30 * basis * np.arange(1, 151) ** -0.65
    assert spectra(x, np.arange(600) % 3).alpha_req == pytest.approx(1.3, rel=1e-5)


@pytest.mark.parametrize("offset", [0.0, 2.0])
def test_collapse_itself_has_vci_0(offset):
    means = np.random.default_rng(1).normal(size=(5, 80)).astype(np.float32) + offset
    y = np.arange(200) % 5
    found = spectra(means[y], y)
    assert found.covariance_rank == 4
    assert found.vci == pytest.approx(0, abs=1e-9)
    assert found.h_score == pytest.approx(4)
    assert found.rankme == pytest.approx(oracles.rankme(means[y]), rel=1e-6)
    tight = means[y] + 1e-4 * np.random.default_rng(2).normal(size=(200, 80))
    assert spectra(tight, y).vci == pytest.approx(oracles.vci_and_h_score(tight.astype(np.float32), y)[0], rel=1e-3)


def test_rankme_of_few_directions_counts_no_rounding():
    """The 236 directions that a Gram matrix in float32 has from rounding alone would add half a percent."""
    rng = np.random.default_rng(0)
    x = (rng.integers(-8, 9, (2000, 20)) @ rng.integers(-8, 9, (20, 256))).astype(np.float32)  # exact in float32
    assert np.linalg.matrix_rank(x.astype(np.float64)) == 20
    found = spectra(x, np.arange(2000) % 4)
    assert found.rankme == pytest.approx(oracles.rankme(x), rel=1e-9)
    assert found.covariance_rank == 20
    gram = np.linalg.eigvalsh(x.T @ x)
    p = np.sqrt(np.abs(gram)) / np.sqrt(np.abs(gram)).sum() + 1e-7
    assert np.exp(-np.sum(p * np.log(p))) > 1.004 * found.rankme


def test_few_samples_have_no_vci_and_it_is_said():
    """60 samples in 100 dimensions span 59 directions: whatever the labels, VCI would be 0."""
    x, y, _, _ = clusters(4, 15, 100)
    found = spectra(x, y)
    assert found.vci is found.h_score is None
    assert "60 samples span 59 directions" in found.reasons["vci"]
    assert found.rankme == pytest.approx(oracles.rankme(x), rel=1e-6)
    constant = spectra(np.full_like(x, 0.1), y)
    assert constant.vci is None
    assert constant.reasons["h_score"] == "all features are equal"
    assert constant.rankme == pytest.approx(1, abs=1e-3)
    assert spectra(np.zeros_like(x), y).reasons["rankme"] == "all features are 0"


def test_they_are_the_numbers_of_transferability():
    x, y, _, _ = clusters(6, 50, 120)
    found, scores = spectra(x, y), transferability(x, y)
    for name in ("vci", "h_score", "rankme"):
        assert getattr(found, name) == pytest.approx(getattr(scores, name), rel=1e-9), name
