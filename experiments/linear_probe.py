"""Transfer beyond few shots: probes and fine-tuning on all target training images.

Claim: low target CDNV also helps where there is plenty of data of the target classes.
Paper: Galanti, György, Hutter (ICLR 2022, arXiv 2112.15121) shows few shots; this is an extension.
Plotted: accuracy on held-out target images of ridge regression, of logistic regression (both on frozen features, with
the penalty chosen on a fifth of the training images), and of fine-tuning the whole network, against target CDNV
(debiased, of the features before fine-tuning), a dot for each run; Spearman's correlation of error and CDNV, with the
95 % interval of a bootstrap over configurations if there are at least five.
A third of the target images of each class, at most 100, is held out. Fine-tuning: 5 epochs of SGD with momentum 0.9 and
a cosine from 0.01, batch 64, the head from the logistic regression, the augmentation of pretraining; none of this is
tuned.
Expect: error rises with CDNV; least so for fine-tuning, which can improve the features.

Command: python experiments/linear_probe.py [--preset=small|paper --data_dir=PATH]
Time: smoke 252 s of CPU time on two CPU cores, with the runs of number_of_classes.py; paper, CIFAR-FS with wrn-28-4,
not yet run.
Results, and estimates for small, which is not yet run either: RESULTS.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import ncjax
from common import drawing, grids, sweep
from common.cache import cached_json
from common.held_out import MOST_HELD_OUT, SHARE_HELD_OUT, divide
from ncjax.plots import log_axis
from ncjax.progress import progress
from ncjax.statistics import correlation_interval, independent, spearman

if TYPE_CHECKING:
    from ncjax.runs import Run

ALPHAS = (1e2, 1e1, 1.0, 1e-1)
CS = (1e-1, 1.0, 1e1)
EPOCHS, BATCH, RATE = 5, 64, 0.01
METHODS = {"ridge": "C0", "logistic": "C1", "fine-tuning": "C2"}


def grid(options: sweep.Options) -> list[sweep.Point]:
    """Varies the number of source classes, for very different target CDNV."""
    return grids.by_classes(options)


def transfer(run: Run, data_dir: str | None = None) -> dict[str, Any]:
    """Returns accuracies on held-out target images, cached in transfer.json in the run's folder."""
    settings = {
        "alphas": ALPHAS, "cs": CS, "epochs": EPOCHS, "batch": BATCH, "rate": RATE,
        "held_out": (MOST_HELD_OUT, SHARE_HELD_OUT),
    }  # fmt: skip
    return cached_json(run.folder / "transfer.json", settings, lambda: probes(run, data_dir))


def probes(run: Run, data_dir: str | None = None) -> dict[str, Any]:
    """Computes accuracies on held-out target images, and the penalties of the probes."""
    from common import fitting  # imports JAX and Flax, and --help has been answered without them

    target = sweep.benchmark(run, data_dir).target
    params = run.restore()
    ways = len(target.class_names)
    train, held = divide(target)
    target_features = ncjax.features(params, target)
    x, y = target_features[train], target.labels[train]
    result: dict[str, Any] = {"held_out": len(held), "training": len(train)}
    for name, fit, values in (("ridge", fitting.ridge, ALPHAS), ("logistic", fitting.logistic, CS)):
        classifier, best = fitting.probe(fit, values, x, y, ways)
        predicted = np.asarray(classifier(target_features[held])).argmax(-1)
        result[name] = float(np.mean(predicted == target.labels[held]))
        result[f"{name}/penalty"] = best
    tuned = fitting.fine_tune(params, target.images[train], y, classifier, epochs=EPOCHS, batch=BATCH, rate=RATE)
    result["fine-tuning"] = float(np.mean(ncjax.logits(tuned, target.images[held]).argmax(-1) == target.labels[held]))
    return result


def draw(figures: sweep.Figures) -> None:
    """Draws accuracy of each method against target CDNV."""
    results = [transfer(run, figures.options.data_dir) for run in progress(figures.runs, "probes")]
    kind, kind_label = drawing.cdnv_kind(figures.finished)
    cdnv = [run.final(f"target/{kind}") for run in figures.runs]
    configurations = [run.folder.parent for run in figures.runs]
    figure, (axes,) = drawing.row_of_panels(1, 6.5, 4.6)
    numbers: dict[str, Any] = {f"target/{kind}": cdnv, "transfer": results}
    for name, color in METHODS.items():
        accuracy = [result[name] for result in results]
        points = [np.asarray([[v, 1 - a]]) for v, a in zip(cdnv, accuracy, strict=True)]
        rho = spearman(np.concatenate(points))
        low, high = correlation_interval(independent(points, configurations))
        interval = "no interval" if np.isnan(low) else f"[{low:.2f}, {high:.2f}]"
        label = f"{name}: Spearman of error {rho:.2f}, {interval}"
        axes.plot(cdnv, [100 * a for a in accuracy], "o", color=color, label=label)
        print(f"{label}; accuracy {min(accuracy):.4f} to {max(accuracy):.4f}, {len(cdnv)} runs")
        numbers[f"spearman/{name}"] = [rho, low, high]
    log_axis(axes, "x")
    axes.set_xlabel(f"target {kind_label}")
    axes.set_ylabel("accuracy on held-out target images (%)")
    axes.legend(fontsize="small")
    figure.suptitle("Transfer with all target training images, a dot a run")
    figures.save(figure, numbers)


if __name__ == "__main__":
    sweep.main(__doc__, grid, draw)
