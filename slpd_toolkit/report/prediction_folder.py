"""The output folder of `slpd predict`. predictions.csv is removed first and written last.

heads.csv lists the slides of an earlier run. Their pages are removed first, so that a slide that fails now does not
keep an old page.
"""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.config.recipe import RECIPE
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.failures import FILENAME as FAILURES
from slpd_toolkit.core.files import claim_folder, is_safe_name, write_csv, write_text
from slpd_toolkit.core.result_folders import require_results_of
from slpd_toolkit.report.prediction_page import index_page, slide_page
from slpd_toolkit.report.prediction_table import head_columns, head_rows, prediction_columns, prediction_rows
from slpd_toolkit.report.scores import FILENAME as SCORES
from slpd_toolkit.report.scores import ScoreTable, slide_scores, write_score_tables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from slpd_toolkit.core.failures import Failure
    from slpd_toolkit.mil.bundle.bundle import Bundle, Predictions
    from slpd_toolkit.mil.statistics.results import Representation
    from slpd_toolkit.report.thumbnails import WholeSlide

PREDICTIONS, HEADS, PAGES, INDEX = "predictions.csv", "heads.csv", "pages", "index.html"


def claim_prediction_folder(out: Path, bundle: Bundle, inputs: Iterable[Path]) -> None:
    """Create the folder before the work starts, and remove the predictions of an earlier run.

    Args:
        out: The folder.
        bundle: The heads, which determine the columns of heads.csv.
        inputs: Files and folders that are read.

    Raises:
        UsageError: It cannot be written to, or holds an input or results of another command.
    """
    require_results_of("predict", out)
    files = (PREDICTIONS, HEADS, SCORES, FAILURES, RECIPE)
    read = {path.resolve() for path in inputs}
    lost = [name for name in (".", *files) if (out / name).resolve() in read]
    if lost:
        raise UsageError(
            f"--out: {out} holds the input {lost[0]}, whose files would be overwritten.",
            hint="Choose a separate folder for the predictions.",
        )
    claim_folder(out, files)
    for name in (PREDICTIONS, SCORES):
        (out / name).unlink(missing_ok=True)
    for slide in _slides_of_heads(out / HEADS):
        (out / PAGES / f"{slide}.html").unlink(missing_ok=True)
    (out / PAGES / INDEX).unlink(missing_ok=True)
    write_csv(out / HEADS, head_columns(bundle), ())  # last: it lists the pages of the earlier run


def _slides_of_heads(path: Path) -> set[str]:
    """Return the slides in the heads.csv of an earlier run, whose pages may exist; none if it cannot be read."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            slides = {row.get("slide_id") or "" for row in csv.DictReader(file)}
    except (OSError, ValueError, csv.Error):
        return set()
    return {slide for slide in slides if is_safe_name(slide)}


def write_predictions(
    out: Path,
    bundle: Bundle,
    found: Predictions,
    representation: Representation,
    patient_of: Mapping[str, str] | None,
    thumbnails: Callable[[str], WholeSlide | None] | None,
    failures: Sequence[Failure] = (),
) -> None:
    """Write all files.

    Args:
        out: The folder.
        bundle: The heads.
        found: Their predictions.
        representation: Bags of the predicted slides, and the positions of their regions.
        patient_of: Patient of each slide; None if the manifest does not tell.
        thumbnails: Returns the thumbnail of a slide, or None if it cannot be read. None: no pages.
        failures: Slides without predictions.
    """
    tables = _score_tables(bundle, found, representation)
    write_score_tables(out / SCORES, tables, bundle.target)
    write_csv(out / HEADS, head_columns(bundle), head_rows(bundle, found))
    if thumbnails is not None:
        claim_folder(out / PAGES, (INDEX,))
        for row, slide in enumerate(found.slides):
            scores = tables[0].slide(row) if tables else None
            write_text(out / PAGES / f"{slide}.html", slide_page(bundle, found, row, scores, thumbnails(slide)))
        write_text(out / PAGES / INDEX, index_page(bundle, found, failures))
    columns = prediction_columns(bundle, patients=patient_of is not None)
    write_csv(out / PREDICTIONS, columns, prediction_rows(bundle, found, patient_of))


def _score_tables(bundle: Bundle, found: Predictions, representation: Representation) -> list[ScoreTable]:
    """Return the attention for `slpd heatmap`; nothing for heads without attention or bags without coordinates."""
    places = representation.places
    if places is None or not found.attention:
        return []
    slides = [slide_scores(places, representation, row, shares) for row, shares in enumerate(found.attention)]
    return [
        ScoreTable(
            bundle.model,
            bundle.aggregator,
            found.slides,
            representation.bags.offsets.astype(np.int64),
            np.concatenate([slide.coords_l0 for slide in slides]),
            places.region_l0,
            places.slide_size_l0,
            np.concatenate(found.attention),
        )
    ]
