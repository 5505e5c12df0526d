"""`slpd heatmap`: draw stored scores as images and QuPath objects, with or without the slides."""

from __future__ import annotations

from typing import TYPE_CHECKING

import joblib

from slpd_toolkit.core import console
from slpd_toolkit.core.cluster import joined_cluster
from slpd_toolkit.core.failures import FILENAME, Failure, FailureLog
from slpd_toolkit.core.files import claim_folder, remove_leftovers_of
from slpd_toolkit.core.folder_lock import locks_folder
from slpd_toolkit.core.text import agree, count, listed
from slpd_toolkit.core.workers import in_processes, release_workers
from slpd_toolkit.report.chosen_scores import choose_scores
from slpd_toolkit.report.heatmap_figure import heading
from slpd_toolkit.report.heatmap_files import STAGE, SUFFIXES, draw_slide, needs_slides, read_squares
from slpd_toolkit.report.thumbnails import find_slides

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slpd_toolkit.config.heatmap import HeatmapConfig

_MESSAGES = 20
_SLIDES_A_PROCESS = 8
"""Drawing this many slides takes about as long as starting a process."""


@locks_folder(STAGE)
def run(config: HeatmapConfig) -> int:
    """Write the images and objects of each slide.

    Returns:
        0, or 1 if some slides were not drawn, or were drawn without their pixels; failures.csv lists them.

    Raises:
        UsageError: There are no scores, it is ambiguous which of them to draw, a slide has none, the output folder is
            not writable, or another process writes to it.
        SlpdError: A process was killed.
        CacheError: scores.h5 is damaged.
    """
    source = choose_scores(config)
    entries, problems = find_slides(config.manifest, config.slides_root)
    claim_folder(config.out, (FILENAME,))
    names = {f"{slide_id}.{suffix}" for slide_id in source.slides for suffix in SUFFIXES[config.format]}
    remove_leftovers_of(config.out, names)
    failures = FailureLog(config.out / FILENAME)
    if needs_slides(config):
        result = "Written in whole-slide coordinates" if config.format == "geojson" else "Shown without pixels"
        for problem in problems:
            if problem.slide_id in source.slides:
                failures.add(
                    Failure(STAGE, problem.slide_id, problem.slide_path, f"{result}: {problem.error}", problem.hint)
                )
    done, corners_l0 = 0, list[tuple[int, int] | None]()
    jobs = min(config.jobs or joblib.cpu_count(), max(1, len(source.slides) // _SLIDES_A_PROCESS))
    calls = (
        (
            config,
            heading(slide_id, source.model, source.aggregator),
            slide_id,
            read_squares(config, slide_id, read),
            entries.get(slide_id),
        )
        for slide_id, read in source.slides.items()
    )
    with (
        joined_cluster(config.cluster),
        console.progress(STAGE, total=len(source.slides), unit="slides") as progress,
    ):
        for slide_id, drawn in zip(source.slides, in_processes(draw_slide, calls, jobs, doing="draws"), strict=True):
            for failure in drawn.failures:
                failures.add(failure)
            done += drawn.done
            corners_l0 += [drawn.corner_l0] if drawn.done else []
            progress.advance(1, slide_id)
    release_workers()
    for failure in failures.rows[:_MESSAGES]:
        console.warn(f"{failure.slide_id}: {failure.error} {failure.hint}")
    unlisted = sorted(source.slides.keys() - entries.keys() - {problem.slide_id for problem in problems})
    if config.manifest and config.format != "geojson" and unlisted:
        console.warn(
            f"{count(len(unlisted), 'slide is', 'slides are')} not in {config.manifest}, shown without pixels: "
            f"{listed(unlisted)}."
        )
    _report_origins(config, corners_l0)
    failed = f"; {len(failures)} failed, see {failures.path}" if len(failures) else ""
    console.note(
        f"{done:,} of {count(len(source.slides), 'slide')} {agree(done, 'is', 'are')} in {config.out}{failed}."
    )
    if not config.manifest and config.format != "geojson":
        console.note("With --manifest, the images show the pixels of the slides.")
    return 1 if len(failures) else 0


def _report_origins(config: HeatmapConfig, corners_l0: Sequence[tuple[int, int] | None]) -> None:
    """Report the origin of the GeoJSON coordinates if it matters: viewers show misplaced squares without an error."""
    if config.format == "png" or not config.crop:
        return
    cropped = sum(corner_l0 not in {None, (0, 0)} for corner_l0 in corners_l0)
    unknown = sum(corner_l0 is None for corner_l0 in corners_l0)
    if cropped:
        console.note(
            f"GeoJSON of {count(cropped, 'slide')} is relative to OpenSlide's bounds, to which QuPath crops by "
            "default. For images added to QuPath with --no-crop, use --no-crop here as well."
        )
    if unknown:
        where = (
            f"{config.manifest} does not list their files" if config.manifest else "no --manifest to find their files"
        )
        console.note(
            f"GeoJSON of {count(unknown, 'slide')} is in whole-slide coordinates ({where}). QuPath crops MRXS, SCN and "
            "sparse slides to their bounds: use --manifest, or add these images to QuPath with --no-crop."
        )
