"""Folders of the stain views of a token cache; does not import torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slpd_toolkit.store.token_file import token_paths

if TYPE_CHECKING:
    from pathlib import Path

_FOLDER = "stain-views"


def stain_folder(cache: Path, view: int) -> Path:
    """Return the folder of a stain view, counted from 1."""
    return cache / _FOLDER / str(view)


def count_stain_views(cache: Path) -> int:
    """Count the stain views of a cache: folders 1, 2, ... that contain token files."""
    count = 0
    while token_paths(stain_folder(cache, count + 1)):
        count += 1
    return count
