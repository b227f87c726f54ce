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

Command: python experiments/linear_probe.py [--preset=paper --data_dir=PATH]
Time: smoke 252 s of CPU time on two CPU cores, with the runs of number_of_classes.py; paper, CIFAR-FS with wrn-28-4,
not yet run. Results: RESULTS.md.
"""

import dataclasses
import warnings
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from common import drawing, grids, sweep
from common.cache import cached_json
from ncjax import Classifier, devices, features, keys, logits, models
from ncjax.classifier import normalize
from ncjax.data import Split
from ncjax.data.augment import augment
from ncjax.eval.heads import Linear, fit_logistic, fit_ridge
from ncjax.plots import log_axis
from ncjax.progress import progress
from ncjax.runs import Run
from ncjax.statistics import correlation_interval, independent, spearman

ALPHAS = (1e2, 1e1, 1.0, 1e-1)
CS = (1e-1, 1.0, 1e1)
MOST_HELD_OUT, SHARE_HELD_OUT = 100, 3
EPOCHS, BATCH, RATE = 5, 64, 0.01
METHODS = {"ridge": "C0", "logistic": "C1", "fine-tuning": "C2"}


def grid(options: sweep.Options) -> list[sweep.Point]:
    """Varies the number of source classes, for very different target CDNV."""
    return grids.by_classes(options)


def divide(split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Divides the images; returns the rows to train on, in random order, and the rows that are held out."""
    rng = np.random.default_rng(0)
    train, held = [], []
    for label in range(len(split.class_names)):
        rows = rng.permutation(np.flatnonzero(split.labels == label))
        out = min(MOST_HELD_OUT, len(rows) // SHARE_HELD_OUT)
        held.append(rows[:out])
        train.append(rows[out:])
    return rng.permutation(np.concatenate(train)), np.concatenate(held)


_ridge = jax.jit(fit_ridge, static_argnames="ways")


@partial(jax.jit, static_argnames="ways")
def _logistic(x: Array, y: Array, ways: int, C: Array) -> tuple[Linear, Array]:
    classifier, info = fit_logistic(x, y, ways, C)
    return classifier, info["converged"]


def logistic(x: np.ndarray, y: np.ndarray, ways: int, C: Array) -> Linear:
    """Fits logistic regression, and warns if it did not converge."""
    classifier, converged = _logistic(x, y, ways, C)
    if not converged:
        warnings.warn(f"the logistic regression of {len(y)} images did not converge at C={C:g}", stacklevel=2)
    return classifier


def probe(fit: Any, values: tuple[float, ...], x: np.ndarray, y: np.ndarray, ways: int) -> tuple[Linear, float]:
    """Fits a classifier with the penalty that is best on the last fifth of rows when fitted to the others.

    `fit` takes features [n, d], labels [n], the number of classes and one of `values`. Returns classifier and penalty.
    """
    cut = 4 * len(y) // 5
    accuracy = [
        float(np.mean(np.asarray(fit(x[:cut], y[:cut], ways, jnp.float32(value))(x[cut:])).argmax(-1) == y[cut:]))
        for value in values
    ]
    best = values[int(np.argmax(accuracy))]
    return fit(x, y, ways, jnp.float32(best)), best


def fine_tune(params: Classifier, images: np.ndarray, labels: np.ndarray, start: Linear) -> Classifier:
    """Trains the whole network on new classes by SGD, from the run's weights and the head `start`."""
    assert isinstance(params.network, models.Network)
    network = models.create(params.network.name, len(start.offset))
    mesh = devices.data_mesh()
    before = jax.tree.map(jnp.array, params.variables)  # a copy: the step donates it
    head = {"kernel": start.weights.T, "bias": start.bias}
    variables = {"params": {**before["params"], "head": head}, "batch_stats": before["batch_stats"]}
    batches = len(labels) // BATCH
    cosine = optax.cosine_decay_schedule(RATE, EPOCHS * batches)
    tx = optax.sgd(lambda count: cosine(jnp.asarray(count, jnp.float32)), momentum=0.9)

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(variables: Any, state: Any, mean: Array, std: Array, x: Array, y: Array, key: Array) -> tuple[Any, Any]:
        for_crops, for_dropout = jax.random.split(key)
        x = normalize(augment(for_crops, x, params.augmentation), mean, std)

        def loss(weights: Any) -> tuple[Array, Any]:
            output, stats = network.apply({**variables, "params": weights}, x, train=True, key=for_dropout)
            return optax.softmax_cross_entropy_with_integer_labels(output.logits, y).mean(), stats

        grads, stats = jax.grad(loss, has_aux=True)(variables["params"])
        updates, state = tx.update(grads, state, variables["params"])
        return {"params": optax.apply_updates(variables["params"], updates), "batch_stats": stats}, state

    rng = np.random.default_rng(0)
    variables, state, mean, std = jax.device_put(
        (variables, tx.init(variables["params"]), params.mean, params.std), devices.replicated(mesh)
    )
    for epoch in range(EPOCHS):
        order = rng.permutation(len(labels))[: batches * BATCH].reshape(batches, BATCH)
        for i, rows in enumerate(order):
            x, y = jax.device_put((images[rows], labels[rows]), devices.sharded(mesh))
            variables, state = step(variables, state, mean, std, x, y, keys.root(epoch * batches + i))
            devices.limit_in_flight(epoch * batches + i, variables)
    return dataclasses.replace(params, variables=variables, network=network, feature_mean=None)


def transfer(run: Run, data_dir: str | None = None) -> dict[str, Any]:
    """Returns accuracies on held-out target images, cached in transfer.json in the run's folder."""
    settings = {
        "alphas": ALPHAS, "cs": CS, "epochs": EPOCHS, "batch": BATCH, "rate": RATE,
        "held_out": (MOST_HELD_OUT, SHARE_HELD_OUT),
    }  # fmt: skip
    return cached_json(run.folder / "transfer.json", settings, lambda: probes(run, data_dir))


def probes(run: Run, data_dir: str | None = None) -> dict[str, Any]:
    """Computes accuracies on held-out target images, and the penalties of the probes."""
    target = sweep.benchmark(run, data_dir).target
    params = run.restore()
    ways = len(target.class_names)
    train, held = divide(target)
    target_features = features(params, target)
    x, y = target_features[train], target.labels[train]
    result: dict[str, Any] = {"held_out": len(held), "training": len(train)}
    for name, fit, values in (("ridge", _ridge, ALPHAS), ("logistic", logistic, CS)):
        classifier, best = probe(fit, values, x, y, ways)
        predicted = np.asarray(classifier(target_features[held])).argmax(-1)
        result[name] = float(np.mean(predicted == target.labels[held]))
        result[f"{name}/penalty"] = best
    tuned = fine_tune(params, target.images[train], y, classifier)
    result["fine-tuning"] = float(np.mean(logits(tuned, target.images[held]).argmax(-1) == target.labels[held]))
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
