"""Float64 NumPy oracles of the episode heads and intervals, written for clearness alone."""

import numpy as np


def fit_logistic(
    x: np.ndarray, y: np.ndarray, ways: int, C: float, tolerance: float = 1e-10
) -> tuple[np.ndarray, np.ndarray]:
    """Minimises C Σ CE + ½‖w‖² by damped Newton steps on the whole Hessian, in the span of the support.

    Returns weights [W,d] and intercepts [W] that sum to zero. With two ways C is halved, which makes it the binary
    loss with one row of coefficients w_1 - w_0.
    """
    x = np.asarray(x, np.float64)
    C = C / 2 if ways == 2 else C
    _, s, vt = np.linalg.svd(x - x.mean(0), full_matrices=False)
    vt = vt[s > 1e-13 * max(s[0], 1e-300)]
    z = np.concatenate([(x - x.mean(0)) @ vt.T, np.ones((len(x), 1))], axis=1)
    width = z.shape[1]
    penalty = np.append(np.ones(width - 1), 0.0)
    onehot = np.eye(ways)[y]

    def loss_and_p(theta: np.ndarray) -> tuple[float, np.ndarray]:
        scores = z @ theta.T
        top = scores.max(axis=1, keepdims=True)
        logp = scores - top - np.log(np.exp(scores - top).sum(axis=1, keepdims=True))
        return -C * np.sum(onehot * logp) + 0.5 * np.sum(penalty * theta**2), np.exp(logp)

    theta = np.zeros((ways, width))
    value, p = loss_and_p(theta)
    for _ in range(200):
        gradient = C * (p - onehot).T @ z + penalty * theta
        if np.abs(gradient).max() == 0:
            break
        hessian = np.zeros((ways, width, ways, width))
        for a in range(ways):
            for b in range(ways):
                h = p[:, a] * ((a == b) - p[:, b])
                hessian[a, :, b, :] = C * (z * h[:, None]).T @ z
            hessian[a, :, a, :] += np.diag(penalty)
        # The same number added to every intercept changes nothing: this keeps their sum at zero.
        hessian[:, -1, :, -1] += C
        step = np.linalg.solve(hessian.reshape(ways * width, ways * width), gradient.ravel()).reshape(ways, width)
        length = 1.0
        while length > 1e-10:
            new_value, new_p = loss_and_p(theta - length * step)
            if new_value <= value - 1e-4 * length * np.sum(gradient * step) + 1e-14 * abs(value):
                break
            length /= 2
        theta, value, p = theta - length * step, new_value, new_p
        if np.abs(step).max() <= tolerance * np.abs(theta).max():
            break
    weights = theta[:, :-1] @ vt
    bias = theta[:, -1] - weights @ x.mean(0)
    return weights, bias - bias.mean()


def ncc_scores(support: np.ndarray, labels: np.ndarray, query: np.ndarray, ways: int) -> np.ndarray:
    """Minus the squared distance [M,W] to the mean of each class."""
    support, query = np.asarray(support, np.float64), np.asarray(query, np.float64)
    means = np.stack([support[labels == w].mean(axis=0) for w in range(ways)])
    return -((query[:, None] - means) ** 2).sum(axis=-1)


def cosine_scores(support: np.ndarray, labels: np.ndarray, query: np.ndarray, ways: int) -> np.ndarray:
    """The cosine [M,W] with the mean of each class."""
    support, query = np.asarray(support, np.float64), np.asarray(query, np.float64)
    means = np.stack([support[labels == w].mean(axis=0) for w in range(ways)])
    norms = np.linalg.norm(query, axis=1)[:, None] * np.linalg.norm(means, axis=1)
    return query @ means.T / np.where(norms > 0, norms, np.inf)


def jackknife_half_width(per_episode: np.ndarray, classes: np.ndarray, k: int, t: float) -> float:
    """Delete-one-class jackknife, one replicate at a time."""
    replicates = np.array([per_episode[~(classes == c).any(axis=1)].mean() for c in range(k)])
    return t * np.sqrt((k - 1) / k * ((replicates - replicates.mean()) ** 2).sum())
