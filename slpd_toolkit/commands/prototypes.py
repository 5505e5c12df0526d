"""`slpd prototypes`: show the prototypes of a run as a table, and as an atlas with the regions nearest to each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.core import console
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.failures import FILENAME, Failure, FailureLog
from slpd_toolkit.core.folder_lock import locks_folder
from slpd_toolkit.core.manifest import read_table
from slpd_toolkit.core.row_filter import select_rows
from slpd_toolkit.core.text import count, listed
from slpd_toolkit.report.atlas import write_atlas
from slpd_toolkit.report.atlas_pages import STAGE, Atlas, print_prototypes
from slpd_toolkit.report.thumbnails import slide_files
from slpd_toolkit.training.prototype_file import PrototypeFile
from slpd_toolkit.training.run_folder import PROTOTYPES

if TYPE_CHECKING:
    from pathlib import Path

    from slpd_toolkit.config.prototypes import PrototypesConfig
    from slpd_toolkit.core.manifest import SlideEntry


@locks_folder(STAGE, lambda config: config.out or config.run / "atlas")
def run(config: PrototypesConfig) -> int:
    """Print the table and write the atlas.

    Returns:
        0, or 1 if the atlas lacks the pixels of some slides of the manifest; failures.csv lists them.

    Raises:
        UsageError: The run has no prototypes, the manifest cannot be read, or another process writes the atlas.
    """
    path = config.run / PROTOTYPES
    if not path.exists():
        raise UsageError(
            f"{path} does not exist.",
            hint="`slpd pretrain` writes it once a run has prototypes (--prototype-epoch) and at its end.",
        )
    file = PrototypeFile.read(path)
    sizes = np.bincount(file.region_row[file.region_row >= 0], minlength=len(file.slide_ids))
    order = np.argsort(-sizes, kind="stable")
    if config.manifest and config.where:
        rows = select_rows(read_table(config.manifest), config.where, config.manifest)
        order = order[np.isin(file.slide_ids[order].astype(str), rows["slide_id"].tolist())]
    shown = order[: config.limit or None]
    print_prototypes(file, sizes, shown)
    folder = config.out or config.run / "atlas"
    failures = FailureLog(folder / FILENAME)
    slides = slide_files(config.manifest, config.slides_root)
    if config.manifest:
        _report_absent([str(slide_id) for slide_id in file.slide_ids[shown]], slides, config.manifest, failures)
    atlas = Atlas(file, folder, config.nearest, slides, failures)
    pages = [atlas.page(int(row), set(file.slide_ids[shown])) for row in shown]
    write_atlas(folder / "index.html", config.run.resolve().name, pages, len(file.slide_ids), file.step)
    if not config.manifest:
        console.note("With --manifest, the atlas shows the pixels of the regions.")
    if len(failures):
        console.warn(
            f"{count(len(failures), 'slide is', 'slides are')} shown without pixels; see {failures.path} for the "
            "reasons and what to do."
        )
    console.note(f"Atlas: {folder / 'index.html'}.")
    return 1 if len(failures) else 0


def _report_absent(shown: list[str], slides: dict[str, SlideEntry], manifest: Path, failures: FailureLog) -> None:
    """Report the slides that have no usable row in the manifest."""
    absent = [slide_id for slide_id in shown if slide_id not in slides]
    for slide_id in absent:
        hint = "Add a row with the slide_id of the token cache, or correct the existing row."
        failures.add(Failure(STAGE, slide_id, str(manifest), "the manifest has no usable row for it.", hint))
    if absent:
        console.warn(
            f"{manifest} has no usable row for {len(absent):,} of {count(len(shown), 'slide')}: {listed(absent)}."
        )
