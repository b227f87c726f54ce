"""Features of encoders from elsewhere: extracted, kept in a file, and compared on the same episodes."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import ncjax
from ncjax import cli, collapse, encoders
from ncjax.classifier import outputs
from ncjax.data import Benchmark, Split
from ncjax.errors import InputError
from ncjax.eval import EpisodeReport
from ncjax.train.source import fingerprint


@dataclass(frozen=True)
class Extracted:
    """An encoder's features of one part of a data set.

    Attributes:
        spec: What the encoder was loaded from.
        params: The encoder.
        benchmark: The data.
        part: Which of its splits.
        features: [n, d] of that split.
        stages: Of every stage, where they were asked for.
    """

    spec: str
    params: ncjax.Classifier
    benchmark: Benchmark
    part: str
    features: np.ndarray
    stages: tuple[np.ndarray, ...] = ()

    @property
    def split(self) -> Split:
        """The images and labels."""
        split: Split = getattr(self.benchmark, self.part)
        return split

    @property
    def name(self) -> str:
        """Of the encoder, with what was done to it."""
        return self.params.network.name

    @property
    def slug(self) -> str:
        """For the names of files."""
        return slug(self.name)


def slug(name: str) -> str:
    """A name as part of a file's name."""
    return re.sub(r"[^A-Za-z0-9_.]+", "-", name).strip("-.")


def load_benchmark(dataset: str | None, data_dir: str | None, part: str, split_seed: int) -> Benchmark:
    """The data to evaluate on.

    Raises:
        InputError: No data set was named, it cannot be read, or it has no such part.
    """
    if dataset is None:
        raise InputError("--encoder needs images: give --dataset=NAME, and --data_dir=PATH where they are your own")
    benchmark = ncjax.data.load(dataset, data_dir=data_dir, split_seed=split_seed)
    if getattr(benchmark, part) is None:
        raise InputError(f"{dataset} has no {part} images; choose another --split")
    return benchmark


def load_encoder(spec: str, benchmark: Benchmark, part: str, **options: Any) -> ncjax.Classifier:
    """An encoder, tried on one image, and what it does said on standard output.

    Raises:
        InputError: It cannot be loaded, or does not take these images.
    """
    params = dataclasses.replace(encoders.load(spec, **options), augmentation=benchmark.augmentation)
    width = ncjax.features(params, getattr(benchmark, part).images[:1]).shape[1]
    mean, std = (np.round(np.asarray(value, np.float64), 4).tolist() for value in (params.mean, params.std))
    print(f"{params.network.name}: {params.preprocessing}; mean {mean}, std {std}; {width} features", flush=True)
    return params


def extract(
    spec: str, params: ncjax.Classifier, benchmark: Benchmark, part: str, *, batch_size: int, layers: bool
) -> Extracted:
    """The features of all images of a part, and with `layers` its stages, in one pass."""
    split = getattr(benchmark, part)
    features, *stages = outputs(
        params, split, ("features", "stages") if layers else ("features",), batch_size=batch_size
    )
    return Extracted(spec, params, benchmark, part, features, stages[0] if layers else ())


def save(path: Path, extracted: Extracted) -> None:
    """Writes what `--features` reads: features and labels, and where they are from."""
    split, params = extracted.split, extracted.params
    content = io.BytesIO()
    np.savez(
        content,
        features=extracted.features,
        labels=split.labels,
        class_names=np.asarray(split.class_names),
        encoder=np.asarray(extracted.name),
        dataset=np.asarray(f"{extracted.benchmark.name}, {extracted.part}"),
        fingerprint=np.asarray(fingerprint(extracted.benchmark)),
        preprocessing=np.asarray(
            json.dumps(
                dataclasses.asdict(params.preprocessing)
                | {"mean": np.asarray(params.mean).tolist(), "std": np.asarray(params.std).tolist()}
            )
        ),
    )
    cli.write(path, content.getvalue())
    print(f"features written to {path}")


def compare(
    names: Sequence[str], measured: Sequence[collapse.Collapse], reports: Sequence[Sequence[EpisodeReport]]
) -> str:
    """One table of all encoders, and the paired differences to the first; text."""
    rows = [["", "d", "CDNV", "debiased", "directional", "NC1"]]
    rows[0] += [f"{r.settings.head} {r.settings.ways}w{r.settings.shots}s" for r in reports[0]]
    for name, one, of_encoder in zip(names, measured, reports, strict=True):
        numbers = (one.cdnv, one.debiased_cdnv, one.directional_cdnv, one.nc1)
        cells = [f"{100 * r.accuracy:.2f} ± {100 * r.ci95:.2f}" for r in of_encoder]
        rows.append([name, str(one.d), *(f"{number:.3f}" for number in numbers), *cells])
    lines = [*_aligned(rows), "accuracy in %, ± 95 % over episodes of the same images", ""]
    rows = [[f"less {names[0]}", *rows[0][6:]]]
    for name, of_encoder in zip(names[1:], reports[1:], strict=True):
        pairs = [report.compare(first) for report, first in zip(of_encoder, reports[0], strict=True)]
        rows.append([name, *(f"{100 * pair.difference:+.2f} ± {100 * pair.ci95:.2f}" for pair in pairs)])
    return "\n".join([*lines, *_aligned(rows), "paired differences in points, ± 95 % over the same episodes"])


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
