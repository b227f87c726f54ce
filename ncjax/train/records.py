"""The records of a run: metrics.jsonl and timing.jsonl, and tables of the records."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ncjax.errors import InputError
from ncjax.eval.intervals import mean_interval
from ncjax.files import expand, named, write_atomically
from ncjax.measures import ARROWS, SETS, cautions, of_key
from ncjax.tables import Table

if TYPE_CHECKING:
    from ncjax.train.measurement import Record


def write_records(workdir: Path, records: Sequence[Record]) -> None:
    """Writes metrics.jsonl anew."""
    write_atomically(workdir / "metrics.jsonl", "".join(json.dumps(r, allow_nan=False) + "\n" for r in records))


def append_timing(workdir: Path, entry: dict[str, Any]) -> None:
    """Adds a line to timing.jsonl, which holds times and sizes, which differ between executions of the same run."""
    path = workdir / "timing.jsonl"
    with named(path), path.open("a") as file:
        file.write(json.dumps(entry) + "\n")


def read_timing(workdir: Path) -> list[dict[str, Any]]:
    """Reads timing.jsonl; empty where there is none."""
    path = workdir / "timing.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def time_spent(entries: Sequence[dict[str, Any]], seconds: float) -> str:
    """Says where the time of an execution went.

    Args:
      entries: of timing.jsonl, those that the execution added.
      seconds: from the start of the process to now.
    """
    parts = {
        "steps": sum(entry["seconds"] for entry in entries if "steps" in entry),
        "measuring": sum(entry.get("measure_seconds", 0) for entry in entries),
        "compiling the step": sum(entry.get("compile_seconds", 0) for entry in entries),
    }
    parts["the rest (start, images, checkpoints, figure)"] = seconds - sum(parts.values())
    return f"time    {seconds:.1f} s: " + ", ".join(f"{name} {value:.1f}" for name, value in parts.items())


def read_records(workdir: str | Path) -> list[Record]:
    """Reads the records of a run, in the order of steps; every record has every key, and None is a value not finite.

    Raises:
      InputError: if the folder holds no records, or they cannot be read.
    """
    path = expand(workdir) / "metrics.jsonl"
    try:
        records = [dict(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        raise InputError(
            f"{workdir} holds no run: there is no metrics.jsonl in it; give the folder that pretrain.py named"
        ) from None
    except (OSError, TypeError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    if not records:
        raise InputError(f"{path} is empty: the run has not yet been measured")
    return records


def few_shot_keys(record: Record) -> list[str]:
    """Returns the keys of the record's few-shot accuracies, such as "target/ncc/5w1s"."""
    return [key.removesuffix("/ci95") for key in record if key.endswith("/ci95")]


def table(records: Sequence[Record], per_class: int | None = None) -> str:
    """Formats a run as text: CDNV and accuracy on the three sets, few-shot accuracy with its interval.

    Args:
      records: of the run.
      per_class: images a class behind CDNV, `data.measured_per_class` of config.json; None if not known.
    """
    sets = [name for name in SETS if f"{name}/cdnv" in records[0]]
    accuracies = [name for name in SETS if f"{name}/accuracy" in records[0]]
    shown = few_shot_keys(records[0])
    collapse = [f"CDNV {SETS[name]} ↓" for name in sets] + [f"accuracy {SETS[name]}, % ↑" for name in accuracies]
    of_collapse, of_episodes = [], []
    for record in records:
        epoch = f"{record['epoch']:.4g}"
        row = [epoch, str(record["step"]), _number(record["loss"]), *(_number(record[f"{name}/cdnv"]) for name in sets)]
        of_collapse.append(row + [f"{100 * (record[f'{name}/accuracy'] or 0):.2f}" for name in accuracies])
        shares = [f"{100 * (record[key] or 0):.2f} ± {100 * (record[f'{key}/ci95'] or 0):.2f}" for key in shown]
        of_episodes.append([epoch, *shares])
    images = f"{per_class or 'the same number of'} images a class"
    tables = [
        Table(
            ["epoch", "step", "loss ↓", *collapse],
            of_collapse,
            notes=[f"CDNV: mean over pairs of classes, on {images} in every set; it grows with their number.\n"],
            left=0,
        ),
        Table(
            ["epoch", *(f"{_short(key)}, % ↑" for key in shown)],
            of_episodes,
            notes=[
                "NwKs: N-way K-shot on target classes; ± is the 95 % interval over episodes drawn from these target "
                "images, and does not cover new classes.",
                f"{ARROWS}.",
                *cautions(records[-1], per_class),
            ],
            left=0,
        ),
    ]
    return "".join(table.format() for table in tables if table.header[1:]).rstrip("\n")


def _short(key: str) -> str:
    """Names a few-shot accuracy in few letters: "5w1s ncc"."""
    _, head, kind = key.split("/")
    return f"{kind} {head}"


def seeds_table(finals: Sequence[Record]) -> str:
    """Formats the last records of several seeds as text: mean over seeds with its 95 % t interval."""
    shown = [f"{name}/{what}" for what in ("cdnv", "accuracy") for name in SETS if f"{name}/{what}" in finals[0]]
    rows = []
    for key in (*shown, *few_shot_keys(finals[0])):
        measure = of_key(key)
        values = np.asarray([math.inf if record[key] is None else record[key] for record in finals], np.float64)
        mean, half = values.mean(), mean_interval(values) if np.isfinite(values).all() else math.nan
        text = f"{100 * mean:.2f} ± {100 * half:.2f} %" if measure.is_share else f"{mean:.4g} ± {half:.2g}"
        rows.append([f"{measure.name} {measure.arrow}", text])
    return (
        Table(
            ["measure", "mean"],
            rows,
            f"{len(finals)} seeds, at the end: mean ± 95 % t interval",
            ["The interval covers other seeds of initialisation and order, on these same classes and images."],
        )
        .format()
        .rstrip("\n")
    )


def _number(value: float | int | None) -> str:
    return "inf" if value is None else f"{value:.4g}"
