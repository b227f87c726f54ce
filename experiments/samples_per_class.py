"""More samples of each source class, better transfer.

Claim: with few samples of each class, CDNV on the training images says little; the more there are, the closer
source-test and target come to it, and the higher few-shot accuracy.
Paper: Galanti, György, Hutter (ICLR 2022, arXiv 2112.15121): its bounds fall as 1/sqrt of the samples of a class.
Plotted: debiased CDNV of the three sets (plug-in dotted: it is too small where a mean is over few images) and few-shot
accuracy of the nearest class centre, against the source-train images of each class; mean and 95 % t interval over
seeds. In the smoke preset every run takes as many steps; in the paper preset as many epochs, but at least 10,000 steps.
Expect: source-train falls below source-test where there are few samples; target CDNV falls with their number.

Command: python experiments/samples_per_class.py [--preset=small|paper --data_dir=PATH]
Time: smoke 92 s on two CPU cores, and 90 s for the runs of 100 images a class if no other figure has trained them;
paper, CIFAR-FS with wrn-28-4, not yet run.
Results, and estimates for small, which is not yet run either: RESULTS.md.
"""

from common import drawing, grids, sweep


def grid(options: sweep.Options) -> list[sweep.Point]:
    """Varies the number of source-train images of each class."""
    return grids.by_samples(options)


def draw(figures: sweep.Figures) -> None:
    """Draws CDNV and accuracy against the number of samples."""
    drawing.draw_against(figures, "source-train images a class", "Samples a class")


if __name__ == "__main__":
    sweep.main(__doc__, grid, draw)
