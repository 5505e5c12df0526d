"""Fonts for characters of any script: DejaVu Sans, then installed fonts for the characters it lacks."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING
from unicodedata import category

from matplotlib.font_manager import findfont, fontManager
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.figure import Figure

FAMILY = "DejaVu Sans"
"""Shipped with matplotlib."""
_STAND_IN = "Last Resort"
"""Also shipped with matplotlib; draws every character as a box."""


def use_fonts(figure: Figure) -> frozenset[str]:
    """Set the fonts required by the texts of a figure; call it just before saving the figure.

    Returns:
        Characters that no installed font has; they are drawn as boxes.
    """
    texts = figure.findobj(Text)
    families, lacking = families_of(frozenset("".join(text.get_text() for text in texts)))
    if len(families) > 1:
        for text in texts:
            text.set_fontfamily(families)
    return lacking


@contextmanager
def frames_without_warning() -> Iterator[None]:
    """Silence matplotlib's warning per missing character and figure; `use_fonts` returns these characters."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        yield


@cache
def families_of(letters: frozenset[str]) -> tuple[list[str], frozenset[str]]:
    """Choose a small set of fonts that together cover the characters.

    Returns:
        Font families, `FAMILY` first, and the characters that no font has.
    """
    families = [FAMILY]
    lacking = {letter for letter in letters if not _is_invisible(letter)} - _letters_in(findfont(FAMILY))
    fonts = sorted(
        ((entry.name, entry.fname) for entry in fontManager.ttflist if entry.weight in {400, "normal"}),
        key=lambda font: ("Sans" not in font[0], font),
    )
    while lacking:
        found = {name: lacking & _letters_in(path) for name, path in fonts if not name.startswith(_STAND_IN)}
        best = max(found, key=lambda name: len(found[name]), default="")
        if not found.get(best):
            break
        families.append(best)
        lacking -= found[best]
    return families, frozenset(lacking)


def _is_invisible(letter: str) -> bool:
    return letter.isspace() or category(letter) in {"Cc", "Cf"}  # control characters, joiners and direction marks


@cache
def _letters_in(path: str) -> frozenset[str]:
    try:
        return frozenset(map(chr, FT2Font(path).get_charmap()))
    except (OSError, RuntimeError):  # removed since matplotlib indexed it, or damaged
        return frozenset()
