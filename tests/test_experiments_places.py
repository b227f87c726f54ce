"""Files that commands write: places are tried before the work, and numbers are written before figures."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from common import sweep
from common.cache import cached_json
from common.grids import data_folder
from ncjax import cli, collapse, plots
from ncjax.commands import evaluate, pretrain, report
from ncjax.commands.evaluate.measurements import Evaluation
from ncjax.commands.evaluate.subjects import Subject
from ncjax.errors import InputError
from ncjax.train import Config

NAME = r"a$_x^$b"  # matplotlib would try to read it as mathematics


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(cli, "start_backend", lambda **_: None)  # the tests' backend is running


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *arguments])
    evaluate.main()


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replaces the computation; returns the names of the subjects that it was called with."""
    subjects: list[str] = []

    def compute(options: evaluate.Options, subject: Subject) -> Evaluation:
        subjects.append(subject.name)
        figures = {"curves": plots.new_figure(2, 2, subject.name)} if options.curves else {}
        measured = collapse.measure(np.eye(4), np.arange(4) // 2)
        return Evaluation({"subject": subject.name}, figures, measured, [])

    monkeypatch.setattr(evaluate.measurements, "evaluate", compute)
    return subjects


def features(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, features=np.zeros((4, 2)), labels=np.arange(4))
    return path


@pytest.mark.parametrize(
    ("options", "numbers", "figure"),
    [
        ({"run": Path("r")}, "r/evaluation.json", "r/figures/curves.png"),
        ({"run": Path("r"), "step": 0}, "r/step_0.evaluation.json", "r/figures/step_0.curves.png"),
        (
            {"run": Path("r"), "step": 7, "split": "source_test"},
            "r/source_test.step_7.evaluation.json",
            "r/figures/source_test.step_7.curves.png",
        ),
        ({"features": Path("f/mine.npz")}, "f/mine.evaluation.json", "f/figures/mine.curves.png"),
        ({"run": Path("r"), "out": Path("o/x.json")}, "o/x.json", "o/x.curves.png"),
        ({"run": Path("r"), "step": 0, "out": Path("o/x.v2")}, "o/x.v2", "o/x.v2.curves.png"),
    ],
)
def test_every_evaluation_has_a_place_of_its_own(options: dict[str, Any], numbers: str, figure: str) -> None:
    chosen = evaluate.Options(**options)
    assert chosen.json_file == Path(numbers)
    assert chosen.figure_file("curves") == Path(figure)


def test_figures_go_where_out_goes(monkeypatch: pytest.MonkeyPatch, computed: list[str], tmp_path: Path) -> None:
    features(tmp_path / "read_only" / f"{NAME}.npz")
    run_main(monkeypatch, f"--features=read_only/{NAME}.npz", "--curves", "--out=~/out/x.json")
    assert computed == [f"read_only/{NAME}.npz"]
    assert sorted(path.name for path in (tmp_path / "home" / "out").iterdir()) == ["x.curves.png", "x.json"]
    assert [path.name for path in (tmp_path / "read_only").iterdir()] == [f"{NAME}.npz"]


def test_numbers_are_written_though_figures_cannot_be(
    monkeypatch: pytest.MonkeyPatch, computed: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    features(tmp_path / "mine.npz")

    def full(figure: Any, path: Path, *_: object) -> None:
        raise InputError(f"{path} cannot be written: No space left on device")

    monkeypatch.setattr(plots, "save", full)
    with pytest.raises(SystemExit, match="2"):
        run_main(monkeypatch, "--features=mine.npz", "--curves")
    assert json.loads((tmp_path / "mine.evaluation.json").read_text()) == {"subject": "mine.npz"}
    assert "figures/mine.curves.png cannot be written" in capsys.readouterr().err


def test_out_may_be_a_device(
    monkeypatch: pytest.MonkeyPatch, computed: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    features(tmp_path / "mine.npz")
    run_main(monkeypatch, "--features=mine.npz", "--curves", "--out=/dev/stdout")
    printed = capfd.readouterr()
    assert '{\n  "subject": "mine.npz"\n}\n' in printed.out
    assert "no figure of curves: there is no place beside --out=/dev/stdout" in printed.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--features=there/mine.npz"], "/there: Permission denied; choose another --out"),
        (["--features=mine.npz", "--curves"], "figures/mine.curves.png cannot be written: "),
        (["--features=mine.npz", "--out=/proc/x.json"], "/proc/x.json cannot be written: /proc: "),
        (["--features=mine.npz", "--out=~nobody-here/x.json"], "its ~ stands for no folder here"),
    ],
)
def test_places_are_tried_before_the_work(
    arguments: list[str],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    computed: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    features(tmp_path / "mine.npz")
    features(tmp_path / "there" / "mine.npz")
    (tmp_path / "figures").write_text("no folder")

    def temporary(dir: Path) -> Any:
        if dir.name == "there":  # as for anyone but root in a folder that is read-only
            raise PermissionError(13, "Permission denied")
        return open(os.devnull)

    if "there" in arguments[0]:
        monkeypatch.setattr("ncjax.files.tempfile.TemporaryFile", temporary)
    with pytest.raises(SystemExit, match="2"):
        run_main(monkeypatch, *arguments)
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert words in message
    assert message.count("\n") == 1
    assert not computed


def test_a_finished_run_prints_its_table_though_its_figure_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / NAME
    run.mkdir()
    record = {"step": 0, "epoch": 0.0, "loss": 1.0, "target/cdnv": 2.0, "target/ncc/5w1s": 0.5}
    (run / "metrics.jsonl").write_text(json.dumps(record | {"target/ncc/5w1s/ci95": 0.01}) + "\n")
    content = {"config": {}, "data": tiny.data_description(), "total_steps": 0, "versions": {}}
    (run / "config.json").write_text(json.dumps(content))
    pretrain.show(run)
    assert (run / "figures" / "collapse.png").exists()
    (run / "figures" / "collapse.png").unlink()
    (run / "figures").rmdir()
    (run / "figures").write_text("no folder")
    pretrain.show(run)
    printed = capsys.readouterr()
    assert printed.out.count("CDNV target") == 2
    assert printed.err.startswith(f"no figure: {run}/figures/collapse.png cannot be written: ")


def test_a_sweep_tries_its_places_before_it_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out").write_text("no folder")
    monkeypatch.setattr(sweep, "sweep", lambda points, options: pytest.fail("it trained"))
    with pytest.raises(InputError, match=r"out/number-smoke\.json cannot be written: "):
        sweep.make("number", sweep.Options(out=tmp_path / "out"), lambda options: [], lambda figures: None)


def test_results_are_returned_though_they_cannot_be_cached(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").write_text("no folder")
    assert cached_json(tmp_path / "run" / "few_shot.json", {}, lambda: {"accuracy": 0.5}) == {"accuracy": 0.5}
    assert "could not be kept" in capsys.readouterr().err


def test_every_path_option_takes_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["pretrain.py", "--workdir=~/run"])
    assert cli.read_options(Config, "").workdir == tmp_path / "home" / "run"
    monkeypatch.setattr(sys, "argv", ["report.py", "~/a", "b", "--out=~/x.html"])
    chosen = cli.read_options(report.Options, "")
    assert chosen.paths == (tmp_path / "home" / "a", Path("b"))
    assert chosen.out == tmp_path / "home" / "x.html"
    (tmp_path / "home" / "emnist").mkdir(parents=True)
    assert data_folder(sweep.Options(data_dir="~"), "emnist") == str(tmp_path / "home" / "emnist")


@pytest.mark.parametrize("title", [NAME, r"\frac{", "caf\udce9", "漢字", "two\nlines", "$"])
def test_any_name_can_be_a_title(title: str, tmp_path: Path) -> None:
    plots.save(plots.new_figure(2, 2, title), tmp_path / "new" / "x.png")
    assert (tmp_path / "new" / "x.png").read_bytes().startswith(b"\x89PNG")


def test_a_figure_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    figure = plots.new_figure(2, 2)
    with pytest.raises(InputError, match=r"let its name end in \.png"):
        plots.save(figure, tmp_path / "x.doc")
    with pytest.raises(InputError, match=r"cannot be written: .*Is a directory"):
        plots.save(figure, tmp_path)
    plots.save(figure, "~/x.pdf")
    assert (tmp_path / "home" / "x.pdf").read_bytes().startswith(b"%PDF")
