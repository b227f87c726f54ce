"""Every network: shapes, published parameter counts, evaluation against training mode."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ncjax import models
from ncjax.errors import InputError
from ncjax.models.layers import batch_norm_act

# millions of parameters in Zagoruyko & Komodakis 2016 (CIFAR-10: 10 classes, 3 channels), tables 4 and 5
PUBLISHED = {
    "wrn-40-1": 0.6,
    "wrn-40-2": 2.2,
    "wrn-40-4": 8.9,
    "wrn-16-8": 11.0,
    "wrn-22-8": 17.2,
    "wrn-28-10": 36.5,
}


@pytest.mark.parametrize(("name", "millions"), PUBLISHED.items())
def test_parameter_counts_are_the_published_ones(name: str, millions: float) -> None:
    network = models.create(name, 10)
    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), (32, 32, 3)))
    assert round(models.num_parameters(shapes) / 1e6, 1) == pytest.approx(millions, abs=0.051)


def test_without_shortcuts_only_the_projections_are_gone() -> None:
    with_, without = (
        jax.eval_shape(lambda name=name: models.create(name, 10).init(jax.random.key(0), (32, 32, 3)))
        for name in ("wrn-10-2", "conv-10-2")
    )
    projections = 16 * 32 + 32 * 64 + 64 * 128
    assert models.num_parameters(with_) - models.num_parameters(without) == projections


@pytest.mark.parametrize("name", ["wrn-10-1", "conv-10-1"])
@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 32, 3)])
def test_outputs_and_modes(name: str, shape: tuple[int, int, int]) -> None:
    network = models.create(name, 7)
    variables = network.init(jax.random.key(0), shape)
    images = jax.random.normal(jax.random.key(1), (4, *shape))
    evaluate = jax.jit(lambda v, x: network.apply(v, x))
    train = jax.jit(lambda v, x: network.apply(v, x, train=True))

    output, unchanged = evaluate(variables, images)
    assert output.logits.shape == (4, 7)
    assert output.features.shape == (4, 64)
    assert [stage.shape for stage in output.stages] == [(4, 16), (4, 16), (4, 32), (4, 64), (4, 64)]
    np.testing.assert_array_equal(output.stages[-1], output.features)
    jax.tree.map(np.testing.assert_array_equal, unchanged, variables["batch_stats"])
    weights, bias = network.head(variables)
    np.testing.assert_allclose(output.features @ weights.T + bias, output.logits, atol=1e-5)

    # in evaluation an image does not see its batch mates; in training it does
    alone, _ = evaluate(variables, images[:1])
    np.testing.assert_allclose(alone.features, output.features[:1], rtol=1e-4, atol=1e-5)
    trained, moved = train(variables, images)
    trained_alone, _ = train(variables, images[:1])
    assert not np.allclose(trained_alone.features, trained.features[:1], rtol=1e-2)
    assert any(jax.tree.leaves(jax.tree.map(lambda a, b: not np.allclose(a, b), moved, variables["batch_stats"])))


def test_bfloat16_keeps_parameters_statistics_and_outputs_in_float32() -> None:
    network = models.create("wrn-10-1", 5, dtype=jnp.bfloat16)
    variables = network.init(jax.random.key(0), (16, 16, 3))
    output, batch_stats = network.apply(variables, jnp.ones((2, 16, 16, 3)), train=True)
    for leaf in jax.tree.leaves((variables, output, batch_stats)):
        assert leaf.dtype == jnp.float32
    jaxpr = str(jax.make_jaxpr(lambda x: network.apply(variables, x, train=True)[0].logits)(jnp.ones((2, 16, 16, 3))))
    convolutions = [line for line in jaxpr.splitlines() if "conv_general_dilated" in line]
    assert convolutions
    assert all("bf16" in line.split("=")[0] for line in convolutions)


@pytest.mark.parametrize("slope", [None, 0.0, 0.1])
def test_batch_norm_gradient_is_that_of_automatic_differentiation(slope: float | None) -> None:
    with jax.enable_x64(True):
        x = jax.random.normal(jax.random.key(0), (6, 4, 4, 3), jnp.float64) * 2 + 1
        scale, bias = jnp.array([0.5, 1.0, -2.0], jnp.float64), jnp.array([0.1, -0.2, 0.3], jnp.float64)
        probe = jax.random.normal(jax.random.key(1), x.shape, jnp.float64)

        def plain(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
            mean, var = jnp.mean(x, (0, 1, 2)), jnp.var(x, (0, 1, 2))
            y = (x - mean) / jnp.sqrt(var + 1e-5) * scale + bias
            return y if slope is None else jnp.where(y > 0, y, slope * y)

        def fused(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
            return batch_norm_act(x, scale, bias, slope, 1e-5)[0]

        np.testing.assert_allclose(fused(x, scale, bias), plain(x, scale, bias), rtol=1e-10, atol=1e-12)
        expected, found = (
            jax.grad(lambda *a, f=f: jnp.sum(f(*a) * probe), argnums=(0, 1, 2))(x, scale, bias) for f in (plain, fused)
        )
        for a, b in zip(expected, found, strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", ["resnet-9", "wrn-27-4", "wrn-28", "wrn-4-1", "conv-10-0", ""])
def test_unknown_names_are_refused_with_what_is_known(name: str) -> None:
    with pytest.raises(InputError, match=r"known|6n \+ 4"):
        models.create(name, 10)
