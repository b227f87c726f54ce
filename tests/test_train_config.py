"""Settings: presets, and values that are refused."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import pytest
import tiny

from ncjax.errors import InputError
from ncjax.train import Config, pretrain, resolve

pytestmark = [pytest.mark.cheap_compilation, pytest.mark.usefixtures("tiny_network")]


def test_presets_and_what_a_user_says() -> None:
    assert resolve(Config()).min_steps == 1500
    assert resolve(Config(epochs=1)).min_steps == 0
    assert resolve(Config(epochs=1, min_steps=7)).min_steps == 7
    assert resolve(Config(preset="paper", dataset="cifar_fs")).network == "wrn-28-4"
    spelled_out = resolve(Config())
    assert resolve(dataclasses.replace(spelled_out, preset="paper", workdir=None)).workdir == spelled_out.workdir
    assert resolve(Config(data_dir="here")).data_dir == str(Path.cwd() / "here")
    assert resolve(Config(seed=1)).workdir != resolve(Config()).workdir


@pytest.mark.parametrize("network", ["vit-2-64-4", "mlp-3-256", "resnet12", "resnet12-dropblock"])
def test_presets_choose_the_optimizer_by_the_network(network: str):
    assert resolve(Config(network=network)).optimizer == "adamw"
    assert resolve(Config(network=network, optimizer="sgd", learning_rate=0.05)).optimizer == "sgd"
    assert resolve(Config()).optimizer == "sgd"
    assert resolve(Config(network="resnet12", batch_size=64)).batch_size == 64


@pytest.mark.parametrize(("dataset", "counts"), [("emnist", True), ("mini_imagenet", True), ("cifar_fs", False)])
def test_the_folder_of_the_data_counts_where_no_checksum_fixes_them(dataset: str, counts: bool) -> None:
    one, other = (resolve(Config(dataset=dataset, data_dir=folder)).workdir for folder in ("/one", "/other"))
    assert (one != other) == counts


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distributed": True}, "distributed=True, but this process has not joined others"),
        ({"learning_rate": -0.1}, "learning_rate=-0.1: it must be positive"),
        ({"learning_rate": float("nan")}, "learning_rate=nan"),
        ({"momentum": 1.0}, "momentum=1.0: it must be below 1"),
        ({"label_smoothing": 1.0}, "label_smoothing=1.0: it must be below 1"),
        ({"mixup": 0.2, "cdnv_penalty": 0.1}, "mixup and cdnv_penalty exclude each other"),
        ({"epochs": 0}, "epochs=0: it must be at least 1"),
        ({"weight_decay": -1.0}, "weight_decay=-1.0: it must be at least 0"),
        ({"seed": 2**32}, "seed=4294967296: it must be at most 4294967295"),
        ({"schedule": "linear"}, "schedule='linear': choose one of cosine, step, constant"),
        ({"batch_size": 127}, "batch_size=127 is more than the 126 training images"),
        ({"batch_size": 127, "seeds": 3}, "batch_size=127 is more than the 126 training images"),
        ({"epochs": 2.5}, r"epochs=2\.5: give a whole number"),
        ({"batch_size": "16"}, "batch_size='16': give a whole number"),
        ({"learning_rate": "0.1"}, "learning_rate='0.1': give a Python number"),
        ({"weight_decay": True}, "weight_decay=True: give a Python number"),
        ({"network": 5}, "network=5: give a string"),
        ({"stream": "yes"}, "stream='yes': give True or False"),
    ],
)
def test_settings_that_cannot_be(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        tiny.run(tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def test_what_is_no_config_is_refused() -> None:
    with pytest.raises(InputError, match="config is a str: give a Config, for example Config"):
        pretrain("glyphs")  # type: ignore[arg-type]


def test_a_batch_that_does_not_divide_is_refused_with_the_numbers(tmp_path: Path, on_devices: Any) -> None:
    with (
        jax.set_mesh(on_devices(8)),
        pytest.raises(InputError, match="batch_size=20 does not divide over 8 devices; set it to 16"),
    ):
        tiny.run(tmp_path / "run", batch_size=20)
