"""Pages of the prototype atlas, built from a prototype file, with images of the regions nearest to each prototype."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

import numpy as np

from slpd_toolkit.core import console
from slpd_toolkit.core.errors import SlideError
from slpd_toolkit.core.failures import Failure
from slpd_toolkit.core.text import count
from slpd_toolkit.report.atlas import THUMBNAIL_PX, Prototype, SlidePage, map_squares, write_strip
from slpd_toolkit.slides.guarded_slide import GuardedSlide, SlideReaders

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from slpd_toolkit.core.failures import FailureLog
    from slpd_toolkit.core.manifest import SlideEntry
    from slpd_toolkit.training.prototype_file import PrototypeFile

STAGE = "prototypes"
_TABLE_ROWS = 20


class Atlas:
    """Pages of the atlas; their images are written into its folder."""

    def __init__(
        self, file: PrototypeFile, folder: Path, nearest: int, slides: dict[str, SlideEntry], failures: FailureLog
    ) -> None:
        self._file, self._folder, self._nearest, self._slides = file, folder, nearest, slides
        self._failures = failures

    def page(self, row: int, shown: set[str]) -> SlidePage:
        """Describe one slide, and write a strip of thumbnails for each of its prototypes if its file is available."""
        file, slide_id = self._file, str(self._file.slide_ids[row])
        regions = np.flatnonzero(file.region_row == row)
        clusters = file.region_cluster[regions]
        members = [regions[clusters == k] for k in range(file.prototypes.shape[1])]
        pictures = self._pictures(row, slide_id, members)
        squares, width, height = map_squares(file.region_coords[regions], int(file.region_l0[row]), clusters)
        best = str(file.slide_ids[file.neighbours[row, 0]])
        return SlidePage(
            slide_id=slide_id,
            regions=len(regions),
            prototypes=[
                Prototype(
                    number=k,
                    regions=len(inside),
                    cosine=float(file.region_cosine[inside].mean()) if len(inside) else float("nan"),
                    picture=pictures.get(k, ""),
                    counterpart=f"corresponds to {file.counterpart[row, k, 0] + 1} of {best}",
                )
                for k, inside in enumerate(members)
            ],
            neighbours=[
                (str(file.slide_ids[other]), float(cosine), file.slide_ids[other] in shown)
                for other, cosine in zip(file.neighbours[row], file.similarity[row], strict=True)
            ],
            squares=squares,
            width=width,
            height=height,
        )

    def _pictures(self, row: int, slide_id: str, members: list[npt.NDArray[np.intp]]) -> dict[int, str]:
        entry = self._slides.get(slide_id)
        if entry is None:
            return {}
        try:
            self._require_located(row)
            with SlideReaders() as readers:
                slide = GuardedSlide(readers, entry.slide_path, entry.mpp_l0)
                return {
                    k: self._strip(slide, row, slide_id, k, inside) for k, inside in enumerate(members) if len(inside)
                }
        except SlideError as error:
            self._failures.add(Failure.of(STAGE, slide_id, entry.slide_path, error))
            console.warn(f"{slide_id}: {error}")
            return {}

    def _require_located(self, row: int) -> None:
        if not self._file.located[row]:
            raise SlideError(
                "its features were imported without resolution or coordinates, so its pixels cannot be located.",
                hint="Import them with --manifest and an mpp column (um/px at level 0), and train on that cache.",
            )

    def _strip(self, slide: GuardedSlide, row: int, slide_id: str, k: int, inside: npt.NDArray[np.intp]) -> str:
        file = self._file
        nearest = inside[np.argsort(-file.region_cosine[inside], kind="stable")][: self._nearest]
        side_l0 = int(file.region_l0[row])
        corners = file.region_coords[nearest].tolist()
        name = f"{slide_id}-{k + 1}.jpg"
        write_strip(self._folder / name, [slide.read(x, y, side_l0, THUMBNAIL_PX) for x, y in corners])
        return quote(name)


def print_prototypes(file: PrototypeFile, sizes: npt.NDArray[np.intp], shown: npt.NDArray[np.intp]) -> None:
    """Print a table of the slides and their clusters.

    Args:
        file: The prototypes.
        sizes: (S,) regions of each slide.
        shown: Rows of the slides, in the order of the table.
    """
    clusters = file.prototypes.shape[1]
    rows = []
    for row in shown[:_TABLE_ROWS].tolist():
        members = file.region_cluster[file.region_row == row]
        counts = sorted(np.bincount(members, minlength=clusters).tolist(), reverse=True)
        rows.append(
            {
                "slide": str(file.slide_ids[row]),
                "regions": int(sizes[row]),
                "clusters": " ".join(str(count) for count in counts),
                "most similar slide": str(file.slide_ids[file.neighbours[row, 0]]),
                "cosine": round(float(file.similarity[row, 0]), 3),
            }
        )
    more = len(file.slide_ids) - len(rows)
    title = f"{count(len(file.slide_ids), 'slide')} with {clusters} prototypes each, after {file.step:,} steps"
    console.table(title + (f" ({more:,} more slides)" if more else ""), rows)
