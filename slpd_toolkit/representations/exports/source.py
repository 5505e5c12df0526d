"""What `slpd export` reads: weights or a token cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slpd_toolkit.core.errors import CacheError
from slpd_toolkit.core.files import is_safe_name
from slpd_toolkit.models.region_vit import REGION_VIT
from slpd_toolkit.representations.exports.tokens import STAGE
from slpd_toolkit.representations.sound_slides import SoundSlides, open_sound
from slpd_toolkit.store import schema
from slpd_toolkit.store.token_file import TokenFile, TokenStore, token_paths

if TYPE_CHECKING:
    from pathlib import Path


def is_cache(source: Path) -> bool:
    """Return whether a path is a token cache or a file of one, and not weights."""
    if source.is_dir():
        return not (source / REGION_VIT).exists() and bool(token_paths(source))
    return source.suffix == schema.SUFFIX


def weights_of(source: Path) -> Path:
    """Return the weights of a run folder, or the weights file that was given."""
    return source / REGION_VIT if source.is_dir() else source


def open_cache(source: Path) -> SoundSlides:
    """Open a token cache, or one file of it.

    Raises:
        CacheError: No token file can be read, or a slide id cannot be a file name.
    """
    single = source.is_file()
    sound = SoundSlides(TokenStore([TokenFile.open(source)]), []) if single else open_sound(source, STAGE)
    for slide in sound.store.files:
        if not is_safe_name(slide.meta.slide_id):
            raise CacheError(
                f"{slide.path}: slide_id {slide.meta.slide_id!r} cannot be a file name.", hint="Remove it."
            )
    return sound
