"""Sphinx builds the pages of docs/ with this: `make docs`. Nothing is fetched, neither at building nor at reading."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[1]))

from slpd_toolkit import __version__
from slpd_toolkit.api.calls import SETTINGS

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "slpd_toolkit"
author = "The slpd_toolkit developers"
copyright = author  # noqa: A001 - Sphinx's name
version = release = __version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "docs._ext.reference", "docs._ext.mathml"]
exclude_patterns = ["_build"]
default_role = "code"  # docstrings put names between single backticks

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "force"  # the notebook runs whenever the pages are built
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_merge_streams = True
nb_ipywidgets_js: dict[str, dict[str, str]] = {}  # they would be fetched
suppress_warnings = ["ref.python"]  # shapes in docstrings look like references

html_theme = "furo"
html_title = f"slpd_toolkit {version}"
html_static_path: list[str] = []
html_show_copyright = False
html_copy_source = False
html_math_renderer = "mathml"

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # shapes and units stand in the docstrings
nitpick_ignore_regex = [("py:.*", ".*")]  # classes of Python and numpy, whose pages would have to be fetched


def setup(app: "Sphinx") -> None:
    """Leave the list of settings out of the functions' descriptions: it has a separate page."""
    app.connect("autodoc-process-docstring", _cut_settings, priority=100)  # before napoleon reads it


def _cut_settings(_app: "Sphinx", _kind: str, _name: str, _object: object, _options: object, lines: list[str]) -> None:
    if SETTINGS in lines:
        del lines[lines.index(SETTINGS) :]
