"""A small page per predicted slide, and a page that lists them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from slpd_toolkit.core.figures.number_format import number
from slpd_toolkit.core.version import __version__
from slpd_toolkit.report.attention import encoded, in_small
from slpd_toolkit.report.model_card import decision_rule, distance_sentence
from slpd_toolkit.report.overlays import colour_values, draw_overlay
from slpd_toolkit.report.pages import render
from slpd_toolkit.report.prediction_table import output_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slpd_toolkit.core.failures import Failure
    from slpd_toolkit.mil.bundle.bundle import Bundle, Predictions
    from slpd_toolkit.report.scores import SlideScores
    from slpd_toolkit.report.thumbnails import WholeSlide

_SIDE_PX = 480


def slide_page(
    bundle: Bundle, found: Predictions, row: int, scores: SlideScores | None, whole: WholeSlide | None
) -> str:
    """Return the page of one slide.

    Args:
        bundle: The heads.
        found: Predictions of all slides.
        row: Position of the slide.
        scores: Attention of its regions with their coordinates; None for heads without attention or coordinates.
        whole: Thumbnail of the slide; None if its file is not available.
    """
    outputs, spread = found.outputs[row].tolist(), found.spread[row].tolist()
    return render(
        "prediction.html",
        slide=found.slides[row],
        version=__version__,
        bundle=bundle,
        decision=found.decisions[row],
        rule=decision_rule(bundle),
        outputs=[
            (name.removeprefix("probability_"), number(value), number(sd), _bar(value, name))
            for name, value, sd in zip(output_names(bundle), outputs, spread, strict=True)
        ],
        heads=len(found.heads),
        unusual=found.unusual[row],
        distance=number(float(found.distances[row])),
        distance_sentence=distance_sentence(bundle),
        pictures=_pictures(scores, whole),
    )


def index_page(bundle: Bundle, found: Predictions, failures: Sequence[Failure]) -> str:
    """Return the page that lists all slides, and those that failed."""
    rows = [
        {
            "slide": slide,
            "page": quote(f"{slide}.html"),
            "decision": found.decisions[row],
            "outputs": [number(value) for value in found.outputs[row].tolist()],
            "distance": number(float(found.distances[row])),
            "unusual": found.unusual[row],
        }
        for row, slide in enumerate(found.slides)
    ]
    names = [name.removeprefix("probability_") for name in output_names(bundle)]
    return render(
        "predictions.html",
        version=__version__,
        bundle=bundle,
        names=names,
        rows=rows,
        failures=failures,
        distance_sentence=distance_sentence(bundle),
    )


def _bar(value: float, name: str) -> float | None:
    """Return the length of a bar in percent; None for values that are not shares."""
    return None if name in {"risk", "predicted"} else round(100 * min(max(value, 0.0), 1.0), 1)


def _pictures(scores: SlideScores | None, whole: WholeSlide | None) -> list[tuple[str, Any]]:
    pictures = [] if whole is None else [("slide", encoded(in_small(whole.rgb), "JPEG"))]
    if scores is not None:
        pixels = whole.rgb if whole is not None and whole.size_l0 == scores.slide_size_l0 else None
        overlay = draw_overlay(scores, colour_values(scores.scores, "rank"), pixels, _SIDE_PX)
        pictures.append(
            ("attention, by rank within the slide", encoded(overlay.rgb, "PNG" if pixels is None else "JPEG"))
        )
    return pictures
