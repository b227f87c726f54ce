"""Options of the command `evaluate`."""

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TextIO

from tyro.conf import UseAppendAction

from ncjax import cli
from ncjax.errors import InputError
from ncjax.files import is_replaceable
from ncjax.tables import TableFormat
from ncjax.user_functions import load_function


@dataclass(frozen=True)
class Options:
    """What to evaluate, and how."""

    run: Path | None = None
    """Folder of a run of pretrain.py."""
    features: Path | None = None
    """Instead of a run: an .npz file with arrays `features` [n, d] and `labels` [n], of target classes."""
    encoder: UseAppendAction[tuple[str, ...]] = ()
    """Instead of a run: timm:NAME, hf:NAME_OR_FOLDER, torchvision:NAME or package.module:function, a function that
    returns a Classifier, a torch module or an NNX model. May be given more than once."""
    random_weights: bool = False
    """Gives encoders random weights: the untrained baseline."""
    dataset: str | None = None
    """Images for --encoder; see python -m ncjax.data."""
    data_dir: str | None = None
    """Folder of the images for --encoder; or of the run's data, if it has moved."""
    split_seed: int = 0
    """Draws the target classes of --dataset, where its split is random."""
    image_size: int | None = None
    """Side of the images that --encoder takes, in pixels; by default as in its own configuration."""
    stages: tuple[str, ...] = ()
    """Names of inner modules of --encoder, for --layers."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 runs torch modules of --encoder under autocast."""
    batch_size: int = 64
    """Images at a time through --encoder."""
    save_features: Path | None = None
    """Writes the features of --encoder to this .npz file, which --features reads."""
    step: int | None = None
    """Checkpoint of the run; by default the newest."""
    split: Literal["target", "validation", "source_test", "source_train"] = "target"
    """Classes and images of the data set to evaluate on."""
    heads: tuple[str, ...] = ("ncc", "ridge", "logistic")
    """Heads to evaluate: ncc, cosine, ridge, logistic, or package.module:function, a function of yours that returns the
    scores [M, W] of queries and a dictionary, of (support [N, d], labels [N], query [M, d], ways)."""
    ways: int = 5
    """Classes in an episode."""
    shots: tuple[int, ...] = (1, 5)
    """Support images of each class; a table row for each number."""
    queries: int = 15
    """Query images of each class."""
    episodes: int = 10_000
    """Number of episodes."""
    transform: Literal["none", "l2", "centered_l2", "power"] = "none"
    """Transform of the features; centered_l2 subtracts the mean of source-train, power takes square roots."""
    support_augmentations: int = 0
    """Random variants of each support image, under the augmentation of training; not with --features."""
    seed: int = 0
    """Seed of the episodes."""
    tune: bool = False
    """Chooses the hyperparameters of ridge and logistic on the validation classes, without augmentation."""
    all_measures: bool = False
    """Prints every measure of collapse; the JSON file has them always."""
    intervals: bool = False
    """Intervals of the measures of collapse, over samples and over classes."""
    curves: bool = False
    """Accuracy of the first head against the number of shots and of ways, with a figure."""
    theory: bool = False
    """Bounds and prediction of the NCC error beside the measured error, with a figure."""
    measure_per_class: int | None = None
    """Images a class on which collapse is measured; by default those of the run's own records, and all without a run.
    Episodes are of all images."""
    layers: bool = False
    """CDNV and nearest-class-mean accuracy of every stage of the network; encoders need --stages."""
    probes: bool = False
    """Standard probes on the source classes, trained on source_train and tested on source_test, whatever --split is:
    nearest neighbours as in DINO, LDA, ridge on few shots of all classes as in big_vision, logistic regression over a
    sweep of C. Not with --features."""
    format: TableFormat = "text"
    """How tables are printed."""
    out: Path | None = None
    """File for the numbers as JSON; by default evaluation.json in the run's folder (source_test.evaluation.json and so
    on for splits other than target, step_0.evaluation.json and so on with --step), or FILE.evaluation.json beside the
    features. Figures have names alike, in figures/; with --out they go beside that file: OUT.curves.png."""

    @property
    def folder(self) -> Path:
        """Default folder of the results."""
        if self.run is not None:
            return self.run
        if self.encoder:
            return Path("runs/encoders")
        assert self.features is not None
        return self.features.parent

    @property
    def prefix(self) -> str:
        """Prefix of default file names, so that one evaluation does not overwrite another."""
        if self.features is not None:
            return f"{self.features.stem}."
        split = "" if self.split == "target" else f"{self.split}."
        if self.encoder:
            names = "+".join(map(slug, self.encoder))[:120]
            return f"{self.dataset}.{split}{names}{'-random' if self.random_weights else ''}."
        return split + ("" if self.step is None else f"step_{self.step}.")

    @property
    def json_file(self) -> Path:
        """File for the numbers."""
        return self.out or self.folder / f"{self.prefix}evaluation.json"

    def figure_file(self, name: str) -> Path | None:
        """File for a figure; None if --out is a device or a pipe, which have no place beside them."""
        if self.out is None:
            return self.folder / "figures" / f"{self.prefix}{name}.png"
        if not is_replaceable(self.out):
            return None
        return self.out.with_name(f"{self.out.name.removesuffix('.json')}.{name}.png")

    @property
    def messages(self) -> TextIO:
        """Where lines that are no table go: beside text, but never among tables that a program reads."""
        return sys.stdout if self.format == "text" else sys.stderr

    def check(self) -> None:
        """Raises InputError for options that exclude each other."""
        from ncjax.eval.heads import HEADS  # imports JAX, and --help is answered without it

        if not self.heads or not self.shots:
            raise InputError("give at least one of --heads and one of --shots")
        for head in self.heads:
            if ":" in head:
                load_function(head, "head")
            elif head not in HEADS:
                raise InputError(f"no head is called {head!r}: give {', '.join(HEADS)} or package.module:function")
        if self.measure_per_class is not None and self.measure_per_class < 2:
            raise InputError(f"--measure_per_class={self.measure_per_class}: a variance needs at least 2")
        if self.curves and self.support_augmentations:
            raise InputError("--curves extracts features once: leave out --support_augmentations, or --curves")
        if self.tune and self.split == "validation":
            raise InputError("--tune chooses on the classes that --split=validation reports: leave one of them out")
        if (self.run is not None) + (self.features is not None) + bool(self.encoder) != 1:
            raise InputError("give either --run=PATH of a run, or --features=FILE.npz, or --encoder=SPEC")
        if not self.encoder and (self.save_features is not None or self.random_weights):
            raise InputError("--save_features and --random_weights are of --encoder: give one, or leave them out")

    def check_places(self) -> None:
        """Raises InputError for a result that cannot be written, before the work."""
        figures = [name for name in ("curves", "theory") if getattr(self, name)]
        cli.check_out(self.json_file, self.save_features, *map(self.figure_file, figures))


def slug(name: str) -> str:
    """Makes a name fit for a part of a file name."""
    return re.sub(r"[^A-Za-z0-9_.]+", "-", name).strip("-.")
