"""Transforms of features before a head uses them."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def unit_norm(features: Float[Array | np.ndarray, "... d"]) -> Float[Array, "... d"]:
    """Divides each row by its Euclidean norm; a row of zeros stays zero."""
    features = jnp.asarray(features)
    # scaled by the largest entry first, so that squares of finite rows neither overflow nor vanish
    largest = jnp.max(jnp.abs(features), axis=-1, keepdims=True)
    scaled = features / jnp.where(largest > 0, largest, 1.0)
    norm = jnp.sqrt(jnp.sum(scaled * scaled, axis=-1, keepdims=True))
    return scaled / jnp.where(norm > 0, norm, 1.0)


TRANSFORMS = ("none", "l2", "centered_l2", "power")


def transform_features(
    features: Float[Array | np.ndarray, "n d"], kind: str, center: Float[Array | np.ndarray, " d"] | None = None
) -> Float[Array, "n d"]:
    """Applies a transform to each row.

    Args:
        features: [n, d].
        kind: "none"; "l2", each row to unit norm; "centered_l2", minus `center`, then "l2" (Wang et al. 2019,
            https://arxiv.org/abs/1911.04623); "power", the square root of each entry, which makes skewed features more
            symmetric: Tukey's ladder of powers at the exponent of Yang, Liu & Xu 2021, https://arxiv.org/abs/2101.06395.
            Roots of negative entries are NaN; `ncjax.eval` refuses such features.
        center: [d], for "centered_l2".
    """
    features = jnp.asarray(features)
    if kind == "none":
        return features
    if kind == "l2":
        return unit_norm(features)
    if kind == "power":
        return jnp.sqrt(features)
    assert kind == "centered_l2"
    assert center is not None
    return unit_norm(features - center)
