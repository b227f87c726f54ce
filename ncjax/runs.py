"""Finished runs on disk: finding them, reading their records, and opening the data that they were trained on."""

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ncjax.data import Benchmark
from ncjax.errors import InputError
from ncjax.train import Config, fingerprint, load_benchmark, read_config, read_records
from ncjax.train.measurement import Record

_DEPTH = 2  # a folder of sweeps, each a folder of seeds


@dataclass(frozen=True)
class Run:
    """What a run's folder says of it.

    Attributes:
      folder: where it is.
      described: what config.json holds: "config", "data", "versions", "total_steps".
      records: what metrics.jsonl holds, in the order of steps.
    """

    folder: Path
    described: dict[str, Any]
    records: list[Record]

    @property
    def finished(self) -> bool:
        """Whether the last record is that of the last step."""
        return bool(self.records[-1]["step"] == self.described["total_steps"])


def find(path: str | Path) -> list[Path]:
    """The folders of runs at a path: itself, or those in it (`seed_0`, `seed_1`, …, or any), in natural order.

    Raises:
      InputError: there is no run.
    """
    found = _find(Path(path), _DEPTH)
    if not found:
        raise InputError(f"{path} holds no run: no config.json in it or in its folders; give what pretrain.py named")
    return found


def _find(path: Path, depth: int) -> list[Path]:
    if (path / "config.json").exists():
        return [path]
    if depth == 0 or not path.is_dir():
        return []
    inside = sorted((p for p in path.iterdir() if p.is_dir()), key=lambda p: _natural(p.name))
    return [run for folder in inside for run in _find(folder, depth - 1)]


def _natural(name: str) -> list[tuple[int, str]]:
    """seed_2 before seed_10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def read(folder: str | Path) -> Run:
    """A run's settings and records.

    Raises:
      InputError: the folder holds no run, or its files are not those of one.
    """
    described, records = read_config(folder), read_records(folder)
    needed = {"config", "data", "total_steps", "versions"}
    if not isinstance(described, dict) or not needed <= described.keys():
        raise InputError(f"{Path(folder) / 'config.json'} is not that of a run: it lacks one of {sorted(needed)}")
    if not all(isinstance(r, dict) and {"step", "epoch", "target/cdnv"} <= r.keys() for r in records):
        raise InputError(f"{Path(folder) / 'metrics.jsonl'} is not that of a run: a record lacks its measurement")
    return Run(Path(folder), described, records)


def open_benchmark(described: dict[str, Any], data_dir: str | None = None) -> Benchmark:
    """The data that a run was trained on.

    Args:
      described: what the run's config.json holds.
      data_dir: where the data is, if it is no longer where it was.

    Raises:
      InputError: the data cannot be read, or are not those of the run.
    """
    names = {field.name for field in dataclasses.fields(Config)}
    config = Config(**{key: value for key, value in described["config"].items() if key in names})
    benchmark = load_benchmark(dataclasses.replace(config, data_dir=data_dir or config.data_dir))
    if fingerprint(benchmark) != described["data"]["fingerprint"]:
        raise InputError(
            f"{config.dataset} gives other images than this run was trained on; "
            "give their place with --data_dir, or evaluate from Python with your own Split"
        )
    return benchmark
