"""Models to rank: runs, their checkpoints, and encoders by name."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import ncjax
from common.verdicts import settings_without
from ncjax import Classifier, data, encoders, runs
from ncjax.data import Split
from ncjax.errors import InputError
from ncjax.files import expand
from ncjax.runs import Run
from ncjax.runs.comparison import target_data
from ncjax.train import fingerprint
from ncjax.train.checkpoint import find, steps_in

_OF_CIFAR100 = frozenset({"cifar_fs", "fc100", "cifar100"})
"""Data sets that are divisions of the same classes."""


@dataclass(frozen=True)
class Candidate:
    """A model to rank.

    Attributes:
      name: its name in tables.
      group: models of one group are one piece of evidence: checkpoints of a run, seeds of a configuration.
      load: reads it.
      source_accuracy: its accuracy on new images of its source classes; NaN if unknown.
      run: the run that it comes from.
    """

    name: str
    group: str
    load: Callable[[], Classifier]
    source_accuracy: float = float("nan")
    run: Run | None = None


def of_run(run: Run, step: int | None = None, name: str = "") -> Candidate:
    """Makes a candidate of a run's checkpoint, by default the newest.

    Raises:
      InputError: there is no such checkpoint.
    """
    step = find(run.folder / "checkpoints", step)
    record = next((record for record in run.records if record["step"] == step), {})
    accuracy = record.get("source_test/accuracy")
    return Candidate(
        name or f"{run.folder}@{step}",
        settings_without(run, "seed"),
        partial(ncjax.restore, run.folder, step),
        float("nan") if accuracy is None else float(accuracy),
        run,
    )


def candidates(specs: Sequence[str], checkpoints: bool, image_size: int | None = None) -> list[Candidate]:
    """Reads what the command line names.

    Args:
      specs: RUN or a folder that holds runs, RUN@STEP, or an encoder as in `ncjax.encoders.load`.
      checkpoints: takes every checkpoint of the runs that are named without a step.
      image_size: of the encoders' images, instead of their own.

    Raises:
      InputError: there is no such run or checkpoint, or a model is named twice.
    """
    found: list[Candidate] = []
    for spec in specs:
        if ":" in spec and not expand(spec).exists():
            load = partial(encoders.load, spec, image_size=image_size)
            found.append(Candidate(spec, spec, load))
            continue
        path, _, step = spec.rpartition("@")
        if path and step.isdecimal() and not expand(spec).exists():
            found.append(of_run(runs.read(path), int(step)))
            continue
        for folder in runs.find(spec):
            run = runs.read(folder)
            steps = steps_in(folder / "checkpoints") if checkpoints else [None]
            found += [of_run(run, step) for step in steps]
    names = [candidate.name for candidate in found]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InputError(f"{twice[0]} is named twice: name each model once")
    if len(found) < 2:
        raise InputError(f"{len(found)} model: a ranking takes two or more")
    return _short_names(found)


def _short_names(found: list[Candidate]) -> list[Candidate]:
    """Leaves out the folders that all runs lie in."""
    folders = [str(candidate.run.folder.resolve().parent) for candidate in found if candidate.run is not None]
    if not folders:
        return found
    above = Path(os.path.commonpath(folders))

    def short(candidate: Candidate) -> Candidate:
        if candidate.run is None:
            return candidate
        step = candidate.name.rpartition("@")[2]
        name = f"{candidate.run.folder.resolve().relative_to(above)}@{step}"
        return dataclasses.replace(candidate, name=name)

    return [short(candidate) for candidate in found]


def target_of(found: Sequence[Candidate], dataset: str | None, data_dir: str | None, split_seed: int) -> Split:
    """Loads the target classes on which all models are compared.

    Raises:
      InputError: no data set is named and there are encoders or runs on different target classes; or a run was trained
        on the same images with other target classes, some of which it may have seen.
    """
    of_runs = [candidate.run for candidate in found if candidate.run is not None]
    if dataset is None:
        if len(of_runs) < len(found):
            raise InputError("encoders have no data of their own: give --dataset=NAME")
        kinds = list(dict.fromkeys(map(target_data, of_runs)))
        if len(kinds) > 1:
            raise InputError(f"the runs have different target classes ({kinds[0]}; {kinds[1]}): give --dataset=NAME")
        return runs.open_benchmark(of_runs[0].description, data_dir).target
    benchmark = data.load(dataset, data_dir=data_dir, split_seed=split_seed)
    checksums = fingerprint(benchmark).split("-")[-2:]
    for run in of_runs:
        trained = run.config.dataset
        is_same = trained == dataset or {trained, dataset} <= _OF_CIFAR100
        if is_same and run.description.data.fingerprint.split("-")[-2:] != checksums:
            raise InputError(
                f"{run.folder} was trained on {trained} with other target classes than these of {dataset}: some may be "
                "among its source classes; give its --split_seed and --data_dir, or leave it out"
            )
    return benchmark.target
