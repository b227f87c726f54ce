"""Evaluates a finished run, a pretrained encoder, or features: few-shot accuracy and neural collapse, with intervals.

python experiments/evaluate.py --run=runs/glyphs-wrn-10-1-s2-…: ncc, ridge and logistic heads on the target classes.
python experiments/evaluate.py --run=PATH --tune --theory --layers: hyperparameters chosen on validation classes, bounds
of the theory beside the measured error, and collapse at every depth.
python experiments/evaluate.py --run=PATH --all_measures: every measure of collapse that published work has.
python experiments/evaluate.py --encoder=timm:resnet18 --dataset=cifar_fs --data_dir=PATH: a pretrained encoder, also
hf:NAME_OR_FOLDER, torchvision:NAME or package.module:function; several --encoder in one table, on the same episodes.
python experiments/evaluate.py --features=file.npz: arrays `features` [n, d] and `labels` [n], from any encoder; labels
are names, or numbers with an array `class_names`. --format=latex, csv or markdown prints the tables so.

Where the package is installed, `ncjax-evaluate` is the same command.
"""

import sys
from typing import Any

from ncjax import cli, plots
from ncjax.commands.evaluate.options import Options
from ncjax.files import json_text


def write(options: Options, numbers: dict[str, Any], figures: dict[str, Any]) -> None:
    """Writes the numbers as JSON and then the figures, and prints where they are."""
    cli.write(options.json_file, json_text(numbers))
    print(f"\nwritten to {options.json_file}", file=options.messages)
    for name, figure in figures.items():
        path = options.figure_file(name)
        if path is None:
            print(f"no figure of {name}: there is no place beside --out={options.out}", file=sys.stderr)
        else:
            plots.save(figure, path, options.messages)


def main() -> None:
    """Evaluates what the command line names."""
    options = cli.read_options(Options, __doc__)
    with cli.one_line_errors():
        # these import JAX and Flax, and --help has been answered without them
        from ncjax.commands.evaluate.measurements import combine, evaluate
        from ncjax.commands.evaluate.subjects import load

        cli.start_backend()
        options.check()
        subjects = load(options)
        evaluations = [evaluate(options, subject) for subject in subjects]
        write(options, *combine(options, subjects, evaluations))
