"""Attention maps of selected slides in the report, one per model, side by side."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from slpd_toolkit.report.mean_attention import mean_attention
from slpd_toolkit.report.overlays import colour_values, draw_overlay
from slpd_toolkit.report.scores import slide_scores

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy.typing as npt

    from slpd_toolkit.mil.arrays import FloatArray
    from slpd_toolkit.mil.statistics.results import Representation, Result
    from slpd_toolkit.mil.tasks.cases import Case, Choice
    from slpd_toolkit.report.thumbnails import WholeSlide

    RGB = npt.NDArray[np.uint8]

_SLIDES = 4
_MODELS = 4
_SIDE_PX = 300
_JPEG_QUALITY = 80


@dataclass(frozen=True)
class AttendedSlide:
    """One slide."""

    case: Case
    thumbnail: str
    """Data URI; empty if there are no pixels."""
    pictures: Sequence[tuple[str, str]]
    """Model, and data URI of its overlay."""


@dataclass(frozen=True)
class Attention:
    """The attention section of the report."""

    aggregator: str
    model: str
    """Model that the slides were selected by."""
    unseen: int
    """Number of models with attention that are not shown."""
    slides: Mapping[str, Sequence[AttendedSlide]]
    """Heading -> slides."""


def show_attention(
    representations: Sequence[Representation],
    choices: Sequence[tuple[Result, Choice]],
    thumbnails: Callable[[str], WholeSlide | None],
) -> Attention | None:
    """Show the best aggregator with attention, on the slides that its best model predicts best and worst.

    Args:
        representations: Representations, in the order of the images.
        choices: Results, best first, with their slides.
        thumbnails: Maps a slide ID to the whole slide, or None.

    Returns:
        None if no aggregator has attention, or no bag has coordinates.
    """
    placed = {each.name: each for each in representations if each.places is not None}
    scored = {(each.model, each.aggregator): mean_attention(each) for each, _ in choices if each.model in placed}
    best = next(((each, choice) for each, choice in choices if scored.get((each.model, each.aggregator))), None)
    if best is None:
        return None
    result, choice = best
    attention = {name: scored[name, result.aggregator] for name in placed if scored.get((name, result.aggregator))}
    shown = {name: attention[name] for name in list(attention)[:_MODELS]}

    def show(case: Case) -> AttendedSlide:
        whole = thumbnails(case.slide_id)
        pictures = [(name, _overlay(placed[name], case.row, each[case.row], whole)) for name, each in shown.items()]
        return AttendedSlide(case, "" if whole is None else encoded(in_small(whole.rgb), "JPEG"), pictures)

    wrong = [case for case in choice.hardest if not case.right]
    slides = {
        "Right, and most confident": [show(case) for case in choice.surest[:_SLIDES]],
        "Wrong, and furthest off": [show(case) for case in wrong[:_SLIDES]],
    }
    return Attention(result.aggregator, result.model, len(attention) - len(shown), slides)


def _overlay(representation: Representation, row: int, shares: FloatArray, whole: WholeSlide | None) -> str:
    """Draw the squares, on the slide's pixels if the slide has the size that the squares belong to."""
    assert representation.places is not None
    slide = slide_scores(representation.places, representation, row, shares)
    pixels = whole.rgb if whole is not None and whole.size_l0 == slide.slide_size_l0 else None
    overlay = draw_overlay(slide, colour_values(slide.scores, "rank"), pixels, _SIDE_PX)
    return encoded(overlay.rgb, "PNG" if pixels is None else "JPEG")


def in_small(rgb: RGB) -> RGB:
    """Scale a thumbnail down for a page."""
    picture = Image.fromarray(rgb)
    picture.thumbnail((_SIDE_PX, _SIDE_PX))
    return np.asarray(picture, np.uint8)


def encoded(rgb: RGB, kind: str) -> str:
    """Encode an image as a data URI: JPEG for pixels, PNG for flat colors."""
    buffer = io.BytesIO()
    if kind == "PNG":
        Image.fromarray(rgb).quantize(256).save(buffer, "PNG", optimize=True)
    else:
        Image.fromarray(rgb).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
