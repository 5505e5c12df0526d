"""STAMP: the folder <extractor>/.

Coordinates can be located in the slide's pixels only with --mpp, or an mpp column in --manifest; training and
evaluation do not need it. Files written before version 2 do not record the tile size: pass --target-mpp.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from slpd_toolkit.core.errors import SlideError
from slpd_toolkit.core.text import count
from slpd_toolkit.foreign.features import (
    MissingSettingError,
    SlideFeatures,
    check_pairs,
    known,
    number,
    require_encoder,
)
from slpd_toolkit.foreign.format import one_file_per_slide, require_one
from slpd_toolkit.foreign.rows import dataset, open_h5, open_rows, read_h5, read_pairs

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy.typing as npt

    from slpd_toolkit.core.hdf5_reader import Hdf5Contents
    from slpd_toolkit.foreign.features import Settings
    from slpd_toolkit.foreign.format import SourceSlide

FOLDER = "STAMP's <extractor>/"
SUFFIXES = (".h5",)
NOT_FEATURES: tuple[str, ...] = ()
INNER_FOLDERS: tuple[str, ...] = ()
READS_COORDS = False
FEATURES, COORDS = "feats", "coords"  # in micrometers; the oldest files have coordinates in px
_TILE_PX = 224  # STAMP's default, and the only size in its oldest versions
_OLDEST_TILE_UM = 256.0  # STAMP's own assumption for the tiles of its oldest files
_ABOUT = 0.02
_JITTER = 0.05
"""Columns or rows that are closer than this fraction of a tile count as one."""

group = one_file_per_slide


def recognises(path: Path) -> bool:
    """Return whether a file contains STAMP's datasets of features and coordinates."""
    file = open_h5(path)
    return {FEATURES, COORDS} <= set(file.names)


@dataclass(frozen=True)
class _Tiles:
    """Side of a tile in the unit of the coordinates, in um and in px."""

    unit: float
    um: float
    px: int
    notes: tuple[str, ...] = ()


def read(slide: SourceSlide, settings: Settings) -> SlideFeatures:
    """Read one slide.

    Coordinates are converted to level-0 px if the level-0 resolution is known. Otherwise they are in px of the tiles as
    seen by the encoder, which is sufficient for everything except locating them in the slide; a note reports this.

    Raises:
        SlideError: The file is damaged or inconsistent, or lacks information that the user can provide.
    """
    path = require_one(slide)
    file = open_h5(path)
    features = open_rows(dataset(file, FEATURES), path)
    coords = check_pairs(read_pairs(dataset(file, COORDS), path), features.shape[0], path)
    attributes, usable = file.attributes, _plain_tiles(file, features.shape[0])
    tiles = _tiles(attributes, coords, settings, path)
    asked_mpp = settings.target_mpp or tiles.um / tiles.px
    mpp_l0, notes = settings.mpp_l0 or (settings.mpp if tiles.unit == tiles.um else None), tiles.notes
    located = mpp_l0 is not None
    if mpp_l0 is None:
        mpp_l0 = tiles.um / tiles.px
        notes = (*notes, f"the resolution of the slide is unknown: coordinates are in px of {mpp_l0:.4g} um")
    px_per_unit = tiles.um / tiles.unit / mpp_l0
    return SlideFeatures(
        slide_id=path.stem,
        tool="stamp",
        files=(path,),
        features=features,
        coords_l0=coords * px_per_unit,
        patch_l0=tiles.unit * px_per_unit,
        steps_l0=(tiles.unit * px_per_unit,),
        patch_px=tiles.px,
        mpp_l0=mpp_l0,
        target_mpp=asked_mpp,
        located=located,
        encoder=require_encoder(known(attributes, "extractor", "encoder"), settings, path, "STAMP"),
        usable=usable,
        notes=notes,
    )


def _tiles(attributes: Mapping[str, Any], coords: npt.NDArray[np.float64], settings: Settings, path: Path) -> _Tiles:
    px = round(number(attributes, path, "tile_size_px") or _TILE_PX)
    tile_um = number(attributes, path, "tile_size_um")
    if tile_um is None and known(attributes, "unit") == "um":
        tile_um = number(attributes, path, "tile_size")
    if tile_um is not None:
        return _Tiles(tile_um, tile_um, px)
    stride = number(attributes, path, "tile_size") or _stride(coords)
    if abs(stride / _TILE_PX - 1) > _ABOUT:
        raise MissingSettingError(
            f"{path}: the tile size is not recorded, and tiles are {stride:g} apart instead of {_TILE_PX} px as in "
            "STAMP's oldest files.",
            hint="Extract the features again with a current `stamp preprocess`.",
        )
    mpp = settings.target_mpp or settings.mpp or _OLDEST_TILE_UM / _TILE_PX
    assumed = settings.target_mpp is None and settings.mpp is None
    note = (
        f"tiles of {_TILE_PX} px are assumed to be {_OLDEST_TILE_UM:g} um wide, as in STAMP; otherwise pass "
        "--target-mpp"
    )
    return _Tiles(_TILE_PX, _TILE_PX * mpp, _TILE_PX, (note,) if assumed else ())


def _stride(coords: npt.NDArray[np.float64]) -> float:
    """Return the smallest distance between columns or rows of tiles, allowing for jitter."""
    gaps = np.concatenate([np.diff(np.unique(coords[:, axis])) for axis in (0, 1)])
    apart = gaps[gaps > _JITTER * _TILE_PX]
    return float(np.median(apart[apart <= apart.min() * (1 + _JITTER)])) if len(apart) else float(_TILE_PX)


def _plain_tiles(file: Hdf5Contents, tiles: int) -> npt.NDArray[np.bool_] | None:
    """Return which rows are original tiles; old files may also contain augmented copies."""
    if "augmented" not in file.names:
        return None
    flags = dataset(file, "augmented")
    if flags.shape != (tiles,):
        raise SlideError(f"{file.path}: {flags.shape} flags `augmented` for {count(tiles, 'tile')}.")
    augmented = read_h5(file.path, flags.name).astype(np.bool_)
    return ~augmented if augmented.any() else None
