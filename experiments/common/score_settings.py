"""What `model_scores` measures; apart from it, so that --help lists the settings without importing JAX."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """What is measured of each model."""

    heads: tuple[str, ...] = ("ncc", "ridge")
    """Heads of the episodes: ncc, cosine, ridge, logistic."""
    shots: tuple[int, ...] = (1, 5)
    """Support images of each class."""
    ways: int = 5
    """Classes in an episode."""
    queries: int = 15
    """Query images of each class."""
    episodes: int = 2000
    """Number of episodes."""
    seed: int = 0
    """Seed of the episodes."""
    probes: bool = False
    """Probes of the target classes: k-nearest neighbours, LDA and ridge, with a third of the images held out."""
    complexity: bool = False
    """Geometric complexity of the models that JAX traces."""
    replicate_images: int = 100
    """Most images of each class behind the intervals over classes."""
