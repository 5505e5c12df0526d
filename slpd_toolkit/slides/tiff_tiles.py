"""Tile tables of TIFF slides. A damaged table makes pixels white, or takes them from other positions of the file.

OpenSlide draws tiles without data as transparent, and tiles with a wrong offset from the data at that offset.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.core.errors import SlideError
from slpd_toolkit.core.text import count
from slpd_toolkit.slides.resolution import agree

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt
    from tifffile import TiffPage

    from slpd_toolkit.core.files import Location

    Integers = npt.NDArray[np.int64]

STRICT_VENDORS = frozenset({"generic-tiff", "aperio", "trestle"})
"""OpenSlide formats whose files have all tiles. Scanners of other formats omit areas without tissue."""

_HINT = "The file is damaged: copy it again, or convert it again from its source."
_OVERLAP_BYTES = 16  # overlap at the end of a tile that some writers produce
_LARGEST_TILE_PX = 1 << 26
_RATIO_WITHIN = 0.02
_SPARE_PX = 2
_UNIT_UM = {2: 25_400.0, 3: 10_000.0}
"""Values of the tag ResolutionUnit: inch, centimeter; 1 is none."""


@dataclass(frozen=True, eq=False)
class TileTable:
    """The tiles of one level."""

    width_px: int
    height_px: int
    offsets: Integers
    """(rows, columns) offset of each tile in the file, bytes."""
    sizes: Integers
    """(rows, columns) size of each tile, bytes; 0 if the file has none."""

    @property
    def absent(self) -> npt.NDArray[np.bool_]:
        """(rows, columns) bool, tiles that are missing from the file."""
        return np.asarray((self.sizes == 0) | (self.offsets == 0))


def read_tile_tables(path: Path, vendor: str, sizes_lv: Sequence[tuple[int, int]]) -> dict[int, TileTable]:
    """Read and check the tile tables of all levels.

    Args:
        path: A TIFF file.
        vendor: The format, as OpenSlide names it.
        sizes_lv: Width and height of each level, px, as OpenSlide reports them.

    Returns:
        Level -> its table.

    Raises:
        SlideError: A table has another number of tiles than its level, points beyond the end of the file or at the data
            of another tile, levels are not the same image in different sizes, or state different resolutions.
    """
    import tifffile  # imported only by processes that check a slide

    _require_same_shape(path, sizes_lv)
    try:
        with tifffile.TiffFile(path) as file:
            pages: dict[tuple[int, int], TiffPage] = {}
            for page in file.pages:
                assert isinstance(page, tifffile.TiffPage)
                if page.is_tiled:
                    pages.setdefault((page.imagewidth, page.imagelength), page)
            if vendor == "generic-tiff":
                _require_same_resolution(path, [pages[size] for size in sizes_lv if size in pages])
            tables = {level: _table(path, pages[size]) for level, size in enumerate(sizes_lv) if size in pages}
    except SlideError:
        raise
    except Exception as error:
        raise SlideError(f"{path}: its TIFF directory cannot be read ({error}).", hint=_HINT) from error
    _require_apart(path, tables)
    if vendor != "aperio":  # OpenSlide computes missing tiles of coarser levels from finer ones
        _require_in_all_levels(path, tables)
    return tables


def orientation_of(path: Location) -> int | None:
    """Return the tag Orientation of level 0 of a TIFF file; None if there is none, or the file cannot be read."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            tag = file.pages.first.tags.get("Orientation")
            return None if tag is None else int(tag.value)
    except Exception:  # noqa: BLE001 - `read_tile_tables` reports the problem
        return None


def shared_tiles(tables: Mapping[int, TileTable]) -> list[tuple[int, int, int]]:
    """Find tiles that share their data with other tiles of the level: (level, row, column) of one per group."""
    found = []
    for level, table in tables.items():
        offsets = np.where(table.absent, 0, table.offsets).ravel()
        values, first, counts = np.unique(offsets, return_index=True, return_counts=True)
        for index in first[(counts > 1) & (values > 0)]:
            row, column = divmod(int(index), table.offsets.shape[1])
            found.append((level, row, column))
    return found


def _table(path: Path, page: TiffPage) -> TileTable:
    from tifffile import PLANARCONFIG

    width, height = page.tilewidth, page.tilelength
    if not (width > 0 and height > 0 and width * height <= _LARGEST_TILE_PX):
        raise SlideError(f"{path}: tiles of {width} x {height} px.", hint=_HINT)
    columns, rows = -(-page.imagewidth // width), -(-page.imagelength // height)
    planes = page.samplesperpixel if page.planarconfig == PLANARCONFIG.SEPARATE else 1
    counts = (len(page.dataoffsets), len(page.databytecounts))
    if counts != (rows * columns * planes,) * 2:
        raise SlideError(
            f"{path}: a level of {page.imagewidth} x {page.imagelength} px in tiles of {width} x {height} needs "
            f"{rows * columns * planes:,} tiles; the file lists {counts[0]:,} offsets and {counts[1]:,} sizes.",
            hint=_HINT,
        )
    offsets, sizes = (
        np.array(values, np.uint64).astype(np.int64).reshape(planes, rows, columns)
        for values in (page.dataoffsets, page.databytecounts)
    )
    table = TileTable(width, height, offsets[0], sizes[0])
    end = path.stat().st_size
    beyond = ~table.absent & ((table.offsets < 0) | (table.sizes < 0) | (table.offsets + table.sizes > end))
    if beyond.any():
        row, column = np.argwhere(beyond)[0].tolist()
        raise SlideError(
            f"{path}: {int(beyond.sum()):,} of {count(beyond.size, 'tile')} of a level of {page.imagewidth} x "
            f"{page.imagelength} px are beyond the end of the file; the first is in row {row}, column {column}.",
            hint="It is truncated or damaged: compare its size with that of the original, and copy it again.",
        )
    return table


def _require_same_resolution(path: Path, levels: Sequence[TiffPage]) -> None:
    """Check that the tags of all levels state one resolution: that of level 0, or that of the level itself.

    OpenSlide reads the resolution of these files in level 0 alone, where a changed bit would go unnoticed.
    """
    stated = [(page.imagewidth, mpp) for page in levels if (mpp := _mpp(page)) is not None]
    for width, mpp in stated[1:]:
        width_l0, mpp_l0 = stated[0]
        if not (agree(mpp, mpp_l0) or agree(mpp, mpp_l0 * width_l0 / width)):
            raise SlideError(
                f"{path}: its levels have contradictory resolutions: {mpp_l0:.4g} um/px for the level {width_l0} px "
                f"wide, {mpp:.4g} um/px for the level {width} px wide.",
                hint=_HINT,
            )


def _mpp(page: TiffPage) -> float | None:
    """Return the um/px that the tags of a level state; None if they state none."""
    resolution, unit = (page.tags.get(name) for name in ("XResolution", "ResolutionUnit"))
    if resolution is None:
        return None
    pixels, per = resolution.value
    um = _UNIT_UM.get(2 if unit is None else int(unit.value))
    return um * per / pixels if um and pixels and per else None


def _require_same_shape(path: Path, sizes_lv: Sequence[tuple[int, int]]) -> None:
    """Check that every level has the aspect ratio of level 0, up to rounding."""
    width_l0, height_l0 = sizes_lv[0]
    for width_lv, height_lv in sizes_lv[1:]:
        factor = width_l0 / width_lv
        if abs(height_l0 / factor - height_lv) > _SPARE_PX + _RATIO_WITHIN * height_lv:
            raise SlideError(
                f"{path}: levels of {width_l0} x {height_l0} px and {width_lv} x {height_lv} px have different "
                "aspect ratios: they cannot be the same image.",
                hint=_HINT,
            )


def _require_apart(path: Path, tables: Mapping[int, TileTable]) -> None:
    """Check that the data of tiles do not overlap, except if they are identical (see `shared_tiles`)."""
    if not tables:
        return
    present = [(table.offsets[~table.absent], table.sizes[~table.absent]) for table in tables.values()]
    starts, sizes = (np.concatenate([np.empty(0, np.int64), *part]) for part in zip(*present, strict=True))
    pairs = np.unique(np.stack([starts, sizes], axis=1), axis=0)
    overlap = pairs[:-1].sum(axis=1) - pairs[1:, 0]
    if len(pairs) > 1 and (overlap > _OVERLAP_BYTES).any():
        place = int(pairs[int(overlap.argmax()), 0])
        raise SlideError(
            f"{path}: {count(int((overlap > _OVERLAP_BYTES).sum()), 'tile overlaps', 'tiles overlap')} others in the "
            f"file, for example at byte {place:,}: tile offsets or sizes are wrong.",
            hint=_HINT,
        )


def _require_in_all_levels(path: Path, tables: Mapping[int, TileTable]) -> None:
    """Check that tiles missing from a coarser level are also missing from level 0; otherwise tissue would be missed."""
    full = tables.get(0)
    for level, table in tables.items():
        if full is None or not level or not table.absent.any():
            continue
        rows, columns = table.absent.shape
        centres = [
            np.minimum((np.arange(count) + 0.5) / count * of, of - 1).astype(np.intp)
            for count, of in zip(full.absent.shape, (rows, columns), strict=True)
        ]
        lacking = int((table.absent[np.ix_(*centres)] & ~full.absent).sum())
        if lacking:
            raise SlideError(
                f"{path}: {int(table.absent.sum()):,} of {count(table.absent.size, 'tile')} of level {level} are "
                f"missing, and level 0 contains the pixels of {lacking:,} of these.",
                hint=_HINT,
            )
