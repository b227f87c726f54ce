"""Transfer beyond few shots: probes and fine-tuning on all target training images.

Claim: low target CDNV also serves where there is plenty of data of the target classes.
Paper: Galanti, György, Hutter (ICLR 2022, arXiv 2112.15121) shows few shots; this is an extension.
Plotted: accuracy on held-out target images of ridge regression, of logistic regression (both on frozen features, their
penalty chosen on a fifth of the training images), and of fine-tuning the whole network, against target CDNV
(debiased, of the features before fine-tuning), a dot for each run; Spearman's correlation of error and CDNV, with the
95 % interval of a bootstrap over configurations where there are five of them or more.
Of the target images of each class a third, at most 100, is held out. Fine-tuning: 5 epochs of SGD with momentum 0.9 and
a cosine from 0.01, batch 64, the head from the logistic regression, the augmentation of pretraining; nothing of it is
tuned.
Expect: error rises with CDNV; least so for fine-tuning, which can mend the features.

Command: python experiments/linear_probe.py [--preset=paper --data_dir=PATH]
The runs are those of number_of_classes.py.
smoke: 450 s beside the tests, 252 s of CPU time, on two cores of an AMD EPYC, the runs re-used (2026-11-26). 12 runs of
4 configurations, 2,000 training and 1,000 held-out images of 20 classes. Accuracy, and Spearman of error and target
CDNV: ridge 84.4 to 94.6 %, 0.87; logistic 86.4 to 96.3 %, 0.89; fine-tuning 95.3 to 98.1 %, 0.72. Four configurations
are too few for intervals.
paper: CIFAR-FS, wrn-28-4: not yet run.
"""

import dataclasses
import warnings
from functools import partial
from typing import Any

import drawing
import jax
import jax.numpy as jnp
import number_of_classes
import numpy as np
import optax
import sweep
from jaxtyping import Array
from stats import correlation_interval, independent, spearman

from ncjax import Classifier, devices, features, keys, logits, models
from ncjax.classifier import normalize
from ncjax.data import Split
from ncjax.data.augment import augment
from ncjax.eval.heads import Linear, fit_logistic, fit_ridge
from ncjax.progress import progress
from ncjax.runs import Run

ALPHAS = (1e2, 1e1, 1.0, 1e-1)
CS = (1e-1, 1.0, 1e1)
MOST_HELD_OUT, SHARE_HELD_OUT = 100, 3
EPOCHS, BATCH, RATE = 5, 64, 0.01
METHODS = {"ridge": "C0", "logistic": "C1", "fine-tuning": "C2"}


def grid(options: sweep.Options) -> list[sweep.Point]:
    """Runs of very different target CDNV."""
    return number_of_classes.grid(options)


def divide(split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on, in random order, and rows held out."""
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
    """`fit_logistic`, with a warning where it did not converge."""
    classifier, converged = _logistic(x, y, ways, C)
    if not converged:
        warnings.warn(f"the logistic regression of {len(y)} images did not converge at C={C:g}", stacklevel=2)
    return classifier


def probe(fit: Any, values: tuple[float, ...], x: np.ndarray, y: np.ndarray, ways: int) -> tuple[Linear, float]:
    """The classifier of all rows, with the penalty that is best on the last fifth when fitted to the others."""
    cut = 4 * len(y) // 5
    rate = [
        float(np.mean(np.asarray(fit(x[:cut], y[:cut], ways, jnp.float32(value))(x[cut:])).argmax(-1) == y[cut:]))
        for value in values
    ]
    best = values[int(np.argmax(rate))]
    return fit(x, y, ways, jnp.float32(best)), best


def fine_tune(params: Classifier, images: np.ndarray, labels: np.ndarray, start: Linear) -> Classifier:
    """SGD of the whole network on new classes, from the run's weights and the head `start`."""
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
    """Accuracies on held-out target images; kept in the run's folder, transfer.json, with what they depend on."""
    settings = {
        "alphas": ALPHAS, "cs": CS, "epochs": EPOCHS, "batch": BATCH, "rate": RATE,
        "held_out": (MOST_HELD_OUT, SHARE_HELD_OUT),
    }  # fmt: skip
    return sweep.kept(run.folder / "transfer.json", settings, lambda: probes(run, data_dir))


def probes(run: Run, data_dir: str | None = None) -> dict[str, Any]:
    """`transfer`, computed."""
    target = sweep.benchmark(run, data_dir).target
    params = run.restore()
    ways = len(target.class_names)
    train, held = divide(target)
    found = features(params, target)
    x, y = found[train], target.labels[train]
    result: dict[str, Any] = {"held_out": len(held), "training": len(train)}
    for name, fit, values in (("ridge", _ridge, ALPHAS), ("logistic", logistic, CS)):
        classifier, best = probe(fit, values, x, y, ways)
        result[name] = float(np.mean(np.asarray(classifier(found[held])).argmax(-1) == target.labels[held]))
        result[f"{name}/penalty"] = best
    tuned = fine_tune(params, target.images[train], y, classifier)
    result["fine-tuning"] = float(np.mean(logits(tuned, target.images[held]).argmax(-1) == target.labels[held]))
    return result


def draw(figures: sweep.Figures) -> None:
    """Accuracy of each method against target CDNV."""
    found = [transfer(run, figures.options.data_dir) for run in progress(figures.runs, "probes")]
    kind, kind_label = drawing.cdnv_kind(figures.finished)
    cdnv = [run.final(f"target/{kind}") for run in figures.runs]
    configurations = [run.folder.parent for run in figures.runs]
    figure, (axes,) = drawing.panels(1, 6.5, 4.6)
    numbers: dict[str, Any] = {f"target/{kind}": cdnv, "transfer": found}
    for name, color in METHODS.items():
        accuracy = [one[name] for one in found]
        points = [np.asarray([[v, 1 - a]]) for v, a in zip(cdnv, accuracy, strict=True)]
        rho = spearman(np.concatenate(points))
        low, high = correlation_interval(independent(points, configurations))
        interval = "no interval" if np.isnan(low) else f"[{low:.2f}, {high:.2f}]"
        label = f"{name}: Spearman of error {rho:.2f}, {interval}"
        axes.plot(cdnv, [100 * a for a in accuracy], "o", color=color, label=label)
        print(f"{label}; accuracy {min(accuracy):.4f} to {max(accuracy):.4f}, {len(cdnv)} runs")
        numbers[f"spearman/{name}"] = [rho, low, high]
    drawing.log_scale(axes, "x")
    axes.set_xlabel(f"target {kind_label}")
    axes.set_ylabel("accuracy on held-out target images (%)")
    axes.legend(fontsize="small")
    figure.suptitle("Transfer with all target training images, a dot a run")
    figures.save(figure, numbers)


if __name__ == "__main__":
    sweep.main(__doc__, grid, draw)
