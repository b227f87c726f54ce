"""Listing runs on disk: states, settings that differ, conditions, differences, and deletion that asks."""

import fcntl
import json
from pathlib import Path
from typing import Any

import pytest
from test_runs_comparison import run

from ncjax.commands import runs as command
from ncjax.commands.runs import Options, delete, differences, examine, select, table
from ncjax.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four runs: finished, interrupted after a measurement, damaged, and running."""
    run(tmp_path / "done", 1.5, 0.75)
    run(tmp_path / "stopped", 1.5, 0.75, total_steps=200, mixup=0.2)
    run(tmp_path / "broken", 1.5)
    (tmp_path / "broken" / "metrics.jsonl").write_text("{")
    run(tmp_path / "busy", 1.5, total_steps=200, mixup=0.2)
    return tmp_path


def states(folder: Path) -> dict[str, str]:
    with (folder / "busy" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return {path.name: examine(path).state for path in sorted(folder.iterdir())}


def test_states(folder: Path) -> None:
    assert states(folder) == {
        "done": "finished", "stopped": "interrupted", "broken": "damaged", "busy": "running"
    }  # fmt: skip
    assert examine(folder / "busy").state == "interrupted"  # nobody holds its lock any more


def test_a_run_that_has_only_begun_has_no_figures(folder: Path) -> None:
    (folder / "stopped" / "metrics.jsonl").unlink()
    text = table([examine(folder / "stopped")], "csv").splitlines()[1]
    assert text.split(",")[1:5] == ["interrupted", "-", "-", "-"]


def test_the_table_has_columns_for_what_differs(folder: Path) -> None:
    lines = table([examine(folder / "done"), examine(folder / "stopped")], "csv").splitlines()
    assert lines[0] == "run,state,mixup,epochs trained,target CDNV ↓,5-shot ncc ↑,size,age"
    assert lines[1].split(",")[1:6] == ["finished", "0.0", "1", "1.5", "75.00 %"]


def test_settings_newer_than_a_run_have_their_default(folder: Path) -> None:
    path = folder / "done" / "config.json"
    described = json.loads(path.read_text())
    for name in ("rotation_head", "ema_decay", "continue_from", "classifier"):
        del described["config"][name]
    path.write_text(json.dumps(described))
    entries = [examine(folder / "done"), examine(folder / "stopped")]
    assert table(entries, "csv").splitlines()[0].startswith("run,state,mixup,epochs trained,")
    assert len(select(entries, ["rotation_head=False"])) == 2
    assert {name for name, *_ in differences(folder / "done", folder / "stopped")} == {
        "config.mixup", "config.workdir", "total_steps"
    }  # fmt: skip


def test_conditions(folder: Path) -> None:
    entries = [examine(path) for path in sorted(folder.iterdir())]

    def names(*conditions: str) -> list[str]:
        return [entry.folder.name for entry in select(entries, conditions)]

    assert names("mixup=0.20") == ["busy", "stopped"]
    assert names("mixup=0.2", "state=damaged") == []
    assert names("dataset=glyphs") == ["broken", "busy", "done", "stopped"]
    with pytest.raises(InputError, match="no run has a setting 'mixed'"):
        names("mixed=1")
    with pytest.raises(InputError, match="write NAME=VALUE"):
        names("mixup")


def test_differences(folder: Path) -> None:
    found = {name: (one, two) for name, one, two in differences(folder / "done", folder / "stopped")}
    assert found.pop("config.workdir")
    assert found == {"config.mixup": ("0.0", "0.2"), "total_steps": ("100", "200")}


def test_deletion_asks_and_leaves_running_ones(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    entries = [examine(folder / "done"), examine(folder / "stopped")]
    with pytest.raises(InputError, match="add --yes"):
        delete(entries, yes=False)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda question: "n" if "2 runs" in question else "y")
    assert delete(entries, yes=False) == 0
    assert (folder / "done").exists()
    assert delete(entries[:1], yes=False) == 1
    assert not (folder / "done").exists()
    with (folder / "busy" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command.run(Options((folder / "busy",), delete=True, yes=True))
    assert (folder / "busy").exists()
    assert capsys.readouterr().out.endswith("nothing deleted\n")


def test_the_last_seed_takes_the_folder_of_seeds_with_it(tmp_path: Path) -> None:
    for seed in range(2):
        run(tmp_path / "many" / f"seed_{seed}", 1.0, seed=seed)
    (tmp_path / "many" / "seeds.json").write_text(json.dumps({"seeds": 2}))
    delete([examine(tmp_path / "many" / "seed_0")], yes=True)
    assert (tmp_path / "many" / "seed_1").exists()
    delete([examine(tmp_path / "many" / "seed_1")], yes=True)
    assert not (tmp_path / "many").exists()
