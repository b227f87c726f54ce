"""Figures of recipes and of real images: grids, teachers of distilled points, arrows, published numbers."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from common import grids, sweep
from common.published import PUBLISHED
from experiments import few_shot_table, generalization_gap, number_of_classes, recipes, strong
from ncjax import models, plots
from ncjax.errors import InputError
from ncjax.runs import Run
from ncjax.train import pretrain, resolve

pytestmark = pytest.mark.cheap_compilation


def test_small_presets_have_real_images_and_as_many_steps_each(tmp_path: Path) -> None:
    for dataset, classes in grids.REAL_IMAGES.items():
        options = sweep.Options(preset="small", dataset=dataset, data_dir=str(tmp_path), out=tmp_path)
        points = generalization_gap.grid(options)
        assert {(point.config.dataset, point.config.epochs, point.config.min_steps) for point in points} == {
            (dataset, 1, grids.SMALL_STEPS)
        }
        by_classes = number_of_classes.grid(options)
        assert [point.x for point in by_classes] == [k for k in (5, 10, 20, 40) if k < classes] + [classes]
        reference = sweep.Point("", grids.reference(options))
        assert sweep.folder(by_classes[-1], options) == sweep.folder(reference, options)
        assert sweep.output_files("theory", options)[0].name == f"theory-small-{dataset}.json"


def test_the_strong_preset_is_what_recipes_puts_together() -> None:
    preset = resolve(strong.strong(few_shot_table.Options(preset="paper"), "cifar_fs"))
    assert {name: getattr(preset, name) for name in recipes.TOGETHER} == recipes.TOGETHER
    assert (preset.network, preset.precision, preset.epochs) == ("resnet12", "bfloat16", 100)


def test_characters_have_no_recipes() -> None:
    with pytest.raises(InputError, match="give --dataset=fc100"):
        recipes.grid(sweep.Options(preset="small", dataset="emnist"))


def outcomes(options: sweep.Options, levels: dict[str, tuple[float, float]]) -> list[sweep.Outcome]:
    """Two runs of made-up records for each piece, with these levels of CDNV and error."""
    made = []
    for point in recipes.grid(options):
        runs = []
        for seed, factor in ((0, 0.9), (1, 1 / 0.9)):
            cdnv, error = (factor * level for level in levels.get(point.label, levels["reference"]))
            record = {"step": 1, "epoch": 1.0, "target/ncc/5w1s": 1 - error, "target/ncc/5w1s/ci95": 0.01}
            record |= {f"{of}/{kind}": cdnv for of in plots.SETS for kind in ("cdnv", "debiased_cdnv")}
            config = dataclasses.asdict(dataclasses.replace(point.config, seed=seed))
            described = tiny.description(config, total_steps=1)
            runs.append(Run(options.out / point.label / f"seed_{seed}", described, [record | {"step": 0}, record]))
        made.append(sweep.Outcome(point, runs))
    return made


def test_differences_from_the_reference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    levels = {"reference": (1.0, 0.4), "rotation head": (0.5, 0.3)}
    options = sweep.Options(out=tmp_path)
    recipes.draw(sweep.Figures("recipes", options, outcomes(options, levels)))
    numbers = json.loads((tmp_path / "recipes-smoke.json").read_text())["numbers"]["differences"]
    lost, low, high = numbers["rotation head"]["log target/debiased_cdnv"]
    assert lost == pytest.approx(np.log(0.5))
    assert low < lost < high
    shares = (0.9 + 1 / 0.9) / 2
    assert numbers["rotation head"]["target/ncc/5w1s"][0] == pytest.approx(0.1 * shares)
    assert numbers["colour jitter"]["target/ncc/5w1s"][0] == pytest.approx(0)
    assert (tmp_path / "recipes-smoke-arrows.png").stat().st_size > 10_000
    assert "CDNV -50.00 [" in capsys.readouterr().out


@pytest.mark.slow
def test_a_distilled_point_appears_once_its_teacher_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_network: Any
) -> None:
    monkeypatch.setattr(models, "create", tiny.create)
    options = sweep.Options(out=tmp_path, seeds=1)
    teacher = sweep.Point("teacher", dataclasses.replace(tiny.config(tmp_path), workdir=None))
    assert grids.distilled("student", teacher, options) == []
    pretrain(
        dataclasses.replace(teacher.config, workdir=sweep.folder(teacher, options) / "seed_0"),
        benchmark=tiny.benchmark(),
    )
    (student,) = grids.distilled("student", teacher, options)
    assert student.config.distill_from == str(sweep.folder(teacher, options) / "seed_0")
    assert sweep.folder(student, options) != sweep.folder(teacher, options)


def test_published_rows_have_a_source_and_say_how_they_differ() -> None:
    assert PUBLISHED.keys() == {"cifar_fs", "fc100", "mini_imagenet"}
    cell = {"head": "ncc", "accuracy": 0.5, "ci95": 0.01, "target_ci95": 0.05}
    result = {f"{head}/5w{shots}s": cell for head in few_shot_table.HEADS for shots in few_shot_table.SHOTS}
    for name, rows in PUBLISHED.items():
        table = few_shot_table.table(name, [result], rows)
        for row in rows:
            assert "arXiv" in row.source
            assert 20 < row.one_shot[0] < row.five_shot[0] < 100
            assert f"{row.method}: {row.source}; {row.differs}." in table.notes
