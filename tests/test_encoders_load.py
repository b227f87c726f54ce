"""Pretrained encoders by name: the features and pixels are those of the framework's own code.

Weights are random, and so are those of the folders in Hugging Face's layout that are made here: nothing is downloaded.
"""

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch_here
from flax import nnx
from PIL import Image
from test_preprocessing import photographs

import ncjax
from ncjax import encoders
from ncjax.classifier import outputs
from ncjax.encoders import pretrained
from ncjax.errors import InputError

pytestmark = [
    pytest.mark.cheap_compilation,
    pytest.mark.filterwarnings("default"),  # what these libraries warn of is not ours
]


def as_pictures(images: np.ndarray) -> list[Image.Image]:
    return [Image.fromarray(image) for image in images]


def seen(params: ncjax.Classifier, images: np.ndarray) -> np.ndarray:
    """The pixels that the encoder sees, 0..255."""
    return params.preprocessing.apply_in_numpy(images)


def unscaled(params: ncjax.Classifier, pixels: Any) -> np.ndarray:
    """Another library's pixels [n, c, h, w] as [n, h, w, c] in 0..255."""
    return (np.asarray(pixels).transpose(0, 2, 3, 1) * np.asarray(params.std) + np.asarray(params.mean)) * 255


# the families, each by its smallest model; DINOv2 and Swin at a smaller size than they were made for
TIMM = {
    "resnet10t": {},
    "convnext_atto": {},
    "tf_efficientnet_lite0": {},
    "vit_tiny_patch16_224": {},
    "vit_small_patch14_dinov2": {"image_size": 98},
    "swin_tiny_patch4_window7_224": {"image_size": 112},
    "mobilenetv3_small_050": {},
    "vit_xsmall_patch16_clip_224": {"image_size": 96},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TIMM)
def test_timms_features_and_pixels(name: str) -> None:
    timm = torch_here.require("timm")
    torch = pytest.importorskip("torch")
    options = TIMM[name]
    params = encoders.load(f"timm:{name}", random_weights=True, **options)
    module = params.network.run.module
    size = params.preprocessing.image_size[0]
    images = np.concatenate([photographs(size, size), photographs(size, size)[:, ::-1]])
    whole = timm.create_model(name, **({"img_size": size} if options and "resnet" not in name else {})).eval()
    whole.load_state_dict(module.state_dict(), strict=False)
    config = timm.data.resolve_model_data_config(whole) | {"crop_pct": 1.0, "input_size": (3, size, size)}
    transform = timm.data.create_transform(**config, is_training=False)
    pixels = torch.stack([transform(picture) for picture in as_pictures(images)])
    with torch.no_grad():
        theirs = whole.forward_head(whole.forward_features(pixels), pre_logits=True).numpy()
    exact = params.replace(preprocessing=type(params.preprocessing)((size, size), channels=3))
    np.testing.assert_allclose(ncjax.features(exact, images), theirs, rtol=1e-4, atol=1e-4)
    # with the crop and the resizing of its own configuration
    config = timm.data.resolve_model_data_config(timm.create_model(name)) | {"input_size": (3, size, size)}
    transform = timm.data.create_transform(**config, is_training=False)
    for height, width in ((32, 32), (300, 260)):
        images = photographs(height, width)
        theirs = unscaled(params, torch.stack([transform(picture) for picture in as_pictures(images)]))
        assert np.abs(seen(params, images) - theirs).max() <= 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "swin_t", "efficientnet_b0"])
def test_torchvisions_features_and_pixels(name: str) -> None:
    torchvision = torch_here.require("torchvision")
    torch = pytest.importorskip("torch")
    params = encoders.load(f"torchvision:{name}", random_weights=True)
    module = params.network.run.module
    size = params.preprocessing.image_size[0]
    images = photographs(size, size)
    whole = torchvision.models.get_model(name).eval()
    whole.load_state_dict(module.state_dict(), strict=False)
    taken: list = []
    last = [inner for inner in whole.modules() if isinstance(inner, torch.nn.Linear)][-1]
    last.register_forward_pre_hook(lambda inner, given: taken.append(given[0]))
    transforms = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    pixels = (
        torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).float() / 255
        - torch.tensor(transforms.mean)[:, None, None]
    )
    with torch.no_grad():
        whole(pixels / torch.tensor(transforms.std)[:, None, None])
    exact = params.replace(preprocessing=type(params.preprocessing)((size, size), channels=3))
    np.testing.assert_allclose(ncjax.features(exact, images), taken[0].numpy(), rtol=1e-4, atol=1e-4)
    for height, width in ((32, 32), (300, 260)):
        images = photographs(height, width)
        theirs = unscaled(params, torch.stack([transforms(picture) for picture in as_pictures(images)]))
        assert np.abs(seen(params, images) - theirs).max() <= 2


def hugging_face_folder(kind: str, folder: Path) -> tuple[Any, Any]:
    """Writes a model of that kind with random weights, and its processor; returns the two."""
    transformers = torch_here.require("transformers")
    torch = pytest.importorskip("torch")
    tokens = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    tokens |= {"image_size": 32, "patch_size": 8}
    square = {"height": 32, "width": 32}
    shorter = {"size": {"shortest_edge": 36}, "crop_size": square, "do_center_crop": True}
    t = transformers
    models = {
        "vit": (t.ViTModel, t.ViTConfig(**tokens), t.ViTImageProcessor(size=square)),
        "vit of a classifier": (t.ViTForImageClassification, t.ViTConfig(**tokens), t.ViTImageProcessor(size=square)),
        "dinov2": (t.Dinov2Model, t.Dinov2Config(**tokens), t.BitImageProcessor(**shorter)),
        "clip": (
            t.CLIPModel,
            t.CLIPConfig(
                text_config={"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 50},
                vision_config=tokens,
            ),
            t.CLIPImageProcessor(**shorter),
        ),
        "clip vision": (t.CLIPVisionModel, t.CLIPVisionConfig(**tokens), t.CLIPImageProcessor(**shorter)),
        "siglip vision": (t.SiglipVisionModel, t.SiglipVisionConfig(**tokens), t.SiglipImageProcessor(size=square)),
        "mae": (
            t.ViTMAEModel,
            t.ViTMAEConfig(**tokens),
            t.ViTImageProcessor(size=square, resample=3, image_mean=[0.5] * 3, image_std=[0.5] * 3),
        ),
        "swin": (
            t.SwinModel,
            t.SwinConfig(image_size=32, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4),
            t.ViTImageProcessor(size=square),
        ),
        "convnext": (
            t.ConvNextModel,
            t.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2),
            t.ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=0.875),
        ),
        "resnet": (
            t.ResNetModel,
            t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1]),
            t.ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=0.875),
        ),
    }
    cls, config, processor = models[kind]
    torch.manual_seed(1)
    model = cls(config).eval()
    with torch.no_grad():
        for weights in model.parameters():  # some start as zeros or ones
            weights.add_(0.1 * torch.randn_like(weights))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model, processor


def features_by_hand(kind: str, model: Any, pixels: Any) -> Any:
    """As each family's documentation has it."""
    if kind == "mae":
        model.config.mask_ratio = model.embeddings.config.mask_ratio = 0.0
    if kind == "vit of a classifier":
        return model.vit(pixels).last_hidden_state[:, 0]
    if kind == "mae":
        return model(pixels).last_hidden_state[:, 0]
    if kind == "clip":
        return model.vision_model(pixels).pooler_output
    if kind in ("convnext", "resnet"):
        return model(pixels).pooler_output.flatten(1)
    return model(pixels).pooler_output


FAMILIES = (
    "vit", "vit of a classifier", "dinov2", "clip", "clip vision", "siglip vision", "mae", "swin", "convnext", "resnet",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", FAMILIES)
def test_hugging_faces_features_and_pixels(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    torch_here.require("transformers")
    torch = pytest.importorskip("torch")
    model, processor = hugging_face_folder(kind, tmp_path)
    capsys.readouterr()
    params = encoders.load(f"hf:{tmp_path}")
    assert params.preprocessing.image_size == (32, 32)
    images = photographs(32, 32)
    with torch.no_grad():
        scaled = (images / 255 - np.asarray(params.mean)) / np.asarray(params.std)
        pixels = torch.from_numpy(scaled.astype(np.float32).transpose(0, 3, 1, 2).copy())
        theirs = features_by_hand(kind, model, pixels).numpy()
    exact = params.replace(preprocessing=type(params.preprocessing)((32, 32), channels=3))
    found = ncjax.features(exact, images)
    np.testing.assert_allclose(found, theirs, rtol=1e-4, atol=1e-4)
    assert np.std(found, axis=0).max() > 0.01
    said = capsys.readouterr().err
    assert ("class token" in said) == (kind in ("vit of a classifier", "mae"))
    for height, width in ((24, 24), (90, 70)):
        images = photographs(height, width)
        theirs = processor(images=as_pictures(images), return_tensors="pt")["pixel_values"]
        assert np.abs(seen(params, images) - unscaled(params, theirs)).max() <= 2


@pytest.mark.slow
def test_stages_random_weights_and_grey_images(tmp_path: Path) -> None:
    hugging_face_folder("dinov2", tmp_path)
    params = encoders.load(f"hf:{tmp_path}", random_weights=True, stages=("encoder.layer.0",))
    assert params.network.name == f"hf:{tmp_path}, random weights"
    split = tiny.split(5, 4, seed=1)
    (stages,) = outputs(params, split, ("stages",))
    assert [stage.shape for stage in stages] == [(20, 32), (20, 32)]
    again = encoders.load(f"hf:{tmp_path}", random_weights=True)
    np.testing.assert_array_equal(ncjax.features(again, split), stages[-1])  # drawn from one seed
    trained = ncjax.features(encoders.load(f"hf:{tmp_path}"), split)
    assert np.abs(trained - stages[-1]).max() > 0.01


@pytest.mark.slow
def test_models_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch_here.require("timm")
    torch_here.require("transformers")
    monkeypatch.setattr(pretrained, "_is_known", lambda host: False)
    for spec, message in (
        ("timm:resnet8", r"there is no model timm:resnet8; did you mean resnet"),
        ("timm:resnet18.nothing", r"there is no model timm:resnet18\.nothing"),
        ("timm:resnet18", r"weights of timm:resnet18 are not here .* download https://huggingface\.co/timm/resnet18"),
        ("hf:nobody/nothing", r"hf:nobody/nothing has no configuration .*: download https://huggingface\.co/nobody"),
        (f"hf:{tmp_path}", "no configuration or no image processor here .* is the folder complete"),
        ("torchvision:resnet", "there is no model torchvision:resnet; did you mean"),
    ):
        with pytest.raises(InputError, match=message) as raised:
            encoders.load(spec)
        assert "\n" not in str(raised.value)


class Model(nnx.Module):
    """Means of the rows."""

    def __call__(self, images):
        return images.mean(1).reshape(len(images), -1)


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module = types.ModuleType("own_encoders")
    monkeypatch.setitem(sys.modules, "own_encoders", module)
    return module


def test_a_function_of_ones_own(own: types.ModuleType) -> None:
    own.make = Model
    split = tiny.split(5, 4, seed=1)
    params = encoders.load("own_encoders:make", image_size=24)
    assert params.network.name == "own_encoders:make"
    assert ncjax.features(params, split).shape == (20, 24)
    own.make = lambda image_size=12: encoders.from_nnx(Model(), image_size=image_size)
    assert ncjax.features(encoders.load("own_encoders:make"), split).shape == (20, 12)
    assert ncjax.features(encoders.load("own_encoders:make", image_size=16), split).shape == (20, 16)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("resnet18", "encoder 'resnet18': give timm:NAME, hf:NAME_OR_FOLDER"),
        (":make", "give timm:NAME"),
        ("no_such_package:make", "No module named 'no_such_package'; give timm:NAME"),
        ("own_encoders:other", "has no attribute 'other'"),
        ("own_encoders:make", "returned a list; it must return an ncjax"),
    ],
)
def test_specs_that_are_none(spec: str, message: str, own: types.ModuleType) -> None:
    own.make = list
    with pytest.raises(InputError, match=message):
        encoders.load(spec)


def test_functions_that_do_not_take_what_is_asked(own: types.ModuleType) -> None:
    own.make = lambda: encoders.from_nnx(Model())
    with pytest.raises(InputError, match="takes no random_weights, and so has no untrained baseline"):
        encoders.load("own_encoders:make", random_weights=True)
    with pytest.raises(InputError, match="takes no image_size; set it there"):
        encoders.load("own_encoders:make", image_size=20)


@pytest.mark.parametrize("library", ["torch", "timm", "transformers", "torchvision"])
def test_libraries_that_are_not_installed(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if library != "torch":
        torch_here.require("torch")
    monkeypatch.setitem(sys.modules, library, None)  # import then raises ModuleNotFoundError
    spec = {"torch": "timm:resnet18", "transformers": "hf:x/y"}.get(library, f"{library}:resnet18")
    with pytest.raises(InputError, match=rf"{library} is not installed: pip install -e"):
        encoders.load(spec)
