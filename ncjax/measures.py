"""The names of measures as a reader sees them, which direction is better, and what they mean."""

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Measure:
    """A measure of collapse or transfer.

    Attributes:
      name: as tables show it.
      lower_is_better: whether a smaller value means more collapse or better transfer; None if neither end is better.
      meaning: a line for a legend.
      is_share: whether it is a fraction, which tables show in percent.
      is_ratio: whether it is positive without an upper end, so that two values are compared by their ratio.
    """

    name: str
    lower_is_better: bool | None
    meaning: str
    is_share: bool = False
    is_ratio: bool = False

    @property
    def arrow(self) -> str:
        """The direction that is better; nothing if neither is."""
        return {True: "↓", False: "↑", None: ""}[self.lower_is_better]

    def number(self, value: float) -> str:
        """Formats a value, shares in percent."""
        return f"{100 * value:.2f} %" if self.is_share else f"{value:.4g}"


ARROWS = "↓ lower is better, ↑ higher is better"
SETS = {"source_train": "source-train", "source_test": "source-test", "target": "target"}
"""The three sets by their names in records."""

MEASURES: Mapping[str, Measure] = {
    "loss": Measure("loss", True, "cross-entropy of the linear head on source-train images"),
    "accuracy": Measure("accuracy", False, "share of images that the linear head classifies correctly", is_share=True),
    "cdnv": Measure(
        "CDNV",
        True,
        "class-distance normalized variance: variance within two classes over the squared distance of their means, "
        "averaged over pairs of classes; 0 is full collapse. It depends on the number of images a class: compare only "
        "equal counts",
        is_ratio=True,
    ),
    "cdnv_median": Measure("CDNV, median pair", True, "the median over the same pairs", is_ratio=True),
    "cdnv_worst": Measure("CDNV, worst pair", True, "the pair that is hardest to tell apart", is_ratio=True),
    "debiased_cdnv": Measure(
        "CDNV, debiased",
        True,
        "CDNV as infinitely many images of these classes would give it; infinite where the images are too few to tell "
        "two class means apart",
        is_ratio=True,
    ),
    "directional_cdnv": Measure(
        "CDNV, directional", True, "the variance along the line between two means alone", is_ratio=True
    ),
    "nc1": Measure(
        "NC1", True, "variance within classes over that of class means, direction by direction", is_ratio=True
    ),
    "nc1_quotient": Measure("NC1, quotient of traces", True, "the same with all directions together", is_ratio=True),
    "nc2_equinorm": Measure("NC2, equinorm", True, "spread of the norms of centred class means; 0 if all are equal"),
    "nc2_equiangular": Measure(
        "NC2, equiangular", True, "distance of the angles between class means from those of a simplex"
    ),
    "nc3": Measure("NC3", True, "distance of the head's weights from the class means"),
    "nc4": Measure("NC4", False, "share of images on which the head and the nearest class mean agree", is_share=True),
    "ncc_accuracy": Measure(
        "nearest class mean, accuracy",
        False,
        "share of images whose nearest class mean is their own class's; each image is part of that mean, so that few "
        "images in many dimensions are always correct",
        is_share=True,
    ),
    "debiased_cdnv_median": Measure("CDNV, debiased, median pair", True, "the median over pairs", is_ratio=True),
    "superclass_cdnv": Measure(
        "CDNV of superclasses", True, "CDNV of the same images, labelled by superclass", is_ratio=True
    ),
    "superclass_directional_cdnv": Measure(
        "CDNV of superclasses, directional", True, "directional CDNV of the same images, likewise", is_ratio=True
    ),
    "ncc_accuracy_left_out": Measure(
        "nearest class mean, accuracy, left out",
        False,
        "the same share with each image left out of its own class mean",
        is_share=True,
    ),
    "nc2_etf_error": Measure("NC2, ETF error", True, "distance of the class means' Gram matrix from a simplex's"),
    "nc2_etf_error_head": Measure("NC2 of the head, ETF error", True, "the same of the head's weights"),
    "nc3_etf_error": Measure("NC3, ETF error", True, "the same of weights times class means"),
    "gnc2_mean": Measure("GNC2, mean", True, "mean over pairs of the logarithm of the inverse distance on the sphere"),
    "gnc2_std": Measure("GNC2, standard deviation", True, "the spread of the same over pairs"),
    "unc3": Measure("UNC3", True, "spread of the cosines of weights and class means"),
    "self_duality": Measure("self-duality", True, "mean of 1 - cosine of weights and class means"),
    "one_vs_rest_distance": Measure(
        "one class from the rest", False, "least distance of a class mean from the convex hull of the others"
    ),
    "one_vs_rest_distance_head": Measure("one class from the rest, head", False, "the same of the head's weights"),
    "vci": Measure("VCI", True, "variability collapse index; 0 is full collapse"),
    "h_score": Measure("H-score", False, "what class means explain of the features, direction by direction"),
    "rankme": Measure("RankMe", False, "effective rank of the features, without labels"),
    "alpha_req": Measure("α-ReQ", None, "decay of the features' spectrum, without labels; near 1 in good encoders"),
    "logme": Measure("LogME", False, "evidence of a linear model of the labels"),
    "transrate": Measure("TransRate", False, "coding rate of all features less that within classes"),
    "ncti": Measure("NCTI", False, "three properties of collapse, combined over the models that are compared"),
    "gbc": Measure("GBC", False, "overlap of Gaussian classes, negative; 0 is none"),
    "leep": Measure("LEEP", False, "log likelihood of the labels by the source head"),
    "nc5": Measure("NC5", True, "cosine of class means and the mean of images from elsewhere"),
    "neco": Measure("NECO", False, "share of a sample in the classes' principal components"),
    "neco_ood": Measure("NECO, from elsewhere", None, "the same of images from elsewhere"),
    "neco_auroc": Measure("NECO, AUROC", False, "how well NECO tells images from those from elsewhere"),
    "debiased_cdnv/unresolved_pairs": Measure(
        "pairs too near to tell apart", True, "pairs of classes whose debiased CDNV is infinite"
    ),
}
FIRST = (
    "cdnv", "cdnv_median", "cdnv_worst", "debiased_cdnv", "directional_cdnv", "nc1", "nc1_quotient", "nc2_equinorm",
    "nc2_equiangular", "nc3", "nc4", "ncc_accuracy", "superclass_cdnv",
)  # fmt: skip
"""The measures that tables of collapse show unless all are asked for."""
FEW_SHOT_MEANING = (
    "N-way K-shot: share of new images classified correctly among N target classes, from K labelled images of each"
)
LEGEND = {
    "source classes": "the classes that the network was trained on",
    "target classes": "classes that it never saw",
    "source-train, source-test": "training images, and held-out images, of the source classes",
    "ncc": "nearest class centre: a query belongs to the class whose mean of labelled images is nearest",
    "ridge, logistic": "linear heads fitted to the labelled images of an episode",
    "vacuous": "of a bound: at 1 or more, where no error can exceed it, so that it says nothing",
    "95 % interval": "each names what it covers: redrawn episodes, new images, new classes, or other seeds",
}
"""Terms beside the measures."""


def spoken(kind: str) -> str:
    """Spells out the kind of episode in a record's key: "5w1s" as "5-way 1-shot"."""
    ways, shots = kind.removesuffix("s").split("w")
    return f"{ways}-way {shots}-shot"


def of_key(key: str) -> Measure:
    """Returns the measure of a record's key, such as "target/cdnv" or "target/ncc/5w1s"; `name` says the set too."""
    of_set, _, kind = key.partition("/")
    if not kind:
        return MEASURES.get(key) or Measure(key, False, "")
    known = MEASURES.get(kind)
    if known is None:
        head, _, episode = kind.partition("/")
        name = f"{spoken(episode)} {head}" if episode else kind
        return Measure(name, False, FEW_SHOT_MEANING, is_share=bool(episode))
    name = f"{known.name}, {SETS.get(of_set, of_set)}"
    return Measure(name, known.lower_is_better, known.meaning, known.is_share, known.is_ratio)


def cautions(
    record: Mapping[str, float | int | None], per_class: int | None, classes: Mapping[str, int] | None = None
) -> list[str]:
    """Says which numbers of a record mean less than they seem to.

    Args:
      record: a record of a run.
      per_class: images a class behind its measures of collapse.
      classes: the number of classes of each set, where NC1 is shown too.
    """
    lines = []
    sets = [name for name in SETS if f"{name}/cdnv" in record]
    unresolved = [SETS[name] for name in sets if record.get(f"{name}/debiased_cdnv/unresolved_pairs")]
    if per_class is not None and per_class < FEW_IMAGES:
        lines.append(f"{per_class} images a class are few: the order of the sets' CDNV means nothing.")
    elif unresolved:
        lines.append(
            f"Some class means of {', '.join(unresolved)} are too near to tell apart with {per_class or 'so few'} "
            "images a class: debiased CDNV is infinite there, and the order of the sets' CDNV means little."
        )
    noisy = []
    for name in sets:
        mean, median = record[f"{name}/cdnv"], record.get(f"{name}/cdnv_median")
        if mean is not None and median and mean > MEAN_OVER_MEDIAN * median:
            lines.append(
                f"CDNV of {SETS[name]} hangs on few pairs of classes: its mean is {mean:.3g}, that of the median pair "
                f"{median:.3g}."
            )
        both = record.get(f"{name}/nc1"), record.get(f"{name}/nc1_quotient")
        noise = nc1_noise(*both, (classes or {}).get(name), per_class)
        if noise is not None and noise > MOST_NOISE:
            noisy.append(f"{SETS[name]} ({nc1_noise_text(noise)})")
    if noisy:
        lines.append(f"NC1 is mostly noise of {', '.join(noisy)}.")
    return lines


FEW_IMAGES = 20
"""Images a class below which the order of the sets is not to be read."""
MEAN_OVER_MEDIAN = 5.0
"""A mean over pairs above this many medians hangs on few pairs."""
MOST_NOISE = 1 / 3
"""Share of noise in the spread of class means above which NC1 is called noise."""


def nc1_noise(
    nc1: float | None,
    nc1_quotient: float | None,
    classes: int | None,
    per_class: float | None,
    rank: int | None = None,
) -> float | None:
    """Returns the share of sampling noise in the spread of class means that NC1 divides by; about 1 without classes.

    The mean of n samples has noise of covariance Σ_W/(n - 1), by the unbiased estimate. Of the whole spread tr Σ_B of k
    class means about their mean, tr Σ_W (k - 1)/(k (n - 1)) is noise. NC1, tr(Σ_W Σ_B⁺)/k, also weighs directions of
    little spread: on average over the r directions the share is (k - 1) NC1/(r (n - 1)). The larger of the two is
    returned.

    Args:
      nc1: NC1.
      nc1_quotient: tr Σ_W/tr Σ_B.
      classes: k.
      per_class: n.
      rank: r; by default k - 1.

    Returns:
      None where a number is missing or infinite.
    """
    if nc1 is None or nc1_quotient is None or classes is None or per_class is None:
        return None
    if not math.isfinite(nc1) or not math.isfinite(nc1_quotient):
        return None
    whole = nc1_quotient * (classes - 1) / (classes * (per_class - 1))
    by_direction = (classes - 1) * nc1 / ((classes - 1 if rank is None else rank) * (per_class - 1))
    return max(whole, by_direction)


def nc1_noise_text(share: float) -> str:
    """Says what a share of noise is of."""
    percent = f"{100 * min(share, 1.0):.0f} %"
    return f"sampling noise is {percent} of the spread of class means in the directions that it weighs most"
