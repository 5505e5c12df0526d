"""Characters of every script in figures: DejaVu Sans, then installed fonts that have what it lacks."""

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
"""Comes with matplotlib."""
_STAND_IN = "Last Resort"
"""Comes with matplotlib as well: it has every character, as a frame."""


def use_fonts(figure: Figure) -> frozenset[str]:
    """Set the fonts that the texts of a figure need; call it just before the figure is saved.

    Returns:
        The characters that no installed font has; they are drawn as frames.
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
    """Choose as few fonts as possible that together have these characters.

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
    return letter.isspace() or category(letter) in {"Cc", "Cf"}  # control characters, joiners and marks of direction


@cache
def _letters_in(path: str) -> frozenset[str]:
    try:
        return frozenset(map(chr, FT2Font(path).get_charmap()))
    except (OSError, RuntimeError):  # gone since matplotlib looked, or damaged
        return frozenset()
