"""Comparing runs: configurations and their names, pairs by seed, intervals as SciPy's, and what is refused."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from scipy import stats

from ncjax.commands import compare as command
from ncjax.errors import InputError
from ncjax.runs import Run, compare, configurations, read
from ncjax.tables import format_table
from ncjax.train import Config, resolve

FIRST, LAST = {"step": 0, "epoch": 0.0}, {"step": 100, "epoch": 1.0}


def run(
    folder: Path,
    cdnv: float | None,
    accuracy: float = 0.5,
    *,
    fingerprint: str = "w-x-1-2",
    measured_per_class: int = 50,
    total_steps: int = 100,
    **settings: Any,
) -> Run:
    """A run whose last record holds these values."""
    config = resolve(Config(workdir=folder, **settings))
    folder.mkdir(parents=True)
    data = tiny.data_description(num_source_classes=64, fingerprint=fingerprint)
    described = {
        "config": dataclasses.asdict(config) | {"workdir": str(folder)},
        "total_steps": total_steps,
        "versions": {},
        "data": data | {"measured_per_class": measured_per_class},
    }
    (folder / "config.json").write_text(json.dumps(described))
    values = {"target/cdnv": cdnv, "target/debiased_cdnv": cdnv, "target/ncc/5w5s": accuracy}
    lines = [json.dumps(at | values | {"target/ncc/5w5s/ci95": 0.01}) for at in (FIRST, LAST)]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return read(folder)


def test_configurations_are_named_by_what_differs(tmp_path: Path) -> None:
    runs = [
        run(tmp_path / "a0", 1.0, seed=0, label_smoothing=0.1),
        run(tmp_path / "b0", 1.0, seed=0),
        run(tmp_path / "a1", 1.0, seed=1, label_smoothing=0.1, measure_episodes=77),
        run(tmp_path / "c0", 1.0, seed=0, mixup=0.2),
    ]
    assert {c.name: c.seeds for c in configurations(runs)} == {
        "label_smoothing=0.1, mixup=0.0": (0, 1),
        "label_smoothing=0.0, mixup=0.0": (0,),
        "label_smoothing=0.0, mixup=0.2": (0,),
    }
    assert configurations(runs[:1])[0].name == "all settings alike"


def test_runs_that_others_continue_or_learn_from_are_known_by_checksum_and_step(tmp_path: Path) -> None:
    def other(name: str, **settings: Any) -> Run:
        made = run(tmp_path / name, 1.0, seed=settings.pop("seed", 0))
        described = dataclasses.replace(made.description, settings={**made.description.settings, **settings})
        return dataclasses.replace(made, description=described)

    runs = [
        other("a", continue_from="/runs/x/seed_0", start_weights="0a-24-1b"),
        other("b", continue_from="/runs/y", start_weights="0a-24-2b", seed=1),
        other("c", continue_from="/runs/x/seed_0", start_weights="0a-12-3b"),
        other("d", distill_from="/runs/t/seed_0", teacher_weights="0123abcd"),
    ]
    assert {c.name: c.seeds for c in configurations(runs)} == {
        "continue_from=x@0a-24, distill_from=None": (0, 1),
        "continue_from=x@0a-12, distill_from=None": (0,),
        "continue_from=None, distill_from=t@0123abcd": (0,),
    }


def test_runs_of_the_same_seeds_are_paired(tmp_path: Path) -> None:
    """Seeds differ more than configurations do: pairs tell them apart, and the interval is SciPy's."""
    base, other = [1.0, 2.0, 4.0], [0.9, 1.7, 3.7]
    runs = [run(tmp_path / f"a{s}", v, 0.5 + 0.1 * s, seed=s) for s, v in enumerate(base)]
    runs += [run(tmp_path / f"b{s}", v, 0.51 + 0.101 * s, seed=s, mixup=0.2) for s, v in enumerate(other)]
    (one,) = compare(runs)
    by_name = {difference.measure: difference for difference in one.differences}
    cdnv, accuracy = by_name["target/cdnv"], by_name["target/ncc/5w5s"]
    low, high = stats.ttest_rel(np.log(other), np.log(base)).confidence_interval(0.95)
    np.testing.assert_allclose([cdnv.low, cdnv.high], np.exp([low, high]), rtol=1e-12)
    assert cdnv.estimate == pytest.approx(np.exp(np.log(other).mean() - np.log(base).mean()))
    assert (cdnv.pairs, cdnv.ratio, cdnv.verdict) == (3, True, "better")
    assert accuracy.estimate == pytest.approx(0.011)
    assert (accuracy.verdict, accuracy.lower_is_better) == ("better", False)


def test_other_seeds_are_compared_by_welch(tmp_path: Path) -> None:
    base, other = [1.0, 2.0, 4.0], [0.9, 3.9]
    runs = [run(tmp_path / f"a{s}", v, seed=s) for s, v in enumerate(base)]
    runs += [run(tmp_path / f"b{s}", v, seed=s + 7, mixup=0.2) for s, v in enumerate(other)]
    (one,) = compare(runs)
    cdnv = one.differences[0]
    low, high = stats.ttest_ind(np.log(other), np.log(base), equal_var=False).confidence_interval(0.95)
    np.testing.assert_allclose([cdnv.low, cdnv.high], np.exp([low, high]), rtol=1e-12)
    assert (cdnv.pairs, cdnv.verdict) == (0, "open")
    assert one.differences[-1].reason == "the same difference in every seed"


def test_an_interval_that_is_not_there_says_why(tmp_path: Path) -> None:
    runs = [
        run(tmp_path / "a", 1.0, 0.5),
        run(tmp_path / "b", None, 0.6, mixup=0.2),
        run(tmp_path / "c", 2.0, 0.6, mixup=0.3, measured_per_class=100),
    ]
    infinite, counts = compare(runs)
    assert infinite.differences[0].reason == "infinite in 1 of 2 runs"
    assert infinite.differences[0].estimate is None
    assert counts.differences[0].reason == "measured on 50 and 100 images a class: compare only equal counts"
    assert counts.differences[-1].reason == "one seed: an interval takes two"
    assert counts.differences[-1].estimate == pytest.approx(0.1)
    assert counts.differences[-1].verdict == ""


def test_other_target_data_is_never_pooled(tmp_path: Path) -> None:
    runs = [run(tmp_path / f"a{s}", 1.0, seed=s) for s in range(2)]
    runs += [run(tmp_path / f"b{s}", 2.0, seed=s, fingerprint="w-x-3-4", mixup=0.2) for s in range(2)]
    with pytest.raises(InputError, match="no two configurations share their target data"):
        compare(runs)
    runs += [run(tmp_path / f"c{s}", 3.0 + s, seed=s, mixup=0.2) for s in range(2)]
    (one,) = compare(runs)
    assert {run.folder.name for run in one.other.runs} == {"c0", "c1"}


def test_what_cannot_be_compared_is_one_line(tmp_path: Path) -> None:
    runs = [run(tmp_path / "a", 1.0), run(tmp_path / "b", 1.0, mixup=0.2)]
    with pytest.raises(InputError, match=r"no configuration is called 'x'; there are mixup=0\.0; mixup=0\.2"):
        compare(runs, baseline="x")
    assert compare(runs, baseline="mixup=0.2")[0].other.name == "mixup=0.0"
    with pytest.raises(InputError, match="the same run twice"):
        compare([*runs, run(tmp_path / "a2", 1.0)])
    with pytest.raises(InputError, match="is not finished"):
        compare([*runs, run(tmp_path / "c", 1.0, mixup=0.3, total_steps=200)])


def test_the_command_prints_tables_and_writes_its_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for s in range(2):
        run(tmp_path / "runs" / f"a{s}", 1.0 + s, 0.5 + 0.01 * s, seed=s)
        run(tmp_path / "runs" / f"b{s}", 0.5 + s, 0.55 + 0.02 * s, seed=s, mixup=0.2)
    out, figure = tmp_path / "out.json", tmp_path / "figure.png"
    command.run(command.Options((tmp_path / "runs",), out=out, figure=figure))
    printed = capsys.readouterr().out
    assert "mixup=0.2 beside the baseline mixup=0.0" in printed
    assert "5-way 5-shot ncc" in printed
    assert "ncc/5w" not in printed
    assert "paired by 2 seeds" in printed
    assert "+5.50 points" in printed
    written = json.loads(out.read_text())["comparisons"][0]
    assert written["differences"][-1]["estimate"] == pytest.approx(0.055)
    assert figure.stat().st_size > 10_000
    command.run(command.Options((tmp_path / "runs",), format="csv"))
    assert capsys.readouterr().out.splitlines()[1] == ",".join(command.HEADER)


def test_tables_in_every_format() -> None:
    header, rows = ("name", "share"), [("a_b", "5 %"), ("c|d, e", "± 1")]
    assert format_table(header, rows) == "name    share\na_b       5 %\nc|d, e    ± 1\n"
    assert format_table(header, rows, "csv") == 'name,share\na_b,5 %\n"c|d, e",± 1\n'
    assert format_table(header, rows, "markdown").splitlines()[-1] == r"| c\|d, e | ± 1 |"
    latex = format_table(header, rows, "latex").splitlines()
    assert latex[0] == r"\begin{tabular}{lr}"
    assert latex[4] == r"a\_b & 5 \% \\"
    assert latex[-2:] == [r"\bottomrule", r"\end{tabular}"]
