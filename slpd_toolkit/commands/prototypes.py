"""`slpd prototypes`: what the prototypes of a run are, as a table and as an atlas with the regions nearest to each."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

import numpy as np

from slpd_toolkit.core import console
from slpd_toolkit.core.errors import SlideError, UsageError
from slpd_toolkit.core.failures import FILENAME, Failure, FailureLog
from slpd_toolkit.core.text import listed
from slpd_toolkit.report.atlas import THUMBNAIL_PX, Prototype, SlidePage, map_squares, write_atlas, write_strip
from slpd_toolkit.report.thumbnails import slide_files
from slpd_toolkit.slides.slide import Slide
from slpd_toolkit.training.prototype_file import PrototypeFile
from slpd_toolkit.training.trainer import PROTOTYPES

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from slpd_toolkit.config.prototypes import PrototypesConfig
    from slpd_toolkit.core.manifest import SlideEntry

STAGE = "prototypes"
_TABLE_ROWS = 20


def run(config: PrototypesConfig) -> int:
    """Print the table and write the atlas.

    Returns:
        0, or 1 if some slides' pixels are not in the atlas that should be; failures.csv lists them.

    Raises:
        UsageError: The folder holds no prototypes, or the manifest cannot be read.
    """
    path = config.run / PROTOTYPES
    if not path.exists():
        raise UsageError(
            f"{path} does not exist.",
            hint="`slpd pretrain` writes it once a run has prototypes (--prototype-epoch) and at its end.",
        )
    file = PrototypeFile.read(path)
    sizes = np.bincount(file.region_row[file.region_row >= 0], minlength=len(file.slide_ids))
    shown = np.argsort(-sizes, kind="stable")[: config.limit or None]
    _print_table(file, sizes, shown)
    folder = config.out or config.run / "atlas"
    folder.mkdir(parents=True, exist_ok=True)
    failures = FailureLog(folder / FILENAME)
    slides = slide_files(config.manifest, config.slides_root)
    if config.manifest:
        _tell_absent([str(slide_id) for slide_id in file.slide_ids[shown]], slides, config.manifest, failures)
    atlas = Atlas(file, folder, config.nearest, slides, failures)
    pages = [atlas.page(int(row), set(file.slide_ids[shown])) for row in shown]
    write_atlas(folder / "index.html", config.run.resolve().name, pages, len(file.slide_ids), file.step)
    if not config.manifest:
        console.note("With --manifest the atlas shows the regions' pixels.")
    if len(failures):
        console.warn(f"{len(failures):,} slides are shown without pixels: {failures.path} says why and what to do.")
    console.note(f"Look at {folder / 'index.html'}.")
    return 1 if len(failures) else 0


def _tell_absent(shown: list[str], slides: dict[str, SlideEntry], manifest: Path, failures: FailureLog) -> None:
    """Name the slides that the manifest does not have, or not in a row that can be used."""
    absent = [slide_id for slide_id in shown if slide_id not in slides]
    for slide_id in absent:
        hint = "Add a row with its slide_id as the token cache has it, or mend the row."
        failures.add(Failure(STAGE, slide_id, str(manifest), "the manifest has no row for it that can be used.", hint))
    if absent:
        console.warn(f"{manifest} has no usable row for {len(absent):,} of {len(shown):,} slides: {listed(absent)}.")


class Atlas:
    """Makes the atlas' pages, and their pictures in its folder."""

    def __init__(
        self, file: PrototypeFile, folder: Path, nearest: int, slides: dict[str, SlideEntry], failures: FailureLog
    ) -> None:
        self._file, self._folder, self._nearest, self._slides = file, folder, nearest, slides
        self._failures = failures

    def page(self, row: int, shown: set[str]) -> SlidePage:
        """Describe one slide, and write a strip of thumbnails for each of its prototypes if its file is at hand."""
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
            with Slide(entry.slide_path, entry.mpp_l0) as slide:
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
                "its features were imported without the slide's resolution or place: its pixels cannot be found.",
                hint="Import them with --manifest and a column mpp (um/px of level 0), and train on that cache.",
            )

    def _strip(self, slide: Slide, row: int, slide_id: str, k: int, inside: npt.NDArray[np.intp]) -> str:
        file = self._file
        nearest = inside[np.argsort(-file.region_cosine[inside], kind="stable")][: self._nearest]
        side_l0 = int(file.region_l0[row])
        corners = file.region_coords[nearest].tolist()
        name = f"{slide_id}-{k + 1}.jpg"
        write_strip(self._folder / name, [slide.read(x, y, side_l0, THUMBNAIL_PX) for x, y in corners])
        return quote(name)


def _print_table(file: PrototypeFile, sizes: npt.NDArray[np.intp], shown: npt.NDArray[np.intp]) -> None:
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
    title = f"{len(file.slide_ids):,} slides with {clusters} prototypes each, after {file.step:,} steps"
    console.table(title + (f" ({more:,} more slides)" if more else ""), rows)
