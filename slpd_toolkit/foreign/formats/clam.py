"""CLAM: FEAT_DIR/h5_files; requires --coords, --encoder-name and --mpp.

CLAM's feature files do not contain the patch size, encoder or resolution: pass --coords RESULTS/patches,
--encoder-name, and --mpp (or --manifest with an mpp column).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from slpd_toolkit.core.errors import SlideError
from slpd_toolkit.foreign.features import (
    MissingSettingError,
    SlideFeatures,
    check_pairs,
    nominal_mpp,
    number,
    require_encoder,
    require_mpp,
)
from slpd_toolkit.foreign.format import one_file_per_slide, require_one
from slpd_toolkit.foreign.formats.trident import PATCH_L0
from slpd_toolkit.foreign.rows import dataset, dataset_attributes, open_h5, open_rows, read_pairs

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from slpd_toolkit.foreign.features import Settings
    from slpd_toolkit.foreign.format import SourceSlide

FOLDER = "CLAM's h5_files/"
SUFFIXES = (".h5",)
NOT_FEATURES: tuple[str, ...] = ()
INNER_FOLDERS = ("h5_files",)
READS_COORDS = True
FEATURES, COORDS = "features", "coords"

group = one_file_per_slide


def recognises(path: Path) -> bool:
    """Return whether a file contains features and coordinates, but not the attributes of TRIDENT."""
    file = open_h5(path)
    return {FEATURES, COORDS} <= set(file.names) and PATCH_L0 not in dataset_attributes(file, COORDS)


def read(slide: SourceSlide, settings: Settings) -> SlideFeatures:
    """Read one slide.

    Raises:
        SlideError: A file is damaged or missing or inconsistent, or lacks information that the user can provide.
    """
    path = require_one(slide)
    file = open_h5(path)
    features = open_rows(dataset(file, FEATURES), path)
    coords_l0 = check_pairs(read_pairs(dataset(file, COORDS), path), features.shape[0], path)
    patches, attributes = _patches(path, settings)
    patch_px, patch_l0 = _patch(attributes, patches)
    mpp_l0 = require_mpp(settings, path)
    encoder = require_encoder(None, settings, path, "CLAM")
    return SlideFeatures(
        slide_id=path.stem,
        tool="clam",
        files=(path, patches),
        features=features,
        coords_l0=coords_l0,
        patch_l0=patch_l0,
        steps_l0=(patch_l0, patch_l0 / 2, patch_l0 / 4),  # CLAM's --step_size is not stored in any file
        patch_px=patch_px,
        mpp_l0=mpp_l0,
        target_mpp=settings.target_mpp or nominal_mpp(patch_l0 * mpp_l0 / patch_px),
        size_l0=_size_l0(attributes),
        encoder=encoder,
    )


def _patches(path: Path, settings: Settings) -> tuple[Path, dict[str, Any]]:
    """Find the file with the patch coordinates, and read its attributes."""
    if settings.coords is None:
        raise MissingSettingError(
            f"{path}: CLAM stores the patch size separately from the features.",
            hint="Pass the folder written by CLAM's create_patches_fp.py: --coords RESULTS/patches.",
        )
    patches = settings.coords / path.name
    if not patches.is_file():
        raise SlideError(
            f"{patches} does not exist.", hint="Pass CLAM's folder patches/ with --coords; it has one file per slide."
        )
    return patches, dict(dataset(open_h5(patches), COORDS).attributes)


def _patch(attributes: Mapping[str, Any], path: Path) -> tuple[int, float]:
    """Return the side of a patch, in px of the level it was read from and in level-0 px."""
    patch_px = number(attributes, path, "patch_size")
    downsample = np.atleast_1d(np.asarray(attributes.get("downsample", ()), np.float64))
    if not len(downsample) and attributes.get("patch_level") == 0:
        downsample = np.ones(1)
    if patch_px is None or not len(downsample) or not (downsample > 0).all():
        raise SlideError(
            f"{path}: the coordinates' attributes lack patch_size or downsample.",
            hint="Write the coordinates again with create_patches_fp.py.",
        )
    # Slide readers report downsamples with a small error: 4.0002 means 4.
    factor = float(downsample.mean())
    return round(patch_px), patch_px * (round(factor) if abs(factor - round(factor)) < 0.01 * factor else factor)


def _size_l0(attributes: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return the size of the slide, from that of the level that patches were read from."""
    size = np.asarray(attributes.get("level_dim", ()), np.float64).ravel()
    downsample = np.asarray(attributes.get("downsample", ()), np.float64).ravel()
    if size.shape != (2,) or downsample.shape not in {(1,), (2,)}:
        return None
    width, height = np.ceil(size * downsample).astype(int).tolist()
    return width, height
