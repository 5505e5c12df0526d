"""AtlasPatch: the patches/ folder of its output.

A file can hold the features of several encoders: name one with --encoder-name. --mpp, or an mpp column in --manifest,
is more exact than AtlasPatch's magnification.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from slpd_toolkit.foreign.features import (
    OBJECTIVE_UM,
    MissingSettingError,
    SlideFeatures,
    check_pairs,
    number,
)
from slpd_toolkit.foreign.format import one_file_per_slide, require_one
from slpd_toolkit.foreign.formats.trident import PATCH_L0, possible_steps_l0, resolution_l0
from slpd_toolkit.foreign.rows import dataset, open_h5, open_rows, read_pairs

if TYPE_CHECKING:
    from pathlib import Path

    from slpd_toolkit.core.hdf5_reader import Hdf5Contents
    from slpd_toolkit.foreign.features import Settings
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
        SlideError: The file is damaged or inconsistent, or does not say something that the user can.
    """
    path = require_one(slide)
    file = open_h5(path)
    stored = dataset(file, COORDS)
    attributes = file.attributes
    encoder = _encoder(file, stored.shape[0] if stored.shape else 0, settings, path)
    features = open_rows(dataset(file, _FEATURES + encoder), path)
    places = read_pairs(stored, path)
    coords_l0 = check_pairs(places[:, :_PLACE] if places.ndim == 2 else places, features.shape[0], path)
    patch_l0, patch_px = number(attributes, path, PATCH_L0), number(attributes, path, "patch_size")
    magnification = number(attributes, path, "target_magnification")
    target_mpp = settings.target_mpp or (OBJECTIVE_UM / magnification if magnification else None)
    if patch_px is None or target_mpp is None or patch_l0 is None:
        raise MissingSettingError(
            f"{path}: the attributes lack patch_size, {PATCH_L0} or target_magnification.",
            hint="Extract the slide again with a current AtlasPatch"
            + (", or give --target-mpp 0.5 (um/px of the patches)." if patch_px and patch_l0 else "."),
        )
    mpp_l0, notes = resolution_l0(attributes, path, settings)
    width, height = (number(attributes, path, name) for name in ("level0_width", "level0_height"))
    return SlideFeatures(
        slide_id=path.stem,
        tool="atlas-patch",
        files=(path,),
        features=features,
        coords_l0=coords_l0,
        patch_l0=patch_l0,
        steps_l0=possible_steps_l0(attributes, patch_px, patch_l0, path),
        patch_px=round(patch_px),
        mpp_l0=mpp_l0,
        target_mpp=target_mpp,
        size_l0=(int(width), int(height)) if width and height else None,
        encoder=encoder,
        notes=notes,
    )


def _encoder(file: Hdf5Contents, patches: int, settings: Settings, path: Path) -> str:
    """Return the encoder to import: the one that is named, or the only one with a row per patch.

    Raises:
        MissingSettingError: The file has features of several encoders, or none of the one that is named.
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
            f"{path}: has {wanted}; found {found}.",
            hint=f"Name one of them: --encoder-name {whole[0]}." if whole else "Extract the features with AtlasPatch.",
        )
    return whole[0]
