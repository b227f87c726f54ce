"""Tables of the command `evaluate`."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ncjax.collapse import Collapse, CollapseIntervals, Interval, Theory
from ncjax.collapse.layers import LayerCollapse
from ncjax.eval import COVERS, EpisodeReport
from ncjax.eval.intervals import COLUMNS, WITHOUT, half_widths_note
from ncjax.measures import ARROWS, FEW_IMAGES, FIRST, MEASURES, MOST_NOISE, Measure, nc1_noise, nc1_noise_text
from ncjax.tables import Table

_COLUMNS = {
    "samples": ("with more images", "95 %, new images"),
    "classes": ("95 %, new classes",),
}


def collapse_table(
    measured: Collapse, intervals: Mapping[Any, CollapseIntervals], title: str, more: str = "", *, every: bool = False
) -> Table:
    """Tabulates measures of collapse, each with its intervals beside the estimate that they are of.

    Args:
      measured: the measures.
      intervals: by what they are over, "samples" or "classes".
      title: what the images are.
      more: a sentence about other images that could be measured.
      every: shows every measure, not `measures.FIRST` alone.
    """
    header = ["measure", "these images", *(column for over in intervals for column in _COLUMNS[over])]
    rows = []
    values = _scalars(measured)
    for name in MEASURES if every else FIRST:
        if name in values:
            measure = MEASURES[name]
            row = [f"{measure.name} {measure.arrow}".rstrip(), measure.number(values[name])]
            for over, of_measures in intervals.items():
                row += _interval_cells(measure, getattr(of_measures, name, None), over)
            rows.append(row)
    notes = [f"{ARROWS}.", *([more] if more else []), *_cautions(measured)]
    if "samples" in intervals:
        notes.append(
            'CDNV depends on the number of images. "With more images" estimates the value that infinitely many images '
            'of these classes would give. "95 %, new images" is the interval over samples, of that estimate: it covers '
            "other images of these same classes."
        )
    if "classes" in intervals:
        notes.append('"95 %, new classes" is the interval over classes: it covers as many other classes like these.')
    shown = [name for name in (MEASURES if every else FIRST) if name in values]
    notes += _missing_intervals(intervals, shown)
    if every:
        notes += [f"no {name}: {reason}" for name, reason in measured.all_reasons().items()]
    return Table(header, rows, title, notes + ([measured.missing] if measured.missing else []))


def _scalars(measured: Collapse) -> dict[str, float]:
    """Returns the numbers of a result and of its parts, by their names in `MEASURES`."""
    parts: list[Any] = [measured, *(part for part in (measured.spectra, measured.ood) if part is not None)]
    values = {name: value for part in parts for name, value in vars(part).items() if isinstance(value, int | float)}
    if measured.superclasses is not None:
        values["superclass_cdnv"] = measured.superclasses.cdnv
        if measured.superclasses.directional_cdnv is not None:
            values["superclass_directional_cdnv"] = measured.superclasses.directional_cdnv
    return values


def _missing_intervals(intervals: Mapping[Any, CollapseIntervals], shown: Sequence[str]) -> list[str]:
    """Says why measures have no interval, once for each reason."""
    names_of: dict[tuple[str, str], list[str]] = {}
    for name in shown:
        reasons = {
            over: of_measures.reasons[name] for over, of_measures in intervals.items() if name in of_measures.reasons
        }
        for reason in dict.fromkeys(reasons.values()):
            overs = " and ".join(over for over in reasons if reasons[over] == reason)
            names_of.setdefault((overs, reason.removeprefix("no interval: ")), []).append(MEASURES[name].name)
    return [f"No interval over {overs} of {'; '.join(names)}: {reason}." for (overs, reason), names in names_of.items()]


def _interval_cells(measure: Measure, interval: Interval | None, over: str) -> list[str]:
    ends = "–" if interval is None else f"{measure.number(interval.low)} to {measure.number(interval.high)}"
    if over == "classes":  # around the plain value, which has its column
        return [ends]
    return ["–" if interval is None else measure.number(interval.estimate), ends]


def _cautions(measured: Collapse) -> list[str]:
    """Says which numbers mean less than they seem to."""
    lines = []
    pairs = measured.k * (measured.k - 1) / 2
    share = measured.cdnv_worst / (pairs * measured.cdnv) if 0 < measured.cdnv < math.inf else 0.0
    worst = f"{measured.worst_pair[0]} and {measured.worst_pair[1]}"
    if pairs > 2 and share > 0.5:
        lines.append(
            f"CDNV hangs on one pair: {worst} make {100 * share:.0f} % of the mean; the median pair has "
            f"{measured.cdnv_median:.3g}."
        )
    else:
        lines.append(f"Worst pair: {worst}.")
    for kind, found in (("one mean", measured.coincident_pairs), ("no debiased CDNV", measured.unresolved_pairs)):
        if len(found):
            names = ", ".join(f"{a} and {b}" for a, b in found[:3]) + (" …" if len(found) > 3 else "")
            why = ": too few images tell their means apart" if kind.startswith("no") else ""
            lines.append(f"{len(found)} of {pairs:.0f} pairs of classes have {kind}{why}: {names}.")
    fewest = int(measured.counts.min())
    if fewest < FEW_IMAGES:
        lines.append(f"{fewest} images a class are few: plain CDNV is then mostly that of the noise of class means.")
    harmonic = len(measured.counts) / float((1 / measured.counts).sum())
    if measured.nc1_rank:
        noise = nc1_noise(measured.nc1, measured.nc1_quotient, measured.k, harmonic, measured.nc1_rank)
        if noise is not None and noise > MOST_NOISE:
            lines.append(f"NC1 is mostly noise: {nc1_noise_text(noise)}.")
    if len(measured.absent):
        lines.append(f"{len(measured.absent)} classes without images are left out.")
    return lines


def episodes_table(reports: Sequence[EpisodeReport], title: str = "") -> Table:
    """Tabulates accuracy of episodes, with each interval under what it covers."""
    header = ["task", "head", "accuracy, % ↑", *COLUMNS.values(), "episodes"]
    rows = [
        [
            f"{report.settings.ways}-way {report.settings.shots}-shot",
            _head(report),
            f"{100 * report.accuracy:.2f}",
            *(_half(getattr(report, name)) for name in COLUMNS),
            str(report.settings.episodes),
        ]
        for report in reports
    ]
    notes = [half_widths_note()]
    if any(not math.isnan(report.target_ci95) for report in reports):
        notes.append(f"{COLUMNS['target_ci95']} is the longer side of an interval that is not symmetric.")
    notes += [
        f"– under {COLUMNS[name]}: {WITHOUT[name]}."
        for name in COLUMNS
        if any(math.isnan(getattr(report, name)) for report in reports)
    ]
    notes += [f"{report}" for report in reports if report.not_converged]
    return Table(header, rows, title, notes, left=2)


def _head(report: EpisodeReport) -> str:
    settings = report.settings
    changes = "" if settings.transform == "none" else f", {settings.transform}"
    return settings.head + changes + (f", {n} augmentations" if (n := settings.support_augmentations) else "")


def _half(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.2f}"


def theory_table(theory: Theory, measured: Sequence[float]) -> Table:
    """Tabulates bounds and prediction of the NCC error beside the measured error, in percent."""

    def cell(value: float) -> str:
        return "–" if math.isnan(value) else f"{100 * value:.2f}"

    rows = [
        [f"bound: {name.strip()}", *("vacuous" if value > 1 else cell(value) for value in values)]
        for name, values in theory.bounds().items()
    ]
    rows.append(["predicted (no bound)", *map(cell, theory.predicted)])
    rows.append(["measured", *map(cell, measured)])
    return Table(
        ["NCC error, % ↓", *(f"{shots}-shot" for shots in theory.shots)],
        rows,
        f"theory: {theory.ways} ways of {theory.k} classes, {theory.d} dimensions, all images",
        [
            "A vacuous bound is above 100 %: no error can exceed it, so that it says nothing.",
            "– : the bound is not made for that number of shots, or there are too few images to predict.",
        ],
    )


def layers_table(through: LayerCollapse) -> Table:
    """Tabulates collapse at every stage of a network."""
    rows = [
        [
            str(number),
            str(stage.d),
            f"{stage.cdnv:.4g}",
            "–" if stage.ncc_accuracy is None else f"{100 * stage.ncc_accuracy:.2f}",
        ]
        for number, stage in enumerate(through.stages, 1)
    ]
    depth = through.effective_depth
    separating = "no stage" if depth is None else f"stage {depth}, the first"
    return Table(
        ["stage", "dimensions", "CDNV ↓", "nearest class mean, accuracy, % ↑"],
        rows,
        "through the layers, the same images",
        [f"effective depth: {separating} with an error of the nearest class mean of at most {through.tolerance:.1%}"],
    )


def encoders_tables(
    names: Sequence[str], measured: Sequence[Collapse], reports: Sequence[Sequence[EpisodeReport]]
) -> list[Table]:
    """Tabulates several encoders, and the paired differences from the first."""
    first = reports[0]
    kinds = [f"{report.settings.shots}-shot {report.settings.head}" for report in first]
    keys = ("cdnv", "debiased_cdnv", "directional_cdnv", "nc1")
    collapsed = [
        [name, str(collapse.d), *(_optional(getattr(collapse, key)) for key in keys)]
        for name, collapse in zip(names, measured, strict=True)
    ]
    accuracies = [
        [name, *(f"{100 * r.accuracy:.2f} ± {100 * r.ci95:.2f}" for r in of_encoder)]
        for name, of_encoder in zip(names, reports, strict=True)
    ]
    differences = []
    for name, of_encoder in zip(names[1:], reports[1:], strict=True):
        pairs = [report.compare(base) for report, base in zip(of_encoder, first, strict=True)]
        differences.append([name, *(f"{100 * p.difference:+.2f} ± {100 * p.ci95:.2f}" for p in pairs)])
    return [
        Table(
            ["encoder", "dimensions", *(f"{MEASURES[key].name} ↓" for key in keys)],
            collapsed,
            "encoders: collapse",
            [f"{ARROWS}."],
        ),
        Table(
            ["encoder", *(f"{kind} ↑" for kind in kinds)],
            accuracies,
            f"encoders: {first[0].settings.ways}-way accuracy, %",
            [f"± is the half width of a 95 % interval, which covers {COVERS['ci95']}."],
        ),
        Table(
            [f"less {names[0]}", *kinds],
            differences,
            "paired differences of accuracy, in points",
            ["± is the half width of a 95 % interval over the same episodes."],
        ),
    ]


def _optional(value: Any) -> str:
    return "–" if value is None else f"{value:.4g}"
