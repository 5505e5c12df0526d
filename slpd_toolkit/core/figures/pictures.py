"""SVG figures in a shared style: output is reproducible byte for byte, and names are never parsed as formulas."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from itertools import cycle, islice
from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib.figure import Figure

from slpd_toolkit.core.figures.fonts import FAMILY, frames_without_warning, use_fonts
from slpd_toolkit.core.figures.number_format import short

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from matplotlib.axes import Axes

    Line = str | tuple[int, tuple[int, ...]]

COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bb5500", "#888888")
"""Paul Tol's color-blind-safe bright scheme; the ninth entry reuses the first color."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES: tuple[Line, ...] = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)))

PANEL_INCHES = (3.45, 3.35)
WIDEST_INCHES = 10.4
GREY = "#888888"
_STYLE: dict[Any, Any] = {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "font.family": FAMILY,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "svg.hashsalt": "slpd",
    "text.parse_math": False,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
}


@dataclass(frozen=True)
class Picture:
    """A figure of the report."""

    name: str
    """File name without suffix."""
    title: str
    """Alternative text."""
    svg: str
    width: int
    """CSS px."""
    unwritten: frozenset[str] = frozenset()
    """Characters that no installed font has; each is drawn as a box."""

    @property
    def uri(self) -> str:
        """The figure as a data URI, so that its element ids cannot clash with those of other figures."""
        return f"data:image/svg+xml;base64,{base64.b64encode(self.svg.encode()).decode()}"


@dataclass(frozen=True)
class Look:
    """Appearance of a model in every figure. Color, marker and line style each identify it."""

    label: str
    colour: str
    marker: str
    line: Line


def looks(names: Sequence[str]) -> dict[str, Look]:
    """Assign a look to each model, in order; the ninth model reuses the first look."""
    styles = islice(cycle(zip(COLOURS, MARKERS, LINES, strict=True)), len(names))
    return {name: Look(short(name), *style) for name, style in zip(names, styles, strict=True)}


def picture(name: str, title: str, size: tuple[float, float], draw: Callable[[Figure], None]) -> Picture:
    """Draw a figure.

    Args:
        name: File name without suffix.
        title: Alternative text.
        size: Width and height, inches.
        draw: Draws the contents.
    """
    with mpl.rc_context(_STYLE), frames_without_warning():
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        unwritten = use_fonts(figure)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Title": title})
    return Picture(name, title, buffer.getvalue(), round(size[0] * 96), unwritten)


def panels(name: str, title: str, count: int, draw: Callable[[int, Axes], None], *, columns: int = 3) -> Picture:
    """Draw a grid of equal panels.

    Args:
        name: File name without suffix.
        title: Alternative text.
        count: Number of panels.
        draw: Draws one panel.
        columns: Maximum number of panels per row.
    """
    across = min(count, columns)
    down = -(-count // across)
    side = min(PANEL_INCHES[0] * 1.25, WIDEST_INCHES / across)

    def fill(figure: Figure) -> None:
        grid = figure.subplots(down, across, squeeze=False)
        for index, axes in enumerate(grid.flat):
            if index < count:
                draw(index, axes)
            else:
                axes.set_visible(False)

    return picture(name, title, (side * across, side * PANEL_INCHES[1] / PANEL_INCHES[0] * down), fill)
