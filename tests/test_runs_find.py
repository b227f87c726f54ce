"""Finding runs on disk, also through links, and invalid config.json files."""

import json
from pathlib import Path
from typing import Any

import pytest

import ncjax
from ncjax import runs
from ncjax.errors import InputError
from ncjax.train import read_config, read_records


def run(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


def test_linked_runs_are_found(tmp_path: Path) -> None:
    """A linked run, and a linked folder of runs, for example on another disk."""
    run(tmp_path / "disk" / "a")
    run(tmp_path / "disk" / "many" / "seed_10")
    run(tmp_path / "disk" / "many" / "seed_2")
    here = tmp_path / "here"
    run(here / "own")
    (here / "a").symlink_to(tmp_path / "disk" / "a")
    (here / "many").symlink_to(tmp_path / "disk" / "many")
    (here / "lost").symlink_to(tmp_path / "nowhere")
    assert runs.find(here) == [here / "a", here / "many/seed_2", here / "many/seed_10", here / "own"]
    (tmp_path / "link").symlink_to(here)
    assert len(runs.find(tmp_path / "link")) == 4


def test_a_run_is_named_once_by_its_own_folder(tmp_path: Path) -> None:
    run(tmp_path / "b")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "best").symlink_to(tmp_path / "b")
    (tmp_path / "latest").symlink_to(tmp_path / "b")
    assert runs.find(tmp_path) == [tmp_path / "b"]


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    run(tmp_path / "a" / "b" / "run")
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "self").symlink_to(tmp_path / "a" / "self")
    assert runs.find(tmp_path) == [tmp_path / "a/b/run"]


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    run(tmp_path / "runs" / "a")
    assert runs.find("~/runs") == [tmp_path / "runs/a"]
    assert read_config_error("~/runs/a").endswith("give another folder")
    with pytest.raises(InputError, match=r"no metrics\.jsonl in it"):
        read_records("~/runs/a")


def read_config_error(folder: Any) -> str:
    with pytest.raises(InputError) as raised:
        read_config(folder)
    return str(raised.value)


@pytest.mark.parametrize("content", [[], {}, "run", 3, None, {"config": []}, {"config": {}, "data": []}])
def test_a_config_that_is_none_is_one_line(content: Any, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(content))
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    for read in (read_config, runs.read, ncjax.restore):
        with pytest.raises(InputError, match="is not that of a run: it lacks the run's settings or data; give another"):
            read(tmp_path)  # type: ignore[operator]
