"""The report page: its numbers, its limits, and that a real browser opens it without an error."""

import dataclasses
import importlib
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import scipy.stats
import tiny
from commands import inside
from conftest import make_mesh
from sklearn.decomposition import PCA

import ncjax
from ncjax import Classifier, encoders, models, runs
from ncjax.errors import InputError
from ncjax.eval import feature_episodes
from ncjax.plots import CONFIGURATION_COLORS
from ncjax.train import Config

report = pytest.importorskip("ncjax.report", reason="Bokeh is not installed", exc_type=ModuleNotFoundError)

pytestmark = [pytest.mark.cheap_compilation, pytest.mark.usefixtures("tiny_network")]
HOSTILE = '</script><b>"&'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run of two seeds on a data set of the user's, with a class name that would break HTML."""
    path = tmp_path_factory.mktemp("report")
    parts = [tiny.split(6, 24, seed=1), tiny.split(5, 22, seed=3)]
    names = [f"c{i:02d}" for i in range(11)]
    names[7] = HOSTILE
    labels = np.concatenate([parts[0].labels, parts[1].labels + 6])
    split = np.repeat(["source", "target"], [len(part.labels) for part in parts])
    images = np.concatenate([part.images for part in parts])
    np.savez(path / "images.npz", images=images, labels=labels, split=split, class_names=np.array(names))
    config = Config(
        dataset="npz", data_dir=str(path / "images.npz"), network="tiny", preset="smoke", epochs=2, batch_size=16,
        optimizer="sgd", learning_rate=0.1, seeds=2, measurements=1, measure_episodes=50, workdir=path / "runs",
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch, jax.set_mesh(make_mesh(1)):
        patch.setattr(models, "create", tiny.create)
        ncjax.pretrain(config)
    return path


@pytest.fixture(scope="module")
def both(folder: Path) -> list[runs.Run]:
    return [runs.read(path) for path in runs.find(folder / "runs")]


@pytest.fixture(scope="module")
def detail(both: list[runs.Run]) -> "report.Detail":
    with pytest.MonkeyPatch.context() as patch, jax.set_mesh(make_mesh(1)):
        patch.setattr(models, "create", tiny.create)
        return report.examine(both[0], episodes=60)


@pytest.fixture(scope="module")
def page(both: list[runs.Run], detail: "report.Detail") -> str:
    return report.page(both, detail)


class _Tables(HTMLParser):
    """Collects the cells of all tables."""

    def __init__(self) -> None:
        super().__init__()
        self.cells: list[str] = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag in ("td", "th"):
            self._inside = True
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.cells[-1] += data


def cells(page: str) -> list[str]:
    parser = _Tables()
    parser.feed(page)
    return parser.cells


def test_the_tables_hold_the_last_records(page: str, both: list[runs.Run]) -> None:
    shown = cells(page)
    for run in both:
        last = run.records[-1]
        for name in ("source_train", "source_test", "target"):
            assert f"{last[f'{name}/cdnv']:.4g}" in shown
        for kind in ("ncc/5w1s", "ridge/5w5s"):
            value, half = last[f"target/{kind}"], last[f"target/{kind}/ci95"]
            assert f"{100 * value:.2f} ± {100 * half:.2f}" in shown


def test_what_is_infinite_leaves_a_gap_and_what_is_missing_a_dash(both: list[runs.Run]) -> None:
    records = [dict(both[0].records[i]) for i in (0, 0, -1)]
    records[1] |= {"target/cdnv": None}
    for record in records:
        del record["target/debiased_cdnv"]
    run = dataclasses.replace(both[0], records=records)
    (line,) = (glyph for glyph in report.figures.plot_cdnv([report.figures.Course(run, "run", "1")]).renderers
               if "target, new classes" in glyph.data_source.data["series"]
               and type(glyph.glyph).__name__ == "Line")  # fmt: skip
    np.testing.assert_array_equal(np.isnan(line.data_source.data["y"]), [False, True, False])
    assert line.data_source.data["debiased"] == ["–"] * 3
    summary = report.tables.summary([run, both[1]], ["a", "b"])
    column = list(summary.header).index("CDNV, debiased, target ↓")
    assert summary.rows[0][column] == "–"
    seeds = report.tables.over_seeds([run, both[1]])
    assert seeds.rows[0][list(seeds.header).index("CDNV, debiased, target ↓")] == "–"
    infinite = dataclasses.replace(run, records=[*records[:2], records[2] | {"target/debiased_cdnv": None}])
    assert report.tables.summary([infinite], ["a"]).rows[0][column] == "∞"


def test_acronyms_keep_their_capitals(
    both: list[runs.Run], detail: "report.Detail", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report.detail, "MOST_CLASSES", 3)
    text = report.page(both, detail)
    assert text.count("The 3 of 5 target classes with the largest mean CDNV, ") == 2


def test_seeds_get_their_mean_and_t_interval(page: str, both: list[runs.Run]) -> None:
    values = [100 * run.records[-1]["target/ncc/5w5s"] for run in both]
    half = scipy.stats.t.ppf(0.975, 1) * np.std(values, ddof=1) / np.sqrt(2)
    assert f"{np.mean(values):.2f} ± {half:.2f}" in cells(page)


def test_before_training_is_the_network_of_the_first_record(both: list[runs.Run], detail: "report.Detail") -> None:
    first = both[0].records[0]
    params = ncjax.restore(both[0].folder)
    target = runs.open_benchmark(both[0].description).target
    again = feature_episodes(detail.before, target.labels, ways=5, shots=5, queries=7, episodes=50, seed=0)
    assert again.accuracy == pytest.approx(first["target/ncc/5w5s"], abs=1e-6)
    assert again.ci95 == pytest.approx(first["target/ncc/5w5s/ci95"], abs=1e-6)
    # the page measures collapse on the images of the records
    assert detail.collapse.cdnv == pytest.approx(both[0].records[-1]["target/cdnv"], rel=1e-5)
    np.testing.assert_allclose(detail.after, ncjax.features(params, target), rtol=1e-5, atol=1e-6)


def test_principal_components_are_scikit_learns() -> None:
    values = np.random.default_rng(0).normal(size=(60, 7)) * np.arange(1, 8) + 100
    points, share = report.principal_components(values)
    fitted = PCA(2).fit(values)
    np.testing.assert_allclose(np.abs(points), np.abs(fitted.transform(values)), atol=1e-9)
    np.testing.assert_allclose(share, fitted.explained_variance_ratio_)


def test_confusion_is_of_the_queries_in_episodes_that_hold_both_classes() -> None:
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(6), 20)
    evaluated = feature_episodes(
        rng.normal(size=(120, 3)) + labels[:, None] * 0.4, labels, ways=3, queries=4, episodes=80
    )
    rates = report.confusion_rates(evaluated)
    for i in range(6):
        for j in range(6):
            together = sum(i in held and j in held for held in evaluated.classes)
            assert rates[i, j] == pytest.approx(100 * evaluated.confusion[i, j] / (4 * together))
    np.testing.assert_allclose(np.diag(rates), 100 * evaluated.per_class)


@pytest.mark.slow
def test_twenty_runs_fit_in_five_megabytes(both: list[runs.Run], detail: "report.Detail") -> None:
    many = [detail.run] + [dataclasses.replace(both[1], folder=Path(f"/runs/sweep/seed_{i}")) for i in range(19)]
    long = [dataclasses.replace(run, records=8 * run.records) for run in many[1:]]
    text = report.page([detail.run, *long], detail)
    assert len(text.encode()) < 5_000_000


def test_the_page_asks_for_nothing(page: str) -> None:
    assert "default-src 'none'" in page  # a browser refuses anything that the checks below miss
    markup = re.sub(r"<script\b.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r"""(src|href)\s*=|url\(|@import""", markup)
    assert "sourceMappingURL" not in page
    assert not re.search(r"<script[^>]*\bsrc=", page)


def test_names_are_escaped(page: str) -> None:
    assert HOSTILE not in page
    assert "&lt;/script&gt;&lt;b&gt;" in page or "\\u003c/script" in page


def test_without_data_the_page_is_made_of_the_records(both: list[runs.Run], folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere"):
        report.examine(both[0], data_dir=str(tmp_path / "nowhere.npz"))
    text = report.page(both, None, missing="no data & none to be had")
    assert "no data &amp; none to be had" in text
    assert "Accuracy against shots" not in text


def test_runs_are_found_in_natural_order(folder: Path, tmp_path: Path) -> None:
    for name in ("sweep/seed_10", "sweep/seed_9", "other"):
        shutil.copytree(folder / "runs" / "seed_0", tmp_path / name)
    assert [str(path.relative_to(tmp_path)) for path in runs.find(tmp_path)] == [
        "other", "sweep/seed_9", "sweep/seed_10",
    ]  # fmt: skip
    assert runs.find(tmp_path / "other") == [tmp_path / "other"]
    names = report.run_names([runs.read(path) for path in runs.find(tmp_path)])
    assert names == ["other", "sweep/seed_9", "sweep/seed_10"]


def test_what_is_no_run_is_refused_in_a_line(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no run"):
        runs.find(tmp_path)
    shutil.copytree(folder / "runs" / "seed_0", tmp_path / "bad")
    metrics = tmp_path / "bad" / "metrics.jsonl"
    for text, words in (("", "is empty"), ('{"step": 1', "cannot be read"), ('{"step": 1}\n', "lacks its measurement")):
        metrics.write_text(text)
        with pytest.raises(InputError, match=words):
            runs.read(tmp_path / "bad")
    (tmp_path / "bad" / "config.json").write_text("[]")
    metrics.write_text(json.dumps({"step": 0, "epoch": 0, "target/cdnv": 1}) + "\n")
    with pytest.raises(InputError, match="is not that of a run"):
        runs.read(tmp_path / "bad")


def test_configurations_have_a_color_and_data_sets_a_panel(both: list[runs.Run], folder: Path) -> None:
    def changed(run: runs.Run, name: str, fingerprint: str = "", **settings: Any) -> runs.Run:
        description = dataclasses.replace(run.description, settings={**run.description.settings, **settings})
        if fingerprint:
            data = dataclasses.replace(description.data, fingerprint=fingerprint)
            description = dataclasses.replace(description, data=data)
        return runs.Run(Path(name), description, run.records)

    mixed = [changed(run, f"/r/mixup/{i}", mixup=0.2) for i, run in enumerate(both)]
    other = changed(both[0], "/r/other", fingerprint="9-9-9-9")
    courses = report.html_page.by_data([*both, *mixed, other], list("abcde"))
    assert [[course.group for course in of_data] for of_data in courses.values()] == [
        ["mixup=0.0", "mixup=0.0", "mixup=0.2", "mixup=0.2"],
        ["mixup=0.0"],
    ]
    (first, second), colors = courses.values(), CONFIGURATION_COLORS
    assert [course.color for course in first] == [colors[0], colors[0], colors[1], colors[1]]
    assert second[0].color == colors[0]
    # means over seeds are of one configuration on one data set
    seeds = report.tables.over_seeds([*both, *mixed, other])
    assert [row[0] for row in seeds.rows] == ["mixup=0.0", "mixup=0.2"]
    assert [row[2] for row in seeds.rows] == ["1, 2", "3, 4"]
    text = report.page([*both, *mixed, other], None)
    assert "mixup=0.2" in text
    assert text.count("Few-shot accuracy ↑ on target classes") == 2
    assert "class-distance normalized variance" in text  # the legend


def test_the_command_writes_the_page_or_says_a_line(folder: Path) -> None:
    done = inside("report.py", "runs", "--out=made/page.html", "--detail=0", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("report  made/page.html  (2 runs, ")
    assert (folder / "made" / "page.html").read_text().startswith("<!doctype html>")
    printed = inside("report.py", "runs", "--out=made/page.html", "--detail=0", "--format=csv", cwd=folder)
    assert printed.stdout.splitlines()[0] == "# results"
    assert printed.stdout.splitlines()[1].startswith(",run,data set")
    assert "report  made/page.html" in printed.stderr
    (folder / "begun").mkdir()
    shutil.copy(folder / "runs" / "seed_0" / "config.json", folder / "begun")
    done = inside("report.py", "runs", "begun", "--out=made/page.html", "--detail=0", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "left out: begun has only begun" in done.stderr
    assert "(2 runs, " in done.stdout
    wrong = inside("report.py", "runs/seed_0/checkpoints", cwd=folder)
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("error: runs/seed_0/checkpoints holds no run")
    assert len(wrong.stderr.splitlines()) == 1


def test_a_browser_opens_it_offline_without_an_error(page: str, tmp_path: Path) -> None:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("there is no chromium and chromedriver to open the page with")
    path = tmp_path / "report.html"
    path.write_text(page, encoding="utf-8")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={tmp_path / 'profile'}",
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        browser.execute_cdp_cmd("Network.enable", {})
        browser.get_log("performance")
        phone = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
        browser.get(path.as_uri())
        wait = pytest.importorskip("selenium.webdriver.support.wait").WebDriverWait(browser, 60)
        wait.until(lambda b: b.execute_script("return window.Bokeh && Bokeh.documents.every(d => d.is_idle)"))
        drawn = browser.execute_script(_PAINTED)
        assert len(drawn) == 8
        assert min(drawn) > 500  # pixels that are neither white nor clear
        browser.execute_script("window.dispatchEvent(new Event('beforeprint'))")
        assert browser.execute_script("return [...document.querySelectorAll('details')].map(d => d.open)") == [
            True,
            True,
        ]
        width = browser.execute_script("return document.documentElement.scrollWidth")
        assert width <= 390  # a phone need not scroll sideways
        assert _hidden_by_clicks_below_the_first_plot(browser) >= {0, 4}  # two runs, a line and dots each
        assert [entry for entry in browser.get_log("browser") if entry["level"] in ("WARNING", "SEVERE")] == []
        events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
        asked = [
            event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"
        ]
        outside = [url for url in asked if not url.startswith(("data:", "blob:", "chrome:")) and url != path.as_uri()]
        assert path.as_uri() in asked
        assert outside == []
    finally:
        browser.quit()


def _hidden_by_clicks_below_the_first_plot(browser: Any) -> set[int]:
    """Clicks down the legend; returns the numbers of lines and dots that were hidden after a click."""
    left, top, height = browser.execute_script(
        "const figure = document.querySelector('figure'); figure.scrollIntoView();"
        "const box = figure.getBoundingClientRect(); return [box.left, box.top, box.height];"
    )
    counts = set()
    for y in range(240, int(height), 9):
        at = {"x": left + 100, "y": top + y, "button": "left", "clickCount": 1}
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            browser.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": kind, **at})
        counts.add(
            browser.execute_script(
                "return [...Bokeh.documents[0].all_models].filter(m => m.type === 'GlyphRenderer' && !m.visible).length"
            )
        )
    return counts


_PAINTED = """
const canvases = [];
const walk = node => {
  if (node.tagName === 'CANVAS') canvases.push(node);
  for (const child of [...(node.shadowRoot ? [node.shadowRoot] : []), ...node.childNodes]) walk(child);
};
const painted = figure => {
  canvases.length = 0;
  walk(figure);
  return Math.max(0, ...canvases.filter(c => c.width && c.height).map(c => {
    const data = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
    let count = 0;
    for (let i = 0; i < data.length; i += 4)
      if (data[i + 3] > 0 && data[i] + data[i + 1] + data[i + 2] < 700) count++;
    return count;
  }));
};
return [...document.querySelectorAll('figure')].map(painted);
"""


def encoder() -> Classifier:
    """Rows of pixels as features; `--encoder=test_report:encoder`."""
    return encoders.from_function(lambda images: images.reshape(len(images), -1)[:, ::9], channels=1)


def test_the_page_of_an_encoder_has_its_panels_alone(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = importlib.import_module("ncjax.commands.report")
    options = command.Options(
        encoder="test_report:encoder", dataset="npz", data_dir=str(folder / "images.npz"), episodes=50,
        out=tmp_path / "page.html",
    )  # fmt: skip
    command.write(options)
    assert "test_report:encoder on npz" in capsys.readouterr().out
    text = (tmp_path / "page.html").read_text()
    assert "CDNV of pairs of classes" in text
    assert "The encoder&#39;s features." in text or "The encoder's features." in text
    assert "During training" not in text
    with pytest.raises(InputError, match="give runs or --encoder, not both"):
        command.write(dataclasses.replace(options, paths=(folder,)))
    with pytest.raises(InputError, match="give --dataset=NAME"):
        command.write(dataclasses.replace(options, dataset=None))
