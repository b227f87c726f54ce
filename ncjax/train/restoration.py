"""`restore`: the classifier of a run, from its checkpoints."""

from pathlib import Path

import jax
import jax.numpy as jnp

from ncjax import devices, keys
from ncjax.classifier import Classifier
from ncjax.files import expand
from ncjax.train.checkpoint import find, load_variables
from ncjax.train.description import read_description
from ncjax.train.recipe import network_of


@devices.on_data_mesh
def restore(workdir: str | Path, step: int | None = None) -> Classifier:
    """Reads the classifier of a run; of a run that averages its weights, the average.

    Args:
      workdir: the run's folder.
      step: the step of the checkpoint; the newest by default.

    Raises:
      InputError: if the folder holds no run, or no checkpoint of that step.
    """
    description = read_description(workdir)
    checkpoints = expand(workdir) / "checkpoints"
    step = find(checkpoints, step)
    data = description.data
    network = network_of(description.config, data.num_source_classes)
    abstract = jax.eval_shape(lambda: network.init(keys.root(0), data.image_shape))
    content = load_variables(checkpoints, abstract, step)
    mean = content.history["feature_mean"]
    return Classifier(
        content.arrays["variables"],
        jnp.asarray(data.mean, jnp.float32),
        jnp.asarray(data.std, jnp.float32),
        None if mean is None else jnp.asarray(mean, jnp.float32),
        network=network,
        augmentation=data.augmentation,
    )
