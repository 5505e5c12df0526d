"""TRIDENT: features_<encoder>/ in the job folder.

No further options are required. --mpp, or an mpp column in --manifest, is more exact than TRIDENT's magnification.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.core.errors import SlideError
from slpd_toolkit.core.hdf5_writer import Layout, describe_layout, write_layout
from slpd_toolkit.foreign.features import (
    OBJECTIVE_UM,
    MissingSettingError,
    SlideFeatures,
    check_pairs,
    is_a_name,
    known,
    number,
    require_encoder,
)
from slpd_toolkit.foreign.format import one_file_per_slide, require_one
from slpd_toolkit.foreign.rows import dataset, dataset_attributes, open_h5, open_rows, read_pairs

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Any

    import numpy.typing as npt

    from slpd_toolkit.foreign.features import Rows, Settings
    from slpd_toolkit.foreign.format import SourceSlide

FOLDER = "TRIDENT's features_<encoder>/"
SUFFIXES = (".h5",)
NOT_FEATURES: tuple[str, ...] = ()
INNER_FOLDERS: tuple[str, ...] = ()
READS_COORDS = False
FEATURES, COORDS = "features", "coords"
PATCH_L0 = "patch_size_level0"
_FOLDER = "features_"

group = one_file_per_slide


def recognises(path: Path) -> bool:
    """Return whether a file contains features, and coordinates with the attributes of TRIDENT."""
    file = open_h5(path)
    return {FEATURES, COORDS} <= set(file.names) and PATCH_L0 in dataset_attributes(file, COORDS)


def read(slide: SourceSlide, settings: Settings) -> SlideFeatures:
    """Read one slide.

    Raises:
        SlideError: The file is damaged or inconsistent, or lacks information that the user can provide.
    """
    path = require_one(slide)
    file = open_h5(path)
    features = open_rows(dataset(file, FEATURES), path)
    stored = dataset(file, COORDS)
    coords_l0 = check_pairs(read_pairs(stored, path), features.shape[0], path)
    encoder = require_encoder(_folder_s_encoder(path), settings, path, "TRIDENT")
    return placed_features("trident", "TRIDENT", path, stored.attributes, settings, features, coords_l0, encoder)


def placed_features(
    tool: str,
    title: str,
    path: Path,
    attributes: Mapping[str, Any],
    settings: Settings,
    features: Rows,
    coords_l0: npt.NDArray[np.float64],
    encoder: str,
) -> SlideFeatures:
    """Return features with the geometry that TRIDENT's attributes describe; AtlasPatch writes the same ones.

    Args:
        tool: Name of the format.
        title: Name of the tool in messages.
        path: The file.
        attributes: Attributes that describe the patches.
        settings: What the user stated.
        features: (N, D).
        coords_l0: (N, 2) x and y of the top-left corner of each patch, level-0 px.
        encoder: Name of the encoder.

    Raises:
        MissingSettingError: The attributes lack information that the user can provide.
        SlideError: The attributes contradict each other.
    """
    patch_l0, patch_px = number(attributes, path, PATCH_L0), number(attributes, path, "patch_size")
    magnification = number(attributes, path, "target_magnification")
    mpp_l0, notes = _resolution_l0(attributes, path, settings)
    target_mpp = settings.target_mpp or (OBJECTIVE_UM / magnification if magnification else None)
    if patch_px is None or target_mpp is None or patch_l0 is None:
        raise MissingSettingError(
            f"{path}: the attributes lack patch_size, {PATCH_L0} or target_magnification.",
            hint=f"Extract the slide again with a current {title}"
            + (", or pass --target-mpp 0.5 (um/px of the patches)." if patch_px and patch_l0 else "."),
        )
    width, height = (number(attributes, path, name) for name in ("level0_width", "level0_height"))
    return SlideFeatures(
        slide_id=path.stem,
        tool=tool,
        files=(path,),
        features=features,
        coords_l0=coords_l0,
        patch_l0=patch_l0,
        steps_l0=_possible_steps_l0(attributes, patch_px, patch_l0, path),
        patch_px=round(patch_px),
        mpp_l0=mpp_l0,
        target_mpp=target_mpp,
        size_l0=(int(width), int(height)) if width and height else None,
        encoder=encoder,
        notes=notes,
    )


@dataclass(frozen=True, kw_only=True)
class Squares:
    """The embedded squares of a slide: `side_px` at `target_mpp`, `side_l0` at level 0."""

    side_px: int
    side_l0: int
    target_mpp: float
    mpp_l0: float
    size_l0: tuple[int, int]


def folder_name(encoder: str) -> str:
    """Return the name of the folder of an encoder's features, as in TRIDENT, with safe characters only."""
    return _FOLDER + re.sub(r"[^A-Za-z0-9._-]+", "-", encoder)


def write(
    path: Path,
    slide_id: str,
    features: npt.NDArray[np.float32],
    coords_l0: npt.NDArray[np.int64],
    squares: Squares,
    **about: str,
) -> None:
    """Write one slide in TRIDENT's format, atomically.

    Args:
        path: The file.
        slide_id: Name of the slide in the attributes.
        features: (N, D).
        coords_l0: (N, 2) x and y of the top-left corner of each square, level-0 px.
        squares: The embedded squares.
        about: Further attributes of the features.

    Raises:
        OSError: The file cannot be written (disk full, quota).
    """
    attributes = {
        "patch_size": squares.side_px,
        PATCH_L0: squares.side_l0,
        "level0_magnification": _magnification(squares.mpp_l0),
        "target_magnification": _magnification(squares.target_mpp),
        "overlap": 0,
        "level0_width": squares.size_l0[0],
        "level0_height": squares.size_l0[1],
        "name": slide_id,
        "level0_mpp": squares.mpp_l0,
        "target_mpp": squares.target_mpp,
    }
    layout = Layout()
    with describe_layout(layout) as made:  # variable-length strings, as in TRIDENT's files
        made.reserve(FEATURES, features.shape, features.dtype).attrs.update({"name": slide_id, **about})
        made.file.create_dataset(COORDS, data=coords_l0, dtype=np.int64).attrs.update(attributes)
    write_layout(path, layout, {FEATURES: features})


def _magnification(mpp: float) -> int | float:
    """Return the magnification of a resolution, as an integer if that is exact."""
    label = OBJECTIVE_UM / mpp
    return round(label) if abs(label - round(label)) < 1e-6 * label else label


def _resolution_l0(attributes: Mapping[str, Any], path: Path, settings: Settings) -> tuple[float, tuple[str, ...]]:
    """Return the resolution of level 0, um/px, and what had to be assumed for it.

    Raises:
        MissingSettingError: Neither the settings nor the attributes give it.
    """
    # `level0_mpp` is written by this toolkit.
    given = settings.mpp_l0 or settings.mpp or number(attributes, path, "level0_mpp")
    if given:
        return given, ()
    magnification = number(attributes, path, "level0_magnification")
    if magnification is None:
        raise MissingSettingError(
            f"{path}: neither the resolution of the slide nor its magnification is known.",
            hint="Pass --mpp 0.25 (um/px of level 0) if it is the same for all slides, otherwise --manifest with a "
            "column mpp.",
        )
    mpp_l0 = OBJECTIVE_UM / magnification
    return mpp_l0, (f"level 0 is assumed to have {mpp_l0:g} um/px, from the magnification {magnification:g}x",)


def _possible_steps_l0(
    attributes: Mapping[str, Any], patch_px: float, patch_l0: float, path: Path
) -> tuple[float, ...]:
    """Return the distances of neighboring patches: an overlap is in px of the patch as encoded, or in level-0 px.

    Raises:
        SlideError: The overlap is not smaller than the patch.
    """
    stated = known(attributes, "overlap")
    overlap = None if stated == 0 else number(attributes, path, "overlap")
    if overlap is None:
        return (patch_l0,)
    steps = (patch_l0 * (1 - overlap / patch_px), patch_l0 - overlap)
    if max(steps) <= 0:
        raise SlideError(
            f"{path}: patches of {patch_px:g} px overlap by {overlap:g}, allowed: less than their side.",
            hint="The file is damaged or was written by another tool: extract the features of the slide again.",
        )
    return tuple(step for step in steps if step > 0)


def _folder_s_encoder(path: Path) -> str | None:
    folder = path.absolute().parent.name
    name = folder.removeprefix(_FOLDER)
    return name if folder.startswith(_FOLDER) and is_a_name(name) else None
