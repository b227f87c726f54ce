"""PyTorch modules as encoders, beside the same modules called by hand."""

from collections.abc import Callable
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import tiny
from jax.sharding import Mesh

import ncjax
from ncjax import encoders
from ncjax.classifier import extract, outputs
from ncjax.errors import InputError

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.cheap_compilation

SPLIT = tiny.split(5, 20, seed=1)


class Net(torch.nn.Module):
    """Convolutions with batch norm and dropout, and a linear layer; `kind` says what it returns."""

    def __init__(self, kind: str = "features", channels: int = 3) -> None:
        super().__init__()
        self.kind = kind
        self.stem = torch.nn.Sequential(
            torch.nn.Conv2d(channels, 8, 3, stride=2), torch.nn.BatchNorm2d(8), torch.nn.ReLU()
        )
        self.layer = torch.nn.Conv2d(8, 6, 3)
        self.dropout = torch.nn.Dropout()
        self.cls_token = torch.nn.Parameter(torch.zeros(6))
        self.unused = torch.nn.Linear(2, 2)

    def forward(self, x):
        maps = self.dropout(self.layer(self.stem(x)))
        pooled = maps.mean((2, 3))
        tokens = maps.flatten(2).transpose(1, 2)
        return {
            "features": pooled,
            "maps": maps,
            "pooler": SimpleNamespace(pooler_output=2 * pooled, last_hidden_state=tokens),
            "square pooler": SimpleNamespace(pooler_output=pooled[:, :, None, None]),
            "class token": SimpleNamespace(last_hidden_state=tokens, pooler_output=None),
            "tokens": tokens,
            "tuple": (pooled, maps),
            "half": pooled.half(),
        }[self.kind]


def make(kind: str = "features", channels: int = 3) -> Net:
    torch.manual_seed(0)
    net = Net(kind, channels)
    net(torch.randn(50, channels, 12, 12))  # running statistics of some images
    return net


def by_hand(net: Net, mean: float = 0.5, std: float = 0.25) -> np.ndarray:
    """Maps [n, d, h, w] of the layer in evaluation mode."""
    net = net.eval()
    pixels = torch.from_numpy(((SPLIT.images.astype(np.float32) / 255 - mean) / std).transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        return net.layer(net.stem(pixels.repeat(1, net.stem[0].in_channels, 1, 1))).numpy()


def test_it_runs_in_evaluation_mode_and_is_set_back(capsys: pytest.CaptureFixture) -> None:
    net = make()
    net.stem.eval()
    statistics = net.stem[1].running_mean.clone()
    params = encoders.from_torch(net, mean=0.5, std=0.25)
    found = ncjax.features(params, SPLIT, batch_size=30)
    assert (net.training, net.dropout.training, net.stem.training, net.stem[1].training) == (True, True, False, False)
    assert torch.equal(net.stem[1].running_mean, statistics)
    assert capsys.readouterr().err.count("it is in training mode") == 1
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, by_hand(net).mean((2, 3)), rtol=1e-5, atol=1e-5)
    ncjax.features(params, SPLIT)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("kind", "said", "expected"),
    [
        ("maps", "what it returned, [6, 3, 3] an image, is averaged over space", lambda m: m.mean((2, 3))),
        ("pooler", "its pooler_output is taken", lambda m: 2 * m.mean((2, 3))),
        ("square pooler", "its pooler_output is taken", lambda m: m.mean((2, 3))),
        ("class token", "its class token, the first of last_hidden_state", lambda m: m[:, :, 0, 0]),
    ],
)
def test_what_is_taken_for_features_is_said(
    kind: str, said: str, expected: Callable, capsys: pytest.CaptureFixture
) -> None:
    net = make(kind).eval()
    found = ncjax.features(encoders.from_torch(net, mean=0.5, std=0.25), SPLIT)
    np.testing.assert_allclose(found, expected(by_hand(net)), rtol=1e-5, atol=1e-5)
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("tokens", r"what it returned is a tensor of shape \(100, 9, 6\), and features are \[n, d\]; give output="),
        ("tuple", "what it returned is a tuple, and features"),
    ],
)
def test_anything_else_takes_a_function(kind: str, message: str) -> None:
    net = make(kind).eval()
    with pytest.raises(InputError, match=message):
        ncjax.features(encoders.from_torch(net), SPLIT)
    params = encoders.from_torch(net, mean=0.5, std=0.25, output=lambda out: out[0] if kind == "tuple" else out.mean(1))
    np.testing.assert_allclose(ncjax.features(params, SPLIT), by_hand(net).mean((2, 3)), rtol=1e-5, atol=1e-5)


def test_tokens_without_a_class_token_take_a_function() -> None:
    net = make("class token").eval()
    del net.cls_token
    with pytest.raises(InputError, match=r"has no class token; give output=lambda returned"):
        ncjax.features(encoders.from_torch(net), SPLIT)


def test_stages_by_forward_hooks() -> None:
    net = make().eval()
    params = encoders.from_torch(net, mean=0.5, std=0.25, stages=("stem.0", "layer"))
    (stages,) = outputs(params, SPLIT, ("stages",), batch_size=30)
    maps = by_hand(net)
    assert [stage.shape for stage in stages] == [(100, 8), (100, 6), (100, 6)]
    np.testing.assert_allclose(stages[1], maps.mean((2, 3)), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(stages[2], ncjax.features(params, SPLIT))
    assert not net.layer._forward_hooks
    with pytest.raises(InputError, match=r"no inner module 'layers'; it has layer"):
        encoders.from_torch(net, stages=("layers",))
    with pytest.raises(InputError, match=r"does not call its inner module 'unused'"):
        ncjax.features(encoders.from_torch(net, stages=("unused",)), SPLIT)


class Tokens(torch.nn.Module):
    """Inner modules that return tokens, channels last, a tuple, and something else."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.tokens, self.pair, self.odd = (torch.nn.Identity() for _ in range(4))

    def forward(self, x):
        x = self.last(x.permute(0, 2, 3, 1))
        tokens = self.pair((self.tokens(x.flatten(1, 2)), 1))[0]
        self.odd({"tokens": tokens})
        return tokens.mean(1)


def test_stages_of_tokens_and_channels_last() -> None:
    params = encoders.from_torch(Tokens(), stages=("last", "tokens", "pair"))
    (stages,) = outputs(params, SPLIT, ("stages",))
    for stage in stages:
        np.testing.assert_allclose(stage, SPLIT.images.mean((1, 2)) / 255, rtol=1e-5)
    with pytest.raises(InputError, match=r"stages: 'odd' returns .*dict"):
        ncjax.features(encoders.from_torch(Tokens(), stages=("odd",)), SPLIT)


def test_preprocessing_in_torch_is_that_of_jax() -> None:
    params = encoders.from_torch(
        torch.nn.Flatten(), image_size=(20, 16), resize=24, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 4.0)
    )
    pixels = np.asarray(params.preprocessing.apply(SPLIT.images)) / 255
    expected = (pixels - np.asarray([0.1, 0.2, 0.3])) / np.asarray([1.0, 2.0, 4.0])
    found = ncjax.features(params, SPLIT)
    np.testing.assert_allclose(found, expected.transpose(0, 3, 1, 2).reshape(100, -1), atol=1e-5)


def test_grey_images_are_repeated_for_the_first_convolution() -> None:
    params = encoders.from_torch(make(channels=1).eval())
    assert params.preprocessing.channels is None
    assert ncjax.features(params, SPLIT).shape == (100, 6)
    assert encoders.from_torch(make().eval()).preprocessing.channels == 3
    with pytest.raises(InputError, match=r"fails on images of 12 x 12 x 1 .*too few channels, give channels=3"):
        ncjax.features(encoders.from_torch(make().eval(), channels=1), SPLIT)


def test_half_precision_only_on_request(capsys: pytest.CaptureFixture) -> None:
    net = make().eval()
    exact = ncjax.features(encoders.from_torch(net), SPLIT)
    half = ncjax.features(encoders.from_torch(net, precision="bfloat16"), SPLIT)
    assert half.dtype == np.float32
    assert 0 < np.abs(half - exact).max() < 0.05
    assert capsys.readouterr().err == ""
    returned = ncjax.features(encoders.from_torch(make("half").eval()), SPLIT)
    assert "its features are float16, and are kept as float32" in capsys.readouterr().err
    np.testing.assert_allclose(returned, exact, atol=1e-2)
    of_half = ncjax.features(encoders.from_torch(net.bfloat16()), SPLIT)
    assert "its weights are bfloat16, and so are its computations" in capsys.readouterr().err
    np.testing.assert_allclose(of_half, exact, atol=0.05)
    with pytest.raises(InputError, match="precision='float16': choose float32 or bfloat16"):
        encoders.from_torch(net, precision="float16")


@pytest.mark.slow
def test_episodes_call_the_module_back(on_devices: Callable[[int], Mesh]) -> None:
    """The same episodes, whether support is extracted inside or once outside; on several devices too."""
    params = encoders.from_torch(make().eval()).replace(augmentation="crop_flip")
    settings = {"shots": 2, "queries": 5, "episodes": 30}
    outside = ncjax.eval.episodes(params, SPLIT, **settings)
    inside = ncjax.eval.episodes(params, SPLIT, extract_per_episode=True, **settings)
    np.testing.assert_allclose(inside.per_episode, outside.per_episode, atol=0.05)
    augmented = ncjax.eval.episodes(params, SPLIT, support_augmentations=2, **settings)
    with jax.set_mesh(on_devices(2)):
        again = ncjax.eval.episodes(params, SPLIT, support_augmentations=2, **settings)
    np.testing.assert_array_equal(again.per_episode, augmented.per_episode)
    assert not np.array_equal(augmented.per_episode, outside.per_episode)
    np.testing.assert_allclose(jax.jit(extract)(params, SPLIT.images), ncjax.features(params, SPLIT), atol=1e-6)


def test_images_that_are_too_small_are_one_line() -> None:
    with pytest.raises(InputError, match=r"fails on images of 4 x 4 x 3 \(RuntimeError: .*image_size=") as raised:
        ncjax.features(encoders.from_torch(make().eval()), np.zeros((2, 4, 4, 3), np.uint8))
    assert "\n" not in str(raised.value)


def test_no_module() -> None:
    with pytest.raises(InputError, match=r"module is a function, not a torch\.nn\.Module"):
        encoders.from_torch(make)
