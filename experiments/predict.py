"""Classifies images into classes of your own, from a few labelled images of each.

python experiments/predict.py --run=RUN --support=labelled/ --images=new/: a sub-folder of labelled/ is a class.
python experiments/predict.py --run=RUN --support=labelled/ --save=mine.npz, then --classifier=mine.npz --images=…

Writes a table: file, class, margin over the runner-up, probability if the head has one (--head=logistic), runner-up.
Prints the accuracy to expect. `--html` also writes a page of the images with their predictions.
"""

from __future__ import annotations

import csv
import importlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

import ncjax
from ncjax import cli, runs
from ncjax.data import images as image_files
from ncjax.errors import InputError
from ncjax.interval import share_interval
from ncjax.train import read_description

if TYPE_CHECKING:
    from ncjax.eval import FewShotClassifier, Predictions
    from ncjax.preprocessing import Preprocessing

_DEFAULT_SIZE = 224
_CAVEAT = (
    "Both are about other images like these, of these classes alone: an image of anything else also gets one of their "
    "names. From so few images they are rough; label more, and look at the predictions with the smallest margins."
)


@dataclass(frozen=True)
class Options:
    """What to classify, and how."""

    run: Path | None = None
    """Folder of a run of pretrain.py, whose network computes the features."""
    encoder: str | None = None
    """Instead of a run: an encoder from elsewhere, for example timm:NAME."""
    support: Path | None = None
    """Folder of labelled images, with a sub-folder named after each class."""
    images: tuple[Path, ...] = ()
    """Images to classify: files, or folders of them."""
    out: Path = Path("predictions.csv")
    """File for the table."""
    html: Path | None = None
    """File for a page of the images with their predictions."""
    head: Literal["ridge", "logistic", "ncc", "cosine"] = "ridge"
    """Head to fit on the features; logistic has probabilities."""
    transform: Literal["none", "l2", "centered_l2", "power"] = "none"
    """Transform of the features; centered_l2 subtracts the mean of source-train, which a finished run has."""
    tune: bool = False
    """Chooses the hyperparameter of ridge or logistic on the validation classes of the run's data."""
    data_dir: str | None = None
    """Folder of the run's data, for --tune, if it has moved."""
    step: int | None = None
    """Checkpoint of the run; by default the newest."""
    image_size: int | None = None
    """Side of the images that an encoder from elsewhere takes, in pixels; by default its own, or 224."""
    save: Path | None = None
    """File for the fitted classifier, for --classifier; it holds features and names, no images and no weights."""
    classifier: Path | None = None
    """Instead of --support: a file that --save wrote with the same run or encoder."""


def load_encoder(options: Options) -> tuple[ncjax.Classifier, tuple[int, int, int]]:
    """Loads the classifier of a run or an encoder from elsewhere; returns it with the shape of its images."""
    if options.run is not None:
        height, width, channels = read_description(options.run).data.image_shape
        return ncjax.restore(options.run, options.step), (height, width, channels)
    assert options.encoder is not None
    params = ncjax.encoders.load(options.encoder, image_size=options.image_size)
    height, width = _file_size(params.preprocessing)
    return params, (height, width, 3)


def _file_size(preprocessing: Preprocessing) -> tuple[int, int]:
    """Returns the size at which files, which differ in size, are read before the encoder crops them."""
    if isinstance(preprocessing.resize, int):
        return preprocessing.resize, preprocessing.resize
    return preprocessing.resize or preprocessing.image_size or (_DEFAULT_SIZE, _DEFAULT_SIZE)


def fit_support(options: Options) -> FewShotClassifier:
    """Fits a classifier to the labelled images.

    Raises:
      InputError: there are fewer than two classes, or a class has no image that can be read.
    """
    assert options.support is not None
    if not options.support.is_dir():
        raise InputError(f"--support={options.support} is no folder; give one with a sub-folder for each class")
    classes = {
        folder.name: image_files.listing(folder).images for folder in image_files.listing(options.support).folders
    }
    if len(classes) < 2:
        raise InputError(
            f"--support={options.support} has {len(classes)} sub-folders; give two classes or more, a sub-folder of "
            "images for each"
        )
    empty = [name for name, paths in classes.items() if not paths]
    if empty:
        raise InputError(f"class {empty[0]!r} of --support={options.support} has no images; add some, or remove it")
    params, (height, width, channels) = load_encoder(options)
    if height != width:
        raise InputError(f"this run takes images of {height}x{width}, and files are made square: use Python and arrays")
    paths = [(path, name) for name, files in classes.items() for path in files]
    label_of = dict(paths)
    arrays, labels = [], []
    read = image_files.read_files(list(label_of), height, channels, at_once=1024, skip_corrupt=True)
    for chunk, pixels in read:
        arrays.append(pixels)
        labels += [label_of[path] for path in chunk]
    unreadable = sorted(classes.keys() - set(labels))
    if unreadable:
        raise InputError(f"no image of class {unreadable[0]!r} of --support={options.support} can be read; add some")
    return ncjax.eval.fit(
        params,
        np.concatenate(arrays),
        labels,
        head=options.head,
        transform=options.transform,
        validation=validation(options) if options.tune else None,
    )


def validation(options: Options) -> ncjax.data.Split:
    """Loads the validation classes of the run's data.

    Raises:
      InputError: there is no run, or its data has no validation classes.
    """
    if options.run is None:
        raise InputError("--tune needs the validation classes of a run's data: give --run, or leave it out")
    split = runs.open_benchmark(read_description(options.run), options.data_dir).validation
    if split is None:
        raise InputError("this run's data has no validation classes for --tune to choose on: leave it out")
    return split


def expectation(classifier: FewShotClassifier) -> list[str]:
    """Describes the accuracy to expect on other images of these classes, in lines of which the last is a caveat."""
    ways = len(classifier.class_names)
    counts = np.bincount(classifier.labels, minlength=ways)
    left_out = classifier.leave_one_out()
    lines = []
    if left_out.images:
        low, high, _ = share_interval(left_out.correct, left_out.images)
        lines.append(
            f"Leave-one-out on the support: {left_out.correct} of {left_out.images} right, "
            f"{100 * left_out.accuracy:.0f} % (95 % interval {100 * low:.0f} to {100 * high:.0f} %)."
        )
    else:
        lines.append("Leave-one-out on the support: no class has a second image.")
    if counts.min() >= 4:
        theory = ncjax.collapse.theory(classifier.support, classifier.labels, ways=ways, shots=[int(counts.min())])
        lines.append(
            f"Predicted from the spread of the features, for the nearest class centre and {counts.min()} images a "
            f"class: {100 * (1 - float(theory.predicted[0])):.0f} %."
        )
    else:
        lines.append("No prediction from the spread of the features: it takes four images of each class.")
    return [*lines, _CAVEAT]


def classify(classifier: FewShotClassifier, images: tuple[Path, ...]) -> tuple[list[Path], Predictions]:
    """Classifies the images that can be read, and reports the others on standard error.

    Returns:
      The files that could be read, and their predictions.
    """
    paths: list[Path] = []
    chunks: list[Predictions] = []
    for chunk, pixels in classifier.read_files(image_files.files_at(images), skip_corrupt=True):
        paths += chunk
        chunks.append(classifier.classify(pixels))
    arrays: dict[str, Any] = {
        name: None if getattr(chunks[0], name) is None else np.concatenate([getattr(part, name) for part in chunks])
        for name in ("names", "runner_up", "margin", "scores", "probabilities")
    }
    return paths, ncjax.eval.Predictions(**arrays, class_names=classifier.class_names)


def table(paths: list[Path], predictions: Predictions) -> str:
    """Writes the predictions as CSV, a line for each image."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", "class", "margin", "probability", "runner_up"])
    for i, path in enumerate(paths):
        probability = "" if predictions.probabilities is None else f"{predictions.probabilities[i].max():.6g}"
        writer.writerow(
            [path, predictions.names[i], f"{predictions.margin[i]:.6g}", probability, predictions.runner_up[i]]
        )
    return text.getvalue()


def predict(options: Options) -> None:
    """Fits or loads the classifier, and classifies the images.

    Raises:
      InputError: options exclude each other, or a file cannot be read or written.
    """
    if (options.run is None) == (options.encoder is None):
        raise InputError("give either --run=PATH of a run, or --encoder=SPEC of an encoder from elsewhere")
    if (options.support is None) == (options.classifier is None):
        raise InputError("give either --support=FOLDER of labelled images, or --classifier=FILE that --save wrote")
    if not options.images and options.save is None:
        raise InputError("give --images=FOLDER or files to classify, or --save=FILE to keep the classifier")
    cli.check_out(options.save, options.html, options.out if options.images else None)
    if options.html is not None:
        try:
            importlib.import_module("jinja2")
        except ModuleNotFoundError:
            raise InputError('--html needs Jinja2: pip install -e ".[report]"') from None
    image_files.files_at(options.images)  # reports missing files before any work
    if options.classifier is not None:
        classifier = ncjax.eval.FewShotClassifier.load(options.classifier, load_encoder(options)[0])
    else:
        classifier = fit_support(options)
    expected = expectation(classifier)
    count = len(classifier.labels)
    print(f"{len(classifier.class_names)} classes, {count} labelled images, head {classifier.head}")
    print(*expected, sep="\n")
    if options.save is not None:
        classifier.save(options.save)
        print(f"\nclassifier  {options.save}")
    if not options.images:
        return
    paths, predictions = classify(classifier, options.images)
    cli.write(options.out, table(paths, predictions))
    print(f"\npredictions of {len(paths)} images  {options.out}")
    if options.html is not None:
        from ncjax import prediction_page

        title = ", ".join(str(place) for place in options.images[:3])
        text = prediction_page.page(paths, predictions, title=title, support=count, expected=expected)
        cli.write(options.html, text)
        print(f"page  {options.html}  ({len(text) / 1e6:.1f} MB)")


def main() -> None:
    """Classifies the images that the command line names."""
    options = cli.read_options(Options, __doc__)
    with cli.one_line_errors():
        cli.start_backend()
        predict(options)


if __name__ == "__main__":
    main()
