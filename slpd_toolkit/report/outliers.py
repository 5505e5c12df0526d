"""Slides that differ from their cohort in share of tissue, color, focus or resolution."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

FEWEST_SLIDES = 8
"""Smallest cohort in which slides are compared."""
_FAR = 4.0
"""Robust standard deviations (1.4826 x the median absolute deviation) from the median at which a slide is flagged."""


@dataclass(frozen=True)
class _Measure:
    """A measure: its format, the smallest deviation worth checking, and the directions that count as outliers."""

    text: str
    least: float
    low_only: bool = False
    log: bool = False


_MEASURES = {
    "tissue_share": _Measure("share of tissue {:.1%}, median {:.1%}", 0.4, log=True),
    "red": _Measure("mean red {:.0f}, median {:.0f}", 15.0),
    "green": _Measure("mean green {:.0f}, median {:.0f}", 15.0),
    "blue": _Measure("mean blue {:.0f}, median {:.0f}", 15.0),
    "focus": _Measure("focus {:.3g}, median {:.3g}: blurred", 0.4, low_only=True, log=True),
    "mpp_l0": _Measure("{:.4g} um/px at level 0, median {:.4g}", 0.2, log=True),
}


def find_outliers(slides: Mapping[str, Mapping[str, float]]) -> dict[str, list[str]]:
    """Find slides that stand out.

    Args:
        slides: Slide id -> measures by name: `tissue_share`, `red`, `green`, `blue`, `focus`, `mpp_l0`; those that are
            missing are not compared.

    Returns:
        Slide ID -> deviations, most conspicuous slides first.
    """
    flags: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for name, measure in _MEASURES.items():
        raw = {slide_id: values[name] for slide_id, values in slides.items() if values.get(name, 0) > 0}
        if len(raw) < FEWEST_SLIDES:
            continue
        numbers = np.array(list(raw.values()))
        compared = np.log(numbers) if measure.log else numbers
        middle = float(np.median(compared))
        spread = max(1.4826 * float(np.median(np.abs(compared - middle))), measure.least / _FAR)
        for slide_id, value, where in zip(raw, numbers.tolist(), ((compared - middle) / spread).tolist(), strict=True):
            if (-where if measure.low_only else abs(where)) > _FAR:
                flags[slide_id].append((abs(where), measure.text.format(value, float(np.median(numbers)))))
    ordered = sorted(flags.items(), key=lambda item: -max(item[1])[0])
    return {slide_id: [text for _, text in sorted(found, reverse=True)] for slide_id, found in ordered}
