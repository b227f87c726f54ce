"""Equinox models as encoders, beside the same models called image by image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import ncjax
from ncjax import encoders
from ncjax.classifier import outputs
from ncjax.errors import InputError

eqx = pytest.importorskip("equinox")

pytestmark = [pytest.mark.cheap_compilation, pytest.mark.slow]

SPLIT = tiny.split(5, 20, seed=1)
PIXELS = ((SPLIT.images.transpose(0, 3, 1, 2) / 255 - 0.5) / 0.25).astype(np.float32)


class Model(eqx.Module):
    """Two convolutions, batch norm, dropout."""

    layers: list
    norm: eqx.nn.BatchNorm
    dropout: eqx.nn.Dropout

    def __init__(self, key: jax.Array):
        first, second = jax.random.split(key)
        self.layers = [eqx.nn.Conv2d(1, 8, 3, key=first), eqx.nn.Conv2d(8, 6, 3, key=second)]
        self.norm = eqx.nn.BatchNorm(8, "batch", mode="ema")
        self.dropout = eqx.nn.Dropout(0.5)

    def __call__(self, x: jax.Array, state: eqx.nn.State, key: jax.Array | None = None) -> tuple:
        x, state = self.norm(self.layers[0](x), state)
        return self.layers[1](self.dropout(jax.nn.relu(x), key=key)), state


@pytest.fixture(scope="module")
def trained() -> tuple:
    """In training mode, its running statistics those of some images."""
    model, state = eqx.nn.make_with_state(Model)(jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), len(PIXELS))
    in_batch = jax.vmap(model, in_axes=(0, None, 0), out_axes=(0, None), axis_name="batch")
    _, state = in_batch(jnp.asarray(PIXELS), state, keys)
    return model, state


def test_a_model_with_state_in_inference_mode(trained: tuple) -> None:
    model, state = trained
    params = encoders.from_equinox(model, state, mean=0.5, std=0.25, stages=("layers.0", "norm"))
    frozen = eqx.nn.inference_mode(model)
    maps = np.stack([frozen(x, state)[0] for x in PIXELS[:9]])
    found = ncjax.features(params, SPLIT)
    np.testing.assert_allclose(found[:9], maps.mean((2, 3)), rtol=1e-4, atol=1e-5)
    (stages,) = outputs(params, SPLIT, ("stages",))
    first = np.stack([model.layers[0](x) for x in PIXELS[:9]]).mean((2, 3))
    np.testing.assert_allclose(stages[0][:9], first, rtol=1e-4, atol=1e-5)
    assert [stage.shape[1] for stage in stages] == [8, 8, 6]
    assert not model.dropout.inference


def test_a_forward_of_ones_own_and_episodes(trained: tuple) -> None:
    model, _ = trained
    params = encoders.from_equinox(model, forward=lambda m, x: m.layers[0](x).max((1, 2)))
    report = ncjax.eval.episodes(params, SPLIT, shots=2, queries=5, episodes=20)
    assert 0.2 < report.accuracy <= 1


def test_models_that_cannot_serve(trained: tuple) -> None:
    with pytest.raises(InputError, match=r"is a function, not an equinox\.Module"):
        encoders.from_equinox(lambda images: images)
    with pytest.raises(InputError, match="no inner module '7' in its list"):
        encoders.from_equinox(*trained, stages=("layers.7",))
    params = encoders.from_equinox(trained[0], forward=lambda m, x: m.layers[0](x).max((1, 2)), stages=("dropout",))
    with pytest.raises(InputError, match="does not call its inner module 'dropout'"):
        ncjax.features(params, SPLIT)
