"""Makes the page of figures and tables."""

from collections.abc import Sequence
from typing import Any

from bokeh.embed import components
from bokeh.resources import Resources

from ncjax.errors import InputError
from ncjax.eval import COVERS
from ncjax.measures import ARROWS
from ncjax.plots import CONFIGURATION_COLORS
from ncjax.report import figures, panels, tables
from ncjax.report.detail import Detail
from ncjax.runs import Run
from ncjax.runs.comparison import names_and_data
from ncjax.templates import render


def page(runs: Sequence[Run], detail: Detail | None, *, missing: str = "") -> str:
    """Writes the whole page as HTML text.

    Args:
      runs: the runs; none for a page of an encoder.
      detail: panels of one of the runs, or of an encoder; None leaves them out.
      missing: why there is no detail; shown where the panels would be.

    Raises:
      InputError: if there is neither a run nor an encoder.
    """
    if not runs and detail is None:
        raise InputError("a page needs a run or an encoder")
    names = tables.run_names(runs) if runs else []
    focus = detail.run if detail is not None and detail.run is not None else next(iter(runs), None)
    focus_name = "" if detail is None else detail.name
    if focus is not None:
        focus_name = names[runs.index(focus)]
    courses = by_data(runs, names)
    plots: dict[str, Any] = {}
    for number, of_data in enumerate(courses.values()):
        plots |= {f"cdnv_{number}": figures.plot_cdnv(of_data), f"accuracy_{number}": figures.plot_accuracy(of_data)}
    if detail is not None:
        plots |= panels.plot_panels(detail)
    script, divs = components(plots)
    settings, differing = tables.settings(runs) if runs else ([], None)
    return render(
        "report.html",
        bokeh="\n".join(Resources(mode="inline", components=["bokeh"]).js_raw),
        script=script,
        plots=divs,
        title=_title(runs) or focus_name,
        summary=tables.summary(runs, names) if runs else None,
        seeds=tables.over_seeds(runs),
        cautions=tables.cautions_of(runs, names),
        courses=list(courses),
        course=tables.measures(focus) if focus is not None else None,
        course_name=focus_name,
        detail=tables.captions(detail, focus_name) if detail is not None else None,
        missing=missing,
        covers=COVERS,
        settings=settings,
        differing=differing,
        names=names,
        arrows=ARROWS,
        legend=tables.legend(),
    )


def by_data(runs: Sequence[Run], names: Sequence[str]) -> dict[str, list[figures.Course]]:
    """Groups runs by their target data, each in the color of its configuration if there are several."""
    named = names_and_data(runs)
    configurations = list(dict.fromkeys(name for name, _ in named))
    courses: dict[str, list[figures.Course]] = {}
    for number, (run, name, (configuration, data)) in enumerate(zip(runs, names, named, strict=True)):
        if len(configurations) == 1:
            course = figures.Course(run, name, str(number + 1))
        else:
            color = CONFIGURATION_COLORS[configurations.index(configuration) % len(CONFIGURATION_COLORS)]
            course = figures.Course(run, f"{configuration}; {name}", configuration, color)
        courses.setdefault(data, []).append(course)
    return courses


def _title(runs: Sequence[Run]) -> str:
    if len(runs) == 1:
        return runs[0].folder.name
    return f"{len(runs)} runs" if runs else ""
