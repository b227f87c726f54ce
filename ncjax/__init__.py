"""Neural collapse and few-shot transfer in JAX."""
