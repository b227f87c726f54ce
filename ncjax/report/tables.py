"""Tables of the report: a header and rows of text, as the template `table` shows them."""

import math
from collections.abc import Sequence
from typing import Any

from ncjax.eval.intervals import COLUMNS, half_widths_note
from ncjax.measures import FEW_SHOT_MEANING, LEGEND, MEASURES, cautions, of_key
from ncjax.plots import SETS
from ncjax.report.detail import Detail
from ncjax.runs import Run, configurations, number as to_float
from ncjax.runs.comparison import names_and_data
from ncjax.statistics import Mean
from ncjax.tables import Table
from ncjax.train.measurement import Record
from ncjax.train.records import few_shot_keys

_CDNV_KEYS = (*(f"{name}/cdnv" for name in SETS), "target/debiased_cdnv")
_CDNV_HEADER = tuple(f"{of_key(key).name} ↓" for key in _CDNV_KEYS)
_RECORDED = (
    "cdnv", "cdnv_median", "debiased_cdnv", "debiased_cdnv/unresolved_pairs", "directional_cdnv", "nc1", "nc1_quotient",
    "nc2_equinorm", "nc2_equiangular", "nc3", "nc4", "ncc_accuracy", "accuracy",
)  # fmt: skip


def run_names(runs: Sequence[Run]) -> list[str]:
    """Names each run by its folder, without the leading folders that all runs share."""
    parts = [run.folder.absolute().parts for run in runs]
    shared = 0
    while all(len(p) > shared + 1 and p[shared] == parts[0][shared] for p in parts):
        shared += 1
    return ["/".join(p[shared:]) for p in parts]


def format_number(value: Any) -> str:
    """Formats a value of a record or an array; None and infinity as ∞, NaN as a dash."""
    if value is None:
        return "∞"
    if isinstance(value, int):
        return str(value)
    if math.isnan(value):
        return "–"
    return "∞" if math.isinf(value) else f"{value:.4g}"


def entry(record: Record, key: str, *, percent: bool = False) -> str:
    """Formats a record's value; a dash where nothing was measured."""
    if key not in record:
        return "–"
    value = record[key]
    return f"{100 * value:.2f}" if percent and value is not None else format_number(value)


def summary(runs: Sequence[Run], names: Sequence[str]) -> Table:
    """Tabulates the last record of each run."""
    keys = _all_few_shot_keys(runs)
    configurations = [name for name, _ in names_and_data(runs)]
    several = len(set(configurations)) > 1
    header = ["", "run", *["configuration"][: 1 if several else 0], "data set", "network", "source classes", "seed"]
    header += ["epochs trained", "images a class", *_CDNV_HEADER, *_few_shot_header(keys)]
    rows = []
    for number, (run, name, configuration) in enumerate(zip(runs, names, configurations, strict=True), 1):
        last, config, data = run.records[-1], run.description.settings, run.description.data
        epochs = f"{last['epoch'] or 0:.4g}" + ("" if run.finished else " (unfinished)")
        row = [str(number), name, *[configuration][: 1 if several else 0], config["dataset"], config["network"]]
        row += [str(data.num_source_classes), str(config["seed"]), epochs, str(data.measured_per_class or "–")]
        row += [entry(last, key) for key in _CDNV_KEYS]
        row += [_percent(last[key], last[f"{key}/ci95"]) if key in last else "–" for key in keys]
        rows.append(row)
    return Table(header, rows, "results", left=2)


def over_seeds(runs: Sequence[Run]) -> Table | None:
    """Averages finished runs that differ only in their seed; of copies of a run the first counts.

    Returns:
      None if no two runs differ only in their seed.
    """
    numbers = {run.folder: str(number) for number, run in enumerate(runs, 1)}
    keys = _all_few_shot_keys(runs)
    rows = []
    for configuration in configurations([run for run in runs if run.finished], drop_copies=True):
        if len(configuration.runs) > 1:
            records = [run.records[-1] for run in configuration.runs]
            which = ", ".join(numbers[run.folder] for run in configuration.runs)
            means = [_mean(records, key) for key in (*_CDNV_KEYS, *keys)]
            rows.append([configuration.name, configuration.data, which, *means])
    header = ["configuration", "target data", "runs", *_CDNV_HEADER, *_few_shot_header(keys)]
    return Table(header, rows, "means over seeds", left=3) if rows else None


def measures(run: Run) -> Table:
    """Tabulates every measure of collapse at the last record, a column for each set."""
    last = run.records[-1]
    sets = [name for name in SETS if f"{name}/cdnv" in last]
    rows = []
    for key in _RECORDED:
        if any(f"{name}/{key}" in last for name in sets):
            measure = MEASURES[key]
            unit = ", %" if measure.is_share else ""
            rows.append(
                [f"{measure.name}{unit} {measure.arrow}"]
                + [entry(last, f"{name}/{key}", percent=measure.is_share) for name in sets]
            )
    return Table(["measure"] + [SETS[name] for name in sets], rows, "all measures")


def of_page(runs: Sequence[Run], detail: Detail | None) -> list[Table]:
    """Returns the tables that the page of these runs shows, in its order."""
    names = run_names(runs) if runs else []
    tables: list[Table | None] = [summary(runs, names), over_seeds(runs)] if runs else []
    focus = detail.run if detail is not None and detail.run is not None else next(iter(runs), None)
    tables.append(None if focus is None else measures(focus))
    tables.append(None if detail is None else _curves(detail))
    tables.append(settings(runs)[1] if runs else None)
    return [table for table in tables if table is not None]


def cautions_of(runs: Sequence[Run], names: Sequence[str]) -> list[str]:
    """Says which numbers of the last records mean less than they seem to, and of which runs."""
    concerned: dict[str, list[str]] = {}
    for run, name in zip(runs, names, strict=True):
        data = run.description.data
        for line in cautions(run.records[-1], data.measured_per_class, data.classes):
            concerned.setdefault(line, []).append(name)
    return [line if len(runs) == 1 else f"{', '.join(of)}: {line}" for line, of in concerned.items()]


def legend() -> list[tuple[str, str]]:
    """Returns the terms of the page and their meanings."""
    return [
        *((measure.name, measure.meaning) for measure in MEASURES.values() if measure.meaning),
        ("NwKs", FEW_SHOT_MEANING),
        *LEGEND.items(),
    ]


def captions(detail: Detail, name: str) -> dict[str, Any]:
    """Returns the words and the table beside the panels of a run, by the names that the template gives them."""
    measured, settings, shown = detail.collapse, detail.confused.settings, len(detail.shown_classes())
    hardest = f"the {shown} of {measured.k} target classes with the largest mean CDNV"
    classes, rows = detail.projected()
    return {
        "name": name,
        "classes": f"all {measured.k} target classes" if shown == measured.k else hardest,
        "images": f"{len(detail.rows)} target images",
        "per_class": measured.counts.min(),
        "before": "the network at initialisation, under this run's seed"
        if detail.run is None or detail.run.config.continue_from is None
        else "the weights of the run that this one continues",
        "cdnv": format_number(measured.cdnv),
        "worst": " and ".join(detail.class_names[c] for c in measured.worst_pair),
        "worst_cdnv": format_number(measured.cdnv_worst),
        "coincident": len(measured.coincident_pairs),
        "projected": f"{len(rows)} images of {len(classes)} of the {measured.k} target classes",
        "episodes": settings.episodes,
        "ways": settings.ways,
        "confused": f"{settings.ways}-way {settings.shots}-shot {settings.head}",
        "queries": settings.queries,
        "table": _curves(detail),
    }


def settings(runs: Sequence[Run]) -> tuple[list[tuple[str, str]], Table | None]:
    """Returns the settings that all runs share, and a table of those that differ."""
    by_run = [_flat_settings(run) for run in runs]
    keys = list(dict.fromkeys(key for values in by_run for key in values))
    differing = [key for key in keys if len({values.get(key) for values in by_run}) > 1]
    shared = [(key, by_run[0][key]) for key in keys if key not in differing]
    if not differing:
        return shared, None
    rows = [[str(number), *(values.get(key, "–") for key in differing)] for number, values in enumerate(by_run, 1)]
    return shared, Table(["", *differing], rows, "what differs between the runs")


def _flat_settings(run: Run) -> dict[str, str]:
    data = run.description.data
    flat = run.description.complete_settings
    del flat["workdir"]  # it is the run's name
    flat |= {f"data: {key}": getattr(data, key) for key in ("fingerprint", "image_shape", "augmentation")}
    flat |= {f"images: {key}": value for key, value in data.images.items()}
    flat |= {f"classes: {key}": value for key, value in data.classes.items()}
    flat |= {"total steps": run.description.total_steps}
    flat |= {f"version: {key}": value for key, value in run.description.versions.items()}
    return {key: "–" if value is None else str(value) for key, value in flat.items()}


def _curves(detail: Detail) -> Table:
    """Tabulates accuracy and its intervals for each head and number of shots."""
    rows = [
        [head, str(shots), f"{100 * report.accuracy:.2f}"]
        + [f"{100 * half:.2f}" if math.isfinite(half := getattr(report, interval)) else "–" for interval in COLUMNS]
        + [str(report.not_converged or "")]
        for head, curve in detail.curves.items()
        for shots, report in zip(curve.values, curve.reports, strict=True)
    ]
    header = ["head", "shots", "accuracy, % ↑", *COLUMNS.values()]
    if any(row[-1] for row in rows):
        header.append("not converged")
    return Table(header, [row[: len(header)] for row in rows], "accuracy against shots", [half_widths_note()], left=2)


def _all_few_shot_keys(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(key for run in runs for key in few_shot_keys(run.records[-1])))


def _few_shot_header(keys: Sequence[str]) -> list[str]:
    return [" ".join(reversed(key.removeprefix("target/").split("/"))) + ", % ↑" for key in keys]


def _mean(records: Sequence[Record], key: str) -> str:
    if not all(key in record for record in records):
        return "–"
    mean = Mean.of(to_float(record[key]) for record in records)
    if math.isnan(mean.value):  # a value is infinite
        return "∞" if key.endswith("cdnv") else "–"
    return str(mean) if key.endswith("cdnv") else mean.percent()


def _percent(value: float | int | None, half: float | int | None) -> str:
    return f"{100 * (value or 0):.2f} ± {100 * (half or 0):.2f}"
