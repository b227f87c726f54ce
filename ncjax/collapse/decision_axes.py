"""Whether the decision axes of two labellings of the same samples are orthogonal, beside the bounds on their cosine.

Luthra, Salunkhe, Galanti, "Directional Neural Collapse Explains Few-Shot Transfer in Self-Supervised Learning" (2026,
arXiv 2603.03530), Proposition 4.2.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Shaped

from ncjax.checks import check_lengths, not_finite, read_features
from ncjax.collapse.inputs import Labels, checked_labels
from ncjax.equal_by_value import EqualByValue
from ncjax.errors import InputError

_MOST_PAIRS = 20_000_000


@dataclass(frozen=True, eq=False)
class AxisOrthogonality(EqualByValue):
    """Cosines of the decision axes of two labellings, pair of classes by pair of classes, and what bounds them.

    With u₁ and d₁ direction and length of μ_a − μ_b for classes a, b of the first labelling, u₂ and d₂ for classes p, q
    of the second:

    Attributes:
        cosines: |u₁ᵀu₂| [P, Q]; NaN for a pair with coincident means.
        bounds: The bound of Proposition 4.2, min((d₁/d₂)√(2k₂Ṽ₁), (d₂/d₁)√(2k₁Ṽ₂)) [P, Q], Ṽ₁ the mean over the samples
            of a and b of u₁ᵀΣu₁/d₁²; for two classes each, 2(d₁/d₂)√Ṽ₁ and 2(d₂/d₁)√Ṽ₂. The paper proves it for two
            labellings with two classes each, balanced and independent; the form for k classes is that of the authors'
            public code, which we found no proof of, and which need not hold: see `sample_bounds`.
        sample_bounds: A bound that holds on these samples whatever the classes, their sizes and their dependence
            [P, Q]: the least of (dependence + √(u₁ᵀΣ_W u₁ (1/π_p + 1/π_q)))/d₂ and of the same with the labellings
            exchanged. Σ_W is the covariance within all classes of the first labelling, π_p the share of samples of
            class p, and dependence = |Σ_c (π(c|p) − π(c|q)) u₁ᵀμ_c|, 0 for independent labellings. For those with two
            balanced classes each it is the paper's bound.
        pairs: The classes a, b of each row [P, 2].
        other_pairs: The classes p, q of each column [Q, 2].
        dependence: Cramér's V of the two labellings, 0 if they are independent, at most 1.
        violations: Number of cosines above `bounds`.
    """

    cosines: Float[np.ndarray, "P Q"]
    bounds: Float[np.ndarray, "P Q"]
    sample_bounds: Float[np.ndarray, "P Q"]
    pairs: Shaped[np.ndarray, "P 2"]
    other_pairs: Shaped[np.ndarray, "Q 2"]
    dependence: float
    violations: int

    def __str__(self) -> str:
        rows = (("|cos| of axes", self.cosines), ("bound", self.bounds), ("bound of samples", self.sample_bounds))
        lines = [
            f"{len(self.pairs)} × {len(self.other_pairs)} pairs of decision axes; dependence {self.dependence:.3g}",
            f"{'':<18}{'median':>10}{'mean':>10}{'largest':>10}",
        ]
        for name, values in rows:
            seen = values[np.isfinite(values)]
            numbers = (np.median(seen), seen.mean(), seen.max()) if seen.size else (np.nan,) * 3
            lines.append(f"{name:<18}" + "".join(f"{number:>10.4g}" for number in numbers))
        return "\n".join([*lines, f"{self.violations} cosines above the bound"])


def axis_orthogonality(features: Any, labels: Any, other_labels: Any) -> AxisOrthogonality:
    """Compares the decision axes of two labellings of the same samples, such as shape and colour.

    Representations whose variance along the axes of both tasks is small hold nearly orthogonal axes, provided that the
    labellings are independent: superclasses, which the classes determine, are not. Computed on the host in float64.

    Args:
        features: [n, d], as in `measure`.
        labels: [n], as in `measure`.
        other_labels: [n], another labelling of the same samples.

    Raises:
        InputError: As in `measure`, for either labelling; or there are more than 20 million pairs of pairs of classes.
    """
    array = read_features(features)
    first, second = checked_labels(array, labels, None), checked_labels(array, other_labels, None)
    check_lengths(array, second.position)
    pairs = [len(known.classes) * (len(known.classes) - 1) // 2 for known in (first, second)]
    if pairs[0] * pairs[1] > _MOST_PAIRS:
        raise InputError(f"{pairs[0]} × {pairs[1]} pairs of decision axes are too many: give fewer classes at a time")
    x = np.asarray(array).astype(np.float64)
    if not np.isfinite(x).all():
        raise not_finite(array)
    x = x - x[0]  # so that a common offset costs no digits
    x -= x.mean(axis=0)
    one, two = _Axes.of(x, first), _Axes.of(x, second)
    joint = np.zeros((len(first.classes), len(second.classes)))
    np.add.at(joint, (first.position, second.position), 1.0 / len(x))
    with np.errstate(divide="ignore", invalid="ignore"):  # pairs with coincident means are NaN
        cosines = np.minimum(np.abs(one.unit @ two.unit.T), 1.0)
        forward, backward = one.paper_bound(two), two.paper_bound(one).T
        sample = np.minimum(one.sample_bound(two, joint), two.sample_bound(one, joint.T).T)
    bounds = np.minimum(forward, backward)
    undefined = ~one.apart[:, None] | ~two.apart
    cosines[undefined] = bounds[undefined] = sample[undefined] = np.nan
    expected = one.share[:, None] * two.share
    square = np.sum((joint - expected) ** 2 / expected)
    return AxisOrthogonality(
        cosines=cosines,
        bounds=bounds,
        sample_bounds=sample,
        pairs=first.classes[one.pairs],
        other_pairs=second.classes[two.pairs],
        dependence=float(np.sqrt(square / (min(joint.shape) - 1))),
        violations=int(np.sum(cosines > bounds * (1 + 1e-9) + 1e-9)),
    )


@dataclass(frozen=True)
class _Axes:
    """The decision axes of one labelling.

    Attributes:
        pairs: Positions of the classes a < b of each axis.
        apart: Whether their means differ.
        unit: u.
        length: d.
        on_axis: uᵀμ_c for every class c.
        pair_variance: uᵀΣu, averaged over the samples of a and b.
        variance: uᵀΣ_W u, averaged over all samples.
        share: Share of samples of each class.
    """

    pairs: Shaped[np.ndarray, "P 2"]
    apart: Bool[np.ndarray, " P"]
    unit: Float[np.ndarray, "P d"]
    length: Float[np.ndarray, " P"]
    on_axis: Float[np.ndarray, "P k"]
    pair_variance: Float[np.ndarray, " P"]
    variance: Float[np.ndarray, " P"]
    share: Float[np.ndarray, " k"]

    @classmethod
    def of(cls, x: Float[np.ndarray, "n d"], labels: Labels) -> "_Axes":
        k, share = len(labels.classes), labels.counts / len(x)
        means = np.stack([x[labels.position == c].mean(axis=0) for c in range(k)])
        residuals = x - means[labels.position]
        pairs = np.argwhere(np.tri(k, k=-1, dtype=bool).T)
        delta = means[pairs[:, 0]] - means[pairs[:, 1]]
        length = np.linalg.norm(delta, axis=1)
        rounding = 8 * np.finfo(np.float32).eps * np.sqrt(np.mean(np.sum(x**2, axis=1)))  # features are float32
        apart = length > rounding
        unit = delta / np.where(apart, length, 1.0)[:, None]
        by_class = np.stack(  # of class c along every axis
            [np.mean((residuals[labels.position == c] @ unit.T) ** 2, axis=0) for c in range(k)], axis=1
        )
        weight = labels.counts[pairs] / labels.counts[pairs].sum(axis=1, keepdims=True)
        of_pair = np.sum(weight * np.take_along_axis(by_class, pairs, axis=1), axis=1)
        return cls(pairs, apart, unit, length, unit @ means.T, of_pair, by_class @ share, share)

    def paper_bound(self, other: "_Axes") -> Float[np.ndarray, "P Q"]:
        """Computes (d₁/d₂)√(2k₂Ṽ₁)."""
        bound: np.ndarray = np.sqrt(2 * len(other.share) * self.pair_variance)[:, None] / other.length
        return bound

    def sample_bound(self, other: "_Axes", joint: Float[np.ndarray, "k m"]) -> Float[np.ndarray, "P Q"]:
        """Computes the bound of the samples from the variance along these axes.

        d₂u₁ᵀu₂ = E[g|p] − E[g|q] with g = u₁ᵀf = E[g|c] + r, c the class of the first labelling. Its first part gives
        the dependence; its second is E[r(1_p/π_p − 1_q/π_q)], at most √(E r² (1/π_p + 1/π_q)) (Cauchy, Schwarz).
        """
        given = joint / other.share  # π(c|p)
        p, q = other.pairs.T
        dependence = np.abs(self.on_axis @ (given[:, p] - given[:, q]))
        inverse = 1.0 / other.share[p] + 1.0 / other.share[q]
        bound: np.ndarray = (dependence + np.sqrt(self.variance[:, None] * inverse)) / other.length
        return bound
