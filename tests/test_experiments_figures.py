"""Figures: their grids, their sweeps, and some figures from end to end with a tiny network."""

import dataclasses
import fcntl
import importlib
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from scipy.stats import sem, t
from sklearn.linear_model import LogisticRegression

import ncjax
from common import drawing, fitting, grids, sweep
from common.cache import cached_json
from experiments import few_shot_table, generalization_gap, linear_probe, number_of_classes, theory
from ncjax import keys, models, plots
from ncjax.errors import InputError
from ncjax.eval.heads import Linear
from ncjax.runs import Run
from ncjax.statistics import Mean
from ncjax.train import Config, read_records, resolve

pytestmark = pytest.mark.cheap_compilation

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
RESULTS = (EXPERIMENTS / "RESULTS.md").read_text(encoding="utf-8")
FIGURES = (
    "architectures", "class_population", "collapse_during_training", "few_shot_table", "frozen_encoder",
    "generalization_gap", "linear_probe", "number_of_classes", "optimization", "recipes", "regularization",
    "samples_per_class", "strong", "theory", "what_predicts_transfer",
)  # fmt: skip
PRESETS = {"what_predicts_transfer": ("smoke", "small")}
"""Presets of a figure, where they are not smoke and paper."""


def options_of(module: Any, **changes: Any) -> sweep.Options:
    return getattr(module, "Options", sweep.Options)(**changes)


@pytest.mark.parametrize(
    ("name", "preset"),
    [(name, preset) for name in FIGURES for preset in PRESETS.get(name, ("smoke", "small", "paper"))],
)
def test_every_grid_resolves_and_its_file_says_what_it_is(name: str, preset: str, tmp_path: Path) -> None:
    module = importlib.import_module(f"experiments.{name}")
    options = options_of(module, preset=preset, data_dir=str(tmp_path))
    points = module.grid(options)
    for point in points:
        config = resolve(point.config)
        models.create(config.network or "", 10)
    folders = [(sweep.folder(point, options), point.group) for point in points]
    assert len(set(folders)) == len(points)
    opening = module.__doc__
    for words in (f"Command: python experiments/{name}.py", "Paper:", "Plotted:", "Expect:", "\nTime: "):
        assert words in opening
    assert f"## {name}.py\n" in RESULTS
    assert "Claim:" in opening or "Question" in opening


def test_every_figure_is_tested() -> None:
    sweeps = {path.stem for path in EXPERIMENTS.glob("*.py") if "sweep.main(" in path.read_text()}
    assert sweeps == set(FIGURES)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 20])
def test_shards_cover_a_grid_exactly_once(count: int) -> None:
    points = [sweep.Point(str(i), Config()) for i in range(11)]
    parts = [sweep.part(points, f"{i}/{count}") for i in range(1, count + 1)]
    assert sorted(int(point.label) for part in parts for point in part) == list(range(11))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_no_two_shards_train_in_one_folder(count: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The figure of gaps holds the reference twice."""
    trained: list[Path] = []
    monkeypatch.setattr(sweep, "load", lambda config: None)
    monkeypatch.setattr(sweep.train, "pretrain", lambda config, **_: trained.append(config.workdir))
    points = generalization_gap.grid(sweep.Options(preset="paper", out=tmp_path))
    for i in range(1, count + 1):
        options = sweep.Options(preset="paper", out=tmp_path, shard=f"{i}/{count}")
        outcomes = sweep.sweep(points, options)
    assert len(outcomes) == len(points) == 13
    assert len(trained) == len(set(trained)) == 12
    assert sweep.Figures("gap", options, outcomes).missing == "0 of 36 runs"


@pytest.mark.parametrize("shard", ["0/2", "3/2", "2", "a/b", "1/0"])
def test_an_impossible_shard_is_refused(shard: str) -> None:
    with pytest.raises(InputError, match="give i/n with i from 1 to n"):
        sweep.part([], shard)


def test_figures_share_runs_by_their_settings() -> None:
    options = sweep.Options()
    reference = grids.reference(options)

    def folder(config: Config) -> Path:
        return sweep.folder(sweep.Point("", config), options)

    again = number_of_classes.grid(options)[-1].config
    assert folder(again) == folder(reference)
    assert again.keep_checkpoints
    other = grids.reference(options, num_source_classes=5)
    assert folder(other) != folder(reference)
    assert not other.keep_checkpoints
    assert (reference.measurements, other.measurements) == (3, 0)
    # neither the place of the data nor a default of the preset makes another run
    assert folder(dataclasses.replace(reference, data_dir="/elsewhere", seed=3)) == folder(reference)
    assert folder(dataclasses.replace(reference, learning_rate=0.1)) == folder(reference)
    more = dataclasses.replace(options, seeds=5)
    assert sweep.folder(sweep.Point("", reference), more) != folder(reference)


def test_the_interval_over_seeds_is_students_t() -> None:
    values = [0.2, 0.25, 0.31]
    mean = Mean.of(values)
    low, high = t.interval(0.95, 2, np.mean(values), sem(values))
    assert mean.value - mean.ci95 == pytest.approx(low)
    assert mean.value + mean.ci95 == pytest.approx(high)
    assert np.isnan(Mean.of([0.5]).ci95)
    assert np.isnan(Mean.of([0.5, np.inf]).value)


def test_slopes_of_power_laws_and_of_gaps_that_are_not_positive() -> None:
    x = (10.0, 30.0, 100.0)
    by_seed = {0: {v: 2 * v**-0.5 for v in x}, 1: {v: v**-1.0 for v in x}, 2: {10.0: 1.0, 30.0: -0.1, 100.0: 0.1}}
    np.testing.assert_allclose(generalization_gap.slopes(by_seed, 3), [-0.5, -1.0])
    assert generalization_gap.slopes({0: {10.0: 1.0}}, 3) == []  # other numbers are not yet finished


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> sweep.Options:
    """Figures of the tiny network, a few steps long."""

    def reference(options: sweep.Options, **changes: Any) -> Config:
        plain = Config(
            network="tiny", epochs=1, min_steps=12, batch_size=16, learning_rate=0.1, schedule="cosine",
            measurements=1, measure_episodes=50, keep_checkpoints=True,
        )  # fmt: skip
        return dataclasses.replace(plain, **changes)

    monkeypatch.setattr(models, "create", tiny.create)
    monkeypatch.setattr(sweep, "load", lambda config: tiny.benchmark())
    monkeypatch.setattr(grids, "reference", reference)
    monkeypatch.setitem(grids.CLASSES, "smoke", (5, 6))
    return sweep.Options(out=tmp_path / "figures", seeds=2)


@pytest.mark.slow
def test_a_sweep_trains_once_is_divided_over_machines_and_says_what_is_missing(
    small: sweep.Options, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def make(**changes: Any) -> dict[str, Any]:
        options = dataclasses.replace(small, seeds=1, **changes)
        sweep.make("number_of_classes", options, number_of_classes.grid, number_of_classes.draw)
        assert (small.out / "number_of_classes-smoke.png").stat().st_size > 10_000
        content: dict[str, Any] = json.loads((small.out / "number_of_classes-smoke.json").read_text())
        return content

    first = make(shard="2/2")
    assert first["missing"] == "1 of 2 runs"
    assert [point["label"] for point in first["numbers"]] == ["6 classes"]
    assert "drawn from 1 of 2 runs" in capsys.readouterr().out
    both = make(shard="1/2")
    assert both["missing"] == ""
    assert len(both["runs"]) == 2
    monkeypatch.setattr(sweep.train, "pretrain", lambda *_, **__: pytest.fail("trained again"))
    assert make() == both
    values = [read_records(run)[-1]["target/debiased_cdnv"] for run in both["runs"]]
    assert [point["values"]["target/debiased_cdnv"] for point in both["numbers"]] == [[v] for v in values]


@pytest.mark.parametrize(
    "name", ["class_population", "collapse_during_training", "generalization_gap", "recipes", "regularization"]
)
def test_figures_of_made_up_records(name: str, tmp_path: Path) -> None:
    module = importlib.import_module(f"experiments.{name}")
    options = sweep.Options(out=tmp_path)
    rng = np.random.default_rng(0)
    outcomes = []
    levels: dict[str, list[float]] = {}
    ratios: dict[str, list[float]] = {}
    for point in module.grid(options):
        where = sweep.folder(point, options)
        finished = []
        for seed in range(point.seeds or 2):
            level = rng.uniform(0.1, 0.2) + 0.05 * (point.group == "shifted")
            levels.setdefault(point.group, []).append(level)
            record = {"step": 1, "epoch": 1.0, "target/ncc/5w1s": 1 - level, "target/ncc/5w1s/ci95": 0.01}
            for i, of in enumerate(plots.SETS, 1):
                noise = 1 + 0.1 * rng.normal() * (name == "class_population" and of == "source_test")
                record |= {f"{of}/cdnv": i * level * noise, f"{of}/debiased_cdnv": i * level * noise}
            ratios.setdefault(point.group, []).append(record["target/cdnv"] / record["source_test/cdnv"])
            config = dataclasses.asdict(dataclasses.replace(point.config, seed=seed))
            finished.append(
                Run(where / f"seed_{seed}", tiny.description(config, total_steps=1), [record | {"step": 0}, record])
            )
        outcomes.append(sweep.Outcome(point, finished))
    module.draw(sweep.Figures(name, options, outcomes))
    assert (tmp_path / f"{name}-smoke.png").stat().st_size > 10_000
    numbers = json.loads((tmp_path / f"{name}-smoke.json").read_text())["numbers"]
    if name == "regularization":
        rho, low, high = numbers["spearman"]["target/ncc/5w1s and target CDNV"]
        assert rho == pytest.approx(-1)
        assert low <= rho <= high + 1e-9
    if name == "class_population":
        lost, low, high = numbers["differences"]["target/ncc/5w1s"]
        assert lost == pytest.approx(np.mean(levels["shifted"]) - np.mean(levels["random"]))
        assert low < lost < high
        shifted, random = (np.exp(np.mean(np.log(ratios[group]))) for group in ("shifted", "random"))
        ratio = numbers["differences"]["target / source_test CDNV, shifted over random"]
        assert ratio[0] == pytest.approx(shifted / random)
    if name == "generalization_gap":
        gaps = [numbers["samples/target"]["gaps"][seed] for seed in ("0", "1")]
        np.testing.assert_allclose(np.transpose(gaps).ravel(), 2 * np.asarray(levels["samples"]))


@pytest.mark.slow
def test_a_setting_that_diverges_is_named_and_the_others_are_drawn(
    small: sweep.Options, capsys: pytest.CaptureFixture[str]
) -> None:
    def grid(options: sweep.Options) -> list[sweep.Point]:
        return [
            sweep.Point("too fast", grids.reference(options, learning_rate=1e30)),
            sweep.Point("well", grids.reference(options)),
        ]

    figures = sweep.make(
        "optimization", dataclasses.replace(small, seeds=1), grid, lambda f: drawing.draw_settings(f, "Rates")
    )
    assert [outcome.point.label for outcome in figures.finished] == ["well"]
    assert "too fast: the loss, the weights or the features were not finite" in capsys.readouterr().out


@pytest.mark.slow
def test_a_point_that_another_process_trains_is_left_to_it(
    small: sweep.Options, capsys: pytest.CaptureFixture[str]
) -> None:
    options = dataclasses.replace(small, seeds=1)
    points = [sweep.Point("taken", grids.reference(options, learning_rate=0.01)),
              sweep.Point("free", grids.reference(options)),
              sweep.Point("free again", grids.reference(options))]  # fmt: skip
    taken = sweep.folder(points[0], options)
    (taken / "seed_0").mkdir(parents=True)
    with (taken / "seed_0" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        figures = sweep.Figures("figure", options, sweep.sweep(points, options))
    assert [outcome.point.label for outcome in figures.finished] == ["free", "free again"]
    assert len(figures.runs) == 1
    assert figures.missing == f"1 of 2 runs; taken: another process is at work in {taken}"
    assert "taken: another process is at work in" in capsys.readouterr().err


def test_nothing_finished_is_one_line(small: sweep.Options) -> None:
    with pytest.raises(InputError, match=r"no run of this figure is finished in .*; leave out --no-train"):
        sweep.make("theory", dataclasses.replace(small, train=False), theory.grid, theory.draw)
    with pytest.raises(InputError, match="seeds=0: it must be at least 1"):
        sweep.make("theory", dataclasses.replace(small, seeds=0), theory.grid, theory.draw)


@pytest.mark.slow
def test_figures_that_look_into_networks(small: sweep.Options, capsys: pytest.CaptureFixture[str]) -> None:
    sweep.make("theory", small, theory.grid, theory.draw)
    content = json.loads((small.out / "theory-smoke.json").read_text())["numbers"]
    assert content["shots"] == [1, 2, 5]
    assert len(content["checkpoints"]) == 4  # two seeds, two measurements after the first
    sweep.make("linear_probe", small, linear_probe.grid, linear_probe.draw)
    content = json.loads((small.out / "linear_probe-smoke.json").read_text())["numbers"]
    assert len(content["transfer"]) == 4
    assert all(run["held_out"] == 5 * 7 for run in content["transfer"])
    assert all(run["ridge"] > 0.5 for run in content["transfer"])  # chance is 0.2
    table = few_shot_table.Options(out=small.out, seeds=2, episodes=100)
    sweep.make("few_shot_table", table, few_shot_table.grid, few_shot_table.draw)
    content = json.loads((small.out / "few_shot_table-smoke.json").read_text())["numbers"]
    assert set(content["accuracy"]["glyphs"][0]) >= {
        f"{head}/5w{shots}s" for head in few_shot_table.HEADS for shots in (1, 5)
    }


def test_a_cache_is_used_for_the_same_settings_only(tmp_path: Path) -> None:
    path = tmp_path / "cached.json"
    made = iter(range(10))

    def get(**settings: Any) -> Any:
        return cached_json(path, settings, lambda: {"value": next(made), "wide": float("nan")})

    path.write_text('{"ridge": 0.5}')  # of a form without settings
    assert get(rates=(1, 2)) == {"value": 0, "wide": None}
    assert get(rates=(1, 2)) == {"value": 0, "wide": None}
    assert get(rates=(1, 3))["value"] == 1
    assert get(rates=(1, 2))["value"] == 2


def test_a_probe_of_other_settings_is_computed_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    computed: list[Any] = []
    monkeypatch.setattr(linear_probe, "probes", lambda run, data_dir: computed.append(run) or {"ridge": 0.5})
    monkeypatch.setattr(few_shot_table, "measure", lambda *given: computed.append(given[0]) or {"ncc/5w1s": 0.5})
    run = Run(tmp_path, {}, [])
    for _ in range(2):
        linear_probe.transfer(run)
        few_shot_table.evaluate(run, 100)
    assert len(computed) == 2
    monkeypatch.setattr(linear_probe, "RATE", 0.02)
    monkeypatch.setattr(few_shot_table, "SHOTS", (1, 5, 10))
    linear_probe.transfer(run)
    few_shot_table.evaluate(run, 100)
    assert len(computed) == 4


def test_held_out_target_images_are_not_trained_on() -> None:
    split = tiny.benchmark().target
    train, held = linear_probe.divide(split)
    assert sorted([*train, *held]) == list(range(len(split.labels)))
    assert np.bincount(split.labels[held]).tolist() == [7] * 5
    assert np.any(np.diff(split.labels[train]) < 0)  # in random order, so that the last fifth has all classes


@pytest.mark.slow
def test_fine_tuning_learns_the_new_classes_and_leaves_the_run_as_it_was(
    small: sweep.Options,
) -> None:
    network = tiny.network(6)
    variables = network.init(keys.root(0), (12, 12, 1))
    before = jax.tree.map(np.array, variables)
    params = ncjax.Classifier(variables, np.float32([0.5]), np.float32([0.3]), network=network, augmentation="shift")
    target = tiny.split(5, 60, seed=2)
    zero = Linear(np.zeros((5, 8 * 36), np.float32), np.zeros(5, np.float32), np.zeros(8 * 36, np.float32))
    tuned = fitting.fine_tune(params, target.images, target.labels, zero, epochs=5, batch=16, rate=0.01)
    new = tiny.split(5, 20, seed=2, draw=1)
    assert np.mean(ncjax.logits(tuned, new).argmax(-1) == new.labels) > 0.8
    for old, now in zip(map(np.asarray, jax.tree.leaves(before)), jax.tree.leaves(params.variables), strict=True):
        np.testing.assert_array_equal(old, now)


def test_the_logistic_probe_is_scikit_learns_and_says_when_it_is_not() -> None:
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(4), 30)
    x = (rng.normal(size=(4, 6))[y] + rng.normal(size=(120, 6)) + 3).astype(np.float32)
    ours = fitting.logistic(x, y, 4, jnp.float32(0.5))
    theirs = LogisticRegression(C=0.5, tol=1e-8, max_iter=1000).fit(x.astype(np.float64), y)
    np.testing.assert_allclose(ours.weights, theirs.coef_, atol=1e-3)
    bias = np.asarray(ours.bias)
    np.testing.assert_allclose(bias - bias.mean(), theirs.intercept_ - theirs.intercept_.mean(), atol=1e-3)
    with pytest.warns(UserWarning, match="120 images did not converge at C=1e-36"):
        fitting.logistic(x, y, 4, jnp.float32(1e-36))
