"""One self-contained HTML page about runs: curves to hover over, panels of one run's target classes, and tables.

`detail` computes, `figures` and `panels` draw, `tables` writes numbers as text, and `document` makes the page of them.
Needs Bokeh, which the extra `report` installs: `pip install -e ".[report]"`.
"""

from ncjax.eval import confusion_rates
from ncjax.report.detail import (
    Detail,
    examine,
    examine_encoder,
    examine_split,
    initial,
    principal_components,
)
from ncjax.report.html_page import page
from ncjax.report.tables import run_names

__all__ = [
    "Detail",
    "confusion_rates",
    "examine",
    "examine_encoder",
    "examine_split",
    "initial",
    "page",
    "principal_components",
    "run_names",
]
