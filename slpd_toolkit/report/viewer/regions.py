"""Regions of one slide with their values from all results: tissue, prototypes and attention."""

from __future__ import annotations

import io
import threading
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from slpd_toolkit.core.errors import CacheError
from slpd_toolkit.report.scores import FILENAME as SCORES
from slpd_toolkit.report.scores import read_scores
from slpd_toolkit.training.prototype_file import PrototypeFile
from slpd_toolkit.training.run_folder import PROTOTYPES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from typing import Any

    import numpy.typing as npt

    from slpd_toolkit.report.scores import ScoreTable
    from slpd_toolkit.report.viewer.folder import Parts
    from slpd_toolkit.store.token_file import TokenFile

    Coords = npt.NDArray[np.int64]

TISSUE_RGB = (17, 119, 51)
_TISSUE_PX = 24_000_000
_NEIGHBOURS = 5


@dataclass(frozen=True, eq=False)
class Frame:
    """Positions of a slide's regions."""

    coords_l0: Coords
    """(R, 2) x, y of the top-left corners, level-0 px."""
    region_l0: int
    """Side of a region."""
    size_l0: tuple[int, int]
    """Width and height of the slide; estimated from the regions if it is not known."""
    mpp_l0: float | None = None

    @cached_property
    def index_of(self) -> dict[tuple[int, int], int]:
        """Index of each region by its corner."""
        return {(x, y): row for row, (x, y) in enumerate(self.coords_l0.tolist())}

    def place(self, coords_l0: Coords, values: npt.NDArray[Any]) -> list[Any]:
        """Reorder values given for other coordinates to match the regions; None for regions without a value."""
        found: list[Any] = [None] * len(self.coords_l0)
        for (x, y), value in zip(coords_l0.tolist(), values.tolist(), strict=True):
            row = self.index_of.get((x, y))
            if row is not None and value == value:  # noqa: PLR0124 - NaN
                found[row] = value
        return found


class RunPrototypes:
    """prototypes.h5 of a run, by slide."""

    def __init__(self, file: PrototypeFile) -> None:
        self.file = file
        self.rows = {str(slide): row for row, slide in enumerate(file.slide_ids)}
        self._order = np.argsort(file.region_row, kind="stable")
        self._sorted = file.region_row[self._order]

    def regions(self, row: int) -> npt.NDArray[np.intp]:
        """Return the regions of a slide."""
        first, last = np.searchsorted(self._sorted, (row, row + 1))
        return self._order[first:last]

    def frame(self, slide_id: str) -> Frame | None:
        """Return the positions of a slide's regions; None if it has no prototypes."""
        row = self.rows.get(slide_id)
        if row is None:
            return None
        return known_frame(self.file.region_coords[self.regions(row)], int(self.file.region_l0[row]), (0, 0))

    def describe(self, slide_id: str, frame: Frame) -> dict[str, Any] | None:
        """Return the prototypes of a slide as plain values; None if it has none."""
        row = self.rows.get(slide_id)
        if row is None:
            return None
        file, inside = self.file, self.regions(row)
        coords, clusters = file.region_coords[inside], file.region_cluster[inside]
        near = zip(file.neighbours[row], file.similarity[row], file.counterpart[row].T, strict=True)
        return {
            "count": int(file.prototypes.shape[1]),
            "cluster": frame.place(coords, clusters),
            "cosine": frame.place(coords, np.round(file.region_cosine[inside].astype(np.float64), 4)),
            "sizes": np.bincount(clusters, minlength=file.prototypes.shape[1]).tolist(),
            "neighbours": [
                {"slide": str(file.slide_ids[other]), "cosine": round(float(cosine), 4), "counterpart": pairs.tolist()}
                for other, cosine, pairs in list(near)[:_NEIGHBOURS]
            ],
        }


class SlideScoreTables:
    """Tables of scores.h5 of a folder, by slide."""

    def __init__(self, tables: Sequence[ScoreTable]) -> None:
        self.tables = tables
        self.rows = [{slide: row for row, slide in enumerate(table.slide_ids)} for table in tables]

    def frame(self, slide_id: str) -> Frame | None:
        """Return the positions of a slide's regions; None if it has no scores."""
        for table, rows in zip(self.tables, self.rows, strict=True):
            if slide_id in rows:
                found = table.slide(rows[slide_id])
                return known_frame(found.coords_l0, int(found.sizes_l0[0]), found.slide_size_l0)
        return None

    def describe(self, slide_id: str, frame: Frame) -> list[dict[str, Any]]:
        """Return the attention of a slide as plain values, one entry per model and aggregator."""
        found = []
        for table, rows in zip(self.tables, self.rows, strict=True):
            if slide_id in rows:
                scores = table.slide(rows[slide_id])
                values = frame.place(scores.coords_l0, np.asarray(scores.scores, np.float64))
                found.append({"model": table.model, "aggregator": table.aggregator, "values": values})
        return found


class Layers:
    """Prototypes and attention of all results below a folder, read when a slide is first shown. Thread-safe.

    Args:
        parts: What the folder contains.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._lock = threading.Lock()
        self.problems: dict[str, str] = {}
        """Files that cannot be read, and why."""

    def slides(self) -> set[str]:
        """Return the slides that have prototypes or attention."""
        found: set[str] = set()
        for run in self.runs.values():
            found |= run.rows.keys()
        for scores in self.scores.values():
            found |= {slide for rows in scores.rows for slide in rows}
        return found

    @property
    def runs(self) -> Mapping[str, RunPrototypes]:
        """Prototypes of each run, by its name."""
        with self._lock:
            return self._runs

    @property
    def scores(self) -> Mapping[str, SlideScoreTables]:
        """Attention of each evaluation, by its name."""
        with self._lock:
            return self._scores

    @cached_property
    def _runs(self) -> dict[str, RunPrototypes]:
        read = self._read(self._parts.runs, PROTOTYPES, PrototypeFile.read)
        return {name: RunPrototypes(file) for name, file in read.items()}

    @cached_property
    def _scores(self) -> dict[str, SlideScoreTables]:
        read = self._read(self._parts.evaluations, SCORES, read_scores)
        return {name: SlideScoreTables(tables) for name, tables in read.items()}

    def _read(self, folders: Sequence[Path], name: str, read: Callable[[Path], Any]) -> dict[str, Any]:
        found = {}
        for folder in folders:
            if (folder / name).is_file():
                try:
                    found[self._parts.name_of(folder)] = read(folder / name)
                except CacheError as error:
                    self.problems[f"{self._parts.name_of(folder)}/{name}"] = str(error)
        return found

    def frame(self, slide_id: str, file: TokenFile | None) -> Frame | None:
        """Return the positions of a slide's regions, from its token file or else from the results; None if unknown."""
        if file is not None:
            meta = file.meta
            size = (meta.slide_width_l0, meta.slide_height_l0)
            return known_frame(file.coords, meta.region_l0, size, meta.mpp_l0)
        scores, runs = self.scores.values(), self.runs.values()
        found = [*(each.frame(slide_id) for each in scores), *(each.frame(slide_id) for each in runs)]
        return next((frame for frame in found if frame is not None), None)


def known_frame(coords: Coords, region_l0: int, size_l0: tuple[int, int], mpp_l0: float | None = None) -> Frame:
    """Return a frame; a slide of unknown size is assumed to end at its last region."""
    last = coords.max(axis=0) + region_l0 if len(coords) else np.array([region_l0, region_l0])
    width, height = (size if size > 0 else int(end) for size, end in zip(size_l0, last.tolist(), strict=True))
    return Frame(coords, region_l0, (max(1, width), max(1, height)), mpp_l0)


def tissue_picture(file: TokenFile) -> tuple[bytes, tuple[int, int, int, int]] | None:
    """Draw the tissue fraction of every patch as the opacity of one color.

    Returns:
        A PNG with one pixel per patch, or per region for very large slides, and the rectangle that it covers: x, y,
        width and height, level-0 px. None for a slide without regions.

    Raises:
        CacheError: The file can no longer be read.
    """
    if not len(file):
        return None
    side, coords = file.meta.region_l0, file.coords
    corner = coords.min(axis=0)
    cells = np.rint((coords - corner) / side).astype(np.int64)
    columns, rows = (cells.max(axis=0) + 1).tolist()
    grid = file.meta.grid if columns * rows * file.meta.grid**2 <= _TISSUE_PX else 1
    if columns * rows * grid**2 > _TISSUE_PX:
        return None
    tissue = file.tissue if grid > 1 else file.tissue.mean(axis=(1, 2), dtype=np.float32).reshape(-1, 1, 1)
    alpha = np.zeros((rows, grid, columns, grid), np.uint8)
    alpha[cells[:, 1], :, cells[:, 0], :] = np.rint(np.asarray(tissue, np.float32) * 255).astype(np.uint8)
    picture = np.empty((rows * grid, columns * grid, 4), np.uint8)
    picture[..., :3], picture[..., 3] = TISSUE_RGB, alpha.reshape(rows * grid, columns * grid)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue(), (int(corner[0]), int(corner[1]), columns * side, rows * side)
