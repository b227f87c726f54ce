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
        if np.abs(gradient).max() <= tolerance * max(1.0, np.abs(theta).max()):
            break
        hessian = np.zeros((ways, width, ways, width))
        for a in range(ways):
            for b in range(ways):
                h = p[:, a] * ((a == b) - p[:, b])
                hessian[a, :, b, :] = C * (z * h[:, None]).T @ z
            hessian[a, :, a, :] += np.diag(penalty)
        flat = hessian.reshape(ways * width, ways * width)
        step = np.linalg.lstsq(flat, gradient.ravel(), rcond=1e-15)[0].reshape(ways, width)
        length = 1.0
        while length > 1e-10:
            new_value, new_p = loss_and_p(theta - length * step)
            if new_value <= value - 1e-4 * length * np.sum(gradient * step) + 1e-14 * abs(value):
                break
            length /= 2
        theta, value, p = theta - length * step, new_value, new_p
    weights = theta[:, :-1] @ vt
    bias = theta[:, -1] - weights @ x.mean(0)
    return weights, bias - bias.mean()
