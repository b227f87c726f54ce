"""Names of measures, their directions, and the cautions about numbers that mean less than they seem to."""

import numpy as np
import pytest

from ncjax import collapse, plots
from ncjax.commands.evaluate.tables import collapse_table, episodes_table
from ncjax.data import Split
from ncjax.errors import InputError
from ncjax.eval import confusion_rates, feature_episodes
from ncjax.measures import MEASURES, cautions, nc1_noise, of_key
from ncjax.pairs import hardest_pairs
from ncjax.tables import Table

LABELS = np.repeat(np.arange(5), 20)


def clustered(spread: float = 0.1) -> np.ndarray:
    """Five classes on their own axes, of which 0 and 1 nearly coincide."""
    means = 3.0 * np.eye(5, 6, dtype=np.float32)
    means[1] = means[0] + 0.02
    noise = np.random.default_rng(0).normal(size=(100, 6)).astype(np.float32)
    return means[LABELS] + spread * noise


def collapsed() -> np.ndarray:
    """Five classes, each far from the others."""
    return np.eye(5, 6)[LABELS] + np.random.default_rng(3).normal(scale=0.02, size=(100, 6))


def test_keys_of_records_are_read_as_a_person_reads_them() -> None:
    assert of_key("target/ncc/5w1s").name == "5-way 1-shot ncc"
    assert of_key("target/ncc/5w1s").number(0.5) == "50.00 %"
    assert of_key("source_train/cdnv").name == "CDNV, source-train"
    assert of_key("target/debiased_cdnv/unresolved_pairs").name == "pairs too near to tell apart, target"
    assert not of_key("source_test/accuracy").lower_is_better
    assert of_key("loss").lower_is_better
    results = (collapse.Collapse, collapse.Spectra, collapse.OutOfDistribution, collapse.Transferability)
    fields = {name for result in results for name in result.__dataclass_fields__}
    of_records = {"loss", "accuracy", "debiased_cdnv/unresolved_pairs"}
    of_superclasses = {"superclass_cdnv", "superclass_directional_cdnv"}
    assert set(MEASURES) - of_records - of_superclasses <= fields


def test_the_noise_of_nc1_is_that_of_class_means() -> None:
    """In float64, from its definition."""
    rng = np.random.default_rng(1)

    def shares(x: np.ndarray) -> tuple[float, float]:
        means = np.stack([x[c == LABELS].mean(0) for c in range(5)])
        centred = means - means.mean(0)
        within = sum(np.cov(x[c == LABELS].T, bias=True) for c in range(5)) / 5
        between = centred.T @ centred / 5
        inverse = np.linalg.pinv(between, rcond=1e-10)
        noise = within / 19 * 4 / 5  # of the class means about their mean, from the unbiased covariance
        return np.trace(noise) / np.trace(between), np.trace(noise @ inverse) / 4

    def noise(x: np.ndarray) -> float | None:
        measured = collapse.measure(x.astype(np.float32), LABELS)
        return nc1_noise(measured.nc1, measured.nc1_quotient, 5, 20, measured.nc1_rank)

    nothing = rng.normal(size=(100, 40))  # no classes at all
    whole, by_direction = shares(nothing)
    assert noise(nothing) == pytest.approx(whole, rel=1e-4)
    assert 0.8 < whole < 1.2
    assert by_direction < whole
    # classes along one axis of few: the other directions hold noise alone
    line = rng.normal(size=(100, 5)) + 30.0 * np.eye(5)[0] * LABELS[:, None]
    whole, by_direction = shares(line)
    assert noise(line) == pytest.approx(by_direction, rel=1e-3)
    assert whole < 0.01 < 0.3 < by_direction
    # two classes in one dimension: the one direction is the whole spread
    one = collapse.measure(rng.normal(size=(20, 1)), np.arange(20) % 2)
    assert one.nc1 is not None
    assert nc1_noise(one.nc1, one.nc1_quotient, 2, 10) == pytest.approx(one.nc1 / 9, rel=1e-5)
    assert one.nc1_quotient / 18 == pytest.approx(one.nc1 / 9, rel=1e-5)
    assert nc1_noise(None, 1.0, 5, 20) is None
    assert nc1_noise(float("inf"), 1.0, 5, 20) is None
    assert "NC1 is mostly noise: " in collapse_table(collapse.measure(nothing, LABELS), {}, "").format()
    assert "NC1 is mostly noise" not in collapse_table(collapse.measure(collapsed(), LABELS), {}, "").format()


def test_a_mean_that_hangs_on_one_pair_names_it() -> None:
    names = ["oak", "elm", "fir", "ash", "yew"]
    measured = collapse.measure(clustered(), [names[label] for label in LABELS])
    text = collapse_table(measured, {}, "trees").format()
    assert "CDNV hangs on one pair: elm and oak make" in text
    assert f"the median pair has {measured.cdnv_median:.3g}" in text
    assert "↓ lower is better" in text


def test_intervals_stand_beside_the_estimates_that_they_are_of() -> None:
    x = np.random.default_rng(2).normal(size=(100, 6)).astype(np.float32) + 4.0 * np.eye(5, 6, dtype=np.float32)[LABELS]
    measured, intervals = collapse.measure(x, LABELS), collapse.intervals(x, LABELS)
    assert intervals.cdnv is not None
    row = next(row for row in collapse_table(measured, {"samples": intervals}, "").rows if row[0] == "CDNV ↓")
    ends = f"{intervals.cdnv.low:.4g} to {intervals.cdnv.high:.4g}"
    assert row[1:] == [f"{measured.cdnv:.4g}", f"{intervals.cdnv.estimate:.4g}", ends]


def test_cautions_about_records() -> None:
    record = {"target/cdnv": 59.8, "target/cdnv_median": 1.09, "target/nc1": 20.0, "target/nc1_quotient": 9.0}
    record["target/debiased_cdnv/unresolved_pairs"] = 1
    assert cautions(record, 6)[0] == "6 images a class are few: the order of the sets' CDNV means nothing."
    near, pairs, noise = cautions(record, 30, {"target": 5})
    assert "Some class means of target are too near to tell apart with 30 images a class" in near
    assert pairs == "CDNV of target hangs on few pairs of classes: its mean is 59.8, that of the median pair 1.09."
    assert noise.startswith("NC1 is mostly noise of target (sampling noise is 69 % of the spread")  # 4 · 20 / (4 · 29)
    assert (
        cautions(
            {"target/cdnv": 1.0, "target/cdnv_median": 0.9, "target/nc1": 1.0, "target/nc1_quotient": 1.0},
            30,
            {"target": 5},
        )
        == []
    )


def test_the_worst_pair_is_shown_with_its_images() -> None:
    images = np.arange(100, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 1), np.uint8)
    split = Split(images, LABELS.astype(np.int32), ("oak", "elm", "fir", "ash", "yew"))
    measured = collapse.measure(clustered(), LABELS)
    figure = plots.show_pair(split, measured, pairs=2, images=4)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles[0] == "oak"
    assert titles[5] == "elm"
    shown = [axes.images[0].get_array()[0, 0, 0] for axes in figure.axes[:4]]
    assert shown == [0, 6, 12, 19]  # evenly spaced among the class's images
    value = measured.cdnv_pairs[0, 1]
    assert figure.axes[4].texts[0].get_text() == f"CDNV\n{value:.3g}"
    report = feature_episodes(clustered(0.5), LABELS, ways=3, shots=1, episodes=60)
    first = hardest_pairs(report, split.class_names, 1)[0]
    rates = confusion_rates(report)
    assert {first.first, first.second} == {0, 1}
    assert first.text == f"{(rates[0, 1] + rates[1, 0]) / 2:.1f} % confused"
    with pytest.raises(InputError, match="class 2 is not one of the 2 classes"):
        hardest_pairs(measured, ("a", "b"), 1)
    with pytest.raises(InputError, match="has no pairs of classes"):
        hardest_pairs([1.0], ("a", "b"), 1)  # type: ignore[arg-type]
    assert episodes_table([report]).rows[0][:2] == ["3-way 1-shot", "ncc"]


def test_words_beside_a_table_are_comments_where_a_program_reads_it() -> None:
    table = Table(["a", "b"], [["x", "1"]], "title", ["note"])
    assert table.format() == "title\na  b\nx  1\nnote\n"
    assert Table(["a"], [], "title", ["note"]).format() == "title\nnote\n"  # a header of nothing is no table
    assert Table(["a", "b"], [["α-ReQ", "1"]], left=2).format("latex").splitlines()[0] == r"\begin{tabular}{ll}"
    assert r"$\alpha$-ReQ & 1" in Table(["a", "b"], [["α-ReQ", "1"]]).format("latex")
    assert table.format("csv") == "# title\na,b\nx,1\n# note\n"
    assert table.format("latex").splitlines()[0] == "% title"
    assert table.format("markdown").splitlines() == ["title", "", "| a | b |", "|---|---|", "| x | 1 |", "", "note"]
