"""The recipe of a run: what its steps do beside plain cross-entropy on plain images, and which data can have it."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp

from ncjax import models
from ncjax.data import Benchmark
from ncjax.errors import InputError
from ncjax.models import Network
from ncjax.train.config import Config
from ncjax.train.losses import Objective
from ncjax.train.presets import CHARACTERS


@dataclass(frozen=True)
class Recipe:
    """What a step does; all defaults mean cross-entropy on the images as they are.

    Whether images are turned is a property of the network, which has a head for that or not.

    Attributes:
      objective: what is minimised.
      augmentation: the kind of augmentation.
      color_jitter: the strength of random changes of colour.
      ema_decay: the share of the running average of weights that a step keeps; 0 for no average.
    """

    objective: Objective = field(default_factory=Objective)
    augmentation: str = "none"
    color_jitter: float = 0.0
    ema_decay: float = 0.0

    @classmethod
    def of(cls, config: Config, augmentation: str) -> "Recipe":
        """Returns the recipe of the settings."""
        names = [setting.name for setting in dataclasses.fields(Objective)]
        return cls(
            objective=Objective(**{name: getattr(config, name) for name in names}),
            augmentation=augmentation,
            color_jitter=config.color_jitter or 0.0,
            ema_decay=config.ema_decay or 0.0,
        )


def network_of(config: Config, num_classes: int, dtype: Any = jnp.float32) -> Network:
    """Makes the network of the settings, with the heads that the recipe gives it.

    Raises:
      InputError: as `ncjax.models.create`.
    """
    assert config.network is not None
    return dataclasses.replace(
        models.create(config.network, num_classes, dtype=dtype),
        classifier=config.classifier,
        rotation_head=bool(config.rotation_head),
    )


def check_recipe(config: Config, benchmark: Benchmark, network: Network) -> None:
    """Raises InputError if the data or the network cannot have the recipe."""
    height, width, channels = benchmark.source_train.images.shape[1:]
    if config.rotation_head and benchmark.name in CHARACTERS:
        raise InputError(
            f"rotation_head on {benchmark.name}: turned characters become others (6 and 9, N and Z), so that their "
            "class is wrong; set rotation_head=False"
        )
    if config.rotation_head and height != width:
        raise InputError(
            f"rotation_head on images of {height} x {width}: a quarter turn needs squares; set image_size, or "
            "rotation_head=False"
        )
    if config.color_jitter and channels != 3:
        kind = "grey" if channels == 1 else f"of {channels} channels"
        raise InputError(
            f"color_jitter={config.color_jitter:g}, but the images are {kind} and have no colours; set color_jitter=0"
        )
    if config.manifold_mixup and not network.mixing_points:
        raise InputError(
            f"manifold_mixup={config.manifold_mixup:g} mixes inside the network, and {network.name} does not say "
            "where; set mixup instead, which mixes images"
        )
