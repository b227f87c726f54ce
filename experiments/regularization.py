"""Regularisation: does more collapse transfer better?

Question, open: how do regularisers, and a penalty that asks for collapse, change transfer? The literature disagrees on
whether more collapse helps: Li et al. (arXiv 2212.12206) find that preventing some of it helps transfer.
Paper: an open direction of Galanti, György, Hutter (ICLR 2022, arXiv 2112.15121); Li et al. as above.
Plotted: debiased CDNV of the three sets and few-shot accuracy of the nearest class centre under label smoothing,
mixup, dropout, weight decay and a penalty on the batch's own CDNV, one at a time; and accuracy against the CDNV of
source-train and of target over all runs, with Spearman's correlation and the 95 % interval of a bootstrap over
settings, the seeds of one together.
Mean and 95 % t interval over seeds; differences from the reference, in percentage points with Welch's 95 % t interval,
in the table, each by itself: of many tests without correction one in twenty is expected to find what is not there.
Expect: nothing; it reports what it finds.

Command: python experiments/regularization.py [--preset=paper --data_dir=PATH]
smoke: 256 s on two idle cores of an AMD EPYC with AVX-512, the reference re-used, which takes 90 s more (2026-11-27).
With three seeds mixup 0.2 costs 4.4 [0.6, 8.1] points in 1 shot, dropout 0.3 5.4 [1.3, 9.6] in 1 shot and 4.2 [0.0,
8.4] in 5, the only three of ten uncorrected tests whose interval excludes zero. The penalty of weight 0.1 and weight
decay of 0.005 collapse the source a little more (0.190 and 0.188 against 0.215), for +1.1 [-2.8, 5.1] and -0.7 [-4.4,
3.0] points in 1 shot. Over the 6 settings (18 runs) accuracy goes with collapse: Spearman of 1-shot accuracy -0.79
[-0.97, -0.25] with the CDNV of source-train, -0.87 [-0.98, -0.56] with that of target; of 5-shot accuracy -0.79 [-0.97,
-0.19] with that of target, and -0.68 [-0.95, 0.08] with that of source-train, which does not exclude that there is no
relation. These runs show no cost of more collapse. They are 400 steps of 32 images long, far from a collapse that could
be too much.
paper: CIFAR-FS, wrn-28-4: not yet run.
"""

import drawing
import numpy as np
import sweep
from stats import correlation_interval, spearman, welch

VARIED: dict[str, dict[str, tuple[float, ...]]] = {
    "smoke": {
        "label_smoothing": (0.1,),
        "mixup": (0.2,),
        "dropout": (0.3,),
        "weight_decay": (5e-3,),
        "cdnv_penalty": (0.1,),
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
    """The reference, and one regulariser at a time."""
    points = [sweep.Point("reference", sweep.reference(options))]
    for setting, values in VARIED[options.preset].items():
        for value in values:
            config = sweep.reference(options, **{setting: value})
            points.append(sweep.Point(f"{setting} {value:g}", config, value, setting))
    return points


def draw(figures: sweep.Figures) -> None:
    """CDNV and accuracy of each regulariser, and accuracy against CDNV over runs."""
    shots = drawing.few_shot(figures.runs[0].records[0])
    base = next((o for o in figures.finished if o.point.label == "reference"), None)
    differences: dict[str, dict[str, list[float]]] = {}
    if base is not None:
        print("accuracy less that of the reference, percentage points")
        for outcome in figures.finished:
            if outcome is base:
                continue
            found = {key: welch(np.asarray(outcome.values(key)), np.asarray(base.values(key))) for key, _, _ in shots}
            differences[outcome.point.label] = {key: list(values) for key, values in found.items()}
            shown = (f"{name} {100 * found[key][0]:+.2f} [{100 * found[key][1]:+.2f}, {100 * found[key][2]:+.2f}]"
                     for key, name, _ in shots)  # fmt: skip
            print(f"  {outcome.point.label:<22} {'   '.join(shown)}")
    correlations: dict[str, list[float]] = {}
    kind, kind_label = drawing.cdnv_kind(figures.finished)
    print(f"correlations with {kind_label}")
    for key, _, _ in shots:
        for name in ("source_train", "target"):
            # the seeds of one setting together
            drawn = [np.column_stack([o.values(f"{name}/{kind}"), o.values(key)]) for o in figures.finished]
            rho, (low, high) = spearman(np.concatenate(drawn)), correlation_interval(drawn)
            correlations[f"{key} and {name} CDNV"] = [rho, low, high]
            print(f"Spearman over {len(figures.runs)} runs of {len(drawn)} settings, {key} and {name} CDNV: {rho:+.2f} "
                  f"[{low:+.2f}, {high:+.2f}]")  # fmt: skip
    drawing.draw_settings(
        figures, "Regularisation", scatter=True, more={"differences": differences, "spearman": correlations}
    )


if __name__ == "__main__":
    sweep.main(__doc__, grid, draw)
