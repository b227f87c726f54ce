"""Configurations and grids that several figures share, so that they also share the runs."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

from common.sweep import Options, Point, folder
from ncjax import train
from ncjax.errors import InputError
from ncjax.files import expand
from ncjax.train.config import Config, identity

DataSet = Literal["cifar_fs", "fc100", "emnist"]

REAL_IMAGES: dict[DataSet, int] = {"cifar_fs": 64, "fc100": 60, "emnist": 35}
"""The data sets of the small preset, with their number of source classes."""
CLASSES = {"smoke": (5, 10, 20, 64), "small": (5, 10, 20, 40), "paper": (5, 10, 20, 30, 40, 50, 64)}
"""Numbers of source classes in `by_classes`; small also has all, and leaves out what is not below that."""
SAMPLES = {"smoke": (10, 30, 100), "small": (10, 25, 50, 100, 250), "paper": (10, 25, 50, 100, 200, 500)}
"""Numbers of source-train images of each class in `by_samples`."""
SMALL_STEPS = 4000
"""Steps of every run of the small preset, 64 images each: eight epochs of CIFAR-FS."""
FC100_SOURCE_CLASSES = 60


def reference(options: Options, **changes: Any) -> Config:
    """Makes the configuration that every figure varies: all source classes and images of the preset.

    The reference itself is measured several times and keeps all checkpoints, for figures that look into the network
    during training. A configuration that `changes` make different keeps only the last checkpoints; in the smoke and
    small presets it is measured only at its start and its end, because measuring takes half as long as training there.
    In both, every run takes as many steps.
    """
    if options.preset == "paper":
        plain = Config(
            dataset="cifar_fs", data_dir=options.data_dir, preset="paper", num_source_classes=64,
            samples_per_class=500, keep_checkpoints=True,
        )  # fmt: skip
    elif options.preset == "small":
        plain = Config(
            dataset=options.dataset, data_dir=data_folder(options, options.dataset), preset="small", epochs=1,
            min_steps=SMALL_STEPS, measurements=6, keep_checkpoints=True,
        )  # fmt: skip
    else:
        plain = Config(
            preset="smoke", epochs=1, min_steps=400, batch_size=32, measurements=3, measure_episodes=1000,
            num_source_classes=64, samples_per_class=100, measure_per_class=100, keep_checkpoints=True,
        )  # fmt: skip
    changed = dataclasses.replace(plain, **changes)
    if identity(train.resolve(changed)) == identity(train.resolve(plain)):
        return changed
    between = plain.measurements if options.preset == "paper" else 0
    return dataclasses.replace(changed, keep_checkpoints=False, measurements=between)


def by_classes(options: Options, group: str = "") -> list[Point]:
    """Varies the number of source classes."""
    numbers: dict[int, int | None] = {k: k for k in CLASSES[options.preset]}
    if options.preset == "small":
        every = REAL_IMAGES[options.dataset]
        numbers = {k: k for k in numbers if k < every} | {every: None}  # as the reference has it, to share its runs
    return [Point(f"{k} classes", reference(options, num_source_classes=n), k, group) for k, n in numbers.items()]


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


def distilled(label: str, teacher: Point, options: Options) -> list[Point]:
    """Makes the point of `teacher`'s settings with its seed 0 as the teacher; none while that is not finished."""
    try:
        point = Point(label, dataclasses.replace(teacher.config, distill_from=str(folder(teacher, options) / "seed_0")))
        folder(point, options)  # reads the teacher
    except InputError:
        return []
    return [point]


def data_folder(options: Options, name: str) -> str | None:
    """Returns the folder of a data set's archive: a sub-folder of --data_dir with its name, or --data_dir itself."""
    if options.data_dir is None or not (expand(options.data_dir) / name).is_dir():
        return options.data_dir
    return str(expand(options.data_dir) / name)
