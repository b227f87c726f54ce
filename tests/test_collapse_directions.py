"""ETF errors, GNC2, UNC3, self-duality, one-vs-rest distances, the split of variance: against the oracles."""

import numpy as np
import oracles_collapse
import oracles_directions as oracles
import pytest
from oracles_collapse import clusters

from ncjax.collapse import measure, measure_stream, one_vs_rest_distances
from ncjax.errors import InputError


def assert_directions(collapse, x, y, w=None):
    for name, expected in oracles.directions(x, y, w).items():
        tolerance = 2e-6 if "variance" not in name and "cdnv" not in name else 0.0
        np.testing.assert_allclose(getattr(collapse, name), expected, rtol=2e-5, atol=tolerance, err_msg=name)


# k < d, more classes than dimensions, one dimension, two classes
@pytest.mark.parametrize(("k", "n", "d", "offset"), [(12, 40, 48, 0.0), (12, 40, 48, 1e3), (9, 20, 4, 0.0)])
def test_measures_of_directions_are_the_oracle(k, n, d, offset):
    x, y, w, b = clusters(k, n, d, offset=offset, unbalanced=True)
    collapse = measure(x, y, weights=w, bias=b, all_measures=True)
    assert_directions(collapse, x, y, w)
    expected = oracles_collapse.left_out_accuracies(x, y, w, b)["ncc_accuracy/left_out"]
    assert collapse.ncc_accuracy_left_out == pytest.approx(expected)
    assert collapse.one_vs_rest_distance == pytest.approx(oracles.one_vs_rest(oracles.centred_means(x, y)), abs=2e-6)
    assert collapse.one_vs_rest_distance_head == pytest.approx(oracles.one_vs_rest(w.astype(np.float64)), abs=2e-6)
    assert collapse.reasons == {}


def test_an_offset_of_ten_thousand_costs_what_float32_rounds_off_the_features_alone():
    x, y, w, _ = clusters(12, 40, 48, offset=1e4, unbalanced=True)
    assert_directions(measure(x, y, weights=w), x, y, w)


def test_two_classes_are_opposite():
    x, y, w, _ = clusters(2, 20, 6)
    collapse = measure(x, y, weights=w, all_measures=True)
    assert_directions(collapse, x, y, w)
    np.testing.assert_allclose(collapse.mean_cosines, [[1, -1], [-1, 1]], atol=1e-6)
    assert collapse.nc2_etf_error == pytest.approx(0, abs=1e-6)
    assert collapse.gnc2_mean == pytest.approx(-np.log(2))
    assert collapse.one_vs_rest_distance == pytest.approx(2)


def test_in_one_dimension_directions_coincide():
    x, y, w, _ = clusters(3, 20, 1)
    collapse = measure(x, y, weights=w, all_measures=True)
    assert collapse.gnc2_mean == np.inf
    assert np.isnan(collapse.gnc2_std)
    assert "one direction" in collapse.reasons["gnc2_std"]
    assert collapse.one_vs_rest_distance == pytest.approx(0, abs=1e-7)
    means, head = oracles.centred_means(x, y), w.astype(np.float64)
    assert collapse.nc2_etf_error == pytest.approx(oracles.etf_error(means, means), rel=1e-5)
    np.testing.assert_allclose(collapse.variance_across, 0.0, atol=1e-5)
    assert collapse.self_duality == pytest.approx(np.mean(1 - np.sign(means * head)), abs=1e-6)


def test_collapse_itself_is_exact():
    k, d = 7, 16
    frame = np.linalg.qr(np.random.default_rng(0).normal(size=(d, k)))[0].T  # orthonormal rows
    simplex = 3.0 * (frame - frame.mean(0))
    labels = np.arange(5 * k) % k
    for offset in (0.0, 2.0, 1e4):
        collapse = measure(simplex[labels].astype(np.float32) + np.float32(offset), labels, weights=simplex)
        near = 1e-6 if offset < 1e4 else 2e-3  # float32 rounds features at 1e4 to 1e-3
        for name in ("nc2_etf_error", "nc2_etf_error_head", "nc3_etf_error", "gnc2_std", "unc3", "self_duality"):
            assert 0 <= getattr(collapse, name) < near, name
        assert collapse.gnc2_mean == pytest.approx(-0.5 * np.log(2 * k / (k - 1)), abs=near)
        np.testing.assert_array_equal(collapse.cdnv_by_class, 0.0)
        np.testing.assert_array_equal(collapse.variance_along, 0.0)
        np.testing.assert_array_equal(collapse.variance_across, 0.0)
        assert collapse.ncc_accuracy_left_out == 1
        assert collapse.debiased_cdnv_median == 0
    np.testing.assert_allclose(one_vs_rest_distances(simplex), k / (k - 1), rtol=1e-12)


def test_a_mean_without_a_direction_is_named():
    """The mean of class 80 is that of the class means: its direction would be rounding noise."""
    rng = np.random.default_rng(0)
    means = np.array([[1.0, 0, 0], [-1, 0, 0], [0, 0, 0]])
    noise = rng.normal(size=(10, 3))
    x = np.concatenate([means[c] + s * noise for c in range(3) for s in (1, -1)]) + 7.0
    y = np.repeat([78, 79, 80], 20)
    collapse = measure(x, y, all_measures=True)
    for name in ("gnc2_mean", "gnc2_std"):
        assert np.isnan(getattr(collapse, name))
        assert "class 80 is the mean of the class means" in collapse.reasons[name]
    assert collapse.one_vs_rest_distance is None
    assert np.isnan(collapse.mean_cosines[2]).all()
    assert collapse.mean_cosines[0, 1] == pytest.approx(-1)
    assert "no gnc2_mean: the mean of class 80" in collapse.table(all_measures=True)
    assert not {"unc3", "self_duality"} & set(collapse.reasons)  # without a head they are not missing
    equal = measure(np.ones((6, 3)), np.arange(6) % 3, weights=np.zeros((3, 3)))
    for name in ("nc2_etf_error", "nc2_etf_error_head", "nc3_etf_error", "gnc2_mean", "unc3", "self_duality"):
        assert np.isnan(getattr(equal, name)), name
        assert name in equal.reasons, name
    assert np.isnan(equal.variance_along).all()


def test_absent_classes_and_labels_of_any_kind():
    x, y, w, _ = clusters(6, 20, 10)
    head = np.zeros((9, 10), np.float32)
    head[1:7] = w
    collapse = measure(x, y + 1, num_classes=9, weights=head, all_measures=True)
    assert_directions(collapse, x, y, w)
    np.testing.assert_array_equal(collapse.classes, np.arange(1, 7))
    assert collapse.one_vs_rest_distance_head == pytest.approx(oracles.one_vs_rest(w.astype(np.float64)), abs=1e-6)


def test_one_vs_rest_distance_is_that_to_the_polygon():
    """Of points on a circle the nearest point of the others' hull lies on the chord of the two neighbours."""
    angles = 2 * np.pi * np.arange(9) / 9
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    expected = 1 - np.cos(2 * np.pi / 9)
    np.testing.assert_allclose(one_vs_rest_distances(5 * points), expected, rtol=1e-9)
    inside = one_vs_rest_distances([[1.0, 0, 0.01], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [1, 0, 0]])
    assert inside[0] == pytest.approx(0.01, rel=1e-3)
    for bad, words in [([[1.0, 2]], "two classes or more"), ([[0.0, 0], [1, 0]], "a row that is 0")]:
        with pytest.raises(InputError, match=words):
            one_vs_rest_distances(bad)


def test_a_stream_has_them_too():
    x, y, w, b = clusters(9, 50, 24, offset=100.0, sd=0.1, unbalanced=True)
    batches = [(x[:100], y[:100]), (x[100:], y[100:])]
    streamed = measure_stream(batches, weights=w, bias=b, all_measures=True)
    assert_directions(streamed, x, y, w)
    whole = measure(x, y, weights=w, bias=b, all_measures=True)
    assert streamed.ncc_accuracy_left_out == whole.ncc_accuracy_left_out
    assert streamed.one_vs_rest_distance == pytest.approx(whole.one_vs_rest_distance, abs=1e-6)
    for name in ("vci", "h_score", "rankme"):
        assert getattr(streamed.spectra, name) == pytest.approx(getattr(whole.spectra, name), rel=1e-6), name
    once = measure_stream(iter(batches), weights=w, all_measures=True)
    assert once.variance_along is once.ncc_accuracy_left_out is once.spectra is None
    assert once.gnc2_mean == pytest.approx(whole.gnc2_mean, rel=1e-5)
    assert "spectra" in once.missing
