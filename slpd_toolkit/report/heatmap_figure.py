"""A heatmap as PNG: the overlay with level-0 px axes and a color bar."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from slpd_toolkit.core.figures.fonts import FAMILY, frames_without_warning, use_fonts
from slpd_toolkit.core.figures.number_format import short
from slpd_toolkit.core.files import atomic_path
from slpd_toolkit.report.overlays import COLOUR_MAP

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any, Literal

    from slpd_toolkit.mil.arrays import FloatArray
    from slpd_toolkit.report.overlays import Overlay

_DPI = 120
_BAR_INCHES = 1.9
_FRAME_INCHES = 0.9
_TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)
_LEAST_INCHES = 3.2
_STYLE: dict[Any, Any] = {"font.family": FAMILY, "text.parse_math": False, "font.size": 9}


def write_heatmap(
    path: Path, title: str, overlay: Overlay, scores: FloatArray, scale: Literal["rank", "linear"]
) -> None:
    """Write the image atomically.

    Args:
        path: PNG file.
        title: Slide, model and aggregator.
        overlay: From `overlays.draw_overlay`.
        scores: (n,) scores, for the ticks of the color bar.
        scale: Color scale.
    """
    left, top, right, bottom = overlay.box_l0
    height, width = (max(side / _DPI, _LEAST_INCHES) for side in overlay.rgb.shape[:2])
    with mpl.rc_context(_STYLE), frames_without_warning():
        figure = Figure(figsize=(width + _BAR_INCHES, height + _FRAME_INCHES), dpi=_DPI, layout="constrained")
        axes = figure.subplots()
        axes.imshow(overlay.rgb, extent=(left, right, bottom, top), interpolation="antialiased")
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_xlabel("x (level-0 px)")
        axes.set_ylabel("y (level-0 px)")
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.locator_params(nbins=6)
        axes.tick_params(labelsize=7)
        bar = figure.colorbar(ScalarMappable(Normalize(0, 1), COLOUR_MAP), ax=axes, shrink=0.7, fraction=0.05)
        ticks = [f"{value:.3g}" for value in _scores_at(scores, scale)]
        if scale == "rank":
            ticks = [f"{tick:g} (score {value})" for tick, value in zip(_TICKS, ticks, strict=True)]
        bar.set_ticks(_TICKS, labels=ticks)
        bar.ax.tick_params(labelsize=8)
        bar.set_label(_MEANING[scale], fontsize=9)
        use_fonts(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", bbox_inches="tight", metadata={"Software": None})
    with atomic_path(path) as partial:
        partial.write_bytes(buffer.getvalue())


_MEANING = {
    "rank": "rank of the score within the slide (0 lowest, 1 highest)",
    "linear": "score, from the slide's lowest to its highest",
}


def heading(slide_id: str, model: str, aggregator: str) -> str:
    """Return a title with the slide, model and aggregator."""
    whose = " · ".join(short(name) for name in (model, aggregator) if name)
    return f"{slide_id}\n{whose}" if whose else slide_id


def _scores_at(scores: FloatArray, scale: Literal["rank", "linear"]) -> list[float]:
    if scale == "rank":
        return [float(value) for value in np.quantile(scores, _TICKS)]
    low, high = float(scores.min()), float(scores.max())
    return [low + tick * (high - low) for tick in _TICKS]
