"""Rank correlations beside NumPy, their jackknife, and the command from end to end with made-up and tiny models."""

import dataclasses
import json
import math
import shutil
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import tiny
from commands import inside
from scipy.stats import spearmanr, t

import ncjax
from common import measures, model_scores, rank_correlation
from common.candidates import Candidate, candidates, target_of
from common.model_scores import Scores, score
from common.rank_correlation import compare, correlate, groups_of, jackknife, weighted_tau
from common.ranking import Ranking
from common.score_settings import Settings
from ncjax import collapse, data
from ncjax.collapse import Ncti
from ncjax.errors import InputError
from ncjax.eval import feature_episodes

pytestmark = pytest.mark.cheap_compilation

RNG = np.random.default_rng(0)
ACCURACY = RNG.uniform(0.4, 0.9, size=(8, 7))
VALUES = ACCURACY + RNG.normal(0, 0.15, size=(8, 7))


def tau_oracle(x: np.ndarray, y: np.ndarray) -> float:
    """τ_w without ties: exchanges weigh 1/(r+1) + 1/(s+1), ranks by x and by y, the mean of both."""
    taus = []
    for by in (x, y):
        rank = np.argsort(np.argsort(-by))
        total = agree = 0.0
        for i, j in combinations(range(len(x)), 2):
            weight = 1 / (rank[i] + 1) + 1 / (rank[j] + 1)
            total += weight
            agree += weight * np.sign(x[i] - x[j]) * np.sign(y[i] - y[j])
        taus.append(agree / total)
    return float(np.mean(taus))


def jackknife_oracle(value: float, left_out: list[float], most: float = 1.0) -> tuple[float, float]:
    g = len(left_out)
    half = t.ppf(0.975, g - 1) * math.sqrt((g - 1) / g * np.sum((np.asarray(left_out) - np.mean(left_out)) ** 2))
    return max(value - half, -most), min(value + half, most)


def test_weighted_tau_counts_the_best_models_most() -> None:
    x, y = VALUES[:, 0], ACCURACY[:, 0]
    assert weighted_tau(x, y) == pytest.approx(tau_oracle(x, y))
    order = np.arange(6.0)
    best_exchanged, worst_exchanged = order[[0, 1, 2, 3, 5, 4]], order[[1, 0, 2, 3, 4, 5]]
    assert weighted_tau(order, best_exchanged) < weighted_tau(order, worst_exchanged) < 1
    assert weighted_tau(np.where(order == 0, -np.inf, order), order) == pytest.approx(1)  # infinitely bad is last
    assert math.isnan(weighted_tau(np.ones(6), order))


def test_correlations_and_their_jackknife() -> None:
    groups = groups_of([0, 0, 1, 2, 3, 4, 5, 5])
    for statistic in (weighted_tau, rank_correlation.rank_correlation):
        oracle = tau_oracle if statistic is weighted_tau else lambda x, y: float(spearmanr(x, y).statistic)
        found = correlate(statistic, VALUES.__getitem__, ACCURACY, groups)
        assert found.value == pytest.approx(oracle(VALUES[:, 0], ACCURACY[:, 0]))
        without_class = [oracle(VALUES[:, c], ACCURACY[:, c]) for c in range(1, 7)]
        assert found.over_classes[:2] == pytest.approx(jackknife_oracle(found.value, without_class))
        rows = [np.setdiff1d(np.arange(8), group) for group in groups]
        without_model = [oracle(VALUES[r, 0], ACCURACY[r, 0]) for r in rows]
        assert found.over_models[:2] == pytest.approx(jackknife_oracle(found.value, without_model))
    other = ACCURACY + RNG.normal(0, 0.05, size=(8, 7))
    difference = compare(other.__getitem__, VALUES.__getitem__, ACCURACY, groups)
    by_class = [tau_oracle(other[:, c], ACCURACY[:, c]) - tau_oracle(VALUES[:, c], ACCURACY[:, c]) for c in range(7)]
    assert difference.value == pytest.approx(by_class[0])
    assert difference.over_classes[:2] == pytest.approx(jackknife_oracle(by_class[0], by_class[1:], 2.0))


def test_what_has_no_correlation_or_interval_says_why() -> None:
    groups = groups_of(range(8))
    some = VALUES.copy()
    some[2] = np.nan
    assert correlate(weighted_tau, some.__getitem__, ACCURACY, groups).reason == "1 of 8 models do not have it"
    equal = correlate(weighted_tau, np.ones((8, 7)).__getitem__, ACCURACY, groups)
    assert equal.reason == "it or the accuracy is the same for all models"
    few = correlate(weighted_tau, VALUES.__getitem__, ACCURACY, groups_of([0, 0, 1, 1, 2, 2, 3, 3]))
    assert few.over_models.reason == "4 independent models: it takes 5"
    assert few.over_classes.exists
    alone = correlate(weighted_tau, VALUES[:, :1].__getitem__, ACCURACY, groups)
    assert not alone.over_classes.exists
    assert jackknife(1.0, np.ones(5), "classes").reason == "the same whichever of the classes is left out"
    without_one = VALUES.copy()
    without_one[0, 3] = np.nan
    assert (
        "without some of the classes"
        in correlate(weighted_tau, without_one.__getitem__, ACCURACY, groups).over_classes.reason
    )


def made_up(count: int, *, groups: int | None = None, **columns: np.ndarray) -> list[Scores]:
    accuracy = ACCURACY[:count]
    return [
        Scores(
            Candidate(f"model {i}", str(i % (groups or count)), lambda: tiny.run),  # type: ignore[arg-type,return-value]
            {"cdnv": -accuracy[i], "logme": VALUES[i], **{name: column[i] for name, column in columns.items()}},
            {"ncc 5w1s": accuracy[i], "probe lda": accuracy[i, :1]},
            {"ncc 5w1s": 0.01},
        )
        for i in range(count)
    ]


def test_a_ranking_puts_the_right_measure_first_whatever_its_direction() -> None:
    unknown = VALUES[:, ::-1]
    ranking = Ranking.of(made_up(8, surprise=unknown, **{"predicted error 1s": -VALUES, "predicted error 5s": VALUES}))
    ranks = {rank.measure: rank for rank in ranking.ranks["ncc 5w1s"]}
    assert next(iter(ranks)) == "cdnv"
    assert ranks["cdnv"].tau.value == pytest.approx(1)
    assert ranks["surprise"].direction is None
    assert "surprise" in ranking.table("ncc 5w1s")
    assert "larger?" in ranking.table("ncc 5w1s")
    assert "predicted error 5s" not in ranks  # the prediction for other shots
    assert ranks["predicted error 1s"].tau.value == pytest.approx(ranks["logme"].tau.value)
    assert "predicted error 5s" in {rank.measure for rank in ranking.ranks["probe lda"]}
    assert ranking.difference("ncc 5w1s", "cdnv", "logme").value == pytest.approx(1 - ranks["logme"].tau.value)
    assert "best cdnv" in ranking.verdict("ncc 5w1s") or "too few to tell" in ranking.verdict("ncc 5w1s")
    assert ranking.models("csv").startswith("model,ncc 5w1s (%),probe lda (%),cdnv,")
    assert json.dumps(ranking.to_json()["ranks"], default=float)
    assert "are too few to tell measures apart" in Ranking.of(made_up(8, groups=2)).verdict("ncc 5w1s")


def test_ncti_is_combined_over_the_models_that_are_compared() -> None:
    parts = RNG.normal(size=(3, 8, 7))
    columns = {name: parts[i] for i, name in enumerate(measures.NCTI_PARTS)}
    ranking = Ranking.of(made_up(8, **columns))
    expected = Ncti.combine([Ncti(*model) for model in parts[:, :, 0].T])
    rank = next(rank for rank in ranking.ranks["ncc 5w1s"] if rank.measure == "ncti")
    assert rank.tau.value == pytest.approx(tau_oracle(expected, ACCURACY[:, 0]))
    assert not any(rank.measure in measures.NCTI_PARTS for rank in ranking.ranks["ncc 5w1s"])
    parts[1, 2] = np.nan
    without = Ranking.of(made_up(8, **columns)).ranks["ncc 5w1s"]
    assert next(rank.tau.reason for rank in without if rank.measure == "ncti") == "1 of 8 models do not have it"


@pytest.mark.slow
def test_every_float_of_the_dataclasses_is_measured_and_has_a_direction() -> None:
    features = RNG.normal(size=(60, 8)).astype(np.float32)
    labels = np.repeat(np.arange(6), 10)
    values = measures.measure(features, labels, 5, (1,))
    assert set(measures.scalar_names()) <= values.keys()
    assert values["cdnv"] == collapse.measure(features, labels).cdnv
    assert values["logme"] == collapse.transferability(features, labels).logme
    assert math.isnan(values["nc3"])
    assert measures.direction("cdnv") == measures.direction("predicted error 5s") == -1
    assert measures.direction("logme") == 1
    assert measures.direction("of_a_later_version") is None


def test_scalars_are_the_floats_and_what_may_be_none() -> None:
    @dataclass
    class Result:
        a: float
        b: float | None
        rank: int
        pairs: np.ndarray

    values = measures.scalars(Result(1.5, None, 3, np.ones(2)))
    assert values == {"a": 1.5, "b": pytest.approx(math.nan, nan_ok=True)}


@pytest.fixture
def split() -> ncjax.data.Split:
    return tiny.split(7, 24, seed=2)


def encoder(scale: float) -> ncjax.Classifier:
    weights = np.random.default_rng(1).normal(size=(144, 16)).astype(np.float32) * np.float32(scale)
    return ncjax.Classifier.from_callable(_flat, weights)


def _flat(weights: np.ndarray, images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1) @ weights


@pytest.mark.slow
def test_scores_of_a_model_beside_direct_calls(
    split: ncjax.data.Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(heads=("ncc",), shots=(1,), episodes=300, replicate_images=10**6, complexity=True)
    scores = score(Candidate("a", "a", lambda: encoder(1.0), 0.5), split, settings, tmp_path)
    features = ncjax.features(encoder(1.0), split)
    assert scores.measures["cdnv"][0] == pytest.approx(collapse.measure(features, split.labels).cdnv, rel=1e-6)
    kept = split.labels != 3
    assert scores.measures["cdnv"][4] == pytest.approx(
        collapse.measure(features[kept], split.labels[kept]).cdnv, rel=1e-6
    )
    report = feature_episodes(features, split.labels, shots=1, episodes=300)
    assert scores.outcomes["ncc 5w1s"][0] == pytest.approx(report.accuracy)
    without = [
        accuracy for accuracy, classes in zip(report.per_episode, report.classes, strict=True) if 3 not in classes
    ]
    assert scores.outcomes["ncc 5w1s"][4] == pytest.approx(np.mean(without), rel=1e-5)
    assert scores.measures["parameters"][0] == 144 * 16
    assert scores.measures["geometric complexity"].shape == (8,)
    # a second call reads the folder; other weights, images or settings do not
    monkeypatch.setattr(model_scores, "_numbers", lambda *_: pytest.fail("measured again"))
    again = score(Candidate("a", "a", lambda: encoder(1.0), 0.5), split, settings, tmp_path)
    for name, column in scores.measures.items():
        np.testing.assert_array_equal(again.measures[name], column)
    for changed in ((2.0, split, settings), (1.0, tiny.split(7, 24, seed=3), settings)):
        with pytest.raises(pytest.fail.Exception, match="measured again"):
            score(Candidate("b", "b", lambda scale=changed[0]: encoder(scale)), *changed[1:], tmp_path)


@pytest.mark.slow
def test_runs_checkpoints_and_encoders_are_found(finished: Path, tmp_path: Path) -> None:
    both = tmp_path / "both"
    for name in ("a", "b"):
        shutil.copytree(finished, both / name)
    found = candidates([str(both)], checkpoints=True)
    assert [model.name for model in found] == [f"{name}@{step}" for name in "ab" for step in (8, 16, 24)]
    assert len({model.group for model in found}) == 1  # one configuration
    single = candidates([f"{both / 'a'}@24", str(both / "b"), "timm:resnet18"], checkpoints=False)
    assert [model.name for model in single] == ["a@24", "b@24", "timm:resnet18"]
    assert single[0].source_accuracy == single[0].run.final("source_test/accuracy")  # type: ignore[union-attr]
    for specs, message in (
        ([str(both / "a")], "1 model: a ranking takes two or more"),
        ([str(both / "a")] * 2, "is named twice"),
        ([f"{both / 'a'}@7", str(both / "b")], "no checkpoint of step 7"),
        ([str(tmp_path / "nowhere"), str(both)], "holds no run"),
    ):
        with pytest.raises(InputError, match=message):
            candidates(specs, checkpoints=False)
    with pytest.raises(InputError, match="encoders have no data of their own: give --dataset"):
        target_of(single, None, None, 0)


@pytest.mark.slow
def test_target_classes_are_loaded_and_those_that_a_run_may_have_seen_are_refused(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = candidates([f"{finished}@8", f"{finished}@24"], checkpoints=False)
    benchmark = tiny.benchmark()
    monkeypatch.setattr(data, "load", lambda *_, **__: benchmark)
    dataset = found[0].run.config.dataset  # type: ignore[union-attr]
    assert target_of(found, dataset, None, 0) == benchmark.target
    other = dataclasses.replace(benchmark, target=tiny.split(5, 22, seed=3))
    monkeypatch.setattr(data, "load", lambda *_, **__: other)
    assert target_of(found, "another", None, 0) == other.target
    with pytest.raises(
        InputError, match=r"other target classes than these of .*: some may be among its source classes"
    ):
        target_of(found, dataset, None, 0)


@pytest.mark.slow
def test_the_command_ranks_checkpoints(
    finished: Path, tmp_path: Path, tiny_network: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.candidates.target_of", lambda *_: tiny.benchmark().target)
    arguments = (
        str(finished), "--checkpoints", "--ways=4", "--shots", "1", "--heads", "ncc", "--episodes=100", "--format=csv",
        "--out=out/rank.json", "--figure=out/rank.png", "--cache=cache",
    )  # fmt: skip
    done = inside("rank.py", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "ncc 4w1s: 3 models, 1 of them independent, are too few to tell measures apart" in done.stdout
    content = json.loads((tmp_path / "out" / "rank.json").read_text())
    ranked = {row["measure"] for row in content["ranks"]["ncc 4w1s"]}
    assert ranked >= {"cdnv", "logme", "parameters", "predicted error 1s"}
    assert (tmp_path / "out" / "rank.png").stat().st_size > 10_000
    assert inside("rank.py", *arguments, cwd=tmp_path).stdout == done.stdout  # from what was kept


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "give two or more runs or encoders"),
        (("a", "b", "--heads", "svm"), "no head is called 'svm'"),
        (("a", "b", "--replicate_images=1"), "replicate_images=1: it must be at least 4"),
        (("nowhere", "b"), "nowhere holds no run"),
    ],
)
def test_mistakes_are_one_line(arguments: tuple[str, ...], words: str, tmp_path: Path) -> None:
    done = inside("rank.py", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert words in done.stderr.strip().splitlines()[-1]
