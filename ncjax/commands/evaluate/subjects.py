"""Loads what the command `evaluate` evaluates: features of a run, of encoders, or from a file."""

import dataclasses
import io
import json
from dataclasses import dataclass
from functools import cached_property

import jax
import numpy as np

import ncjax
from ncjax import cli, encoders, runs
from ncjax.classifier import outputs
from ncjax.commands.evaluate.options import Options
from ncjax.data import Benchmark, Split
from ncjax.errors import UNREADABLE_NPZ, InputError
from ncjax.train import read_description
from ncjax.train.checkpoint import find
from ncjax.train.measurement import rows_per_class
from ncjax.train.run_data import fingerprint


@dataclass(frozen=True)
class Subject:
    """Features to evaluate, and the network behind them if there is one.

    Attributes:
      name: title of its tables.
      features: [n, d].
      labels: [n], numbers or names.
      class_names: the names of labels 0, 1, …; empty if labels are names, or nobody named them.
      per_class: images a class on which collapse is measured; None for all.
      step: the run's checkpoint.
      params: the network.
      split: the images of the features.
      validation: images of the validation classes.
      weights: weights [k, d] of the network's classifier, for the classes it was trained on.
      bias: bias [k] of that classifier.
      stages: features of every stage, if they were extracted already.
      source: images of the source classes, to train and to test the probes of --probes.
    """

    name: str
    features: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...] = ()
    per_class: int | None = None
    step: int | None = None
    params: ncjax.Classifier | None = None
    split: Split | None = None
    validation: Split | None = None
    weights: jax.Array | None = None
    bias: jax.Array | None = None
    stages: tuple[np.ndarray, ...] = ()
    source: tuple[Split, Split] | None = None

    @cached_property
    def collapse_rows(self) -> np.ndarray:
        """The rows on which collapse is measured, ascending; those of a run are the rows of its records."""
        classes, numbers, counts = np.unique(self.labels, return_inverse=True, return_counts=True)
        if self.per_class is None or (counts <= self.per_class).all():
            return np.arange(len(self.labels))
        return rows_per_class(numbers, len(classes), min(self.per_class, int(counts.min())))

    @property
    def images(self) -> str:
        """Says on which images collapse is measured."""
        rows = self.collapse_rows
        if len(rows) == len(self.labels):
            return f"all {len(rows)} images"
        return f"{np.unique(self.labels[rows], return_counts=True)[1].min()} images a class"

    @property
    def more_images(self) -> str:
        """Says how collapse is measured on all images, if it is not."""
        if len(self.collapse_rows) == len(self.labels):
            return ""
        most = int(np.unique(self.labels, return_counts=True)[1].max())
        return (
            f"{self.images[:1].upper()}{self.images[1:]} are those of the run's records, so that CDNV is theirs too; "
            f"--measure_per_class={most} takes all, and has narrower intervals."
        )

    @cached_property
    def validation_features(self) -> np.ndarray:
        """Features of the validation classes, on which hyperparameters are chosen.

        Raises:
          InputError: the data set has no validation classes.
        """
        assert self.params is not None
        if self.validation is None:
            raise InputError("this data set has no validation classes for --tune to choose on: leave it out")
        return ncjax.features(self.params, self.validation)


def load(options: Options) -> list[Subject]:
    """Loads the run, the encoders or the features that the options name.

    Raises:
      InputError: they cannot be read, or do not go with the other options.
    """
    if options.encoder:
        return _load_encoders(options)
    return [_load_run(options) if options.run is not None else _load_features(options)]


def _load_run(options: Options) -> Subject:
    assert options.run is not None
    description = read_description(options.run)
    options.check_places()
    step = find(options.run / "checkpoints", options.step)
    params = ncjax.restore(options.run, step)
    benchmark = runs.open_benchmark(description, options.data_dir)
    split = getattr(benchmark, options.split)
    if split is None:
        raise InputError(f"this run's data has no {options.split} images; choose another --split")
    if options.transform == "centered_l2" and params.feature_mean is None:
        raise InputError("--transform=centered_l2 takes the mean feature at the end of training: leave out --step")
    weights, bias = params.network.head(params.variables) if options.split.startswith("source") else (None, None)
    return Subject(
        f"{options.split} of {options.run}" + ("" if options.step is None else f", step {step}"),
        ncjax.features(params, split),
        split.labels,
        tuple(map(str, split.class_names)),
        options.measure_per_class or description.data.measured_per_class,
        step,
        params,
        split,
        benchmark.validation,
        weights,
        bias,
        source=_source(benchmark, options),
    )


def _load_encoders(options: Options) -> list[Subject]:
    """Loads all encoders, which tries each on an image, before it extracts the features of any."""
    if options.step is not None or options.transform == "centered_l2":
        raise InputError("--step and --transform=centered_l2 need a run of pretrain.py: leave them out with --encoder")
    if options.save_features is not None and len(options.encoder) > 1:
        raise InputError("--save_features keeps the features of one --encoder: give one")
    if options.layers and not options.stages:
        raise InputError("--layers of an encoder needs --stages, the names of its inner modules")
    options.check_places()
    benchmark = _load_benchmark(options)
    params = [_load_encoder(spec, benchmark, options) for spec in options.encoder]
    return [_extract(encoder, benchmark, options) for encoder in params]


def _load_benchmark(options: Options) -> Benchmark:
    if options.dataset is None:
        raise InputError("--encoder needs images: give --dataset=NAME, and --data_dir=PATH where they are your own")
    benchmark = ncjax.data.load(options.dataset, data_dir=options.data_dir, split_seed=options.split_seed)
    if getattr(benchmark, options.split) is None:
        raise InputError(f"{options.dataset} has no {options.split} images; choose another --split")
    return benchmark


def _load_encoder(spec: str, benchmark: Benchmark, options: Options) -> ncjax.Classifier:
    """Loads an encoder, tries it on an image, and prints its preprocessing."""
    params = encoders.load(
        spec,
        random_weights=options.random_weights,
        image_size=options.image_size,
        stages=options.stages,
        precision=options.precision,
    )
    params = dataclasses.replace(params, augmentation=benchmark.augmentation)
    width = ncjax.features(params, getattr(benchmark, options.split).images[:1]).shape[1]
    mean, std = (np.round(np.asarray(value, np.float64), 4).tolist() for value in (params.mean, params.std))
    seen = f"{params.preprocessing}; mean {mean}, std {std}; {width} features"
    print(f"{params.network.name}: {seen}", file=options.messages, flush=True)
    return params


def _extract(params: ncjax.Classifier, benchmark: Benchmark, options: Options) -> Subject:
    """Extracts the features of all images, and with --layers its stages, in one pass."""
    split: Split = getattr(benchmark, options.split)
    wanted = ("features", "stages") if options.layers else ("features",)
    features, *stages = outputs(params, split, wanted, batch_size=options.batch_size)
    if options.save_features is not None:
        _save_features(options, params, benchmark, features)
    return Subject(
        f"{params.network.name}, {options.dataset} {options.split}",
        features,
        split.labels,
        tuple(map(str, split.class_names)),
        options.measure_per_class,
        None,
        params,
        split,
        benchmark.validation,
        stages=stages[0] if stages else (),
        source=_source(benchmark, options),
    )


def _source(benchmark: Benchmark, options: Options) -> tuple[Split, Split] | None:
    """Returns the images for --probes.

    Raises:
      InputError: there are no new images of the source classes.
    """
    if not options.probes:
        return None
    if benchmark.source_test is None:
        raise InputError(f"{benchmark.name} has no source_test images to test --probes on: leave it out")
    return benchmark.source_train, benchmark.source_test


def _save_features(options: Options, params: ncjax.Classifier, benchmark: Benchmark, features: np.ndarray) -> None:
    """Writes features and labels with their origin, as --features reads them."""
    assert options.save_features is not None
    split: Split = getattr(benchmark, options.split)
    statistics = {"mean": np.asarray(params.mean).tolist(), "std": np.asarray(params.std).tolist()}
    content = io.BytesIO()
    np.savez(
        content,
        features=features,
        labels=split.labels,
        class_names=np.asarray(split.class_names),
        encoder=np.asarray(params.network.name),
        dataset=np.asarray(f"{benchmark.name}, {options.split}"),
        fingerprint=np.asarray(fingerprint(benchmark)),
        preprocessing=np.asarray(json.dumps(dataclasses.asdict(params.preprocessing) | statistics)),
    )
    cli.write(options.save_features, content.getvalue())
    print(f"features written to {options.save_features}", file=options.messages)


def _load_features(options: Options) -> Subject:
    path = options.features
    assert path is not None
    for name, value in (("tune", options.tune), ("layers", options.layers), ("step", options.step)):
        if value is not None and value is not False:
            raise InputError(f"--{name} needs a run of pretrain.py: give --run instead of --features")
    if options.probes:
        raise InputError("--probes needs images to train and to test on: give --run or --encoder, not --features")
    if options.support_augmentations or options.transform == "centered_l2":
        raise InputError("--support_augmentations and --transform=centered_l2 need a run: give --run, not --features")
    if path.suffix != ".npz":
        raise InputError(f"{path} is not an .npz file; save one with np.savez(path, features=…, labels=…)")
    try:
        with np.load(path) as file:
            arrays = {name: file[name] for name in ("features", "labels", "class_names") if name in file.files}
            origin = [str(file[name]) for name in ("encoder", "dataset") if name in file.files]
    except UNREADABLE_NPZ as error:
        raise InputError(f"{path} cannot be read as an .npz file: {error}") from None
    for name in ("features", "labels"):
        if name not in arrays:
            raise InputError(f"{path} has no array {name!r}; save one with np.savez(path, features=…, labels=…)")
    labels = arrays["labels"]
    if labels.ndim != 1:
        raise InputError(f"labels of {path} have shape {labels.shape}; give one label a row of features, [n]")
    names = tuple(map(str, arrays.get("class_names", ())))
    if names and not np.isin(labels, np.arange(len(names))).all():
        raise InputError(f"{path} has {len(names)} class_names: its labels must be numbers from 0 to {len(names) - 1}")
    options.check_places()
    title = f"{path} ({' on '.join(origin)})" if origin else str(path)
    return Subject(title, arrays["features"], labels, names, options.measure_per_class)
