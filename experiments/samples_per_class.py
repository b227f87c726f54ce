"""More samples of each source class, better transfer.

Claim: CDNV on the training images says little with few samples a class; the more there are, the closer source-test and
target come to it, and the higher few-shot accuracy.
Paper: Galanti, György, Hutter (ICLR 2022, arXiv 2112.15121): its bounds fall as 1/sqrt of the samples a class.
Plotted: debiased CDNV of the three sets (plug-in dotted: it is too small where a mean is of few images) and few-shot
accuracy of the nearest class centre, against the source-train images a class; mean and 95 % t interval over seeds.
In the smoke preset every run takes as many steps; in the paper preset as many epochs, 10,000 steps at least.
Expect: source-train falls below source-test where there are few samples; target CDNV falls with their number.

Command: python experiments/samples_per_class.py [--preset=paper --data_dir=PATH]
smoke: 244 s on two cores shared with others (load 1 to 6), the runs of 100 images a class re-used. From 10 to 100
images CDNV of source-test falls from 0.23 ± 0.05 to 0.17 ± 0.01 and of target from 0.364 ± 0.023 to 0.28 ± 0.05, while
that of source-train stays at 0.16 to 0.17; 1-shot accuracy rises from 81.2 ± 0.7 to 85.6 ± 3.9 %, most of it by 30
images.
paper: CIFAR-FS, wrn-28-4: not yet run.
"""

import drawing
import sweep

SAMPLES = {"smoke": (10, 30, 100), "paper": (10, 25, 50, 100, 200, 500)}


def grid(options: sweep.Options) -> list[sweep.Point]:
    """The reference with fewer images of each class."""
    return [
        sweep.Point(f"{n} a class", sweep.reference(options, samples_per_class=n), n) for n in SAMPLES[options.preset]
    ]


def draw(figures: sweep.Figures) -> None:
    """CDNV and accuracy against the number of samples."""
    drawing.draw_against(figures, "source-train images a class", "Samples a class")


if __name__ == "__main__":
    sweep.main(__doc__, grid, draw)
