"""Figure sections that a task adds to the report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slpd_toolkit.core.figures.pictures import Picture


@dataclass(frozen=True)
class CaptionedFigure:
    """A figure of the report."""

    picture: Picture
    caption: str
    folded: str = ""
    """Title of the collapsible block that contains the figure; empty to always show it."""
    aggregator: str = ""
    """Aggregator of the figure: the block of the best one is expanded."""


@dataclass(frozen=True)
class FigureSection:
    """Figures under a common heading."""

    title: str
    figures: Sequence[CaptionedFigure]
