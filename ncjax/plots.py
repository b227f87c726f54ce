"""Figures of a run."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from ncjax.train.measurement import Record
from ncjax.train.records import few_shot_keys

_SETS = {
    "source_train": "source, training images",
    "source_test": "source, new images",
    "target": "target, new classes",
}


def plot_run(records: Sequence[Record], title: str = "") -> Figure:
    """CDNV on the three sets over epochs, beside few-shot accuracy on the target classes.

    Args:
      records: the records of a run, as `ncjax.train.read_records` returns them; infinite values leave a gap.
      title: what stands above both panels.

    Returns:
      A figure of two panels; save it with `figure.savefig(path)`.
    """
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = [float(record["epoch"] or 0) for record in records]
    linear = min((e for e in epochs if e > 0), default=1.0)
    for name, label in _SETS.items():
        key = f"{name}/cdnv"
        if key in records[0]:
            values = [float("nan") if record[key] is None else record[key] for record in records]
            left.plot(epochs, values, marker="o", markersize=4, label=label)
    left.set_yscale("log")
    left.set_ylabel("CDNV (mean over pairs of classes)")
    left.legend()
    for key in few_shot_keys(records[0]):
        _, head, kind = key.split("/")
        accuracy = [100 * float(record[key] or 0) for record in records]
        interval = [100 * float(record[f"{key}/ci95"] or 0) for record in records]
        style = "-" if head == "ncc" else "--"
        right.errorbar(
            epochs,
            accuracy,
            interval,
            fmt=f"o{style}",
            markersize=4,
            capsize=2,
            label=f"{head}, {_spoken(kind)}",
        )
    right.set_ylabel("few-shot accuracy on target classes (%)")
    right.legend(title="± 95 % over episodes")
    for axes in (left, right):
        # linear up to the first measured epoch, so that initialisation has a place on the axis
        axes.set_xscale("symlog", linthresh=linear, linscale=0.5)
        axes.set_xticks(epochs, [f"{e:.3g}" for e in epochs])
        axes.minorticks_off()
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title)
    return figure


def _spoken(kind: str) -> str:
    """ "5w1s" as "5-way 1-shot"."""
    ways, shots = kind.removesuffix("s").split("w")
    return f"{ways}-way {shots}-shot"
