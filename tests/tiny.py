"""A benchmark of a few hundred 12 x 12 images, a network of two layers, and runs of them."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array

from ncjax.classifier import Classifier
from ncjax.data import Benchmark, Split
from ncjax.models import Network, Output
from ncjax.models.layers import BatchNormAct
from ncjax.models.mixing import Mixing, mixed
from ncjax.train import Config, Description, pretrain, restore

STEPS = 24
"""The length of a run."""


class _Module(nn.Module):
    num_classes: int
    dtype: Any

    @property
    def mixing_points(self) -> int:
        return 2

    @nn.compact
    def __call__(self, images: Array, train: bool, mixing: Mixing | None = None) -> Output:
        x = nn.Conv(8, (3, 3), (2, 2), use_bias=False, dtype=self.dtype)(mixed(mixing, 0, images))
        features = mixed(mixing, 1, BatchNormAct()(x, train)).reshape(len(x), -1)
        logits = nn.Dense(self.num_classes, dtype=self.dtype, name="head")(features)
        return Output(logits, features, (features,))


def network(num_classes: int = 6, dtype: Any = jnp.float32) -> Network:
    """A convolution, batch norm and a linear layer, which compile fast."""
    return Network("tiny", num_classes, _Module(num_classes, dtype))


def create(name: str, num_classes: int, dtype: Any = jnp.float32) -> Network:
    """Replaces `ncjax.models.create`: `network`, whatever the name."""
    return network(num_classes, dtype)


def split(num_classes: int, per_class: int, *, seed: int, noise: float = 60.0, draw: int = 0) -> Split:
    """Makes noisy copies of a random image for each class; `seed` draws the classes, `draw` the copies."""
    prototypes = np.random.default_rng(seed).integers(0, 255, (num_classes, 12, 12, 1))
    labels = np.repeat(np.arange(num_classes), per_class).astype(np.int32)
    noisy = prototypes[labels] + np.random.default_rng([seed, draw]).normal(0, noise, (len(labels), 12, 12, 1))
    names = tuple(f"class {i}" for i in range(num_classes))
    return Split(np.clip(noisy, 0, 255).astype(np.uint8), labels, names)


def benchmark() -> Benchmark:
    """Six source classes of 21 + 8 images and five target classes of 22: 126 training images."""
    return Benchmark(
        name="tiny",
        source_train=split(6, 21, seed=1),
        source_test=split(6, 8, seed=1, draw=1),
        validation=None,
        target=split(5, 22, seed=2),
        augmentation="shift",
    )


def config(workdir: Path, **changes: Any) -> Config:
    """The settings of a run of `STEPS` steps that is measured at 0, 8, 16 and 24."""
    settings: dict[str, Any] = {
        "network": "tiny",
        "epochs": 3,
        "min_steps": STEPS,
        "batch_size": 16,
        "learning_rate": 0.1,
        "schedule": "cosine",
        "measurements": 3,
        "measure_episodes": 50,
        "workdir": workdir,
    }
    return Config(**(settings | changes))


def data_description(**changes: Any) -> dict[str, Any]:
    """The "data" of a config.json, as the first versions of ncjax wrote it."""
    data: dict[str, Any] = {"name": "tiny", "fingerprint": "0", "num_source_classes": 6, "image_shape": [12, 12, 1]}
    return data | {"mean": [0.5], "std": [0.25], "augmentation": "shift"} | changes


def description(settings: dict[str, Any], total_steps: int) -> Description:
    """A description of a run with these settings."""
    parts = {"total_steps": total_steps, "data": data_description(), "versions": {}}
    return Description.from_json({"config": settings} | parts)


def run(workdir: Path, **changes: Any) -> Classifier:
    """Trains on the tiny benchmark; tests patch `models.create` by the fixture `tiny_network` before."""
    return pretrain(config(workdir, **changes), benchmark=benchmark())


def assert_same_end(workdir: Path, other: Path) -> None:
    """Asserts that two runs have the same records, weights and feature mean, bit for bit."""
    assert (workdir / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()
    a, b = restore(workdir), restore(other)
    jax.tree.map(np.testing.assert_array_equal, a.variables, b.variables)
    np.testing.assert_array_equal(a.feature_mean, b.feature_mean)


def damage(checkpoint: Path) -> None:
    """Cuts every file of the weights."""
    for file in (checkpoint / "variables").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:10])


def flip(checkpoint: Path) -> None:
    """Changes one byte of the largest file of the weights."""
    file = max((checkpoint / "variables").rglob("d/*"), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def garble(checkpoint: Path) -> None:
    """Cuts the end of the text of the records; the file remains JSON."""
    (file,) = (path for path in (checkpoint / "progress").rglob("*") if path.is_file() and b"loss" in path.read_bytes())
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"json": content["json"][:-7]}))
