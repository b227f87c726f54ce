"""Ranks models by every measure, and says which measure ranks them as their few-shot accuracy does.

python experiments/rank.py RUN RUN …: runs of the same target classes; a folder of runs stands for all of them.
python experiments/rank.py RUN --checkpoints: all checkpoints of a run; RUN@400 is the checkpoint of step 400.
python experiments/rank.py RUN timm:resnet18 --dataset=cifar_fs --data_dir=PATH: runs and encoders on one data set.

Measured on the target classes: all measures of `ncjax.collapse.measure` and `transferability`, the predicted NCC error,
few-shot accuracy for each head and number of shots, with --probes also probes that are trained on two thirds of the
target images. For each measure the weighted rank correlation τ_w (Vigna 2015) and Spearman's ρ with each accuracy, and
beside them "parameters" (their number) and "source accuracy" as baselines. Intervals are 95 % jackknife intervals: over
classes, for other target classes and these models; over models, for other models and these classes, with five
independent models or more. Checkpoints of one run and seeds of one configuration count as one.

Features and numbers are kept in the folder --cache, under checksums of weights and images, so that a second call
measures new models only. Measures with a class left out are of at most --replicate_images images a class.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from common.score_settings import Settings
from ncjax import cli, eval, plots
from ncjax.errors import InputError
from ncjax.files import json_text
from ncjax.progress import progress
from ncjax.tables import COMMENTS, TableFormat

if TYPE_CHECKING:
    from common.ranking import Ranking
    from ncjax.data import Split


@dataclass(frozen=True)
class Options(Settings):
    """Which models to rank, and by what."""

    models: tyro.conf.Positional[tuple[str, ...]] = ()
    """Runs (a folder, or FOLDER@STEP), folders of runs, and encoders: timm:NAME, hf:NAME, torchvision:NAME or
    package.module:function."""
    checkpoints: bool = False
    """Takes every checkpoint of the runs."""
    dataset: str | None = None
    """Data set whose target classes they are compared on; by default that of the runs."""
    data_dir: str | None = None
    """Folder of its images."""
    split_seed: int = 0
    """Draws the target classes of --dataset, where its split is random."""
    image_size: int | None = None
    """Side of the images that encoders take, in pixels; by default as in their own configuration."""
    cache: Path = Path("runs/features")
    """Folder for features and numbers."""
    keep: bool = True
    """With --no_keep nothing is read from or written to --cache."""
    format: TableFormat = "text"
    """How tables are printed."""
    all_measures: bool = False
    """Every measure in the table of models."""
    out: Path | None = None
    """File for all numbers as JSON."""
    figure: Path | None = None
    """File for a figure of the correlations."""

    def check(self) -> None:
        """Raises InputError for settings that cannot work, before any model is read."""
        for head in self.heads:
            if head not in eval.heads.HEADS:
                raise InputError(f"no head is called {head!r}: give {', '.join(eval.heads.HEADS)}")
        if not self.heads or not self.shots:
            raise InputError("give at least one of --heads and one of --shots")
        for name in ("replicate_images", "episodes"):
            least = 4 if name == "replicate_images" else 2
            if getattr(self, name) < least:
                raise InputError(f"{name}={getattr(self, name)}: it must be at least {least}")
        cli.check_out(self.out, self.figure)

    def check_split(self, split: Split) -> None:
        """Raises InputError if the target classes are too few or too small for the episodes."""
        fewest = min((split.labels == c).sum() for c in range(split.num_classes))
        if split.num_classes < self.ways or fewest < max(self.shots) + self.queries:
            raise InputError(
                f"{split.num_classes} target classes of {fewest} images or more: too few for {self.ways} ways and "
                f"{max(self.shots)} shots with {self.queries} queries; lower --ways, --shots or --queries"
            )


def run(options: Options) -> Ranking:
    """Measures all models, prints the tables, and writes what was asked for."""
    # they import JAX, and --help has been answered without it
    from common.candidates import candidates, target_of
    from common.model_scores import outcome_name, score
    from common.ranking import Ranking

    options.check()
    models = candidates(options.models, options.checkpoints, options.image_size)
    split = target_of(models, options.dataset, options.data_dir, options.split_seed)
    options.check_split(split)
    settings = Settings(**{name: getattr(options, name) for name in Settings.__dataclass_fields__})
    cache = options.cache if options.keep else None
    ranking = Ranking.of([score(model, split, settings, cache) for model in progress(models, "models")])
    print_ranking(ranking, options.format, every=options.all_measures)
    if options.out is not None:
        cli.write(options.out, json_text({"options": vars(options), **ranking.to_json()}))
    if options.figure is not None:
        main_outcomes = [outcome_name(options.heads[0], options.ways, n) for n in options.shots[:2]]
        title = f"{len(models)} models, {ranking.independent} independent"
        plots.save(ranking.draw(main_outcomes, title), options.figure)
    return ranking


def print_ranking(ranking: Ranking, style: TableFormat, *, every: bool = False) -> None:
    """Prints the models, a table for each accuracy, and what the models are enough for."""
    mark = COMMENTS.get(style, "")
    print(ranking.models(style, every=every))
    for outcome in ranking.ranks:
        print(f"{mark}{outcome}: rank correlation of each measure with accuracy, 95 % jackknife intervals")
        print(ranking.table(outcome, style))
    for outcome in ranking.ranks:
        print(f"{mark}{ranking.verdict(outcome)}")


def main() -> None:
    """Ranks the models that the command line names."""
    options = cli.read_options(Options, __doc__)
    with cli.one_line_errors():
        if not options.models:
            raise InputError("give two or more runs or encoders")
        cli.start_backend()
        run(options)


if __name__ == "__main__":
    main()
