"""Every network: shapes, published parameter counts, evaluation against training mode."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ncjax import keys, models
from ncjax.errors import InputError
from ncjax.models.layers import batch_norm_act
from ncjax.models.resnet12 import drop_block

pytestmark = pytest.mark.cheap_compilation  # networks are compared with themselves and by their sizes

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
    shapes = jax.eval_shape(lambda: network.init(keys.root(0), (32, 32, 3)))
    assert round(models.num_parameters(shapes) / 1e6, 1) == pytest.approx(millions, abs=0.051)


# numbers of parameters of the features alone, or of all for the transformers, in the field's reference code
REFERENCE = [
    ("conv4", (84, 84, 3), 113_088, True),  # prototypical networks, PyTorch
    ("resnet12", (84, 84, 3), 12_424_320, True),  # Tian et al. 2020, PyTorch
    ("vit-12-192-16", (224, 224, 3), 5_717_416 - 2 * 192, False),  # ViT-Ti/16 less its class token and position
    ("vit-12-384-16", (224, 224, 3), 22_050_664 - 2 * 384, False),  # ViT-S/16 likewise
]


@pytest.mark.parametrize(("name", "shape", "expected", "features_only"), REFERENCE)
def test_parameter_counts_are_those_of_the_reference_code(
    name: str, shape: tuple[int, int, int], expected: int, features_only: bool
) -> None:
    network = models.create(name, 1000)
    params = jax.eval_shape(lambda: network.init(keys.root(0), shape))["params"]
    head = params["head"]
    found = models.num_parameters({"params": params})
    assert found - features_only * models.num_parameters({"params": head}) == expected


def test_mlp_parameter_count() -> None:
    variables = jax.eval_shape(lambda: models.create("mlp-3-32", 7).init(keys.root(0), (12, 12, 1)))
    layers = 144 * 32 + 2 * 32 * 32 + 3 * 2 * 32
    assert models.num_parameters(variables) == layers + 32 * 7 + 7


def test_without_shortcuts_only_the_projections_are_gone() -> None:
    with_, without = (
        jax.eval_shape(lambda name=name: models.create(name, 10).init(keys.root(0), (32, 32, 3)))
        for name in ("wrn-10-2", "conv-10-2")
    )
    projections = 16 * 32 + 32 * 64 + 64 * 128
    assert models.num_parameters(with_) - models.num_parameters(without) == projections


def test_a_stride_of_the_first_convolution_changes_the_work_and_no_parameter() -> None:
    def flops_and_shapes(name: str) -> tuple[float, Any]:
        network = models.create(name, 10)
        variables = jax.eval_shape(lambda: network.init(keys.root(0), (32, 32, 3)))
        forward = jax.jit(lambda variables: network.apply(variables, jnp.zeros((1, 32, 32, 3)))[0].logits)
        return forward.lower(variables).cost_analysis()["flops"], jax.tree.map(jnp.shape, variables)

    (whole, shapes), (strided, same_shapes) = map(flops_and_shapes, ("wrn-10-2", "wrn-10-2-s2"))
    assert whole / strided == pytest.approx(4, rel=0.1)  # not exactly: pixels at borders have fewer neighbours
    assert shapes == same_shapes


GREY, COLOUR = (28, 28, 1), (16, 16, 3)
STAGES = {
    "wrn-10-1": ([16, 16, 32, 64, 64], COLOUR),
    "conv-10-1": ([16, 16, 32, 64, 64], GREY),
    "wrn-10-1-s2": ([16, 16, 32, 64, 64], GREY),
    "conv4": ([64, 64, 64, 64, 64], GREY),
    "mlp-3-32": ([32, 32, 32], COLOUR),
    "resnet12-dropblock": ([64, 160, 320, 640], COLOUR),
}


def _cases() -> list[Any]:
    """Every network on images of one kind; of the other kind, and the largest one, slowly."""
    cases = []
    for name, (widths, quick) in STAGES.items():
        for shape in (GREY, COLOUR):
            slow = name in ("conv4", "conv-10-1", "resnet12-dropblock") or shape != quick
            cases.append(pytest.param(name, widths, shape, marks=[pytest.mark.slow] if slow else []))
    return cases


def initial(network: models.Network, shape: tuple[int, int, int]) -> dict[str, Any]:
    """Its variables, as one program; outside of jit every operation compiles by itself."""
    return jax.jit(lambda: network.init(keys.root(0), shape))()


@pytest.mark.parametrize(("name", "widths", "shape"), _cases())
def test_outputs_and_modes(name: str, widths: list[int], shape: tuple[int, int, int]) -> None:
    network = models.create(name, 7)
    variables = initial(network, shape)
    images = np.random.default_rng(1).normal(size=(4, *shape)).astype(np.float32)
    evaluate = jax.jit(lambda v, x: network.apply(v, x))
    train = jax.jit(lambda v, x: network.apply(v, x, train=True, key=keys.root(2)))

    output, unchanged = evaluate(variables, images)
    assert output.logits.shape == (4, 7)
    assert [stage.shape for stage in output.stages] == [(4, width) for width in widths]
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
    images = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)
    variables = jax.eval_shape(lambda: network.init(keys.root(0), (16, 16, 3)))
    output = jax.eval_shape(lambda v, x: network.apply(v, x, train=True), variables, images)
    for leaf in jax.tree.leaves((variables, output)):
        assert leaf.dtype == jnp.float32
    jaxpr = str(jax.make_jaxpr(lambda v, x: network.apply(v, x, train=True)[0].logits)(variables, images))
    convolutions = [line for line in jaxpr.splitlines() if "conv_general_dilated" in line]
    assert convolutions
    assert all("bf16" in line.split("=")[0] for line in convolutions)


@jax.numpy_dtype_promotion("standard")  # jax.nn.dot_product_attention relies on it
def test_attention_in_bfloat16_takes_its_softmax_in_float32() -> None:
    network = models.create("vit-2-64-4", 5, dtype=jnp.bfloat16)
    images = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)
    variables = jax.eval_shape(lambda: network.init(keys.root(0), (16, 16, 3)))
    jaxpr = str(jax.make_jaxpr(lambda v, x: network.apply(v, x, train=True)[0].logits)(variables, images))
    exponentials = [line for line in jaxpr.splitlines() if "= exp " in line]
    assert len(exponentials) == 2
    assert all("f32" in line and "bf16" not in line for line in exponentials)


@pytest.mark.parametrize("slope", [None, 0.0, 0.1])
def test_batch_norm_gradient_is_that_of_automatic_differentiation(slope: float | None) -> None:
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        x = rng.normal(size=(6, 4, 4, 3)) * 2 + 1
        scale, bias = np.array([0.5, 1.0, -2.0]), np.array([0.1, -0.2, 0.3])
        probe = rng.normal(size=x.shape)

        def plain(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
            mean, var = jnp.mean(x, (0, 1, 2)), jnp.var(x, (0, 1, 2))
            y = (x - mean) / jnp.sqrt(var + 1e-5) * scale + bias
            return y if slope is None else jnp.where(y > 0, y, slope * y)

        def fused(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
            return batch_norm_act(x, scale, bias, slope, 1e-5)[0]

        def value_and_gradients(f: Any) -> Any:
            def total(*arguments: jax.Array) -> tuple[jax.Array, jax.Array]:
                value = f(*arguments)
                return jnp.sum(value * probe), value

            return jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))(x, scale, bias)

        (expected, value), (found, fused_value) = value_and_gradients(plain), value_and_gradients(fused)
        np.testing.assert_allclose(fused_value, value, rtol=1e-10, atol=1e-12)
        for a, b in zip(expected, found, strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-8, atol=1e-10)


def test_a_transformer_has_no_batch_statistics_and_tells_of_patches_that_do_not_fit() -> None:
    network = models.create("vit-2-64-4", 7)
    variables = initial(network, (12, 12, 1))
    images = np.random.default_rng(1).normal(size=(4, 12, 12, 1)).astype(np.float32)
    output, batch_stats = jax.jit(lambda x: network.apply(variables, x, train=True))(images)
    assert batch_stats == {}
    assert [stage.shape for stage in output.stages] == [(4, 64)] * 4
    alone, _ = jax.jit(lambda x: network.apply(variables, x))(images[:1])
    np.testing.assert_allclose(alone.features, output.features[:1], rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="patches of 4 pixels do not tile images of 30 x 30"):
        network.init(keys.root(0), (30, 30, 1))


def test_drop_block_drops_squares_in_training_only() -> None:
    x = jnp.ones((400, 10, 10, 3))
    kept = drop_block(keys.root(0), x, 0.1, 3)
    share = float(jnp.mean(kept == 0))
    assert 0.07 < share < 0.11  # a tenth, less the overlap of squares
    np.testing.assert_allclose(jnp.mean(kept), 1.0, rtol=1e-5)  # scaled up by what fell
    lone = np.asarray(kept[:, :, :, 0] == 0)
    horizontal_runs = lone[:, :, 1:] & lone[:, :, :-1]
    assert horizontal_runs.sum() > 0.6 * lone.sum()  # what falls, falls beside its neighbours


@pytest.mark.slow
def test_a_network_with_drop_block_takes_a_key_in_training_and_drops_nothing_in_evaluation() -> None:
    network = models.create("resnet12-dropblock", 5)
    variables = initial(network, (16, 16, 1))
    images = np.random.default_rng(1).normal(size=(2, 16, 16, 1)).astype(np.float32)
    train = jax.jit(lambda key: network.apply(variables, images, train=True, key=key)[0].features)
    assert not np.allclose(train(keys.root(1)), train(keys.root(2)))
    with pytest.raises(InputError, match=r"resnet12-dropblock draws random numbers in training; pass key=") as raised:
        network.apply(variables, images, train=True)
    assert "\n" not in str(raised.value)
    whole = models.create("resnet12", 5)  # in evaluation nothing is dropped: the network without drop-block
    evaluated = [jax.jit(net.apply)(variables, images)[0].features for net in (network, whole)]
    np.testing.assert_array_equal(*evaluated)


@pytest.mark.parametrize("name", ["conv4", "resnet12"])
def test_images_too_small_to_halve_four_times_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"{name} halves images four times: 12 x 12 is too small"):
        models.create(name, 5).init(keys.root(0), (12, 12, 1))


@pytest.mark.parametrize(
    "name", ["resnet-9", "mlp-0-8", "vit-2-65-4", "wrn-27-4", "wrn-28", "wrn-4-1", "conv-10-0", ""]
)
def test_unknown_names_are_refused_with_what_is_known(name: str) -> None:
    with pytest.raises(InputError, match=r"known|6n \+ 4|at least 1"):
        models.create(name, 10)
