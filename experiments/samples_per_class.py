"""More samples of each source class, better transfer.

Claim: CDNV on the training images says little with few samples a class; the more there are, the closer source-test and
target come to it, and the higher few-shot accuracy.
Paper: Galanti, György, Hutter (ICLR 2022, arXiv 2112.15121): its bounds fall as 1/sqrt of the samples a class.
Plotted: debiased CDNV of the three sets (plug-in dotted: it is too small where a mean is of few images) and few-shot
accuracy of the nearest class centre, against the source-train images a class; mean and 95 % t interval over seeds.
In the smoke preset every run takes as many steps; in the paper preset as many epochs, 10,000 steps at least.
Expect: source-train falls below source-test where there are few samples; target CDNV falls with their number.

Command: python experiments/samples_per_class.py [--preset=paper --data_dir=PATH]
smoke: 92 s on two idle cores of an AMD EPYC with AVX-512, the runs of 100 images a class re-used, which take 90 s more
(2026-11-27). With 10 images a class plug-in CDNV of source-train is 0.16 ± 0.04 where that of source-test is 0.21 ±
0.06; with 100 both are 0.20 to 0.21. In one seed of 10 images a debiased value is infinite. Target CDNV is 0.28 to 0.31
and 1-shot accuracy 80.0 to 81.9 % everywhere, each ± 4.5 to 7.9 over three seeds: no rise is seen in so short a
training.
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
