"""Which measure ranks models as their accuracy does: the correlations of all measures, as tables and as a figure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from common import measures
from common.model_scores import Scores
from common.rank_correlation import (
    Correlation,
    compare,
    correlate,
    groups_of,
    rank_correlation,
    weighted_tau,
)
from ncjax import plots
from ncjax.statistics import FEWEST
from ncjax.tables import TableFormat, format_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Column = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Rank:
    """How one measure ranks the models by one accuracy.

    Attributes:
      measure: name of the measure.
      outcome: name of the accuracy.
      direction: 1 if larger values of the measure count as better, -1 if smaller, None if not declared (then larger).
      tau: Kendall's τ_w of the measure, so directed, and the accuracy.
      rho: Spearman's ρ.
      behind_best: the best measure's τ_w less this one's.
    """

    measure: str
    outcome: str
    direction: int | None
    tau: Correlation
    rho: Correlation
    behind_best: Correlation


@dataclass(frozen=True)
class Ranking:
    """All measures' correlations with all accuracies, over the same models.

    Attributes:
      scores: the models.
      ranks: the correlations by accuracy, the largest τ_w first, measures without one last.
      independent: number of models that are independent evidence.
    """

    scores: tuple[Scores, ...]
    ranks: dict[str, tuple[Rank, ...]]
    independent: int

    @classmethod
    def of(cls, scores: Sequence[Scores]) -> Ranking:
        """Correlates every measure that some model has with every accuracy that varies."""
        groups = groups_of([score.candidate.group for score in scores])
        columns = _columns(scores)
        ranks = {}
        for outcome in scores[0].outcomes:
            accuracy = _stack([score.outcomes[outcome] for score in scores])
            relevant = {name: column for name, column in columns.items() if _belongs(name, outcome, columns)}
            ranks[outcome] = _ranks(relevant, outcome, accuracy, groups)
        return cls(tuple(scores), ranks, len(groups))

    def verdict(self, outcome: str) -> str:
        """Says in a line or two whether models are enough to tell measures apart, and which cannot be."""
        ranks = [rank for rank in self.ranks[outcome] if not math.isnan(rank.tau.value)]
        if not ranks:
            return f"{outcome}: no measure has a rank correlation"
        best = ranks[0]
        count = f"{len(self.scores)} models, {self.independent} of them independent"
        if self.independent < FEWEST:
            return (
                f"{outcome}: {count}, are too few to tell measures apart: an interval over models takes {FEWEST} that "
                "are neither checkpoints of one run nor seeds of one configuration"
            )
        worse = [rank.measure for rank in ranks[1:] if rank.behind_best.over_models.low > 0]
        if not worse:
            return f"{outcome}: {count}, are too few to tell any measure from the best, {best.measure}"
        others = len(ranks) - 1 - len(worse)
        return (
            f"{outcome}: best {best.measure}, τ_w {best.tau.value:.2f}; behind it {', '.join(worse)}, by 95 % "
            "intervals of the difference over models, each by itself; "
            f"{others} others cannot be told from it by {count}"
        )

    def difference(self, outcome: str, first: str, second: str) -> Correlation:
        """Returns τ_w of one measure less that of another, both as they rank the models by this accuracy."""
        columns = _columns(self.scores)
        accuracy = _stack([score.outcomes[outcome] for score in self.scores])
        groups = groups_of([score.candidate.group for score in self.scores])
        return compare(_directed(first, columns[first]), _directed(second, columns[second]), accuracy, groups)

    def table(self, outcome: str, style: TableFormat = "text") -> str:
        """Returns the table of one accuracy: each measure's τ_w and ρ with both intervals."""
        rows = []
        for rank in self.ranks[outcome]:
            cells = [rank.measure, _DIRECTIONS[rank.direction]]
            for correlation in (rank.tau, rank.rho):
                value = "–" if math.isnan(correlation.value) else f"{correlation.value:.2f}"
                cells += [value, str(correlation.over_classes), str(correlation.over_models)]
            rows.append([*cells, rank.tau.reason])
        both = ["over classes", "over models"]
        return format_table(["measure", "better", "τ_w", *both, "ρ", *both, ""], rows, style)

    def models(self, style: TableFormat = "text", *, every: bool = False) -> str:
        """Returns the table of models: accuracies and, unless `every`, the main measures."""
        names = [
            name for name in _columns(self.scores) if every or name in _MAIN or name.startswith(measures.PREDICTED)
        ]
        rows = []
        for score in self.scores:
            row = [score.candidate.name]
            for outcome, column in score.outcomes.items():
                half = score.ci95.get(outcome)
                row.append(f"{100 * column[0]:.2f}" + ("" if half is None else f" ± {100 * half:.2f}"))
            rows.append(row + [f"{score.measures[name][0]:.4g}" if name in score.measures else "–" for name in names])
        return format_table(["model", *(f"{name} (%)" for name in self.scores[0].outcomes), *names], rows, style)

    def to_json(self) -> dict[str, Any]:
        """Returns every number."""
        models = {
            score.candidate.name: {
                "group": score.candidate.group,
                "accuracy": {name: column[0] for name, column in score.outcomes.items()},
                "ci95": score.ci95,
                "measures": {name: column[0] for name, column in score.measures.items()},
            }
            for score in self.scores
        }
        ranks = {outcome: [asdict(rank) for rank in rows] for outcome, rows in self.ranks.items()}
        return {"models": models, "independent": self.independent, "ranks": ranks}

    def draw(self, outcomes: Sequence[str], title: str) -> Figure:
        """Draws τ_w of every measure as horizontal bars, a panel for each accuracy."""
        most = max(len(self.ranks[outcome]) for outcome in outcomes)
        figure = plots.new_figure(6.2 * len(outcomes), 1.8 + 0.27 * most, title)
        panels = figure.subplots(1, len(outcomes), squeeze=False)[0]
        for axes, outcome in zip(panels, outcomes, strict=True):
            draw_panel(axes, outcome, self.ranks[outcome])
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize="small")
        return figure


_DIRECTIONS = {1: "larger", -1: "smaller", None: "larger?"}
_MAIN = ("cdnv", "debiased_cdnv", "directional_cdnv", "logme", *measures.BASELINES)
_COLORS = {"measure": "#0072B2", "prediction": "#009E73", "baseline": "#999999"}


def _stack(columns: Sequence[np.ndarray]) -> np.ndarray:
    """Stacks [1 + k] columns of models; only the first entry where some model has no more."""
    shortest = min(map(len, columns))
    return np.stack([column[: shortest if shortest == max(map(len, columns)) else 1] for column in columns])


def _columns(scores: Sequence[Scores]) -> dict[str, Column]:
    """Returns, for each measure that some model has, its values of the rows of some models [m, 1 + k]."""
    names = list(dict.fromkeys(name for score in scores for name in score.measures))
    stacked = {name: _stack([score.measures.get(name, np.array([math.nan])) for score in scores]) for name in names}
    columns: dict[str, Column] = {}
    for name, values in stacked.items():
        if name not in measures.NCTI_PARTS and not np.isnan(values[:, 0]).all():
            columns[name] = values.__getitem__
    if all(name in stacked for name in measures.NCTI_PARTS):
        parts = np.stack([stacked[name] for name in measures.NCTI_PARTS])
        if np.isfinite(parts[:, :, 0]).any():
            columns["ncti"] = lambda rows: measures.combine_ncti(parts[:, rows])
    return columns


def _predicts(name: str) -> bool:
    return name.startswith(measures.PREDICTED)


def _belongs(name: str, outcome: str, columns: dict[str, Column]) -> bool:
    """Whether a measure is for this accuracy: the prediction for its own number of shots, where there is one."""
    if not _predicts(name):
        return True
    own = [other for other in columns if _predicts(other) and _shots(other) == _shots(outcome)]
    return not own or name in own


def _shots(name: str) -> str:
    """The number of shots at the end of the name of a few-shot accuracy or a prediction, such as "5s"."""
    return name.split()[-1].split("w")[-1]


def _directed(name: str, column: Column) -> Column:
    """Turns the sign where smaller is better."""
    sign = -1.0 if measures.direction(name) == -1 else 1.0
    return lambda rows: sign * column(rows)


def _ranks(
    columns: dict[str, Column], outcome: str, accuracy: np.ndarray, groups: Sequence[np.ndarray]
) -> tuple[Rank, ...]:
    directed = {name: _directed(name, column) for name, column in columns.items()}
    taus = {name: correlate(weighted_tau, column, accuracy, groups) for name, column in directed.items()}
    ordered = sorted(taus, key=lambda name: (math.isnan(taus[name].value), -taus[name].value))
    best = ordered[0]

    return tuple(
        Rank(
            name,
            outcome,
            measures.direction(name),
            taus[name],
            correlate(rank_correlation, directed[name], accuracy, groups),
            compare(directed[best], directed[name], accuracy, groups),
        )
        for name in ordered
    )


def draw_panel(axes: Axes, outcome: str, ranks: Sequence[Rank]) -> None:
    """Draws one panel, the best measure on top; intervals over classes above those over models."""
    rows = np.arange(len(ranks))
    kinds = [
        "baseline" if rank.measure in measures.BASELINES else "prediction" if _predicts(rank.measure) else "measure"
        for rank in ranks
    ]
    for kind, color in _COLORS.items():
        chosen = [i for i, name in enumerate(kinds) if name == kind]
        axes.barh(chosen, [ranks[i].tau.value for i in chosen], color=color, alpha=0.45, label=kind)
    for attribute, shift, color in (("over_classes", -0.2, "#000000"), ("over_models", 0.2, "#D55E00")):
        for row, rank in zip(rows, ranks, strict=True):
            interval = getattr(rank.tau, attribute)
            if interval.exists:
                axes.plot([interval.low, interval.high], [row + shift] * 2, color=color, linewidth=1.4)
        axes.plot([], [], color=color, linewidth=1.4, label=f"95 % {attribute.replace('_', ' ')}")
    for row, rank in zip(rows, ranks, strict=True):
        if math.isnan(rank.tau.value):
            axes.text(0.02, float(row), rank.tau.reason, fontsize=6, va="center", color="#666666")
    marked = [f"{rank.measure} (larger?)" if rank.direction is None else rank.measure for rank in ranks]
    axes.set_yticks(rows, [name.replace("_", " ") for name in marked], fontsize=8)
    axes.set_ylim(len(ranks) - 0.4, -0.6)
    axes.set_xlim(-1.05, 1.05)
    axes.axvline(0, color="#666666", linewidth=0.8)
    axes.set_xlabel("Kendall's τ_w with accuracy, 1 is the same order", parse_math=False)
    axes.set_title(outcome, fontsize=10)
    plots.plain_axes(axes)
    axes.grid(axis="y", visible=False)
