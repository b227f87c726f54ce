"""Finished runs on disk: finding them, reading their records, and opening the data that they were trained on."""

import dataclasses
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ncjax.classifier import Classifier
from ncjax.data import Benchmark
from ncjax.errors import InputError
from ncjax.files import expand
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
        here = sorted(_below(expand(path)), key=lambda folder: [_natural(part) for part in folder.parts])
        if not here:
            raise InputError(
                f"{path} holds no run: no config.json in it or in its folders; give what pretrain.py named"
            )
        for folder in here:
            found.setdefault(folder.resolve(), folder)
    return list(found.values())


def _below(path: Path) -> Iterator[Path]:
    """The runs at or below a folder, each once: those that only links lead to come last, by way of the link."""
    seen: set[Path] = set()
    folders, links = [path], list[Path]()
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)
        real = folder.resolve()
        if real in seen:  # or links in a circle would never end
            continue
        seen.add(real)
        try:
            inside = {entry.name: entry for entry in folder.iterdir()}
            below = [entry for name, entry in inside.items() if entry.is_dir() and not name.startswith(".")]
        except OSError:  # there is no such folder, or it may not be looked into
            continue
        if "config.json" in inside and inside["config.json"] not in below:
            yield folder
            continue
        for entry in below:
            (links if entry.is_symlink() else folders).append(entry)


def _natural(name: str) -> list[tuple[int, str]]:
    """seed_2 before seed_10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def read(folder: str | Path) -> Run:
    """A run's settings and records.

    Raises:
      InputError: the folder holds no run, or its files are not those of one.
    """
    folder = expand(folder)
    described, records = read_config(folder), read_records(folder)
    needed = {"config", "data", "total_steps", "versions"}
    if not needed <= described.keys():
        raise InputError(f"{folder / 'config.json'} is not that of a run: it lacks one of {sorted(needed)}")
    if not {"fingerprint", "num_source_classes"} <= described["data"].keys():
        raise InputError(f"{folder / 'config.json'} is not that of a run: its data lack their description")
    measured = {"target/cdnv"} | {key for record in records for key in record if key.endswith("/cdnv")}
    keys = {"step", "epoch", *measured, *(key.replace("/cdnv", "/debiased_cdnv") for key in measured)}
    if not all(keys <= record.keys() for record in records):
        raise InputError(f"{folder / 'metrics.jsonl'} is not that of a run: a record lacks its measurement")
    return Run(folder, described, records)


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
