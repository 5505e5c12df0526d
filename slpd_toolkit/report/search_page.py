"""Page of a search: for each slide found, which prototypes match those of the query, side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

import numpy as np

from slpd_toolkit.core.errors import SlideError
from slpd_toolkit.core.failures import Failure
from slpd_toolkit.core.figures.pictures import COLOURS
from slpd_toolkit.core.files import make_folder, write_text
from slpd_toolkit.report.atlas import THUMBNAIL_PX, write_strip
from slpd_toolkit.report.pages import render
from slpd_toolkit.slides.guarded_slide import GuardedSlide, SlideReaders

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Protocol

    import numpy.typing as npt

    from slpd_toolkit.core.failures import FailureLog
    from slpd_toolkit.core.manifest import SlideEntry
    from slpd_toolkit.mil.set_similarity import Sets
    from slpd_toolkit.training.prototype_file import PrototypeFile

    class FoundSlide(Protocol):
        """A slide that was found."""

        @property
        def slide_id(self) -> str:
            """Its ID."""

        @property
        def row(self) -> int:
            """Its position among the searched sets."""

        @property
        def similarity(self) -> float:
            """Total cosine of the optimal matching."""

        @property
        def pairs(self) -> list[tuple[int, int, float, float]]:
            """Matched vectors as (query's, slide's, mass, cosine)."""


STAGE = "search"


@dataclass(frozen=True, eq=False)
class SlideRegions:
    """Regions of one slide, by prototype."""

    cluster: npt.NDArray[np.int64]
    """(R,) index of each region's prototype."""
    cosine: npt.NDArray[np.float32]
    """(R,) cosine similarity of each region and its prototype."""
    coords: npt.NDArray[np.int64]
    """(R, 2) x, y of each top-left corner, level-0 px."""
    side_l0: int
    """Side length of a region, level-0 px."""
    located: bool
    """Whether the coordinates are in the slide's own level-0 frame."""


@dataclass(frozen=True, eq=False)
class SearchPage:
    """What the page shows."""

    query: str
    source: str
    own: Sets
    """Vectors of the query."""
    found: Sequence[FoundSlide]
    sets: Sets
    """Vectors of all searched slides."""
    patients: Mapping[str, str]
    sites: Mapping[str, str]
    among: str = ""
    """Which slides could be found."""
    regions: SlideRegions | None = None
    """Regions of a query that is not a slide of the run."""


@dataclass(frozen=True)
class PairRow:
    """One row of the page: two matched prototypes."""

    own: int
    other: int
    mass: float
    cosine: float
    own_picture: str
    other_picture: str

    @property
    def colour(self) -> str:
        """Color of the query's prototype."""
        return COLOURS[self.own % len(COLOURS)]


class RegionPictures:
    """Strips of the regions nearest to a prototype, written into the folder of the page as they are asked for.

    Args:
        file: The prototypes of the run; None for vectors without regions.
        folder: Folder of the page.
        nearest: Number of regions per strip.
        slides: Slides with their paths.
        failures: Where slides that cannot be read are recorded.
    """

    def __init__(
        self,
        file: PrototypeFile | None,
        folder: Path,
        nearest: int,
        slides: Mapping[str, SlideEntry],
        failures: FailureLog,
    ) -> None:
        self._file, self._folder, self._nearest = file, folder, nearest
        self._slides, self._failures = slides, failures
        self._rows = {} if file is None else {str(name): row for row, name in enumerate(file.slide_ids)}

    def of_slide(self, slide_id: str, regions: SlideRegions | None = None) -> dict[int, str]:
        """Return the URL of the strip of each prototype of a slide; empty if there are no pixels.

        Args:
            slide_id: The slide.
            regions: Its regions; None for those of the run.
        """
        entry, row = self._slides.get(slide_id), self._rows.get(slide_id)
        if regions is None and self._file is not None and row is not None:
            regions = _regions_of(self._file, row)
        if regions is None or entry is None:
            return {}
        try:
            _require_located(regions)
            with SlideReaders() as readers:
                slide = GuardedSlide(readers, entry.slide_path, entry.mpp_l0)
                return {k: self._strip(slide, slide_id, regions, k) for k in np.unique(regions.cluster).tolist()}
        except SlideError as error:
            self._failures.add(Failure.of(STAGE, slide_id, entry.slide_path, error))
            return {}

    def _strip(self, slide: GuardedSlide, slide_id: str, regions: SlideRegions, k: int) -> str:
        inside = np.flatnonzero(regions.cluster == k)
        nearest = inside[np.argsort(-regions.cosine[inside], kind="stable")][: self._nearest]
        name = f"{slide_id}-{k + 1}.jpg"
        make_folder(self._folder)
        corners = regions.coords[nearest].tolist()
        write_strip(self._folder / name, [slide.read(x, y, regions.side_l0, THUMBNAIL_PX) for x, y in corners])
        return quote(name)


def _require_located(regions: SlideRegions) -> None:
    if not regions.located:
        raise SlideError("its pixels cannot be located, because its features were imported without resolution.")


def _regions_of(file: PrototypeFile, row: int) -> SlideRegions:
    inside = file.region_row == row
    return SlideRegions(
        file.region_cluster[inside],
        file.region_cosine[inside],
        file.region_coords[inside],
        int(file.region_l0[row]),
        bool(file.located[row]),
    )


def write_search_page(path: Path, page: SearchPage, pictures: RegionPictures) -> None:
    """Write the page.

    Args:
        path: The HTML file.
        page: What it shows.
        pictures: Images of regions.
    """
    make_folder(path.parent)
    own = pictures.of_slide(page.query, page.regions)
    slides = []
    for rank, match in enumerate(page.found, start=1):
        other = pictures.of_slide(match.slide_id)
        rows = [PairRow(k, n, mass, cosine, own.get(k, ""), other.get(n, "")) for k, n, mass, cosine in match.pairs]
        slides.append(
            {
                "rank": rank,
                "slide_id": match.slide_id,
                "similarity": match.similarity,
                "about": _about(page, match.slide_id),
                "weights": _used(page.sets.weights[match.row]),
                "rows": rows,
            }
        )
    text = render(
        "search.html",
        query=page.query,
        source=page.source,
        among=page.among,
        about=_about(page, page.query),
        weights=_used(page.own.weights[0]),
        slides=slides,
    )
    write_text(path, text)


def _about(page: SearchPage, slide_id: str) -> str:
    parts = [("patient", page.patients.get(slide_id, "")), ("site", page.sites.get(slide_id, ""))]
    return ", ".join(f"{name} {value}" for name, value in parts if value)


def _used(weights: npt.NDArray[np.float32]) -> list[tuple[int, float]]:
    return [(k + 1, float(weight)) for k, weight in enumerate(weights) if weight > 0]
