"""claims.py on made-up records: each verdict, against SciPy."""

import dataclasses
import json
import math
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
from scipy import stats

import ncjax
from common import bounds, grids, sweep, verdicts
from common.verdicts import Claim, Part, Verdict, judge
from experiments import claims
from ncjax import cli, collapse, statistics
from ncjax.data import Split
from ncjax.errors import InputError
from ncjax.eval import feature_episodes
from ncjax.runs import Run, find
from ncjax.train import Config, resolve

pytestmark = pytest.mark.cheap_compilation

STEPS = 100


def write(
    folder: Path,
    first: dict[str, float | None],
    last: dict[str, float | None],
    *,
    total_steps: int = STEPS,
    **settings: Any,
) -> Path:
    """Writes a finished run whose records hold these values."""
    config = resolve(Config(workdir=folder, **settings))
    folder.mkdir(parents=True)
    described = {
        "config": dataclasses.asdict(config) | {"workdir": str(folder)},
        "total_steps": total_steps,
        "versions": {},
        "data": tiny.data_description(num_source_classes=config.num_source_classes or 64, fingerprint="none"),
    }
    (folder / "config.json").write_text(json.dumps(described))
    records = [{"step": step, "epoch": step / STEPS, **record(last if step else first)} for step in (0, 50, STEPS)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(values) + "\n" for values in records))
    return folder


def record(values: dict[str, float | None]) -> dict[str, Any]:
    """Makes a record: debiased and plug-in CDNV of the sets that are named, and a few-shot accuracy."""
    kinds = {f"{name}/{kind}": values[name] for name in values if "/" not in name for kind in ("cdnv", "debiased_cdnv")}
    return {**kinds, "target/ncc/5w1s": 0.5, "target/ncc/5w1s/ci95": 0.01} | {
        name: value for name, value in values.items() if "/" in name
    }


def sets(train: float, test: float, target: float, **more: float | None) -> dict[str, Any]:
    return {"source_train": train, "source_test": test, "target": target, **more}


def runs_of(folder: Path) -> list[Run]:
    return claims.read([folder])[0]


def verdicts_of(claim: Claim) -> list[str]:
    return [part.verdict for part in claim.parts]


def make(folder: Path, pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]], **settings: Any) -> list[Run]:
    for seed, (first, last) in enumerate(pairs):
        write(folder / f"seed_{seed}", first, last, seed=seed, **settings)
    return runs_of(folder)


def test_cdnv_falls_with_the_t_interval_of_the_log_ratio(tmp_path: Path) -> None:
    ratios = np.array([0.1, 0.2, 0.15])
    runs = make(tmp_path, [(sets(2, 2, 2), sets(2 * r, 2 * r, 2 * r)) for r in ratios])
    claim = verdicts.cdnv_falls(runs)
    assert claim.verdict == "supported"
    part = claim.parts[0]
    low, high = stats.t.interval(0.95, 2, np.log(ratios).mean(), stats.sem(np.log(ratios)))
    np.testing.assert_allclose([part.estimate, part.low, part.high], np.exp([np.log(ratios).mean(), low, high]))
    assert "holds in 3 of 3 seeds of one configuration" in part.note
    assert "3 runs of 1 configuration, t over seeds" in claim.scope


def test_the_seeds_of_a_configuration_are_one_value_among_configurations(tmp_path: Path) -> None:
    """Eighteen runs pooled as 18 values would be too sure: six configurations are six values."""
    rng = np.random.default_rng(0)
    first = sets(3, 3, 3)
    centres = rng.normal(0.1, 0.12, 6)
    logs = centres[:, None] + 0.001 * rng.normal(size=(6, 3))
    for i, of_seeds in enumerate(logs):
        pairs = [(first, sets(0.1, 0.1 * np.exp(log), 1)) for log in of_seeds]
        make(tmp_path / str(i), pairs, num_source_classes=5 + i)
    claim = verdicts.cdnv_is_ordered(runs_of(tmp_path))
    means = logs.mean(1)
    expected = [means.mean(), *stats.t.interval(0.95, 5, means.mean(), stats.sem(means))]
    part = claim.parts[0]
    np.testing.assert_allclose([part.estimate, part.low, part.high], np.exp(expected))
    assert f"holds in {(means > 0).sum()} of 6 configurations" in part.note
    assert "18 runs of 6 configurations, t over configurations" in claim.scope
    pooled = stats.t.interval(0.95, 17, logs.mean(), stats.sem(logs.ravel()))
    assert part.low < math.exp(pooled[0]) - 0.02


def test_a_run_that_is_given_twice_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "runs", [(sets(3, 3, 3), sets(0.1, 0.1, 0.3))] * 2)
    monkeypatch.chdir(tmp_path)
    assert find("runs", tmp_path / "runs", "runs/../runs/seed_0") == [Path("runs/seed_0"), Path("runs/seed_1")]
    shutil.copytree("runs/seed_1", "copy")
    runs, left_out = claims.read([Path("runs"), Path("copy")])
    assert len(runs) == 2
    assert left_out == ["copy is the same training as runs/seed_1"]


@pytest.mark.parametrize(
    ("ratios", "verdict"),
    [
        ((0.1, 0.2, 0.15), "supported"),
        ((0.1, 3.0, 0.9), "not supported"),
        ((3.0, 3.1, 3.3), "contradicted"),
        ((0.1,), "not tested"),
    ],
)
def test_every_verdict_of_a_ratio(ratios: tuple[float, ...], verdict: str, tmp_path: Path) -> None:
    runs = make(tmp_path, [(sets(2, 2, 2), sets(0.1 * r0, 0.2 * r0, 2 * r)) for r0, r in enumerate(ratios, 1)])
    claim = verdicts.cdnv_falls(runs)
    assert claim.parts[2].verdict == verdict
    if verdict != "not tested":
        assert claim.verdict == verdict  # the other parts are supported


def test_where_debiased_is_infinite_the_plug_in_value_decides_and_says_so(tmp_path: Path) -> None:
    first = sets(2.0, 2.0, 2.0) | {"target/debiased_cdnv": None}
    part = verdicts.cdnv_falls(make(tmp_path, [(first, sets(0.1, 0.1, 0.1 + 0.01 * i)) for i in range(3)])).parts[2]
    assert part.verdict == "supported"
    assert "plug-in: debiased is infinite in 3 of 3 runs, where too few images tell" in part.note


def test_of_a_cdnv_of_0_there_is_no_ratio(tmp_path: Path) -> None:
    part = verdicts.cdnv_falls(make(tmp_path, [(sets(2, 2, 2), sets(v, 1, 1)) for v in (0.0, 0.1, 0.2)])).parts[0]
    assert (part.verdict, part.note) == ("not tested", "CDNV is 0 in some runs: no ratio")


def test_the_order_of_the_sets(tmp_path: Path) -> None:
    first = sets(3, 3, 3)
    good = make(tmp_path / "good", [(first, sets(0.1, 0.12, 0.3)), (first, sets(0.1, 0.121, 0.301))])
    assert verdicts.cdnv_is_ordered(good).verdict == "supported"
    swapped = make(tmp_path / "bad", [(first, sets(0.12, 0.1, 0.3)), (first, sets(0.13, 0.1083, 0.35))])
    assert verdicts_of(verdicts.cdnv_is_ordered(swapped)) == ["contradicted", "supported"]
    assert verdicts.cdnv_is_ordered(swapped).verdict == "contradicted"
    without = make(tmp_path / "none", [({"target": 2.0}, {"target": 1.0})] * 2)
    assert verdicts.cdnv_is_ordered(without).verdict == "not tested"
    assert verdicts_of(verdicts.cdnv_falls(without)) == ["not tested", "not tested", "supported"]


def test_more_classes_compares_the_fewest_with_the_most_by_welch(tmp_path: Path) -> None:
    first = sets(3, 3, 3)
    cdnv = {5: [0.8, 0.7, 0.75], 20: [0.5, 0.5, 0.5], 64: [0.3, 0.28, 0.29]}
    for k, values in cdnv.items():
        pairs = [(first, sets(0.1, 0.1, v) | {"target/ncc/5w1s": 1 - v}) for v in values]
        make(tmp_path / str(k), pairs, num_source_classes=k)
    (claim,) = verdicts.more_classes_help(runs_of(tmp_path))
    assert claim.verdict == "supported"
    assert "64 against 5 classes, 3 and 3 runs" in claim.scope
    few, many = np.log(cdnv[5]), np.log(cdnv[64])
    a, b = few.var(ddof=1) / 3, many.var(ddof=1) / 3
    df = (a + b) ** 2 / (a**2 / 2 + b**2 / 2)
    half = stats.t.ppf(0.975, df) * math.sqrt(a + b)
    difference = many.mean() - few.mean()
    part = claim.parts[0]
    np.testing.assert_allclose(
        [part.estimate, part.low, part.high], np.exp([difference, difference - half, difference + half])
    )


def test_more_classes_needs_runs_that_differ_in_nothing_else(tmp_path: Path) -> None:
    first, last = sets(3, 3, 3), sets(0.1, 0.1, 0.3)
    make(tmp_path / "a", [(first, last)] * 2, num_source_classes=5)
    make(tmp_path / "b", [(first, last)] * 2, num_source_classes=64, learning_rate=0.01)
    (claim,) = verdicts.more_classes_help(runs_of(tmp_path))
    assert claim.verdict == "not tested"
    make(tmp_path / "c", [(first, last)], num_source_classes=64)
    (claim,) = verdicts.more_classes_help(runs_of(tmp_path))
    assert claim.verdict == "not tested"  # one run on a side has no interval


def test_rank_correlation_is_spearman_and_infinity_the_largest() -> None:
    rng = np.random.default_rng(0)
    points = rng.integers(0, 6, (40, 2)).astype(float)  # with ties
    assert statistics.spearman(points) == pytest.approx(stats.spearmanr(points[:, 0], points[:, 1]).statistic)
    with_infinity = np.array([[1.0, 0.1], [2.0, 0.2], [np.inf, 0.3]])
    assert statistics.spearman(with_infinity) == pytest.approx(1.0)
    assert math.isnan(statistics.spearman(np.array([[1.0, 2.0], [1.0, 3.0]])))


def test_more_classes_are_compared_over_the_whole_grid_of_the_figure(tmp_path: Path) -> None:
    """The reference, of most classes, is measured more often than the others."""
    for point in grids.by_classes(sweep.Options()):
        settings = {k: v for k, v in vars(point.config).items() if k not in ("workdir", "seed")}
        last = sets(0.1, 0.1, 1 / point.x)
        make(tmp_path / point.label, [(sets(3, 3, 3), last)] * 2, **settings)
    (claim,) = verdicts.more_classes_help(runs_of(tmp_path))
    assert "64 against 5 classes, 2 and 2 runs" in claim.scope
    assert claim.parts[0].estimate == pytest.approx(5 / 64)


def noisy(n: int, sign: float) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    cdnv = np.linspace(0.2, 0.8, n)
    error = 0.5 + sign * 0.4 * (cdnv - 0.5) + 0.002 * np.random.default_rng(1).normal(size=n)
    return [(sets(3, 3, 3), sets(0.1, 0.1, c) | {"target/ncc/5w1s": 1 - e}) for c, e in zip(cdnv, error, strict=True)]


@pytest.mark.parametrize(
    ("count", "sign", "verdict"),
    [(12, 1.0, "supported"), (12, -1.0, "contradicted"), (12, 0.0, "not supported"), (4, 1.0, "not tested")],
)
def test_every_verdict_of_the_correlation(count: int, sign: float, verdict: str, tmp_path: Path) -> None:
    (claim,) = verdicts.error_follows_cdnv(make(tmp_path, noisy(count, sign)))
    assert verdicts_of(claim) == [verdict] * 2
    if count < 5:
        assert claim.parts[0].estimate == pytest.approx(1.0)
        assert math.isnan(claim.parts[0].low)


def test_the_bootstrap_resamples_whole_runs() -> None:
    """Many checkpoints of the same place in six runs are worth six points: the interval is that of six."""
    once = [np.array([[x, y]]) for x, y in np.random.default_rng(3).normal(size=(6, 2))]
    often = [np.repeat(point, 50, axis=0) for point in once]
    np.testing.assert_allclose(statistics.correlation_interval(often), statistics.correlation_interval(once))


def test_a_training_that_was_measured_in_two_ways_is_one(tmp_path: Path) -> None:
    """Their values differ a little, and count once: as two configurations they gave an interval of no width."""
    first, few, many = sets(3, 3, 3), tmp_path / "few", tmp_path / "many"
    for folder, shift, settings in (
        (few, 0.0, {"measurements": 0, "measure_episodes": 50, "measure_per_class": 10}),
        (many, 0.001, {"measurements": 1, "measure_episodes": 100}),
    ):
        make(folder, [(first, sets(1, 1, r + shift)) for r in (0.1, 0.4, 0.2)], **settings)
    records = few / "seed_0" / "metrics.jsonl"
    records.write_text("".join(records.read_text().splitlines(keepends=True)[::2]))
    runs, left_out = claims.read([few, many])
    assert [run.folder for run in runs] == [many / "seed_0", few / "seed_1", few / "seed_2"]  # more records, or first
    assert left_out[0] == f"{few / 'seed_0'} is the same training as {many / 'seed_0'}"
    assert "3 runs of 1 configuration, t over seeds" in verdicts.cdnv_falls(runs).scope


def test_where_debiased_is_infinite_plug_in_is_correlated(tmp_path: Path) -> None:
    """Infinities are tied, so that a resample varies only where it draws the few that are finite."""
    pairs = noisy(8, -1.0)
    for i, (_, last) in enumerate(pairs):
        last["target/debiased_cdnv"] = 0.1 if i == 7 else None
    (claim,) = verdicts.error_follows_cdnv(make(tmp_path, pairs))
    assert verdicts_of(claim) == ["contradicted"] * 2
    assert "plug-in: debiased is infinite in 7 of 8 runs" in claim.parts[0].note
    alone = [np.array([[0.1 if i == 7 else np.inf, p]]) for i, p in enumerate(np.linspace(0.6, 0.2, 8))]
    assert np.isnan(statistics.correlation_interval(alone)).all()


def test_seeds_of_one_configuration_are_drawn_together(tmp_path: Path) -> None:
    """Fifteen runs of five configurations are worth five, and twelve of four are too few."""
    rng = np.random.default_rng(4)
    levels = rng.uniform(0.1, 0.9, (5, 2))
    each = [[(cdnv + d, error + d) for d in (0.0, 1e-4, 2e-4)] for cdnv, error in levels]
    for i, seeds in enumerate(each):
        last = [sets(0.1, 0.1, cdnv) | {"target/ncc/5w1s": 1 - error} for cdnv, error in seeds]
        make(tmp_path / str(i), [(sets(3, 3, 3), values) for values in last], num_source_classes=10 + i)
    (claim,) = verdicts.error_follows_cdnv(runs_of(tmp_path))
    part = claim.parts[0]
    assert part.note.startswith("5 configurations; ")
    assert (part.low, part.high) == pytest.approx(statistics.correlation_interval([np.array(seeds) for seeds in each]))
    apart = statistics.correlation_interval([np.array([point]) for seeds in each for point in seeds])
    assert part.high - part.low > 1.3 * (apart[1] - apart[0])
    shutil.rmtree(tmp_path / "0")
    (claim,) = verdicts.error_follows_cdnv(runs_of(tmp_path))
    assert claim.parts[0].note.startswith("4 configurations: an interval takes 5")


def test_other_target_classes_are_correlated_apart(tmp_path: Path) -> None:
    make(tmp_path / "a", noisy(6, 1.0))
    make(tmp_path / "b", noisy(6, -1.0), split_seed=1)
    judged = verdicts.error_follows_cdnv(runs_of(tmp_path))
    assert [claim.verdict for claim in judged] == ["supported", "contradicted"]


@pytest.mark.parametrize(
    ("bound", "verdict"), [(0.4, "supported"), (0.21, "not supported"), (0.1, "contradicted"), (1.5, "not tested")]
)
def test_every_verdict_of_the_bounds(
    bound: float, verdict: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compare(run: Run, episodes: int, data_dir: str | None) -> list[Part]:
        if bound >= 1:
            return []
        excess = 0.2 - bound
        return [judge("a bound", excess, excess - 0.02, excess + 0.02, null=0.0, above=False)]

    monkeypatch.setattr(bounds, "compare", compare)
    runs = make(tmp_path, [(sets(3, 3, 3), sets(0.1, 0.1, 0.3))] * 2)
    assert bounds.bounds_hold(runs, 100).verdict == verdict


def test_neither_a_run_without_data_nor_a_wider_interval_hides_a_violated_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compare(run: Run, episodes: int, data_dir: str | None) -> list[Part]:
        if run.config.seed == 1:
            raise InputError("the data has moved")
        excess, half = (0.02, 0.01) if run.config.seed == 0 else (0.0, 0.04)
        return [judge("a bound", excess, excess - half, excess + half, null=0.0, above=False)]

    monkeypatch.setattr(bounds, "compare", compare)
    claim = bounds.bounds_hold(make(tmp_path, [(sets(3, 3, 3), sets(0.1, 0.1, 0.3))] * 3), 100)
    assert claim.verdict == "contradicted"
    assert [(part.name, part.verdict) for part in claim.parts] == [
        ("bounds of seed_1", "not tested"),
        ("a bound", "contradicted"),
    ]


def test_bounds_that_are_vacuous_everywhere_are_listed_and_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compare(run: Run, episodes: int, data_dir: str | None) -> list[Part]:
        wide, sharp = (Part(name, "not tested", note="vacuous", counts=False) for name in ("wide", "sharp"))
        held = judge("sharp", -0.2, -0.3, -0.1, null=0.0, above=False, note="50 shots")
        return [wide, wide, sharp, held]

    monkeypatch.setattr(bounds, "compare", compare)
    claim = bounds.bounds_hold(make(tmp_path, [(sets(3, 3, 3), sets(0.1, 0.1, 0.3))] * 2), 100)
    assert claim.verdict == "supported"
    wide, sharp = claim.parts
    assert (wide.name, wide.verdict) == ("wide", "not tested")
    assert wide.note.startswith("vacuous: not tested; 1 or more in all 4 cases")
    assert sharp.note == "2 comparisons below 1, 2 vacuous: not tested; worst: 50 shots"
    assert "vacuous: not tested" in claims.table([claim])


@pytest.mark.slow
def test_bounds_are_those_of_the_theory_against_the_error_of_episodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run,) = make(tmp_path, [(sets(3, 3, 3), sets(0.1, 0.1, 0.3))])
    labels = np.repeat(np.arange(5), 40)
    centres = 9 * np.eye(5, 30)  # near enough for some errors, far enough for a bound below 1
    features = (centres[labels] + np.random.default_rng(0).normal(size=(200, 30))).astype(np.float32)
    target = Split(np.zeros((200, 1, 1, 1), np.uint8), labels, tuple("abcde"))
    monkeypatch.setattr(Run, "restore", lambda self: None)
    monkeypatch.setattr(bounds, "benchmark", lambda run, data_dir: SimpleNamespace(target=target))
    monkeypatch.setattr(ncjax, "features", lambda params, split: features)
    parts = bounds.compare(run, 200)
    theory = collapse.theory(features, labels, ways=5, shots=(1, 5, 10, 20)).bounds()
    checked = {name: values for name, values in theory.items() if "spherical" not in name}
    assert len(parts) == sum((~np.isnan(values)).sum() for values in checked.values())
    tested = [part for part in parts if part.counts]
    assert 0 < len(tested) < len(parts)
    for part in parts:
        assert part.counts == (part.verdict != "not tested")
    for part in tested:
        shots = int(part.note.split()[0])
        bound = checked[part.name][(1, 5, 10, 20).index(shots)]
        measured = feature_episodes(features, labels, ways=5, shots=shots, queries=15, episodes=200)
        assert bound < 1
        assert part.estimate == pytest.approx(1 - measured.accuracy - bound)
        assert part.high - part.estimate == pytest.approx(measured.ci95)
        assert part.verdict == "supported"


def test_files_of_ones_own_with_other_images_are_correlated_apart(tmp_path: Path) -> None:
    for name, sums in (("a", "1-2-3-4"), ("b", "1-2-5-6"), ("c", "7-8-3-4")):
        for run in make(tmp_path / name, noisy(6, 1.0), dataset="npz", data_dir=f"{name}.npz"):
            content = run.description.to_json()
            described = content | {"data": content["data"] | {"fingerprint": sums}}
            (run.folder / "config.json").write_text(json.dumps(described))
    judged = verdicts.error_follows_cdnv(runs_of(tmp_path))
    # the source images of c are others, its target images those of a
    assert [claim.scope.split(", ")[-1] for claim in judged] == ["12 runs: Spearman", "6 runs: Spearman"]


def test_runs_without_checkpoints_leave_the_bounds_untested(tmp_path: Path) -> None:
    claim = bounds.bounds_hold(make(tmp_path, [(sets(3, 3, 3), sets(0.1, 0.1, 0.3))]), 100)
    assert claim.verdict == "not tested"
    assert claim.parts[0].note


def test_a_claim_is_as_good_as_its_worst_part() -> None:
    def claim(*parts: Verdict) -> Verdict:
        return Claim("", "", [Part("", verdict) for verdict in parts]).verdict

    assert claim("supported", "supported") == "supported"
    assert claim("supported", "not supported") == "not supported"
    assert claim("not supported", "not tested") == "not supported"  # a test that failed is not hidden
    assert claim("supported", "not tested") == "not tested"
    assert claim("not tested", "contradicted", "supported") == "contradicted"
    assert claim() == "not tested"


def test_runs_in_sub_folders_are_read_and_unfinished_runs_left_out(tmp_path: Path) -> None:
    make(tmp_path / "a", [(sets(3, 3, 3), sets(0.1, 0.1, 0.3))] * 2)
    write(tmp_path / "b" / "run", sets(3, 3, 3), sets(0.1, 0.1, 0.3), total_steps=200)
    assert len(find(tmp_path, tmp_path / "a" / "seed_0")) == 3
    runs, unfinished = claims.read([tmp_path])
    assert [run.folder.name for run in runs] == ["seed_0", "seed_1"]
    assert unfinished == [f"{tmp_path / 'b' / 'run'} stopped at step 100"]
    with pytest.raises(InputError, match="holds no run"):
        find(tmp_path / "nowhere")


def test_exit_code_0_whatever_the_verdict_and_2_for_what_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(*arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", ["claims.py", *map(str, arguments)])
        claims.main()

    monkeypatch.setattr(cli, "prepare_backend", lambda: None)  # the tests' backend is running
    make(tmp_path / "runs", [(sets(1, 1, 1), sets(2 + 0.1 * i, 2, 2)) for i in range(2)])
    out = tmp_path / "to" / "claims.json"
    command(tmp_path / "runs", "--no-bounds", f"--out={out}")  # returns: exit code 0
    assert "CONTRADICTED: CDNV falls during training" in capsys.readouterr().out
    written = json.loads(out.read_text())
    assert written["claims"][0]["verdict"] == "contradicted"
    assert {"name", "verdict", "estimate", "low", "high", "null", "note"} <= written["claims"][0]["parts"][0].keys()
    (tmp_path / "runs" / "seed_1" / "metrics.jsonl").write_text("{not json")
    with pytest.raises(SystemExit) as stopped:
        command(tmp_path / "runs")
    assert stopped.value.code == 2
    (message,) = capsys.readouterr().err.strip().splitlines()
    assert message.startswith("error: ")
    assert "cannot be read" in message
