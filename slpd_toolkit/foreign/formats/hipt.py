"""HIPT: a folder of .pt files; requires --encoder-name, and --mpp if coordinates are known.

Files contain the tokens of one region, [256, D], named <slide>_<x>_<y>.pt, or of one slide, [M, 256, D].
"""

# Regions are row-major; the published SLPD code stores a region as (D, 16, 16). HIPT stores region embeddings, (M,
# 192),
# in the same kind of file; these are not tokens.

from __future__ import annotations

import math
import re
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.core.errors import SlideError
from slpd_toolkit.core.files import atomic_path
from slpd_toolkit.foreign.features import SlideFeatures, check_pairs, require_encoder, require_mpp
from slpd_toolkit.foreign.format import SourceSlide
from slpd_toolkit.foreign.rows import ArrayRows, check_features
from slpd_toolkit.foreign.tensors import read_arrays, read_tensor, write_tensor
from slpd_toolkit.foreign.whole_regions import (
    COORDINATES,
    COORDS_FOLDER,
    LOCATED,
    META,
    REGION_EMBEDDING,
    is_square,
    read_grids,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

    from slpd_toolkit.foreign.features import Settings

FOLDER = "HIPT's folder of .pt files"
SUFFIXES = (".pt",)
NOT_FEATURES: tuple[str, ...] = ()
INNER_FOLDERS: tuple[str, ...] = ()
READS_COORDS = True
MPP = 0.5
REGION_PX = 4096
_NUMBERED = re.compile(r"(?P<slide>.+)_(?P<number>\d+)")
_LARGEST_GRID = 64
_LOOKED_AT = 8  # number of files to try until one can be read


def recognises(path: Path) -> bool:
    """Return whether a file is one tensor, without the JSON file that slide2vec writes next to it."""
    if path.with_name(path.stem + META).is_file():
        return False
    read_tensor(path)
    return True


def group(paths: Sequence[Path]) -> list[SourceSlide]:
    """Group files by slide: one file per slide or per region, as determined by the first readable file."""
    if not _are_regions(paths[:_LOOKED_AT]):
        return [SourceSlide(path.stem, (path,)) for path in paths]
    slides: dict[str, list[Path]] = {}
    for path in paths:
        found = LOCATED.fullmatch(path.stem) or _NUMBERED.fullmatch(path.stem)
        slides.setdefault(found["slide"] if found else path.stem, []).append(path)
    return [SourceSlide(slide_id, tuple(files)) for slide_id, files in slides.items()]


def read(slide: SourceSlide, settings: Settings) -> SlideFeatures:
    """Read one slide.

    Raises:
        SlideError: A file is damaged or has another shape, or lacks information that the user can provide.
    """
    files = slide.files
    rows: ArrayRows | RegionFiles
    shape = read_tensor(files[0]).shape
    if _are_embeddings(files[0], shape):
        raise SlideError(
            f"{files[0]}: features are {shape}: embeddings of {shape[0]:,} regions, as from HIPT's region ViT, not "
            "tokens of patches.",
            hint="Import the tokens they were computed from. If they are tokens of one region from an encoder with "
            f"{REGION_EMBEDDING} features, put its position into the file name: <slide>_<x>_<y>.pt.",
        )
    if _is_region(shape):
        files = tuple(sorted(files, key=_number))
        rows = RegionFiles(files)
        grid, regions = rows.grid, len(files)
        corners_l0 = _corners_in_names(files)
    else:
        features, grid = read_grids(files[0])
        rows, regions = ArrayRows(features.reshape(-1, features.shape[-1])), len(features)
        corners_l0, files = _corners_in_file(files[0], regions, settings)
    patch_px = (settings.region_px or REGION_PX) // grid
    target_mpp = settings.target_mpp or MPP
    notes: tuple[str, ...] = ()
    located = corners_l0 is not None
    if corners_l0 is None:
        mpp_l0, notes = (
            target_mpp,
            ("the positions of the regions are unknown: they are arranged in a row, in the order of the file",),
        )
        corners_l0 = np.stack([np.arange(regions) * float(patch_px * grid), np.zeros(regions)], axis=1)
    else:
        mpp_l0 = require_mpp(settings, files[0])
    patch_l0 = patch_px * target_mpp / mpp_l0
    return SlideFeatures(
        slide_id=slide.slide_id,
        tool="hipt",
        files=files,
        features=rows,
        coords_l0=corners_l0,
        grid=grid,
        patch_l0=patch_l0,
        steps_l0=(patch_l0,),
        patch_px=patch_px,
        mpp_l0=mpp_l0,
        target_mpp=target_mpp,
        located=located,
        encoder=require_encoder(None, settings, files[0], "HIPT"),
        notes=notes,
    )


class RegionFiles:
    """Rows of regions with one file each; rows read together must belong to one region.

    Args:
        files: One file per region.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files
        self._region_shape = read_region(files[0]).shape
        cells, width = self._region_shape
        self.grid = math.isqrt(cells)
        self.shape: tuple[int, int] = (cells * len(files), width)

    def take(self, index: npt.NDArray[np.int64]) -> npt.NDArray[np.floating]:
        """Read rows: (n,) indices to (n, D)."""
        number = int(index[0]) // self._region_shape[0]
        region = read_region(self._files[number])
        if region.shape != self._region_shape:
            raise SlideError(
                f"{self._files[number]}: features are {region.shape}, but those of {self._files[0].name} are "
                f"{self._region_shape}.",
                hint="All regions of a slide must have the same encoder and size.",
            )
        rows: npt.NDArray[np.floating] = region[index - number * self._region_shape[0]]
        return rows


def read_region(path: Path) -> npt.NDArray[np.floating]:
    """Read the tokens of one region, row-major: (m * m, D).

    Raises:
        SlideError: The file is unreadable or has another shape.
    """
    tokens = read_tensor(path)
    if not _is_region(tokens.shape):
        raise SlideError(
            f"{path}: features are {tokens.shape}, expected (m * m, D) or (D, m, m): one region.",
            hint=f"Region embeddings, (M, {REGION_EMBEDDING}), are not tokens: import the tokens they were computed "
            "from.",
        )
    tokens = tokens.reshape(tokens.shape[0], -1).T if tokens.ndim == 3 else tokens
    check_features(tokens.shape, tokens.dtype, path)
    return tokens


def _are_regions(paths: Sequence[Path]) -> bool:
    for path in paths:
        with suppress(SlideError):
            shape = read_tensor(path).shape
            return _is_region(shape) and not _are_embeddings(path, shape)
    return False


def _are_embeddings(path: Path, shape: tuple[int, ...]) -> bool:
    """Whether a file contains embeddings of whole regions: they have HIPT's width, and no position in the name."""
    return len(shape) == 2 and shape[1] == REGION_EMBEDDING and LOCATED.fullmatch(path.stem) is None


def _is_region(shape: tuple[int, ...]) -> bool:
    if len(shape) == 3:
        return shape[1] == shape[2] <= _LARGEST_GRID < shape[0]
    return len(shape) == 2 and is_square(shape[0])


def _number(path: Path) -> tuple[int, str]:
    """Return the sort key of region files: the number at the end of the name, if there is one."""
    found = _NUMBERED.fullmatch(path.stem)
    return (int(found["number"]) if found else 0, path.name)


def _corners_in_names(files: Sequence[Path]) -> npt.NDArray[np.float64] | None:
    found = [LOCATED.fullmatch(path.stem) for path in files]
    if not all(found):
        return None
    return np.array([(float(match["x"]), float(match["y"])) for match in found if match])


def _corners_in_file(
    path: Path, regions: int, settings: Settings
) -> tuple[npt.NDArray[np.float64] | None, tuple[Path, ...]]:
    """Return the positions of the regions, if there is a file of coordinates; and the files that were read."""
    coordinates = (settings.coords or path.parent / COORDS_FOLDER) / (path.stem + COORDINATES)
    if not coordinates.is_file():
        if settings.coords is None:
            return None, (path,)
        raise SlideError(
            f"{coordinates} does not exist.",
            hint="--coords must contain <slide>.coordinates.npz with x and y, level-0 px.",
        )
    arrays = read_arrays(coordinates)
    if not {"x", "y"} <= arrays.keys():
        raise SlideError(f"{coordinates} lacks x or y.", hint="It must contain x and y of each region, level-0 px.")
    corners = check_pairs(np.stack([arrays["x"], arrays["y"]], axis=-1), regions, path, "regions")
    return corners, (path, coordinates)


def write_regions(
    folder: Path, slide_id: str, tokens: npt.NDArray[np.float16], corners_l0: npt.NDArray[np.int64]
) -> None:
    """Write one file per region, (m * m, D) fp32, named by its position.

    Args:
        folder: Output folder.
        slide_id: Start of the file names.
        tokens: (R, m, m, D).
        corners_l0: (R, 2) x and y, level-0 px.
    """
    for region, (x, y) in zip(tokens, corners_l0.tolist(), strict=True):
        write_tensor(folder / f"{slide_id}_{x}_{y}.pt", _in_rows(region))


def write_slide(
    folder: Path, slide_id: str, tokens: npt.NDArray[np.float16], corners_l0: npt.NDArray[np.int64]
) -> None:
    """Write the regions of a slide as one file, (R, m * m, D) fp32, and their positions, which HIPT does not store.

    Args:
        folder: Output folder; coordinates are written to its subfolder `COORDS_FOLDER`.
        slide_id: Name of the files.
        tokens: (R, m, m, D).
        corners_l0: (R, 2) x and y, level-0 px.
    """
    write_tensor(folder / f"{slide_id}.pt", _in_rows(tokens))
    (folder / COORDS_FOLDER).mkdir(exist_ok=True)
    with atomic_path(folder / COORDS_FOLDER / (slide_id + COORDINATES)) as partial, partial.open("wb") as file:
        np.savez(file, x=corners_l0[:, 0], y=corners_l0[:, 1])


def _in_rows(tokens: npt.NDArray[np.float16]) -> npt.NDArray[np.float32]:
    """Convert (..., m, m, D) to (..., m * m, D), in HIPT's dtype."""
    *before, rows, columns, width = tokens.shape
    return tokens.reshape(*before, rows * columns, width).astype(np.float32)
