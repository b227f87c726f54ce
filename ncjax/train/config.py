"""Every setting of a run, the presets that fill in what the user leaves open, and a run's identity."""

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ncjax.errors import InputError
from ncjax.files import expand
from ncjax.train.presets import PLAIN, settings_of_preset
from ncjax.train.setting_values import FOLDERS, check_choices, plain


@dataclass(frozen=True)
class Config:
    """Every setting of a run. `None` stands for the default of the preset or the data set."""

    dataset: str = "glyphs"
    """Data set: glyphs (rendered, no download), cifar_fs, fc100 and others; `python -m ncjax.data` lists all."""
    data_dir: str | None = None
    """Folder that holds the data set's official archive; by default the archive is downloaded, where possible."""
    network: str | None = None
    """Network, for example wrn-28-4, or conv-28-4 for the same without shortcuts; package.module:function is a function
    of yours that returns a Flax module of features."""
    preset: Literal["small", "paper", "smoke", "strong"] = "small"
    """Sizes for a laptop (small), of the paper (paper), or for a trial on 50 images a class (smoke); or resnet12 with a
    rotation head, colour jitter and averaged weights, for a GPU (strong; not yet chosen on validation classes)."""
    epochs: int | None = None
    """Passes over the source-train images; the preset's number comes with a least number of steps."""
    continue_from: str | None = None
    """Folder of another run, or of its seeds, whose last weights this run starts from. The schedule starts anew, over
    this run's epochs. pretrain.py takes every setting that is not given from that run."""
    continue_optimizer: bool = False
    """With continue_from: start from that run's optimizer state (its momentum) too."""
    start_weights: str | None = None
    """Checksums of the settings and weights that continue_from holds, filled in where not given. They make the identity
    of the run; other weights are refused."""
    min_steps: int | None = None
    """Least number of steps, for small data sets."""
    batch_size: int | None = None
    """Images a step, over all devices."""
    optimizer: Literal["sgd", "adamw"] | None = None
    """SGD with momentum; or AdamW, with a linear warm-up over the first twentieth of the run."""
    learning_rate: float | None = None
    """Initial learning rate; AdamW's highest."""
    schedule: Literal["cosine", "step", "constant"] | None = None
    """Learning rate over the run: cosine to 0; step: a tenth after 60 % and again after 80 %; or constant."""
    momentum: float = 0.9
    """Momentum of SGD, or AdamW's decay of the mean gradient."""
    weight_decay: float = 5e-4
    """L2 penalty of all parameters, added to their gradient; AdamW shrinks the parameters instead."""
    augmentation: Literal["none", "crop_flip", "shift", "resized_crop_flip"] | None = None
    """Augmentation of training images; by default the data set's own. resized_crop_flip cuts out 8 to 100 % of the area
    and resizes it."""
    color_jitter: float | None = None
    """Strength of random changes of brightness, contrast and saturation of colour images, such as 0.4."""
    rotation_head: bool | None = None
    """Turn a quarter of each batch by 0, 90, 180 and 270 degrees, and let another linear layer tell which; the loss is
    half that of the classes and half that of the turns."""
    classifier: Literal["linear", "cosine"] = "linear"
    """Last layer: linear, or a learned scale times the cosine of features and class weights."""
    ema_decay: float | None = None
    """Decay of an exponential moving average of weights and batch statistics, such as 0.999; 0 for none. The average is
    measured and restored; checkpoints hold both, so that an interrupted run continues exactly."""
    distill_from: str | None = None
    """Folder of a finished run of the same classes, whose class probabilities this run learns to match too."""
    distill_weight: float = 0.5
    """With distill_from: weight of the teacher in the loss; the labels have the rest."""
    distill_temperature: float = 4.0
    """With distill_from: divides the logits of both before their probabilities are compared."""
    teacher_weights: str | None = None
    """With distill_from: checksum of the teacher's weights, filled in where not given. It belongs to the identity of
    the run; a teacher of other weights is refused."""
    label_smoothing: float = 0.0
    """Share of each training target that is spread evenly over all classes."""
    mixup: float = 0.0
    """Alpha of mixup's Beta distribution; 0 mixes nothing."""
    manifold_mixup: float = 0.0
    """Likewise for images that are mixed at the input or after a stage of the network, drawn at random for each batch;
    2 in S2M2."""
    dropout: float = 0.0
    """Share of the features that are hidden from the linear head in training."""
    cdnv_penalty: float = 0.0
    """Weight of the batch's own CDNV in the loss."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Type of activations and convolutions in training; parameters, statistics and loss are float32. At float32, a GPU
    multiplies in TF32 and a TPU in bfloat16 passes, unless JAX_DEFAULT_MATMUL_PRECISION=highest is set;
    measurement is in float32 at the highest precision everywhere."""
    seed: int = 0
    """Seed of initialisation, order and augmentation."""
    seeds: int = 1
    """Number of runs, with the seeds seed, seed + 1, …, trained as one program, each with a folder (seed_0, …)."""
    split_seed: int = 0
    """Seed of the class split, where the data set's split is random."""
    num_source_classes: int | None = None
    """Number of source classes; by default the data set's."""
    source_test_per_class: int | None = None
    """Source images a class held out as source-test; by default the data set's own division; 0 trains on all."""
    samples_per_class: int | None = None
    """Training images a class; by default all."""
    image_size: int | None = None
    """Side in pixels that images are resized to (your own images, mini_imagenet, omniglot); others have one size."""
    rotations: bool = False
    """Omniglot only: a character turned by 90, 180 and 270 degrees is three more classes."""
    skip_corrupt: bool = False
    """Your own images and mini_imagenet: skip and count images that cannot be read, instead of stopping."""
    class_split: str | None = None
    """Which classes are source, validation and target: cifar_fs, fc100, mini_imagenet, cub, tiered_imagenet, or a .json
    file of lists of class names under these three words; for cifar100 and your own data."""
    image_column: str | None = None
    """csv, parquet and tfds: the column of images, where several columns have a suitable type."""
    label_column: str | None = None
    """csv, parquet and tfds: the column of labels, where several columns have a suitable type."""
    nested: bool = False
    """folder only: images may also lie one folder deeper than their class."""
    measurements: int | None = None
    """Number of measurements between start and end, about geometrically spaced."""
    measure_per_class: int | None = None
    """Most images a class on which collapse is measured, the same number in all three sets where possible."""
    measure_episodes: int = 2000
    """Few-shot episodes of each kind at each measurement."""
    stream: bool | None = None
    """Read images from the prepared files as they are needed; by default where source-train takes more than a quarter
    of a device's memory, or on CPUs more than 8 GiB / number of devices, since each device holds all of it."""
    profile: bool = False
    """Write a trace of some steps into the run's folder, for XProf or Perfetto."""
    quiet: bool = False
    """Print no progress and no remarks on standard error; errors, warnings and the table stay."""
    tensorboard: bool = False
    """Write the records as TensorBoard events too (needs the extra "tensorboard")."""
    distributed: bool = False
    """Join the other processes of this run, started by SLURM, a TPU pod slice or with JAX_COORDINATOR_ADDRESS; set
    automatically under srun with several tasks, and where JAX_NUM_PROCESSES is set."""
    keep_checkpoints: bool = False
    """Keep the checkpoints of all measurements, not only the last three."""
    workdir: Path | None = None
    """Folder of the run; by default runs/<dataset>-<network>-<digest of the configuration>."""


@dataclass(frozen=True, kw_only=True)
class Resolved(Config):
    """A `Config` that is checked and filled in: settings that presets decide are never None."""

    network: str
    epochs: int
    min_steps: int
    batch_size: int
    optimizer: Literal["sgd", "adamw"]
    learning_rate: float
    schedule: Literal["cosine", "step", "constant"]
    measurements: int
    measure_per_class: int
    color_jitter: float
    rotation_head: bool
    ema_decay: float
    workdir: Path

    @classmethod
    def of(cls, filled: Config, workdir: Path) -> "Resolved":
        """Adds the folder to the result of `fill`."""
        return cls(**(vars(filled) | {"workdir": workdir}))


def fill(config: Config) -> Config:
    """Checks every value and fills in what the preset decides; makes the paths of folders absolute.

    If `epochs` is given, the preset's least number of steps does not apply.

    Raises:
      InputError: for a value outside its range; the message names the setting.
    """
    if not isinstance(config, Config):
        raise InputError(f"config is a {type(config).__name__}: give a Config, for example Config(dataset='glyphs')")
    config = plain(config, Config)
    check_choices(config, Config)
    if config.epochs is not None and config.min_steps is None:
        config = dataclasses.replace(config, min_steps=0)
    absolute: dict[str, Any] = {name: _absolute(getattr(config, name)) for name in FOLDERS}
    config = dataclasses.replace(config, **absolute)
    config = with_preset(config)
    _check(config)
    return config


def _absolute(path: str | None) -> str | None:
    return None if path is None else str(expand(path).absolute())


def with_preset(config: Config) -> Config:
    """Fills in what the preset decides; returns a config of a preset that this version does not have as it is."""
    settings = settings_of_preset(config.preset, config.dataset, config.network) or {}
    return dataclasses.replace(config, **{k: v for k, v in settings.items() if getattr(config, k) is None})


def _check(config: Config) -> None:
    at_least = {
        "epochs": 1, "min_steps": 0, "batch_size": 2, "momentum": 0, "weight_decay": 0, "seed": 0, "seeds": 1,
        "label_smoothing": 0, "mixup": 0, "manifold_mixup": 0, "dropout": 0, "cdnv_penalty": 0,
        "color_jitter": 0, "ema_decay": 0, "distill_weight": 0,
        "split_seed": 0, "num_source_classes": 2, "source_test_per_class": 0, "samples_per_class": 1,
        "image_size": 8, "measurements": 0, "measure_per_class": 2, "measure_episodes": 2,
    }  # fmt: skip
    for name, least in at_least.items():
        value = getattr(config, name)
        if value is not None and not value >= least:
            raise InputError(f"{name}={value}: it must be at least {least}")
    if config.learning_rate is None or not 0 < config.learning_rate < float("inf"):
        raise InputError(f"learning_rate={config.learning_rate}: it must be positive and finite")
    for name, most in (("seed", 2**32 - config.seeds), ("split_seed", 2**32 - 1)):
        if getattr(config, name) > most:
            raise InputError(f"{name}={getattr(config, name)}: it must be at most {most}")
    for name in ("momentum", "label_smoothing", "dropout", "ema_decay"):
        value = getattr(config, name)
        if value is not None and not value < 1:
            raise InputError(f"{name}={value}: it must be below 1")
    for name in ("color_jitter", "distill_weight"):
        value = getattr(config, name)
        if value is not None and not value <= 1:
            raise InputError(f"{name}={value}: it must be at most 1")
    if not 0 < config.distill_temperature < float("inf"):
        raise InputError(f"distill_temperature={config.distill_temperature}: it must be positive and finite")
    for name in ("weight_decay", "mixup", "manifold_mixup", "cdnv_penalty"):
        if not getattr(config, name) < float("inf"):
            raise InputError(f"{name}={getattr(config, name)}: it must be finite")
    for name in ("mixup", "manifold_mixup"):
        if getattr(config, name) and config.cdnv_penalty:
            raise InputError(
                f"{name} and cdnv_penalty exclude each other: a mixed image has no class; set one of them to 0"
            )
    if config.mixup and config.manifold_mixup:
        raise InputError("mixup and manifold_mixup exclude each other: both mix the images; set one of them to 0")
    if config.distill_from is None:
        for name in ("distill_weight", "distill_temperature", "teacher_weights"):
            if getattr(config, name) != getattr(Config(), name):
                raise InputError(f"{name} is of distill_from: give the folder of a run too")
    if config.continue_from is None and (config.continue_optimizer or config.start_weights is not None):
        raise InputError("continue_optimizer and start_weights are of continue_from: give the folder of a run")


# Rendered, or read from official archives with known checksums: the images do not depend on the folder.
_FIXED_DATA = ("glyphs", "cifar_fs", "fc100", "cifar100", "cifar10", "omniglot")
# Settings that change no number; the preset has been replaced by its settings.
_NOT_IDENTITY = (
    "workdir", "preset", "continue_from", "distill_from", "keep_checkpoints", "stream", "profile", "quiet",
    "tensorboard", "distributed",
)  # fmt: skip


def has_fixed_data(config: Config) -> bool:
    """Whether the settings alone determine the images."""
    return config.dataset in _FIXED_DATA


def identity(config: Config) -> dict[str, Any]:
    """Returns the settings that can change a record and differ from `Config`'s default.

    Defaults are left out, so that a setting added by a later version does not change the identity of older runs. The
    folder of the data counts, unless checksums determine its content: it is part of the default folder's name. Whether
    two runs have the same data is decided by fingerprints instead (`Description.differences`).
    """
    default = defaults()
    fields = {name: value for name, value in vars(config).items() if name not in _NOT_IDENTITY}
    fields |= {name: value for name, value in PLAIN.items() if fields[name] is None}
    if has_fixed_data(config):
        del fields["data_dir"]
    return {name: value for name, value in fields.items() if value != default[name]}


def defaults() -> dict[str, Any]:
    """Returns the value of each setting that does not count in a run's identity."""
    return vars(Config()) | PLAIN


def settings_of_seeds(config: Config) -> list[Config]:
    """Returns the settings of each seed's own run, without folders of their own."""
    if config.seeds == 1:
        return [config]
    starts = [None] * config.seeds if config.start_weights is None else config.start_weights.split(",")
    return [
        dataclasses.replace(
            config,
            seeds=1,
            seed=config.seed + i,
            continue_from=config.continue_from and str(Path(config.continue_from) / f"seed_{i}"),
            start_weights=starts[i],
        )
        for i in range(config.seeds)
    ]


def default_workdir(config: Config) -> Path:
    """Returns runs/<dataset>-<network>-<digest of the identity>."""
    digest = hashlib.sha256(json.dumps(identity(config), sort_keys=True).encode()).hexdigest()[:8]
    return Path("runs") / f"{run_name(config)}-{digest}"


def run_name(config: Config) -> str:
    """Returns the start of a run's default folder name: data set and network, without characters unfit for folders."""
    return f"{re.sub('[:/]', '-', config.dataset)}-{config.network}"
