"""HTML pages from the templates of this package."""

from __future__ import annotations

from functools import cache
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from slpd_toolkit.config.view import ViewConfig
from slpd_toolkit.core.text import count

VIEWER = f"http://127.0.0.1:{ViewConfig.port}/"
"""Address of `slpd view` with the default port."""


def render(template: str, /, **values: Any) -> str:
    """Render a template of `report/templates/`; undefined names are an error."""
    return _templates().get_template(template).render(values)


def viewer_link(slide_id: str, layers: str = "") -> str:
    """Return the address of a slide in a running `slpd view` with the default port.

    Args:
        slide_id: The slide.
        layers: Layers to show, as in the address of the viewer: `attention:50`.
    """
    return f"{VIEWER}#slide={quote(slide_id, safe='')}" + (f"&layers=regions:80,{layers}" if layers else "")


@cache
def _templates() -> Environment:
    templates = Environment(
        loader=PackageLoader("slpd_toolkit.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["count_of"] = count
    templates.filters["fragment"] = quote
    templates.filters["in_viewer"] = viewer_link
    return templates
