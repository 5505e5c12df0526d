"""slide2vec: RUN/hierarchical_embeddings.

Contains regions of m x m tiles; their coordinates are read from RUN/tiles, or from --coords.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from slpd_toolkit.core.errors import SlideError
from slpd_toolkit.core.files import read_json
from slpd_toolkit.foreign.features import (
    MissingSettingError,
    SlideFeatures,
    check_pairs,
    known,
    nominal_mpp,
    number,
    require_encoder,
    require_mpp,
)
from slpd_toolkit.foreign.format import one_file_per_slide, require_one
from slpd_toolkit.foreign.rows import ArrayRows
from slpd_toolkit.foreign.tensors import read_arrays
from slpd_toolkit.foreign.whole_regions import COORDINATES, META, read_grids

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from slpd_toolkit.foreign.features import Settings
    from slpd_toolkit.foreign.format import SourceSlide

FOLDER = "slide2vec's hierarchical_embeddings/"
SUFFIXES = (".pt", ".npz")
NOT_FEATURES = (COORDINATES,)
INNER_FOLDERS = ("hierarchical_embeddings",)
READS_COORDS = True
_COORDINATES_META = ".coordinates.meta.json"

group = one_file_per_slide


def recognises(path: Path) -> bool:
    """Return whether a file is an .npz, or has the JSON file that slide2vec writes next to it."""
    return path.suffix == ".npz" or path.with_name(path.stem + META).is_file()


def read(slide: SourceSlide, settings: Settings) -> SlideFeatures:
    """Read one slide.

    Raises:
        SlideError: A file is damaged or missing or inconsistent, or lacks information that the user can provide.
    """
    path = require_one(slide)
    features, grid = read_grids(path)
    meta = _read_json(path.with_name(path.stem + META))
    coordinates = _coordinates(path, settings)
    arrays = read_arrays(coordinates)
    missing = {"x", "y"} - arrays.keys()
    if missing:
        raise SlideError(f"{coordinates} lacks {', '.join(sorted(missing))}.", hint="Run slide2vec's tiling again.")
    coords_l0 = check_pairs(np.stack([arrays["x"], arrays["y"]], axis=-1), len(features), path, "regions")
    about = _read_json(coordinates.with_name(path.stem + _COORDINATES_META))
    about_slide, tiling = about.get("slide", {}), about.get("tiling", {})
    patch_px = _patch_px(meta, grid, settings, path)
    stated_mpp = number(about_slide, path, "base_spacing_um")
    mpp_l0 = settings.mpp_l0 or settings.mpp or stated_mpp or require_mpp(settings, path)
    asked_mpp = settings.target_mpp or number(meta, path, "requested_spacing_um")
    patch_l0 = _patch_l0(meta, tiling, grid, patch_px, path)
    if patch_l0 is None:
        if asked_mpp is None:
            raise MissingSettingError(
                f"{path}: the files do not record the resolution of the patches.", hint="Pass --target-mpp 0.5 (um/px)."
            )
        patch_l0 = patch_px * asked_mpp / mpp_l0
    size = about_slide.get("dimensions")
    return SlideFeatures(
        slide_id=path.stem,
        tool="slide2vec",
        files=(path, coordinates),
        features=ArrayRows(features.reshape(-1, features.shape[-1])),
        coords_l0=coords_l0,
        grid=grid,
        patch_l0=patch_l0,
        steps_l0=(patch_l0,),
        patch_px=patch_px,
        mpp_l0=mpp_l0,
        target_mpp=asked_mpp or nominal_mpp(patch_l0 * mpp_l0 / patch_px),
        size_l0=(int(size[0]), int(size[1])) if isinstance(size, list) and len(size) == 2 else None,
        encoder=require_encoder(known(meta, "encoder_name", "encoder", "model_name"), settings, path, "slide2vec"),
    )


def _coordinates(path: Path, settings: Settings) -> Path:
    """Find the file of coordinates: in --coords, otherwise in the folder tiles/ next to that of the features."""
    folder = settings.coords or path.absolute().parent.parent / "tiles"
    file = folder / (path.stem + COORDINATES)
    if not file.is_file():
        raise SlideError(
            f"{file} does not exist.",
            hint="Pass slide2vec's folder of coordinates, with one <slide>.coordinates.npz per slide: --coords "
            "RUN/tiles.",
        )
    return file


def _patch_px(meta: Mapping[str, Any], grid: int, settings: Settings, path: Path) -> int:
    patch_px = number(meta, path, "requested_tile_size_px")
    region_px = number(meta, path, "requested_region_size_px") or settings.region_px
    if patch_px is None and region_px is None:
        raise MissingSettingError(
            f"{path.with_name(path.stem + META)} does not contain requested_tile_size_px.",
            hint="Put the original file next to the features, or pass --region-px 4096 (px of a whole region).",
        )
    return round(patch_px or (region_px or 0) / grid)


def _patch_l0(meta: Mapping[str, Any], tiling: Mapping[str, Any], grid: int, patch_px: int, path: Path) -> float | None:
    """Return the side of a patch in level-0 px, if it is recorded. Tiles are regions, and patches are parts of them."""
    region_l0 = number(tiling, path, "tile_size_lv0")
    if region_l0 is None:
        return number(meta, path, "tile_size_lv0")
    return region_l0 if number(tiling, path, "requested_tile_size_px") == patch_px else region_l0 / grid


def _read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; the result is empty if the file does not exist."""
    if not path.is_file():
        return {}
    try:
        found = read_json(path)
    except (OSError, ValueError) as error:
        raise SlideError(
            f"{path} cannot be read as JSON ({error}).", hint="The file is damaged: write it again."
        ) from error
    if not isinstance(found, dict):
        raise SlideError(f"{path} contains a {type(found).__name__}, expected an object.", hint="Write it again.")
    return found
