"""The identity of runs: settings that differ from the default, and the content of the data, wherever it lies."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from ncjax.errors import InputError
from ncjax.train import Config, Description, pretrain, pretraining, read_config, resolve
from ncjax.train.config import default_workdir, fill, identity

pytestmark = [pytest.mark.cheap_compilation, pytest.mark.usefixtures("tiny_network")]


def described(config: Config, **data: Any) -> dict[str, Any]:
    """The config.json of the first versions of ncjax, with every setting in "identity"."""
    settings = dataclasses.asdict(config) | {"workdir": str(config.workdir)}
    data = tiny.data_description(name=config.dataset, **data)
    content = {"config": settings, "identity": settings, "total_steps": 1, "data": data, "versions": {}}
    return json.loads(json.dumps(content))


def differences(described: dict[str, Any], here: dict[str, Any]) -> list[str]:
    return Description.from_json(described).differences(here)


def put(folder: Path, described: dict[str, Any]) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(described))
    return folder


@pytest.mark.parametrize("config", [Config(), Config(network="vit-2-64-4", mixup=0.2), Config(preset="paper", seed=3)])
@pytest.mark.parametrize("newer", ["label_smoothing", "rotations", "optimizer", "measure_episodes", "min_steps"])
def test_a_setting_that_the_run_never_heard_of_has_its_default(config: Config, newer: str) -> None:
    here = fill(config)
    old = described(here)
    del old["config"][newer], old["identity"][newer]
    assert differences(old, identity(here)) == []
    value = {"label_smoothing": 0.1, "rotations": True, "optimizer": "adam", "measure_episodes": 7, "min_steps": 7}[
        newer
    ]
    changed = identity(dataclasses.replace(here, **{newer: value}))
    (named,) = differences(old, changed)
    assert named == f"{newer} {getattr(here, newer)!r} there, {value!r} here"


def test_a_setting_that_the_run_left_open_is_not_filled_in_by_a_preset_of_today() -> None:
    here = fill(Config(preset="smoke"))
    old = described(dataclasses.replace(here, samples_per_class=None))
    assert differences(old, identity(here)) == ["samples_per_class None there, 50 here"]


def test_a_setting_that_this_version_does_not_know_counts_where_the_newer_one_says_so() -> None:
    here = fill(Config())
    newer = described(here)
    newer["config"]["lookahead"] = 0
    newer["identity"] = identity(here)
    assert differences(newer, identity(here)) == []
    newer["identity"] |= {"lookahead": 5}
    assert differences(newer, identity(here)) == ["lookahead 5 there, None here"]


def test_a_default_that_changed_later_is_another_run() -> None:
    here = fill(Config())
    old = described(dataclasses.replace(here, weight_decay=1e-3))
    old["identity"] = {}  # at its default when the run was trained
    assert differences(old, identity(here)) == ["weight_decay 0.001 there, 0.0005 here"]


def test_numbers_of_other_types_are_the_same_run(tmp_path: Path) -> None:
    plain = resolve(Config(learning_rate=1.0, epochs=3, dropout=0.0, rotations=True, data_dir=str(tmp_path)))
    others: dict[str, list[Any]] = {
        "learning_rate": [1, np.float32(1), np.int64(1)],
        "epochs": [np.int64(3), np.uint8(3)],
        "dropout": [0, -0.0],
        "rotations": [np.True_],
        "data_dir": [tmp_path, np.str_(tmp_path)],
    }
    for name, values in others.items():
        for value in values:
            config = resolve(dataclasses.replace(plain, workdir=None, **{name: value}))
            assert config == plain
            assert type(getattr(config, name)) is type(getattr(plain, name)) or name == "data_dir"
            json.dumps(identity(config))
    with pytest.raises(InputError, match="data_dir=b'here': give a path"):
        resolve(Config(data_dir=b"here"))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"epochs=np.float64\(3.0\): give a whole number"):
        resolve(Config(epochs=np.float64(3)))  # type: ignore[arg-type]


def test_runs_of_older_versions_are_found_in_their_default_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their names depended on all settings, also on defaults, and there were fewer settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        pretraining, "load_benchmark", lambda config: pytest.fail("read data to tell what settings tell")
    )
    named = resolve(Config()).workdir
    old = described(fill(Config()))
    del old["config"]["dropout"]
    other = described(fill(Config(seed=1)))
    put(Path("runs/glyphs-wrn-10-1-s2-00000000"), other)
    put(Path("runs/cifar_fs-wrn-10-1-00000001"), described(fill(Config(dataset="cifar_fs"))))
    Path("runs/glyphs-wrn-10-1-s2-notes").mkdir()
    Path("runs/glyphs-wrn-10-1-s2-notes.txt").write_text("")
    assert resolve(Config()).workdir == named
    put(Path("runs/glyphs-wrn-10-1-s2-0a1b2c3d"), old)
    assert resolve(Config()).workdir == Path("runs/glyphs-wrn-10-1-s2-0a1b2c3d")
    assert resolve(Config(seed=1)).workdir == Path("runs/glyphs-wrn-10-1-s2-00000000")
    assert resolve(Config(seed=2)).workdir == default_workdir(fill(Config(seed=2)))
    assert resolve(Config(workdir=Path("mine"))).workdir == Path("mine")
    put(Path("runs/glyphs-wrn-10-1-s2-many/seed_0"), old)
    Path("runs/glyphs-wrn-10-1-s2-many/seeds.json").write_text('{"seeds": 3}')
    assert resolve(Config(seeds=3)).workdir == Path("runs/glyphs-wrn-10-1-s2-many")
    assert resolve(Config(seeds=2)).workdir == default_workdir(fill(Config(seeds=2)))
    assert named is not None
    named.mkdir()
    assert resolve(Config()).workdir == named


@pytest.mark.parametrize("dataset", ["folder", "npz", "mini_imagenet", "emnist"])
def test_a_default_folder_is_found_from_another_place_of_the_same_data(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = Config(dataset=dataset, data_dir="/scratch/1")
    first = put(default_workdir(fill(config)), described(fill(config)))
    monkeypatch.setattr(pretraining, "load_benchmark", lambda config: Path(config.data_dir).name)
    monkeypatch.setattr(pretraining, "fingerprint", {"1": "0", "2": "0", "other": "1"}.__getitem__)
    assert resolve(config).workdir == first
    assert resolve(dataclasses.replace(config, data_dir="/scratch/2")).workdir == first
    assert resolve(dataclasses.replace(config, data_dir="/scratch/other")).workdir not in (None, first)


def test_a_run_is_that_of_the_data_and_not_of_its_place(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finished run is read back, and another run is refused, also if the workdir is given."""
    shutil.copytree(finished, tmp_path / "run")
    run = read_config(finished)
    run["config"] |= {"dataset": "emnist", "data_dir": "/scratch/1"}
    run["data"]["name"] = "emnist"
    (tmp_path / "run" / "config.json").write_text(json.dumps(run))
    read = []

    def load(config: Config) -> Any:
        read.append(config.data_dir)
        benchmark = dataclasses.replace(tiny.benchmark(), name="emnist")
        return dataclasses.replace(benchmark, target=tiny.split(5, 22, seed=3)) if len(read) > 1 else benchmark

    monkeypatch.setattr(pretraining, "load_benchmark", load)
    monkeypatch.setattr(pretraining, "train", lambda run, stop: pytest.fail("trained"))
    config = tiny.config(tmp_path / "run", dataset="emnist")
    pretrain(dataclasses.replace(config, data_dir="/scratch/1"))
    assert not read
    pretrain(dataclasses.replace(config, data_dir="/scratch/2"))
    assert read == ["/scratch/2"]
    with pytest.raises(InputError, match=r"holds another run \(other images or labels\)"):
        pretrain(dataclasses.replace(config, data_dir="/scratch/3"))
    before = (tmp_path / "run" / "config.json").read_bytes()
    with pytest.raises(InputError, match=r"holds another run \(seed 0 there, 1 here\)"):
        pretrain(dataclasses.replace(config, data_dir="/scratch/3", seed=1))
    assert len(read) == 2  # settings are compared before data is read
    assert (tmp_path / "run" / "config.json").read_bytes() == before


def test_a_run_of_data_of_ones_own_is_not_taken_for_one_of_the_data_set(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = dataclasses.replace(tiny.benchmark(), name="glyphs", target=tiny.split(5, 22, seed=3))
    monkeypatch.setattr(pretraining, "load_benchmark", lambda config: other)
    with pytest.raises(InputError, match=r"holds another run \(other images or labels\)"):
        pretrain(tiny.config(finished))


@pytest.mark.parametrize("content", ["[]", "5", "{}", '{"config": [], "data": {}, "versions": {}}'])
def test_what_is_no_description_of_a_run_is_one_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=r"config\.json is not that of a run: it lacks the run.s settings or data"):
        tiny.run(tmp_path)
