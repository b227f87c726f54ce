"""Regularisation: does more collapse transfer better?

Question, open: how do regularisers, and a penalty on CDNV itself, change transfer? The literature disagrees on whether
more collapse helps: Li et al. (arXiv 2212.12206) report that preventing some of it helps transfer.
Paper: an open direction of Galanti, György, Hutter (ICLR 2022, arXiv 2112.15121); Li et al. as above.
Plotted: debiased CDNV of the three sets and few-shot accuracy of the nearest class centre under label smoothing,
mixup, dropout, weight decay and a penalty on the batch's own CDNV, varied separately; and accuracy against the CDNV of
source-train and of target over all runs, with Spearman's correlation and the 95 % interval of a bootstrap over
settings, which keeps the seeds of a setting together.
Mean and 95 % t interval over seeds. The table has differences from the reference, in percentage points with Welch's
95 % t interval, without correction for their number: one in twenty is expected to exclude zero by chance.
Expect: no direction in advance.

Command: python experiments/regularization.py [--preset=small|paper --data_dir=PATH]
Time: smoke 256 s on two CPU cores, and 90 s for the reference if no other figure has trained it; paper, CIFAR-FS with
wrn-28-4, not yet run.
Results, and estimates for small, which is not yet run either: RESULTS.md.
"""

import numpy as np

from common import drawing, grids, sweep
from ncjax.statistics import correlation_interval, spearman, welch

VARIED: dict[str, dict[str, tuple[float, ...]]] = {
    "smoke": {
        "label_smoothing": (0.1,),
        "mixup": (0.2,),
        "dropout": (0.3,),
        "weight_decay": (5e-3,),
        "cdnv_penalty": (0.1,),
    },
    "small": {
        "label_smoothing": (0.1,),
        "mixup": (0.2,),
        "dropout": (0.3,),
        "weight_decay": (0.0, 2e-3),
        "cdnv_penalty": (0.1, 1.0),
    },
    "paper": {
        "label_smoothing": (0.05, 0.1, 0.2),
        "mixup": (0.1, 0.2, 0.5),
        "dropout": (0.1, 0.3, 0.5),
        "weight_decay": (0.0, 1e-4, 2e-3),
        "cdnv_penalty": (0.01, 0.1, 1.0),
    },
}


def grid(options: sweep.Options) -> list[sweep.Point]:
    """Varies one regulariser at a time."""
    return grids.one_at_a_time(options, VARIED[options.preset])


def draw(figures: sweep.Figures) -> None:
    """Draws CDNV and accuracy of each regulariser, and accuracy against CDNV over runs."""
    more = {"differences": print_differences(figures), "spearman": print_correlations(figures)}
    drawing.draw_settings(figures, "Regularisation", scatter=True, more=more)


def print_differences(figures: sweep.Figures) -> dict[str, dict[str, list[float]]]:
    """Prints and returns the differences in accuracy from the reference, with Welch's intervals."""
    shots = drawing.few_shot(figures.runs[0].records[0])
    base = next((outcome for outcome in figures.finished if outcome.point.label == "reference"), None)
    if base is None:
        return {}
    differences: dict[str, dict[str, list[float]]] = {}
    print("accuracy minus the accuracy of the reference, percentage points")
    for outcome in figures.finished:
        if outcome is base:
            continue
        welches = {key: welch(np.asarray(outcome.values(key)), np.asarray(base.values(key))) for key, _, _ in shots}
        differences[outcome.point.label] = {key: list(values) for key, values in welches.items()}
        cells = []
        for key, name, _ in shots:
            value, low, high = (100 * number for number in welches[key])
            cells.append(f"{name} {value:+.2f} [{low:+.2f}, {high:+.2f}]")
        print(f"  {outcome.point.label:<22} {'   '.join(cells)}")
    return differences


def print_correlations(figures: sweep.Figures) -> dict[str, list[float]]:
    """Prints and returns rank correlations of accuracy and CDNV, with bootstrap intervals over settings."""
    correlations: dict[str, list[float]] = {}
    kind, kind_label = drawing.cdnv_kind(figures.finished)
    print(f"correlations with {kind_label}")
    for key, _, _ in drawing.few_shot(figures.runs[0].records[0]):
        for name in ("source_train", "target"):
            samples = [np.column_stack([o.values(f"{name}/{kind}"), o.values(key)]) for o in figures.finished]
            rho, (low, high) = spearman(np.concatenate(samples)), correlation_interval(samples)
            correlations[f"{key} and {name} CDNV"] = [rho, low, high]
            print(
                f"Spearman over {len(figures.runs)} runs of {len(samples)} settings, {key} and {name} CDNV: {rho:+.2f} "
                f"[{low:+.2f}, {high:+.2f}]"
            )
    return correlations


if __name__ == "__main__":
    sweep.main(__doc__, grid, draw)
