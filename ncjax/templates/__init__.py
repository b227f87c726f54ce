"""HTML pages, made from the templates in this folder, which share a head and a style sheet.

Needs Jinja2, which the extra `report` installs: `pip install -e ".[report]"`.
"""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2


def render(template: str, **values: Any) -> str:
    """Fills in a template; text is escaped, and a value that is missing raises `jinja2.UndefinedError`."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(template).render(version=version("ncjax"), **values)
