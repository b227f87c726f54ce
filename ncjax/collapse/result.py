"""The result of `measure`: every number, a table and JSON."""

import json
import math
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

from ncjax.collapse.inputs import list_classes
from ncjax.collapse.out_of_distribution import OutOfDistribution
from ncjax.collapse.spectra import Spectra
from ncjax.equal_by_value import EqualByValue

Row = tuple[str, float | None, str]
_LARGE = ("cdnv_pairs", "directional_cdnv_pairs", "mean_cosines", "neco_scores", "neco_scores_ood")


@dataclass(frozen=True, eq=False)
class Collapse(EqualByValue):
    """How far features have collapsed, as numbers on the host; classes without samples do not count.

    Two are equal if all their numbers are equal, NaN included.

    Class means μ_c, their mean μ_G, class covariances Σ_c divided by n_c, Var_c = tr Σ_c.

    Attributes:
        cdnv: Mean over pairs of (Var_i + Var_j)/(2‖μ_i − μ_j‖²) (arXiv 2112.15121).
        cdnv_median: Median over the same pairs.
        cdnv_worst: Maximum over the same pairs.
        worst_pair: The two labels of the pair with the maximum.
        cdnv_pairs: V_ij [k, k], symmetric; NaN on the diagonal.
        coincident_pairs: Labels [m, 2] of the pairs whose means coincide; their V_ij is inf.
        debiased_cdnv: The mean with Var/(n − 1), and distances minus Var_i/n_i + Var_j/n_j.
        debiased_cdnv_median: Median over pairs of the debiased V_ij.
        unresolved_pairs: Labels [m, 2] of the pairs whose debiased distance is not positive; their debiased V_ij is
            inf.
        cdnv_by_class: Mean of V_ij over the other classes j [k]; inf if the means of some pair coincide.
        directional_cdnv: Mean over ordered pairs of uᵀΣ_i u/‖μ_i − μ_j‖² (arXiv 2506.04411).
        directional_cdnv_pairs: Ṽ_ij [k, k], with the covariance of row i; NaN on the diagonal.
        variance_along: Mean over the other classes j of uᵀΣ_i u, the variance of class i along its decision axis to j
            (arXiv 2603.03530) [k]; pairs with coincident means have no axis. In squared units of the features.
        variance_across: Var_i less that, the variance orthogonal to the axes [k].
        nc1: tr(Σ_W Σ_B⁺)/k (Papyan, Han, Donoho 2020); inf if `nc1_rank` is 0.
        nc1_rank: Number of directions of Σ_B that are inverted, at most min(k − 1, d).
        nc1_quotient: tr Σ_W/tr Σ_B.
        nc2_equinorm: std/mean of ‖μ_c − μ_G‖; NaN if all class means coincide.
        nc2_equiangular: Mean over pairs of |cos(μ_c − μ_G, μ_c' − μ_G) + 1/(k − 1)|.
        nc3: ‖W/‖W‖_F − M/‖M‖_F‖_F, M the rows μ_c − μ_G; None without a head.
        nc4: Share of samples whose nearest class mean is argmax(Wf + b); None without a head.
        ncc_accuracy: Share of samples whose nearest class mean is that of their label. Each sample is part of its own
            class's mean, so that few samples in many dimensions are always correct: noise of 20 samples a class in 640
            dimensions reaches 1.
        ncc_accuracy_left_out: The same share with each sample left out of the mean of its own class.
        nc2_etf_error: ‖A/‖A‖_F − (I − 11ᵀ/k)/√(k − 1)‖_F, A = MMᵀ: the NC2 of most published curves (arXiv 2105.02375);
            0 at a simplex.
        nc2_etf_error_head: The same with A = WWᵀ; None without a head.
        nc3_etf_error: The same with A = WMᵀ, the NC3 of many curves; None without a head.
        mean_cosines: cos(μ_i − μ_G, μ_j − μ_G) [k, k], rows in the order of `classes`: in minority collapse those of
            small classes approach 1. A class mean at μ_G has no direction, and NaN.
        gnc2_mean: Mean over pairs of log(1/‖μ̂_i − μ̂_j‖), μ̂ the normalised μ_c − μ_G (Wu, Papyan 2024, arXiv
            2405.17767); inf if two have one direction. −log(2k/(k − 1))/2 at a simplex, the least there is.
        gnc2_std: Standard deviation of the same over pairs; 0 at a simplex.
        unc3: Standard deviation over classes of cos(w_c, μ_c − μ_G) (arXiv 2405.17767); None without a head.
        self_duality: Mean over classes of 1 − cos(w_c, μ_c − μ_G) (Jiang et al. 2024, arXiv 2310.05351), 0 to 2; None
            without a head.
        k: Number of classes that have samples.
        d: Dimensions of the features.
        classes: Their labels [k], ascending: the rows of `cdnv_pairs`.
        counts: Samples of each class [k].
        absent: Labels below num_classes that have no samples.
        missing: Why some metrics are None.
        one_vs_rest_distance: Least distance of a normalised μ_c − μ_G from the convex hull of the others (arXiv
            2310.05351), for more classes than dimensions too; k/(k − 1) at a simplex. Only with `all_measures`.
        one_vs_rest_distance_head: The same of the head's rows, as in the paper.
        spectra: VCI, H-score, RankMe and α-ReQ. Only with `all_measures`.
        ood: NC5 and NECO of samples from elsewhere. Only with `ood`.
        superclasses: The same measures of the same samples, labelled by superclass. Only with `superclasses`.
        reasons: Why a measure is None or NaN, by its name.
    """

    cdnv: float
    cdnv_median: float
    cdnv_worst: float
    worst_pair: tuple[Any, Any]
    cdnv_pairs: Float[np.ndarray, "k k"]
    coincident_pairs: Shaped[np.ndarray, "m 2"]
    debiased_cdnv: float
    debiased_cdnv_median: float
    unresolved_pairs: Shaped[np.ndarray, "u 2"]
    cdnv_by_class: Float[np.ndarray, " k"]
    directional_cdnv: float | None
    directional_cdnv_pairs: Float[np.ndarray, "k k"] | None
    variance_along: Float[np.ndarray, " k"] | None
    variance_across: Float[np.ndarray, " k"] | None
    nc1: float | None
    nc1_rank: int
    nc1_quotient: float
    nc2_equinorm: float
    nc2_equiangular: float
    nc3: float | None
    nc4: float | None
    ncc_accuracy: float | None
    ncc_accuracy_left_out: float | None
    nc2_etf_error: float
    nc2_etf_error_head: float | None
    nc3_etf_error: float | None
    mean_cosines: Float[np.ndarray, "k k"]
    gnc2_mean: float
    gnc2_std: float
    unc3: float | None
    self_duality: float | None
    k: int
    d: int
    classes: Shaped[np.ndarray, " k"]
    counts: Int[np.ndarray, " k"]
    absent: Shaped[np.ndarray, " a"]
    missing: str = ""
    one_vs_rest_distance: float | None = None
    one_vs_rest_distance_head: float | None = None
    spectra: Spectra | None = None
    ood: OutOfDistribution | None = None
    superclasses: "Collapse | None" = None
    reasons: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.table()

    def table(self, *, all_measures: bool = False) -> str:
        """Tabulates the measures of the papers on transfer and collapse; with `all_measures`, every number there is."""
        fewest, most = self.counts.min(), self.counts.max()
        per_class = f"{fewest}" if fewest == most else f"{fewest} to {most}"
        lines = [f"{self.k} classes, {per_class} samples each, {self.d} dimensions"]
        if len(self.absent):
            lines[0] += f"; {len(self.absent)} classes without samples left out: {list_classes(self.absent)}"
        worst = f"classes {self.worst_pair[0]} and {self.worst_pair[1]}"
        rows: list[Row] = [
            ("CDNV", self.cdnv, _pairs_note(self.coincident_pairs, "with coincident means")),
            ("  median", self.cdnv_median, ""),
            ("  worst", self.cdnv_worst, worst),
            ("  debiased", self.debiased_cdnv, _pairs_note(self.unresolved_pairs, "too near to tell apart")),
            ("  directional", self.directional_cdnv, ""),
            ("NC1", self.nc1, f"rank {self.nc1_rank}"),
            ("  quotient", self.nc1_quotient, ""),
            ("NC2 equinorm", self.nc2_equinorm, ""),
            ("NC2 equiangular", self.nc2_equiangular, ""),
            ("NC3", self.nc3, ""),
            ("NC4", self.nc4, ""),
            ("NCC accuracy", self.ncc_accuracy, ""),
        ]
        if self.superclasses is not None:
            rows.append(("superclass CDNV", self.superclasses.cdnv, f"{self.superclasses.k} superclasses"))
        width = 16
        if all_measures:
            rows += self._further_rows()
            width = 27
        shown = [f"{name:<{width}} {value:<12.6g} {note}".rstrip() for name, value, note in rows if value is not None]
        why = [f"no {name}: {reason}" for name, reason in self.all_reasons().items()] if all_measures else []
        return "\n".join(lines + shown + ([self.missing] if self.missing else []) + why)

    def all_reasons(self) -> dict[str, str]:
        """Returns why a measure is None or NaN, those of spectra and of samples from elsewhere too."""
        parts = [part.reasons for part in (self.spectra, self.ood) if part is not None]
        return {name: reason for reasons in (self.reasons, *parts) for name, reason in reasons.items()}

    def _further_rows(self) -> list[Row]:
        along = None
        if self.variance_along is not None and self.variance_across is not None:
            whole = self.variance_along + self.variance_across
            along = float(np.mean(self.variance_along / np.where(whole > 0, whole, 1.0)))
        rows: list[Row] = [
            ("debiased CDNV, median", self.debiased_cdnv_median, ""),
            ("variance along axes", along, "mean share of a class's variance on the axis to another class"),
            ("NCC accuracy, left out", self.ncc_accuracy_left_out, "each sample out of its own class mean"),
            ("NC2, ETF error", self.nc2_etf_error, ""),
            ("NC2 of the head, ETF error", self.nc2_etf_error_head, ""),
            ("NC3, ETF error", self.nc3_etf_error, ""),
            ("GNC2 mean", self.gnc2_mean, ""),
            ("GNC2 std", self.gnc2_std, ""),
            ("UNC3", self.unc3, ""),
            ("self-duality", self.self_duality, ""),
            ("one-vs-rest distance", self.one_vs_rest_distance, ""),
            ("  of the head", self.one_vs_rest_distance_head, ""),
        ]
        if self.spectra is not None:
            rows += [
                ("VCI", self.spectra.vci, f"rank {self.spectra.covariance_rank}"),
                ("H-score", self.spectra.h_score, ""),
                ("RankMe", self.spectra.rankme, ""),
                ("α-ReQ", self.spectra.alpha_req, ""),
            ]
        if self.ood is not None:
            rows += [
                ("NC5", self.ood.nc5, f"{self.ood.samples} samples from elsewhere"),
                ("NECO", self.ood.neco, f"{self.ood.components} components"),
                ("  from elsewhere", self.ood.neco_ood, ""),
                ("  AUROC", self.ood.neco_auroc, ""),
            ]
        if self.superclasses is not None:
            rows.append(("superclass directional", self.superclasses.directional_cdnv, ""))
        return rows

    def to_json(self, *, pairs: bool = False) -> str:
        """Returns one JSON object, with matrices and scores of samples if `pairs`; inf becomes "inf", NaN null."""
        return json.dumps(_object(self, () if pairs else _LARGE))


def _pairs_note(pairs: Shaped[np.ndarray, "m 2"], description: str) -> str:
    if len(pairs) == 0:
        return ""
    names = ", ".join(f"{i}–{j}" for i, j in pairs[:4]) + (" …" if len(pairs) > 4 else "")
    return f"{len(pairs)} pairs {description}: {names}"


def _object(value: Any, skip: tuple[str, ...]) -> dict[str, Any]:
    """Converts the fields of a dataclass to types that JSON has."""
    return {f.name: _plain(getattr(value, f.name), skip) for f in fields(value) if f.name not in skip}


def _plain(value: Any, skip: tuple[str, ...]) -> Any:
    if is_dataclass(value):
        return _object(value, skip)
    if isinstance(value, dict):
        return {name: _plain(v, skip) for name, v in value.items()}
    if isinstance(value, np.ndarray):
        return [_plain(v, skip) for v in value.tolist()]
    if isinstance(value, list | tuple):
        return [_plain(v, skip) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "inf"
    return value
