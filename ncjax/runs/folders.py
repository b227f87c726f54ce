"""Runs on disk: finding them, reading their records, and opening the data that they were trained on."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ncjax import train
from ncjax.errors import InputError
from ncjax.files import expand
from ncjax.train import Config, Description, read_description, read_records

if TYPE_CHECKING:
    from ncjax.classifier import Classifier
    from ncjax.data import Benchmark
    from ncjax.train.measurement import Record


@dataclass(frozen=True)
class Run:
    """The content of a run's folder.

    Attributes:
      folder: the folder.
      description: the content of config.json.
      records: the content of metrics.jsonl, in the order of steps.
    """

    folder: Path
    description: Description = field(repr=False)
    records: list[Record] = field(repr=False)

    @cached_property
    def config(self) -> Config:
        """The settings, without those that this version of ncjax does not have."""
        return self.description.config

    @property
    def finished(self) -> bool:
        """Whether the last step has a record."""
        return bool(self.records[-1]["step"] == self.description.total_steps)

    def final(self, key: str) -> float:
        """Returns a value of the last record."""
        return number(self.records[-1][key])

    def restore(self, step: int | None = None) -> Classifier:
        """Reads the classifier at a checkpoint, by default the newest.

        Raises:
          InputError: as `ncjax.restore`.
        """
        return train.restore(self.folder, step)


def number(value: float | int | None) -> float:
    """Converts a record's value: null stands for infinity."""
    return math.inf if value is None else float(value)


def find(*paths: str | Path) -> list[Path]:
    """Finds the folders of runs at or below these paths, in natural order below each path.

    A run that several paths lead to is returned once, under the first of these paths.

    Raises:
      InputError: if there is no run below one of the paths.
    """
    runs: dict[Path, Path] = {}
    for path in paths:
        folders = sorted(_below(expand(path)), key=lambda folder: [_natural(part) for part in folder.parts])
        if not folders:
            raise InputError(
                f"{path} holds no run: no config.json in it or in its folders; give the folder that pretrain.py named"
            )
        for folder in folders:
            runs.setdefault(folder.resolve(), folder)
    return list(runs.values())


def _below(path: Path) -> Iterator[Path]:
    """Yields the runs at or below a folder, each once; runs that only links lead to come last, by the link's path."""
    seen: set[Path] = set()
    folders, links = [path], list[Path]()
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)
        real = folder.resolve()
        if real in seen:  # links may form a circle
            continue
        seen.add(real)
        try:
            entries = {entry.name: entry for entry in folder.iterdir()}
            below = [entry for name, entry in entries.items() if entry.is_dir() and not name.startswith(".")]
        except OSError:  # no such folder, or no permission
            continue
        if "config.json" in entries and entries["config.json"] not in below:
            yield folder
            continue
        for entry in below:
            (links if entry.is_symlink() else folders).append(entry)


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts seed_2 before seed_10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def read(folder: str | Path) -> Run:
    """Reads a run's description and records.

    Raises:
      InputError: if the folder holds no run, or a file lacks a part.
    """
    folder = expand(folder)
    description, records = read_description(folder), read_records(folder)
    measured = {"target/cdnv"} | {key for record in records for key in record if key.endswith("/cdnv")}
    keys = {"step", "epoch", *measured, *(key.replace("/cdnv", "/debiased_cdnv") for key in measured)}
    if not all(keys <= record.keys() for record in records):
        raise InputError(f"{folder / 'metrics.jsonl'} is not that of a run: a record lacks its measurement")
    return Run(folder, description, records)


def open_benchmark(
    description: Description,
    data_dir: str | None = None,
    *,
    load: Callable[[Config], Benchmark] | None = None,
) -> Benchmark:
    """Loads the data that a run was trained on.

    Args:
      description: the run's description.
      data_dir: the folder of the data, if it has moved.
      load: loads the data, for example from a cache; by default `ncjax.train.load_benchmark`.

    Raises:
      InputError: if the data cannot be read, or differs from the run's.
    """
    config = description.config
    benchmark = (load or train.load_benchmark)(dataclasses.replace(config, data_dir=data_dir or config.data_dir))
    if train.fingerprint(benchmark) != description.data.fingerprint:
        raise InputError(
            f"{config.dataset} gives other images than this run was trained on; "
            "give their folder with --data_dir, or evaluate from Python with your own Split"
        )
    return benchmark
