"""What is done to features before a head sees them."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def unit_norm(features: Float[Array, "... d"]) -> Float[Array, "... d"]:
    """Each row divided by its Euclidean norm; a row of zeros stays zero."""
    # Scaled by the largest entry first, so that the square of no finite row overflows or vanishes.
    largest = jnp.max(jnp.abs(features), axis=-1, keepdims=True)
    scaled = features / jnp.where(largest > 0, largest, 1.0)
    norm = jnp.sqrt(jnp.sum(scaled * scaled, axis=-1, keepdims=True))
    return scaled / jnp.where(norm > 0, norm, 1.0)


TRANSFORMS = ("none", "l2", "centered_l2")


def transform_features(
    features: Float[Array | np.ndarray, "n d"], kind: str, center: Float[Array | np.ndarray, "d"] | None = None
) -> Float[Array, "n d"]:
    """ "none"; "l2": each row to unit norm; "centered_l2": less `center`, then to unit norm (Wang et al. 2019)."""
    features = jnp.asarray(features)
    if kind == "none":
        return features
    if kind == "l2":
        return unit_norm(features)
    assert kind == "centered_l2"
    assert center is not None
    return unit_norm(features - center)
