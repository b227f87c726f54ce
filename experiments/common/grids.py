"""Configurations and grids that several figures share, so that they also share the runs."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from common.sweep import Options, Point
from ncjax import train
from ncjax.files import expand
from ncjax.train.config import Config, identity

CLASSES = {"smoke": (5, 10, 20, 64), "paper": (5, 10, 20, 30, 40, 50, 64)}
"""Numbers of source classes in `by_classes`."""
SAMPLES = {"smoke": (10, 30, 100), "paper": (10, 25, 50, 100, 200, 500)}
"""Numbers of source-train images of each class in `by_samples`."""
FC100_SOURCE_CLASSES = 60


def reference(options: Options, **changes: Any) -> Config:
    """Makes the configuration that every figure varies: all source classes and images of the preset.

    The reference itself is measured several times and keeps all checkpoints, for figures that look into the network
    during training. A configuration that `changes` make different keeps only the last checkpoints; in the smoke preset
    it is measured only at its start and its end, because measuring takes half as long as training there.
    """
    if options.preset == "paper":
        plain = Config(
            dataset="cifar_fs", data_dir=options.data_dir, preset="paper", num_source_classes=64,
            samples_per_class=500, keep_checkpoints=True,
        )  # fmt: skip
    else:
        plain = Config(
            preset="smoke", epochs=1, min_steps=400, batch_size=32, measurements=3, measure_episodes=1000,
            num_source_classes=64, samples_per_class=100, keep_checkpoints=True,
        )  # fmt: skip
    changed = dataclasses.replace(plain, **changes)
    if identity(train.resolve(changed)) == identity(train.resolve(plain)):
        return changed
    between = 0 if options.preset == "smoke" else plain.measurements
    return dataclasses.replace(changed, keep_checkpoints=False, measurements=between)


def by_classes(options: Options, group: str = "") -> list[Point]:
    """Varies the number of source classes."""
    return [Point(f"{k} classes", reference(options, num_source_classes=k), k, group) for k in CLASSES[options.preset]]


def by_samples(options: Options, group: str = "") -> list[Point]:
    """Varies the number of source-train images of each class."""
    return [Point(f"{n} a class", reference(options, samples_per_class=n), n, group) for n in SAMPLES[options.preset]]


def one_at_a_time(options: Options, varied: dict[str, tuple[Any, ...]]) -> list[Point]:
    """Makes the reference, and a point for each value of each setting with all other settings as in the reference."""
    points = [Point("reference", reference(options))]
    for setting, values in varied.items():
        for value in values:
            is_float = isinstance(value, float)
            label = f"{setting} {value:g}" if is_float else f"{setting} {value}"
            config = reference(options, **{setting: value})
            points.append(Point(label, config, value if is_float else math.nan, setting))
    return points


def data_folder(options: Options, name: str) -> str | None:
    """Returns the folder of a data set's archive: a sub-folder of --data_dir with its name, or --data_dir itself."""
    if options.data_dir is None or not (expand(options.data_dir) / name).is_dir():
        return options.data_dir
    return str(expand(options.data_dir) / name)
