"""Makes the page of figures and tables."""

from collections.abc import Sequence

from bokeh.embed import components
from bokeh.resources import Resources

from ncjax.eval import COVERS
from ncjax.report import figures, panels, tables
from ncjax.report.detail import Detail
from ncjax.runs import Run
from ncjax.templates import render


def page(runs: Sequence[Run], detail: Detail | None, *, missing: str = "") -> str:
    """Writes the whole page as HTML text.

    Args:
      runs: at least one run.
      detail: panels of one of them; None leaves them out.
      missing: why there is no detail; shown where the panels would be.
    """
    names = tables.run_names(runs)
    focus = detail.run if detail is not None else runs[0]
    focus_name = names[runs.index(focus)]
    plots = {"cdnv": figures.plot_cdnv(runs, names), "accuracy": figures.plot_accuracy(runs, names)}
    if detail is not None:
        plots |= panels.plot_panels(detail)
    script, divs = components(plots)
    settings, differing = tables.settings(runs)
    return render(
        "report.html",
        bokeh="\n".join(Resources(mode="inline", components=["bokeh"]).js_raw),
        script=script,
        plots=divs,
        title=runs[0].folder.name if len(runs) == 1 else f"{len(runs)} runs",
        summary=tables.summary(runs, names),
        seeds=tables.over_seeds(runs),
        course=tables.measures(focus),
        course_name=focus_name,
        detail=tables.captions(detail, focus_name) if detail is not None else None,
        missing=missing,
        covers=COVERS,
        settings=settings,
        differing=differing,
        names=names,
    )
