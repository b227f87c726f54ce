"""The files of a run's folder: config.json, metrics.jsonl and timing.jsonl, and the table of its records."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ncjax.errors import InputError
from ncjax.eval.intervals import mean_interval
from ncjax.files import expand, named, write_atomically
from ncjax.train.measurement import Record

_SETS = ("source_train", "source_test", "target")


def write_records(workdir: Path, records: Sequence[Record]) -> None:
    """Makes metrics.jsonl hold exactly these records."""
    write_atomically(workdir / "metrics.jsonl", "".join(json.dumps(r, allow_nan=False) + "\n" for r in records))


def append_timing(workdir: Path, entry: dict[str, Any]) -> None:
    """Adds a line to timing.jsonl, which holds what differs from one execution of the same run to another."""
    path = workdir / "timing.jsonl"
    with named(path), path.open("a") as file:
        file.write(json.dumps(entry) + "\n")


def read_records(workdir: str | Path) -> list[Record]:
    """The records of a run, in the order of steps; each has every key, and None stands for a value that is not finite.

    Raises:
      InputError: if the folder holds no records, or they cannot be read.
    """
    records = _read(workdir, "metrics.jsonl", lambda text: [dict(json.loads(line)) for line in text.splitlines()])
    if not records:
        raise InputError(f"{expand(workdir) / 'metrics.jsonl'} is empty: the run has not yet been measured")
    return records


def read_config(workdir: str | Path) -> dict[str, Any]:
    """What config.json holds.

    Raises:
      InputError: if the folder holds no run, or many, or the file cannot be read.
    """
    folder = expand(workdir)
    first, path = folder / "seed_0", folder / "config.json"
    if first.is_dir() and not path.exists():
        raise InputError(f"{workdir} holds runs of many seeds; give one of them, for example {first}")
    described = _read(folder, "config.json", json.loads)
    if not isinstance(described, dict) or not all(isinstance(described.get(name), dict) for name in ("config", "data")):
        raise InputError(f"{path} is not that of a run: it lacks the run's settings or data; give another folder")
    return described


def _read(workdir: str | Path, name: str, parse: Callable[[str], Any]) -> Any:
    path = expand(workdir) / name
    try:
        return parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{workdir} holds no run: there is no {name} in it; give the folder that pretrain.py named"
        ) from None
    except (OSError, TypeError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None


def few_shot_keys(record: Record) -> list[str]:
    """The record's few-shot accuracies, such as "target/ncc/5w1s"."""
    return [key.removesuffix("/ci95") for key in record if key.endswith("/ci95")]


def table(records: Sequence[Record], per_class: int | None = None) -> str:
    """The course of a run as text: CDNV and accuracy on the three sets, few-shot accuracy with its interval.

    `per_class`: images a class behind CDNV, `data.measured_per_class` of config.json; None where it is not known.
    """
    sets = [name for name in _SETS if f"{name}/cdnv" in records[0]]
    accuracies = [name for name in _SETS if f"{name}/accuracy" in records[0]]
    shown = few_shot_keys(records[0])
    header = ["epoch", "step", "loss"]
    header += [f"CDNV {name}" for name in sets] + [f"acc {name}" for name in accuracies]
    header += [key.removeprefix("target/") for key in shown]
    rows = [header]
    for record in records:
        row = [f"{record['epoch']:.4g}", str(record["step"]), _number(record["loss"])]
        row += [_number(record[f"{name}/cdnv"]) for name in sets]
        row += [f"{record[f'{name}/accuracy']:.4f}" for name in accuracies]
        row += [f"{100 * (record[key] or 0):.2f} ± {100 * (record[f'{key}/ci95'] or 0):.2f}" for key in shown]
        rows.append(row)
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(
        [
            *lines,
            f"CDNV: mean over pairs of classes, on {per_class or 'the same number of'} images a class in every set; it "
            "grows with their number.",
            "Few-shot: NwKs is N-way K-shot on target classes, accuracy in percent; ± is the 95 % t interval over the",
            "episodes drawn from these target images. It does not cover new classes.",
        ]
    )


def seeds_table(finals: Sequence[Record]) -> str:
    """The last records of several seeds as text: mean over seeds with its 95 % t interval."""
    shown = [f"{name}/{what}" for what in ("cdnv", "accuracy") for name in _SETS if f"{name}/{what}" in finals[0]]
    lines = [f"{len(finals)} seeds, at the end: mean ± 95 % t interval"]
    for key in (*shown, *few_shot_keys(finals[0])):
        values = np.asarray([math.inf if record[key] is None else record[key] for record in finals], np.float64)
        mean, half = values.mean(), mean_interval(values) if np.isfinite(values).all() else math.nan
        percent = not key.endswith("cdnv")
        figures = f"{100 * mean:.2f} ± {100 * half:.2f} %" if percent else f"{mean:.4g} ± {half:.2g}"
        lines.append(f"  {key:24} {figures}")
    return "\n".join(
        [*lines, "The interval covers other seeds of initialisation and order, on these same classes and images."]
    )


def _number(value: float | int | None) -> str:
    return "inf" if value is None else f"{value:.4g}"
