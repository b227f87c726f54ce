"""Float64 NumPy oracles of the measures of directions, spectra and samples from elsewhere: definitions, as loops."""

import numpy as np
from oracles_collapse import by_class, directional_pairs, means_and_variances, pairs
from scipy.optimize import minimize


def centred_means(features, labels):
    means, _ = means_and_variances(features, labels)
    return means - means.mean(0)


def cosine(a, b):
    return a @ b / np.sqrt(a @ a) / np.sqrt(b @ b)


def etf_error(a, b):
    """Entry by entry: the simplex has 1 on the diagonal and −1/(k − 1) elsewhere, before its norm k/√(k − 1)."""
    k = len(a)
    product = np.array([[x @ y for y in b] for x in a])
    simplex = np.full((k, k), -1.0 / (k - 1))
    np.fill_diagonal(simplex, 1.0)
    return np.sqrt(np.sum((product / np.sqrt(np.sum(product**2)) - simplex / np.sqrt(np.sum(simplex**2))) ** 2))


def log_inverse_distances(means):
    k = len(means)
    unit = [m / np.sqrt(m @ m) for m in means]
    with np.errstate(divide="ignore"):
        return np.array([-np.log(np.sqrt(np.sum((unit[i] - unit[j]) ** 2))) for i in range(k) for j in range(i + 1, k)])


def distance_to_hull(point, others):
    """By a general solver for convex programs, from the centre of the hull."""
    n = len(others)

    def square(a):
        return np.sum((a @ others - point) ** 2)

    def gradient(a):
        return 2 * others @ (a @ others - point)

    found = minimize(
        square,
        np.full(n, 1 / n),
        jac=gradient,
        bounds=[(0, 1)] * n,
        constraints={"type": "eq", "fun": lambda a: a.sum() - 1, "jac": lambda a: np.ones(n)},
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 1000},
    )
    return np.sqrt(found.fun)


def one_vs_rest(means):
    unit = means / np.linalg.norm(means, axis=1, keepdims=True)
    return min(distance_to_hull(unit[c], np.delete(unit, c, axis=0)) for c in range(len(unit)))


def variance_along(features, labels):
    """For each class, the mean over the others of the variance of its samples projected on the axis."""
    means, _ = means_and_variances(features, labels)
    out = []
    for i, x in enumerate(by_class(features, labels)):
        axes = [means[j] - means[i] for j in range(len(means)) if j != i]
        out.append(np.mean([np.var(x @ (axis / np.sqrt(axis @ axis))) for axis in axes]))
    return np.array(out)


def directions(features, labels, weights=None):
    """The measures of etf.py and what goes with CDNV, by their names in `Collapse`."""
    means = centred_means(features, labels)
    values = log_inverse_distances(means)
    debiased = pairs(features, labels, debiased=True)
    v = pairs(features, labels)
    along = variance_along(features, labels)
    out = {
        "nc2_etf_error": etf_error(means, means),
        "mean_cosines": np.array([[cosine(a, b) for b in means] for a in means]),
        "gnc2_mean": values.mean(),
        "gnc2_std": values.std(),
        "debiased_cdnv_median": np.median(debiased[np.triu_indices(len(debiased), 1)]),
        "cdnv_by_class": np.array([np.mean(np.delete(v[c], c)) for c in range(len(v))]),
        "variance_along": along,
        "variance_across": means_and_variances(features, labels)[1] - along,
    }
    assert np.all(directional_pairs(features, labels)[~np.eye(len(v), dtype=bool)] >= 0)
    if weights is not None:
        w = np.asarray(weights, np.float64)
        duals = np.array([cosine(a, b) for a, b in zip(w, means, strict=True)])
        out |= {
            "nc2_etf_error_head": etf_error(w, w),
            "nc3_etf_error": etf_error(w, means),
            "unc3": duals.std(),
            "self_duality": np.mean(1 - duals),
        }
    return out


def vci_and_h_score(features, labels):
    """By the share of the centred one-hot labels that least squares on the features leaves unexplained."""
    x = np.asarray(features).astype(np.float64)
    codes = np.unique(labels, return_inverse=True)[1]
    k = codes.max() + 1
    span = np.linalg.svd(x - x.mean(0), full_matrices=False)[0]
    target = np.linalg.qr((codes[:, None] == np.arange(k - 1)) - np.mean(codes[:, None] == np.arange(k - 1), axis=0))[0]
    left = np.sum((target - span @ (span.T @ target)) ** 2)
    score = k - 1 - left
    return 1 - score / min(x.shape[1], k - 1) if x.shape[1] < k - 1 else left / (k - 1), score


def rankme(features):
    singular = np.linalg.svd(np.asarray(features).astype(np.float64), compute_uv=False)
    p = singular / singular.sum() + 1e-7
    return np.exp(-np.sum(p * np.log(p)))


def alpha_req(features):
    """By NumPy's weighted polynomial fit, whose weights multiply the residual before it is squared."""
    x = np.asarray(features).astype(np.float64)
    values = np.linalg.svd(x - x.mean(0), compute_uv=False) ** 2
    rank = np.arange(11, 101)
    return -np.polyfit(np.log(rank), np.log(values[10:100]), 1, w=rank**-0.5)[0]
