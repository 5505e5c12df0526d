"""AtlasPatch: the patches/ folder of its output.

A file can hold the features of several encoders: name one with --encoder-name. --mpp, or an mpp column in --manifest,
is more exact than AtlasPatch's magnification.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from slpd_toolkit.foreign.features import MissingSettingError, check_pairs
from slpd_toolkit.foreign.format import one_file_per_slide, require_one
from slpd_toolkit.foreign.formats.trident import PATCH_L0, placed_features
from slpd_toolkit.foreign.rows import dataset, open_h5, open_rows, read_pairs

if TYPE_CHECKING:
    from pathlib import Path

    from slpd_toolkit.core.hdf5_reader import Hdf5Contents
    from slpd_toolkit.foreign.features import Settings, SlideFeatures
    from slpd_toolkit.foreign.format import SourceSlide

FOLDER = "AtlasPatch's patches/"
SUFFIXES = (".h5",)
NOT_FEATURES: tuple[str, ...] = ()
INNER_FOLDERS: tuple[str, ...] = ()
READS_COORDS = False
COORDS, _FEATURES = "coords", "features/"
_PLACE = 2
"""Columns of `coords` that are x and y of the top-left corner at level 0; the others are size and level of reading."""

group = one_file_per_slide


def recognises(path: Path) -> bool:
    """Return whether a file has coordinates with AtlasPatch's attributes of the file."""
    file = open_h5(path)
    return COORDS in file.datasets and PATCH_L0 in file.attributes


def read(slide: SourceSlide, settings: Settings) -> SlideFeatures:
    """Read one slide.

    Raises:
        SlideError: The file is damaged or inconsistent, or lacks information that the user can provide.
    """
    path = require_one(slide)
    file = open_h5(path)
    stored = dataset(file, COORDS)
    encoder = _encoder(file, stored.shape[0] if stored.shape else 0, settings, path)
    features = open_rows(dataset(file, _FEATURES + encoder), path)
    places = read_pairs(stored, path)
    coords_l0 = check_pairs(places[:, :_PLACE] if places.ndim == 2 else places, features.shape[0], path)
    return placed_features("atlas-patch", "AtlasPatch", path, file.attributes, settings, features, coords_l0, encoder)


def _encoder(file: Hdf5Contents, patches: int, settings: Settings, path: Path) -> str:
    """Return the encoder to import: the requested one, or the only one with a row per patch.

    Raises:
        MissingSettingError: The file has features of several encoders, or none of the requested one.
    """
    whole = [
        name.removeprefix(_FEATURES)
        for name, data in file.datasets.items()
        if name.startswith(_FEATURES) and data.shape[:1] == (patches,)
    ]
    if settings.encoder in whole:
        return settings.encoder
    if settings.encoder or len(whole) != 1:
        found = ", ".join(whole) or "none"
        wanted = (
            f"no complete features of {settings.encoder}" if settings.encoder else "not the features of one encoder"
        )
        raise MissingSettingError(
            f"{path} has {wanted}; found {found}.",
            hint=f"Name one of them: --encoder-name {whole[0]}." if whole else "Extract the features with AtlasPatch.",
        )
    return whole[0]
