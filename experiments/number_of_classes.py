"""More source classes, better transfer.

Claim: the more source classes a classifier is trained on, the lower CDNV is on target classes, and the higher few-shot
accuracy; CDNV on the source classes does not say so, for few classes collapse most easily.
Paper: Galanti, György, Hutter (ICLR 2022, arXiv 2112.15121), the figures against the number of source classes.
Plotted: debiased CDNV of the three sets (plug-in dotted) and few-shot accuracy of the nearest class centre, against the
number of source classes; mean and 95 % t interval over seeds. The target classes are the same everywhere, and a seed
never redraws the source classes: "5 classes" are the same five in every run, those of split_seed, so that no interval
covers other classes. In the smoke preset every run takes as many steps; in the paper preset as many epochs, 10,000
steps at least.
Expect: target CDNV falls and accuracy rises with the number of classes.

Command: python experiments/number_of_classes.py [--preset=paper --data_dir=PATH]
smoke: 144 s on two idle cores of an AMD EPYC with AVX-512, the runs of 64 classes re-used, which take 90 s more
(2026-11-27). From 5 to 64 classes target CDNV falls from 0.81 ± 0.65 (10 classes: 0.58 ± 0.13) to 0.32 ± 0.05, 1-shot
accuracy rises from 59.2 ± 7.8 to 81.9 ± 4.5 %, 5-shot from 73.2 ± 6.8 to 91.7 ± 4.1 %, though CDNV of source-train
rises from 0.060 ± 0.013 to 0.215 ± 0.051. Seeds of 5 classes are few and far apart: see claims.py.
paper: CIFAR-FS, wrn-28-4: not yet run.
"""

import drawing
import sweep

CLASSES = {"smoke": (5, 10, 20, 64), "paper": (5, 10, 20, 30, 40, 50, 64)}


def grid(options: sweep.Options) -> list[sweep.Point]:
    """The reference with fewer classes."""
    return [
        sweep.Point(f"{k} classes", sweep.reference(options, num_source_classes=k), k) for k in CLASSES[options.preset]
    ]


def draw(figures: sweep.Figures) -> None:
    """CDNV and accuracy against the number of classes."""
    drawing.draw_against(figures, "source classes", "Number of source classes")


if __name__ == "__main__":
    sweep.main(__doc__, grid, draw)
