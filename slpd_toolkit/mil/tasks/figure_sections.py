"""What a task's figures hand to the report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slpd_toolkit.figures.pictures import Picture


@dataclass(frozen=True)
class CaptionedFigure:
    """A figure of the report."""

    picture: Picture
    caption: str
    folded: str = ""
    """Title of the fold that hides it; empty shows it at once."""
    aggregator: str = ""
    """The aggregator it belongs to: the fold of the best one is open."""


@dataclass(frozen=True)
class FigureSection:
    """Figures under one heading."""

    title: str
    figures: Sequence[CaptionedFigure]
