"""Paths given to functions about data: `~`, and a user without a home folder."""

import pwd
from pathlib import Path

import numpy as np
import pytest
import tiny

from ncjax import data
from ncjax.data.__main__ import main
from ncjax.data.archives import cache_dir
from ncjax.errors import InputError
from ncjax.eval import EpisodePlan
from ncjax.train import Config, resolve


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_every_function_that_takes_a_path_takes_a_tilde(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = np.concatenate([tiny.split(4, 6, seed=seed).images for seed in (1, 2)])
    parts = {"labels": np.repeat(np.arange(8), 6), "split": np.repeat(["source", "target"], 24)}
    np.savez(home / "mine.npz", images=images, **parts)
    assert data.load("npz", data_dir="~/mine.npz").target.num_classes == 4
    assert data.load("npz", data_dir=Path("~/mine.npz")).target.num_classes == 4
    assert main(["--preview=npz", "--data_dir=~/mine.npz", "--output=~/sheet.png"]) == 0
    assert (home / "sheet.png").exists()
    config = resolve(Config(dataset="npz", data_dir="~/mine.npz", workdir=Path("~/run")))
    assert (config.data_dir, config.workdir) == (str(home / "mine.npz"), home / "run")
    plan = EpisodePlan.sample(np.repeat(np.arange(5), 4), ways=2, shots=1, queries=1, episodes=3)
    plan.save("~/plan.npz")
    np.testing.assert_array_equal(EpisodePlan.load("~/plan.npz").support_index, plan.support_index)
    assert (home / "plan.npz").exists()


@pytest.mark.parametrize("chosen", [{"NCJAX_CACHE_DIR": "~/c"}, {"XDG_CACHE_HOME": "~/c"}])
def test_the_cache_folder_may_be_under_a_tilde(
    chosen: dict[str, str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NCJAX_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)
    assert cache_dir().is_relative_to(home / "c")


def test_without_a_home_folder_the_cache_has_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "NCJAX_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)
    with pytest.raises(InputError, match="no home folder to keep data in: set HOME, or NCJAX_CACHE_DIR"):
        cache_dir()
