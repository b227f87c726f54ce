"""Finished runs on disk: finding them, reading their records, and opening the data that they were trained on."""

import dataclasses
import math
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ncjax.classifier import Classifier
from ncjax.data import Benchmark
from ncjax.errors import InputError
from ncjax.train import Config, fingerprint, load_benchmark, read_config, read_records, restore
from ncjax.train.measurement import Record


@dataclass(frozen=True)
class Run:
    """What a run's folder says of it.

    Attributes:
      folder: where it is.
      described: what config.json holds: "config", "data", "versions", "total_steps".
      records: what metrics.jsonl holds, in the order of steps.
    """

    folder: Path
    described: dict[str, Any] = field(repr=False)
    records: list[Record] = field(repr=False)

    @cached_property
    def config(self) -> Config:
        """The settings; those that this version does not know are left out."""
        return _config(self.described)

    @property
    def finished(self) -> bool:
        """Whether the last record is that of the last step."""
        return bool(self.records[-1]["step"] == self.described["total_steps"])

    def final(self, key: str) -> float:
        """The last record's value."""
        return number(self.records[-1][key])

    def restore(self, step: int | None = None) -> Classifier:
        """The classifier at a checkpoint, by default the newest.

        Raises:
          InputError: as `ncjax.restore`.
        """
        return restore(self.folder, step)


def number(value: float | int | None) -> float:
    """A record's value: null there stands for infinity."""
    return math.inf if value is None else float(value)


def find(*paths: str | Path) -> list[Path]:
    """The folders of runs at or below these paths, in natural order below each path.

    Each once, under the first of the paths that lead to it.

    Raises:
      InputError: there is none below one of them.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        here = sorted(_below(Path(path)), key=lambda folder: [_natural(part) for part in folder.parts])
        if not here:
            raise InputError(
                f"{path} holds no run: no config.json in it or in its folders; give what pretrain.py named"
            )
        for folder in here:
            found.setdefault(folder.resolve(), folder)
    return list(found.values())


def _below(path: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(path):
        if "config.json" in files:
            folders.clear()
            yield Path(root)
        else:
            folders[:] = [name for name in folders if not name.startswith(".")]


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
    if not isinstance(described["data"], dict) or not {"fingerprint", "num_source_classes"} <= described["data"].keys():
        raise InputError(f"{Path(folder) / 'config.json'} is not that of a run: its data lack their description")
    measured = {"target/cdnv"} | {key for record in records for key in record if key.endswith("/cdnv")}
    keys = {"step", "epoch", *measured, *(key.replace("/cdnv", "/debiased_cdnv") for key in measured)}
    if not all(keys <= record.keys() for record in records):
        raise InputError(f"{Path(folder) / 'metrics.jsonl'} is not that of a run: a record lacks its measurement")
    return Run(Path(folder), described, records)


def _config(described: dict[str, Any]) -> Config:
    names = {one.name for one in dataclasses.fields(Config)}
    return Config(**{key: value for key, value in described["config"].items() if key in names})


def open_benchmark(
    described: dict[str, Any], data_dir: str | None = None, *, load: Callable[[Config], Benchmark] = load_benchmark
) -> Benchmark:
    """The data that a run was trained on.

    Args:
      described: what the run's config.json holds.
      data_dir: where the data is, if it is no longer where it was.
      load: what loads it; for example a function that remembers what it loaded.

    Raises:
      InputError: the data cannot be read, or are not those of the run.
    """
    config = _config(described)
    benchmark = load(dataclasses.replace(config, data_dir=data_dir or config.data_dir))
    if fingerprint(benchmark) != described["data"]["fingerprint"]:
        raise InputError(
            f"{config.dataset} gives other images than this run was trained on; "
            "give their place with --data_dir, or evaluate from Python with your own Split"
        )
    return benchmark
