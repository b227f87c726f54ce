"""Float64 NumPy oracles of ncjax.collapse: the definitions, written as loops over classes and pairs.

Every function takes features [n, d] of any dtype and labels [n] with two classes or more, and returns
float64.
"""

import itertools

import numpy as np
import pytest

FLOAT32_EPS = float(np.finfo(np.float32).eps)


def by_class(features, labels):
    """The samples of each class present, in the order of the labels."""
    features = np.asarray(features).astype(np.float64)
    labels = np.asarray(labels)
    return [features[labels == c] for c in np.unique(labels)]


def means_and_variances(features, labels):
    classes = by_class(features, labels)
    means = np.stack([x.mean(0) for x in classes])
    variances = np.array([np.mean(np.sum((x - x.mean(0)) ** 2, axis=1)) for x in classes])
    return means, variances


def left_out_accuracies(features, labels, weights, bias):
    """NCC accuracy, and agreement with the head, each sample left out of the mean of its own class."""
    x = np.asarray(features).astype(np.float64)
    codes = np.unique(labels, return_inverse=True)[1]
    nearest, agree = [], []
    for i, own in enumerate(codes):
        kept = np.arange(len(x)) != i
        means = np.stack([x[kept & (codes == c)].mean(0) for c in range(codes.max() + 1)])
        choice = np.argmin(np.sum((means - x[i]) ** 2, axis=1))
        nearest.append(choice == own)
        agree.append(choice == np.argmax(weights @ x[i] + bias))
    return {"ncc_accuracy/left_out": np.mean(nearest), "nc4/left_out": np.mean(agree)}


def pairs(features, labels, *, debiased=False):
    """V_ij [k, k]; NaN on the diagonal, inf where the distance is not positive."""
    means, variances = means_and_variances(features, labels)
    counts = np.array([len(x) for x in by_class(features, labels)])
    k = len(means)
    v = np.full((k, k), np.nan)
    for i in range(k):
        for j in range(k):
            if i == j:
                continue
            square = np.sum((means[i] - means[j]) ** 2)
            var_i, var_j = variances[i], variances[j]
            if debiased:
                var_i, var_j = var_i * counts[i] / (counts[i] - 1), var_j * counts[j] / (counts[j] - 1)
                square -= var_i / counts[i] + var_j / counts[j]
            v[i, j] = (var_i + var_j) / (2 * square) if square > 0 else np.inf
    return v


def directional_pairs(features, labels):
    """Ṽ_ij = uᵀ Σ_i u / ‖μ_i − μ_j‖² [k, k]; row i is the class whose covariance counts."""
    classes = by_class(features, labels)
    means = [x.mean(0) for x in classes]
    k = len(means)
    v = np.full((k, k), np.nan)
    for i in range(k):
        for j in range(k):
            if i == j:
                continue
            delta = means[j] - means[i]
            distance = np.linalg.norm(delta)
            if distance == 0:
                v[i, j] = np.inf
                continue
            v[i, j] = np.mean(((classes[i] - means[i]) @ (delta / distance)) ** 2) / distance**2
    return v


def mean_of_pairs(v):
    return v[np.triu_indices(len(v), 1)].mean()


def mean_of_ordered_pairs(v):
    return v[~np.eye(len(v), dtype=bool)].mean()


def nc1(features, labels):
    """(tr(Σ_W Σ_B⁺)/k, the rank used), with the threshold of float32."""
    classes = by_class(features, labels)
    means = np.stack([x.mean(0) for x in classes])
    k, d = means.shape
    within = np.mean([(x - x.mean(0)).T @ (x - x.mean(0)) / len(x) for x in classes], axis=0)
    _, s, vt = np.linalg.svd(means - means.mean(0), full_matrices=False)
    threshold = max(k, d) * FLOAT32_EPS * np.linalg.norm(means, axis=1).max()
    keep = (s > threshold) & (np.arange(len(s)) < min(k - 1, d))
    pseudo_inverse = (vt[keep].T / (s[keep] ** 2 / k)) @ vt[keep]
    return np.trace(within @ pseudo_inverse) / k, int(keep.sum())


def nc1_quotient(features, labels):
    means, variances = means_and_variances(features, labels)
    return variances.mean() / np.mean(np.sum((means - means.mean(0)) ** 2, axis=1))


def nc2_equinorm(features, labels):
    means, _ = means_and_variances(features, labels)
    norms = np.linalg.norm(means - means.mean(0), axis=1)
    return norms.std() / norms.mean()


def nc2_equiangular(features, labels):
    means, _ = means_and_variances(features, labels)
    centred = means - means.mean(0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    k = len(means)
    return np.mean(np.abs((unit @ unit.T)[np.triu_indices(k, 1)] + 1 / (k - 1)))


def nc3(features, labels, weights):
    means, _ = means_and_variances(features, labels)
    centred = means - means.mean(0)
    weights = np.asarray(weights, np.float64)
    return np.linalg.norm(weights / np.linalg.norm(weights) - centred / np.linalg.norm(centred))


def nearest_mean(features, labels):
    """The position, among the classes present, of the nearest class mean of every sample [n]."""
    means, _ = means_and_variances(features, labels)
    features = np.asarray(features).astype(np.float64)
    return np.stack([np.sum((features - m) ** 2, axis=1) for m in means], axis=1).argmin(1)


def ncc_accuracy(features, labels):
    return np.mean(nearest_mean(features, labels) == np.unique(labels, return_inverse=True)[1])


def nc4(features, labels, weights, bias):
    scores = np.asarray(features).astype(np.float64) @ np.asarray(weights, np.float64).T + np.asarray(bias, np.float64)
    return np.mean(scores.argmax(1) == nearest_mean(features, labels))


def covariances(features, labels):
    return [(x - x.mean(0)).T @ (x - x.mean(0)) / len(x) for x in by_class(features, labels)]


def covariance_products(features, labels):
    """Unbiased estimates of tr(Σ_i Σ_j): those of one class as the mean over four different samples."""
    classes = by_class(features, labels)
    sigma = [np.cov(x.T) for x in classes]
    out = np.array([[np.trace(a @ b) for b in sigma] for a in sigma])
    for c, x in enumerate(classes):
        fours = np.array(list(itertools.permutations(range(len(x)), 4)))
        first, second = x[fours[:, 0]] - x[fours[:, 1]], x[fours[:, 2]] - x[fours[:, 3]]
        out[c, c] = np.mean(np.sum(first * second, axis=1) ** 2) / 4
    return out


def population(features, labels, products):
    """Estimates of what infinitely many samples would give, and of what few add to them."""
    classes = by_class(features, labels)
    means, k = np.stack([x.mean(0) for x in classes]), len(classes)
    n, sigma = np.array([len(x) for x in classes]), [np.cov(x.T) for x in classes]
    noise = np.array([np.trace(s) for s in sigma]) / n
    centred, centring = means - means.mean(0), np.eye(k) - 1 / k
    gram = centred @ centred.T - centring @ np.diag(noise) @ centring
    norms, within = np.diag(gram), np.mean(sigma, axis=0)
    cdnv, directional, subtracted, distance_noise, quadratic_share = [], [], [], [], []
    for i in range(k):
        for j in range(k):
            if i != j:
                delta = means[i] - means[j]
                distance = delta @ delta - noise[i] - noise[j]
                along = [delta @ sigma[c] @ delta - products[c, i] / n[i] - products[c, j] / n[j] for c in (i, j)]
                cdnv.append((noise[i] * n[i] + noise[j] * n[j]) / (2 * distance))
                directional.append(along[0] / distance**2)
                subtracted.append((products[i, i] / n[i] + products[i, j] / n[j]) / distance**2)
                quadratic = products[i, i] / n[i] ** 2 + products[j, j] / n[j] ** 2 + 2 * products[i, j] / n[i] / n[j]
                variance = 4 * max(along[0] / n[i] + along[1] / n[j], 0) + 2 * quadratic
                distance_noise.append(np.sqrt(variance) / distance)
                quadratic_share.append(2 * quadratic / variance)
    if k - 1 <= len(means[0]):
        of_within = np.diag(products.mean(0) / n)
        inverse = np.linalg.pinv(gram, rcond=1e-10)
        nc1_subtracted = np.trace(centring @ of_within @ centring @ inverse @ inverse)
        nc1 = np.trace(centred @ within @ centred.T @ inverse @ inverse) - nc1_subtracted
    else:
        added = (1 - 1 / k) * sum(s / m for s, m in zip(sigma, n, strict=True))
        nc1, nc1_subtracted = np.trace(within @ np.linalg.inv(centred.T @ centred - added)), 0.0
    return {
        "cdnv": np.mean(cdnv),
        "directional_cdnv": np.mean(directional),
        "nc1": nc1,
        "separation": norms.mean() / np.trace(within),
        "squared_norms": norms,
        "cosines": (gram / np.sqrt(np.outer(norms, norms)))[np.triu_indices(k, 1)],
        "distance_noise": max(distance_noise),
        "quadratic_share": np.mean(quadratic_share),
        "directional_cdnv/noise": np.mean(subtracted) / np.mean(directional),
        "nc1/noise": nc1_subtracted / nc1,
    }


def geometry(means, sigma, fourth):
    """What bounds and prediction take, of known moments: the fields of ClassGeometry by name."""
    k = len(means)
    delta = [[means[i] - means[j] for j in range(k)] for i in range(k)]
    along = [[[delta[i][j] @ sigma[i] @ delta[i][m] for m in range(k)] for j in range(k)] for i in range(k)]
    return {
        "variance": np.array([np.trace(s) for s in sigma]),
        "squared_distance": np.array([[v @ v for v in row] for row in delta]),
        "along": np.array(along),
        "product": np.array([[np.trace(a @ b) for b in sigma] for a in sigma]),
        "fourth": np.array(fourth),
    }


def bounds(means, sigma, fourth, ways, shots):
    """Each bound, summed over ordered pairs as its paper has it, for `ways` of the classes on average."""
    k, d = means.shape
    var = [np.trace(s) for s in sigma]
    ordered = [(i, j) for i in range(k) for j in range(k) if i != j]
    square = {(i, j): np.sum((means[i] - means[j]) ** 2) for i, j in ordered}
    v = np.mean([(var[i] + var[j]) / (2 * square[i, j]) for i, j in ordered])
    one_sided = np.mean([var[i] / square[i, j] for i, j in ordered])
    root = np.mean([np.sqrt(var[i] / square[i, j]) for i, j in ordered])
    along = {(i, j): (means[i] - means[j]) @ sigma[i] @ (means[i] - means[j]) / square[i, j] ** 2 for i, j in ordered}
    a = np.geomspace(5, 1e6, 400_001)
    bracket = 0.5 - 2 / a - 2**1.5 / (a * shots)
    a, bracket = a[bracket > 0], bracket[bracket > 0]
    remainder = (2 / np.sqrt(shots)) * (root + one_sided) + one_sided / shots
    least = np.min(np.mean(list(along.values())) / bracket**2 + a / 4 * remainder)
    terms = {True: [], False: []}
    for i, j in ordered:
        w = (var[i] + var[j]) / square[i, j]
        theta = (fourth[i] + fourth[j]) / square[i, j] ** 2
        e1 = 4 / shots * (w**2 + w / 4)
        e2 = w / shots
        e3 = (theta + 2 * (shots - 1) * w**2) / shots**3
        margin = 1 + (var[j] - var[i]) / (shots * square[i, j])
        for any_shots in terms:
            spread = 3 * (e1 + e2 + e3) if any_shots else (np.sqrt(e1) + np.sqrt(e2) + np.sqrt(e3)) ** 2
            terms[any_shots].append((4 * along[i, j] + spread) / margin**2 if margin > 0 else 1.0)
    return {
        "galanti_2022": 16 * (ways - 1) * (1 + 1 / shots) * v,
        "galanti_2022_spherical": 16 * (ways - 1) * (1 / d + 1 / shots) * v,
        "luthra_2025": (ways - 1) * least,
        "luthra_2026": (ways - 1) * np.mean(terms[False]) if shots >= 10 else np.nan,
        "luthra_2026_any_shots": (ways - 1) * np.mean(terms[True]),
    }


def all_metrics(features, labels, weights=None, bias=None):
    """Every scalar of `Collapse`, by its name."""
    v = pairs(features, labels)
    rank = nc1(features, labels)
    out = {
        "cdnv": mean_of_pairs(v),
        "cdnv_median": np.median(v[np.triu_indices(len(v), 1)]),
        "cdnv_worst": v[np.triu_indices(len(v), 1)].max(),
        "debiased_cdnv": mean_of_pairs(pairs(features, labels, debiased=True)),
        "directional_cdnv": mean_of_ordered_pairs(directional_pairs(features, labels)),
        "nc1": rank[0],
        "nc1_rank": rank[1],
        "nc1_quotient": nc1_quotient(features, labels),
        "nc2_equinorm": nc2_equinorm(features, labels),
        "nc2_equiangular": nc2_equiangular(features, labels),
        "ncc_accuracy": ncc_accuracy(features, labels),
    }
    if weights is not None:
        bias = np.zeros(len(weights)) if bias is None else bias
        out["nc3"] = nc3(features, labels, weights)
        out["nc4"] = nc4(features, labels, weights, bias)
    return out


def clusters(k=12, n=40, d=48, *, sd=1.0, offset=0.0, seed=0, unbalanced=False):
    """Features around class means in general position, shuffled labels, and a head."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(5, 2 * n, k) if unbalanced else np.full(k, n)
    labels = rng.permutation(np.repeat(np.arange(k), counts))
    features = rng.normal(size=(k, d))[labels] + offset + sd * rng.normal(size=(len(labels), d))
    return features.astype(np.float32), labels, rng.normal(size=(k, d)).astype(np.float32), rng.normal(size=k)


# NC2 and NC3 tend to 0 at collapse, where a relative error has no meaning.
TENDS_TO_ZERO = {"nc2_equinorm", "nc2_equiangular", "nc3"}
COUNTED = {"nc1_rank", "ncc_accuracy", "nc4"}


def assert_matches(collapse, expected, rtol=1e-5):
    for name, value in expected.items():
        got = getattr(collapse, name)
        if name in COUNTED:
            assert got == value, name
        elif name in TENDS_TO_ZERO:
            assert abs(got - value) <= max(1e-6, 1e-3 * abs(value)), name
        else:
            assert got == pytest.approx(value, rel=rtol), name
