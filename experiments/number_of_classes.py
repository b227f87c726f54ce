"""More source classes, better transfer.

Claim: the more source classes a classifier is trained on, the lower CDNV is on target classes, and the higher few-shot
accuracy; CDNV on the source classes does not show it, since few classes collapse most easily.
Paper: Galanti, György, Hutter (ICLR 2022, arXiv 2112.15121), the figures against the number of source classes.
Plotted: debiased CDNV of the three sets (plug-in dotted) and few-shot accuracy of the nearest class centre, against the
number of source classes; mean and 95 % t interval over seeds. The target classes are the same everywhere, and a seed
does not redraw the source classes: "5 classes" are the same five in every run, those of split_seed, so that no interval
covers other classes. In the smoke preset every run takes as many steps; in the paper preset as many epochs, but at
least 10,000 steps.
Expect: target CDNV falls and accuracy rises with the number of classes.

Command: python experiments/number_of_classes.py [--preset=small|paper --data_dir=PATH]
Time: smoke 144 s on two CPU cores, and 90 s for the runs of 64 classes if no other figure has trained them; paper,
CIFAR-FS with wrn-28-4, not yet run.
Results, and estimates for small, which is not yet run either: RESULTS.md.
"""

from common import drawing, grids, sweep


def grid(options: sweep.Options) -> list[sweep.Point]:
    """Varies the number of source classes."""
    return grids.by_classes(options)


def draw(figures: sweep.Figures) -> None:
    """Draws CDNV and accuracy against the number of classes."""
    drawing.draw_against(figures, "source classes", "Number of source classes")


if __name__ == "__main__":
    sweep.main(__doc__, grid, draw)
