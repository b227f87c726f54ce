"""The optimiser of a run, and its learning-rate schedule."""

import jax.numpy as jnp
import optax

from ncjax.train.config import Config


def schedule(config: Config, total_steps: int) -> optax.Schedule:
    """Returns the learning rate as a function of the step."""
    rate = config.learning_rate
    if config.schedule == "cosine":
        cosine = optax.cosine_decay_schedule(rate, total_steps)
        return lambda step: cosine(jnp.asarray(step, jnp.float32))
    if config.schedule == "step":
        return optax.piecewise_constant_schedule(rate, {int(0.6 * total_steps): 0.1, int(0.8 * total_steps): 0.1})
    return optax.constant_schedule(rate)


def optimizer(config: Config, total_steps: int) -> optax.GradientTransformation:
    """Returns SGD with momentum and an L2 penalty in the gradient, or AdamW.

    AdamW (Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101) has decoupled weight decay, and warms up
    linearly over the first twentieth of the steps.
    """
    rate = schedule(config, total_steps)
    if config.optimizer == "adamw":
        warm_up = optax.linear_schedule(0.0, 1.0, max(1, total_steps // 20))
        return optax.adamw(
            lambda step: warm_up(step + 1) * rate(step), b1=config.momentum, weight_decay=config.weight_decay
        )
    return optax.chain(
        optax.add_decayed_weights(config.weight_decay), optax.sgd(rate, momentum=config.momentum or None)
    )
