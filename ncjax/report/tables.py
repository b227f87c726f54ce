"""Tables of the report: a header and rows of text, as the template `table` shows them."""

import json
import math
from collections.abc import Sequence
from typing import Any, TypedDict

from ncjax.eval import COVERS
from ncjax.plots import SETS
from ncjax.report.detail import Detail
from ncjax.runs import Run
from ncjax.runs import number as to_float
from ncjax.statistics import Mean
from ncjax.train.measurement import Record
from ncjax.train.records import few_shot_keys

_MEASURES = {
    "cdnv": "CDNV",
    "cdnv_median": "CDNV, median pair",
    "debiased_cdnv": "CDNV, debiased",
    "debiased_cdnv/unresolved_pairs": "pairs too near to tell apart",
    "directional_cdnv": "CDNV, directional",
    "nc1": "NC1",
    "nc1_quotient": "NC1, quotient of traces",
    "nc2_equinorm": "NC2, equinorm",
    "nc2_equiangular": "NC2, equiangular",
    "nc3": "NC3",
    "nc4": "NC4",
    "ncc_accuracy": "nearest class mean, accuracy (each image in its own)",
    "accuracy": "classifier, accuracy",
}
_CDNV_KEYS = (*(f"{name}/cdnv" for name in SETS), "target/debiased_cdnv")
_CDNV_HEADER = (*(f"CDNV {name.replace('_', '-')}" for name in SETS), "debiased, target")


class Table(TypedDict):
    """A table as text.

    Attributes:
      header: names of the columns.
      rows: cells, as many in each row as there are columns.
    """

    header: list[str]
    rows: list[list[str]]


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


def entry(record: Record, key: str) -> str:
    """Formats a record's value; a dash where nothing was measured."""
    return format_number(record[key]) if key in record else "–"


def summary(runs: Sequence[Run], names: Sequence[str]) -> Table:
    """Tabulates the last record of each run."""
    keys = _all_few_shot_keys(runs)
    header = [
        "",
        "run",
        "data set",
        "network",
        "source classes",
        "seed",
        "epochs",
        *_CDNV_HEADER,
        *_few_shot_header(keys),
    ]
    rows = []
    for number, (run, name) in enumerate(zip(runs, names, strict=True), 1):
        last, config = run.records[-1], run.description.settings
        epochs = f"{last['epoch'] or 0:.4g}" + ("" if run.finished else " (unfinished)")
        row = [str(number), name, config["dataset"], config["network"]]
        row += [str(run.description.data.num_source_classes), str(config["seed"]), epochs]
        row += [entry(last, key) for key in _CDNV_KEYS]
        row += [_percent(last[key], last[f"{key}/ci95"]) if key in last else "–" for key in keys]
        rows.append(row)
    return {"header": header, "rows": rows}


def over_seeds(runs: Sequence[Run]) -> Table | None:
    """Averages runs that differ only in their seed; of copies of a run the first counts.

    Returns:
      None if no two runs differ only in their seed.
    """
    groups: dict[str, dict[int, int]] = {}
    for number, run in enumerate(runs):
        identity = {key: value for key, value in run.description.identity.items() if key != "seed"}
        training = [identity, run.description.data.fingerprint, run.records[-1]["step"]]
        by_seed = groups.setdefault(json.dumps(training, sort_keys=True), {})
        by_seed.setdefault(run.description.settings["seed"], number)
    keys = _all_few_shot_keys(runs)
    rows = []
    for group in groups.values():
        numbers = list(group.values())
        if len(numbers) > 1:
            records = [runs[i].records[-1] for i in numbers]
            means = [_mean(records, key) for key in (*_CDNV_KEYS, *keys)]
            rows.append([", ".join(str(i + 1) for i in numbers), *means])
    return {"header": ["runs", *_CDNV_HEADER, *_few_shot_header(keys)], "rows": rows} if rows else None


def measures(run: Run) -> Table:
    """Tabulates every measure of collapse at the last record, a column for each set."""
    last = run.records[-1]
    sets = [name for name in SETS if f"{name}/cdnv" in last]
    rows = [
        [label] + [entry(last, f"{name}/{key}") for name in sets]
        for key, label in _MEASURES.items()
        if any(f"{name}/{key}" in last for name in sets)
    ]
    return {"header": ["measure"] + [SETS[name] for name in sets], "rows": rows}


def captions(detail: Detail, name: str) -> dict[str, Any]:
    """Returns the words and the table beside the panels of a run, by the names that the template gives them."""
    measured, settings, shown = detail.collapse, detail.confused.settings, len(detail.shown_classes())
    hardest = f"the {shown} of {measured.k} target classes with the largest mean CDNV"
    classes, rows = detail.projected()
    return {
        "name": name,
        "classes": f"all {measured.k} target classes" if shown == measured.k else hardest,
        "images": len(detail.labels),
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
    return shared, {"header": ["", *differing], "rows": rows}


def _flat_settings(run: Run) -> dict[str, str]:
    data = run.description.data
    flat = {key: value for key, value in run.description.settings.items() if key != "workdir"}  # it is the run's name
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
        + [f"{100 * half:.2f}" if math.isfinite(half := getattr(report, interval)) else "–" for interval in COVERS]
        + [str(report.not_converged or "")]
        for head, curve in detail.curves.items()
        for shots, report in zip(curve.values, curve.reports, strict=True)
    ]
    header = ["head", "shots", "accuracy, %"] + [f"± {covers}" for covers in COVERS.values()]
    if any(row[-1] for row in rows):
        header.append("not converged")
    return {"header": header, "rows": [row[: len(header)] for row in rows]}


def _all_few_shot_keys(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(key for run in runs for key in few_shot_keys(run.records[-1])))


def _few_shot_header(keys: Sequence[str]) -> list[str]:
    return [" ".join(reversed(key.removeprefix("target/").split("/"))) + ", %" for key in keys]


def _mean(records: Sequence[Record], key: str) -> str:
    if not all(key in record for record in records):
        return "–"
    mean = Mean.of(to_float(record[key]) for record in records)
    if math.isnan(mean.value):  # a value is infinite
        return "∞" if key.endswith("cdnv") else "–"
    return str(mean) if key.endswith("cdnv") else mean.percent()


def _percent(value: float | int | None, half: float | int | None) -> str:
    return f"{100 * (value or 0):.2f} ± {100 * (half or 0):.2f}"
