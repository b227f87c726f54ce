"""Estimates of the metrics that infinitely many samples of these classes would give.

The squared distance of two sample means exceeds that of the true means by the variance of both, and so does every
product of class means. If Var/n is of the size of the squared distances, a plain metric depends more on the number of
samples than on the classes. These estimates subtract that bias, from unbiased variances and unbiased products of
covariances, before they take ratios.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Real

from ncjax.collapse.class_distance_variance import debiased_cdnv_pairs
from ncjax.collapse.moments import HIGHEST, moments_of_batch, segments
from ncjax.collapse.residuals import Frame, mean_along, residual_sums


def covariance_products(
    features: Real[Array, "n d"], position: Int[Array, " n"], group: Int[Array, " n"], num_classes: int, groups: int
) -> Float[Array, "k k"]:
    """Estimates tr(Σ_i Σ_j) without bias, from the means of groups of samples of each class.

    Off the diagonal: the product of two independent unbiased estimates. On it: the estimate of Himeno, Yamada
    ("Estimations for some functions of covariance matrix in high dimension under non-normality", 2014), unbiased for
    every distribution, which needs at least four groups. Costs (k·groups)²·d multiplications.
    """
    counts = (position >= 0) & (position < num_classes)
    cell = jnp.where(counts, position * groups + group, num_classes * groups)
    moments, _ = moments_of_batch(features, cell, num_classes * groups)
    weight = moments.count.astype(jnp.float32).reshape(num_classes, groups, 1)
    share = weight / jnp.sum(weight, axis=1, keepdims=True)
    anchor, offset = (x.reshape(num_classes, groups, -1) for x in (moments.anchor, moments.offset))
    mean = (anchor - anchor[:, :1]) + offset
    # each deviation has the covariance of the class
    deviation = jnp.sqrt(weight) * (mean - jnp.sum(share * mean, axis=1, keepdims=True))

    def of_class(own: Float[Array, "g d"]) -> Float[Array, " k"]:
        return jnp.sum(jnp.matmul(deviation, own.T, precision=HIGHEST) ** 2, axis=(1, 2))

    free = groups - 1.0
    plain = jax.lax.map(of_class, deviation) / free**2
    square = jnp.sum(deviation**2, axis=-1)
    trace, fourth = jnp.sum(square, axis=1) / free, jnp.sum(square**2, axis=1) / free
    own = free * (groups - 2.0) * jnp.diagonal(plain) + trace**2 - groups * fourth
    own *= free / (groups * (groups - 2.0) * (groups - 3.0))
    return jnp.where(jnp.eye(num_classes, dtype=bool), own, plain)


def population_estimates(
    features: Real[Array, "n d"], position: Int[Array, " n"], products: Float[Array, "k k"], num_classes: int
) -> dict[str, Array]:
    """Estimates the metrics from the samples whose position is below `num_classes`, at least two of every class.

    Args:
        features: The samples.
        position: 0..k-1; other rows do not count.
        products: tr(Σ_i Σ_j), see `covariance_products`.
        num_classes: k.

    Returns:
        `cdnv`, `directional_cdnv`, `nc1`; `separation`, tr Σ_B/tr Σ_W, the inverse of `nc1_quotient`, at most 0 if
        noise hides the class means, not finite if the classes have no variance; `squared_norms` ‖μ_c − μ_G‖² [k];
        `cosines` of μ_i − μ_G and μ_j − μ_G for pairs i<j [k(k−1)/2]; `distance_noise`, the largest relative standard
        error of a squared distance of two class means; `quadratic_share`, the mean over pairs of the share of its
        variance that is quadratic in the noise; `nc1_noise`, the largest share of sampling noise in a direction of NC1;
        `directional_cdnv/noise` and `nc1/noise`, what was subtracted from the variance along differences of class means
        because those differences contain noise, as a multiple of what is left; inf if nothing is left.
    """
    moments, residuals = moments_of_batch(features, position, num_classes)
    frame, segment = Frame.of(moments), segments(position, num_classes)
    n = moments.count.astype(jnp.float32)
    variance = moments.square / (n - 1.0)
    noise = variance / n  # of the class mean
    between = noise[:, None] + noise
    distance = frame.squared_distance - between

    # (μ_j − μ_i)ᵀ Σ_i (μ_j − μ_i); the covariance of the class means' noise adds to the true one
    sums = residual_sums(residuals, segment, frame)
    measured = mean_along(sums, frame) * (n / (n - 1.0))[:, None]
    along = measured - products / n - (jnp.diagonal(products) / n)[:, None]
    both = jnp.diagonal(products) / n**2
    quadratic = both[:, None] + both + 2.0 * products / (n[:, None] * n)
    linear = jnp.maximum(along / n[:, None] + (along / n[:, None]).T, 0.0)
    error = jnp.sqrt(jnp.maximum(4.0 * linear + 2.0 * quadratic, 0.0))
    share = jnp.clip(2.0 * quadratic / jnp.where(error > 0, error, 1.0) ** 2, 0.0, 1.0)

    pair = ~jnp.eye(num_classes, dtype=bool)
    positive = distance > 0
    safe = jnp.where(pair & positive, distance, 1.0)
    norms, gram = _inner_products(frame.centred_mean, noise)
    upper = jnp.triu_indices(num_classes, 1)
    length = jnp.sqrt(jnp.maximum(norms, 0.0))
    length = jnp.where(length > 0, length, jnp.inf)
    nc1, nc1_of_noise, nc1_noise = _nc1(residuals, segment, frame, noise, jnp.mean(products, axis=0) / n)
    directional = _mean(along / safe / safe, pair)
    directional_of_noise = _mean((measured - along) / safe / safe, pair)
    return {
        "cdnv": _mean(debiased_cdnv_pairs(moments, frame.squared_distance), pair),
        "directional_cdnv": jnp.where(jnp.all(positive | ~pair), directional, jnp.inf),
        "directional_cdnv/noise": _ratio(directional_of_noise, directional),
        "nc1": nc1,
        "nc1/noise": _ratio(nc1_of_noise, nc1),
        "separation": jnp.mean(norms) / jnp.mean(variance),
        "squared_norms": norms,
        "cosines": (gram / length[:, None] / length)[upper],
        "distance_noise": jnp.max(jnp.where(pair, jnp.where(positive, error / safe, jnp.inf), 0.0)),
        "quadratic_share": _mean(share, pair),
        "nc1_noise": nc1_noise,
    }


def _ratio(noise: Float[Array, ""], value: Float[Array, ""]) -> Float[Array, ""]:
    return jnp.where(value > 0, noise / jnp.where(value > 0, value, 1.0), jnp.inf)


def _mean(pairs: Float[Array, "k k"], pair: Array) -> Float[Array, ""]:
    return jnp.sum(jnp.where(pair, pairs, 0.0)) / (pairs.shape[0] * (pairs.shape[0] - 1))


def _inner_products(
    centred_mean: Float[Array, "k d"], noise: Float[Array, " k"]
) -> tuple[Float[Array, " k"], Float[Array, "k k"]]:
    """Computes ‖μ_c − μ_G‖² and (μ_i − μ_G)·(μ_j − μ_G) without the bias from the noise of the class means."""
    k = noise.shape[0]
    mean = jnp.mean(noise) / k
    norms = jnp.sum(centred_mean**2, axis=-1) - noise * (1.0 - 2.0 / k) - mean
    gram = jnp.matmul(centred_mean, centred_mean.T, precision=HIGHEST)
    return norms, gram + (noise[:, None] + noise) / k - mean


def _nc1(
    residuals: Float[Array, "n d"],
    segment: Int[Array, " n"],
    frame: Frame,
    noise: Float[Array, " k"],
    noise_within: Float[Array, " k"],
) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, ""]]:
    """Computes tr(Σ_W Σ_B⁺)/k, what was subtracted from it as noise of Σ_W, and the largest share of noise in Σ_B.

    With M = U S Vᵀ the centred class means, tr(Σ_W Σ_B⁺)/k = tr((M Σ_W Mᵀ)(M Mᵀ)⁺²) where k − 1 ≤ d, and the noise of
    M Mᵀ is diag(Var_c/n_c) between the classes, that of M Σ_W Mᵀ diag(tr(Σ_W Σ_c)/n_c). With more classes than
    dimensions it is tr(Σ_W (MᵀM)⁻¹), and the noise of MᵀM is (1 − 1/k) Σ_c Σ_c/n_c.

    Args:
        residuals: Each sample minus the anchor of its class.
        segment: Classes 0..k-1; rows with k do not count.
        frame: The frame of all samples.
        noise: Var_c/n_c.
        noise_within: tr(Σ_W Σ_c)/n_c.
    """
    moments, basis = frame.moments, frame.nc1_basis  # V/s
    k, d = frame.centred_mean.shape
    n = moments.count.astype(jnp.float32)
    inverse = jnp.linalg.norm(basis, axis=0)  # 1/s; 0 for a direction that is not used
    row = jnp.minimum(segment, k - 1)
    inverted = jnp.matmul(residuals - moments.offset[row], basis, precision=HIGHEST)

    def scatter(weight: Float[Array, " k"]) -> Float[Array, "r r"]:
        rows = inverted * jnp.sqrt(jnp.where(segment < k, weight[row], 0.0))[:, None]
        return jnp.matmul(rows.T, rows, precision=HIGHEST)

    within = scatter(1.0 / (k * (n - 1.0)))
    if k - 1 > d:
        share = scatter((1.0 - 1.0 / k) / (n * (n - 1.0)))
        value = jnp.sum(within * jnp.linalg.inv(jnp.eye(d) - share))
        subtracted = jnp.zeros(())
    else:
        u = jnp.matmul(frame.centred_mean, basis, precision=HIGHEST)

        def between(diagonal: Float[Array, " k"]) -> Float[Array, "r r"]:
            return jnp.matmul(u.T * diagonal, u, precision=HIGHEST) * inverse[:, None] * inverse

        share = between(noise)
        scale = jnp.where(inverse > 0, 1.0 / jnp.where(inverse > 0, inverse, 1.0), 0.0)
        rows = jnp.linalg.inv(jnp.eye(k - 1) - share) * inverse
        subtracted = jnp.sum(rows * jnp.matmul(between(noise_within), rows, precision=HIGHEST))
        value = jnp.sum(rows * jnp.matmul(within * scale[:, None] * scale, rows, precision=HIGHEST)) - subtracted
    largest = jnp.max(jnp.linalg.eigvalsh(share))
    return jnp.where(frame.nc1_rank > 0, value, jnp.inf), subtracted, largest
