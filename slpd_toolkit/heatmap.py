"""`slpd heatmap`: stored scores as pictures and as QuPath objects, with or without the slides."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from slpd_toolkit import console
from slpd_toolkit.errors import SlideError, SlpdError, UsageError
from slpd_toolkit.failures import FILENAME, Failure, FailureLog
from slpd_toolkit.files import is_safe_name, remove_leftovers
from slpd_toolkit.mil.arrays import listed
from slpd_toolkit.report import scores as score_file
from slpd_toolkit.report.heatmap_figure import heading, write_heatmap
from slpd_toolkit.report.overlays import colour_values, draw_overlay
from slpd_toolkit.report.qupath import write_geojson
from slpd_toolkit.report.score_csv import read_score_csv
from slpd_toolkit.report.thumbnails import Thumbnails, slide_files

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from slpd_toolkit.config.heatmap import HeatmapConfig
    from slpd_toolkit.report.scores import ScoreTable, SlideScores

STAGE = "heatmap"


@dataclass(frozen=True)
class Source:
    """Whose scores, and a function for each slide that reads its squares."""

    model: str
    aggregator: str
    slides: Mapping[str, Callable[[], SlideScores]]


def run(config: HeatmapConfig) -> int:
    """Write the pictures and objects of each slide.

    Returns:
        0, or 1 if some slides have none, or a picture without the pixels that it should have; failures.csv lists them.

    Raises:
        UsageError: No scores are there, or it is not clear which, or a slide has none.
        CacheError: scores.h5 is damaged.
    """
    source = _choose_slides(config, _read(config))
    thumbnails = Thumbnails(slide_files(config.manifest, config.slides_root), config.side_px)
    config.out.mkdir(parents=True, exist_ok=True)
    failures = FailureLog(config.out / FILENAME)
    done = 0
    with console.progress(STAGE, total=len(source.slides), unit="slides") as progress:
        for slide_id, read in source.slides.items():
            try:
                _write(config, source, slide_id, read, thumbnails)
                done += 1
            except (SlpdError, OSError) as error:
                failures.add(Failure.of(STAGE, slide_id, config.scores, error))
            if slide_id in thumbnails.failures:
                failures.add(Failure.of(STAGE, slide_id, config.scores, thumbnails.failures[slide_id]))
            progress.advance(1, slide_id)
    for failure in failures.rows:
        console.warn(f"{failure.slide_id}: {failure.error} {failure.hint}")
    failed = f"; {len(failures)} failed, see {failures.path}" if len(failures) else ""
    console.note(f"{done:,} of {len(source.slides):,} slides are in {config.out}{failed}.")
    if not config.manifest and config.format != "geojson":
        console.note("With --manifest the pictures show the slides' pixels.")
    return 1 if len(failures) else 0


def _write(
    config: HeatmapConfig, source: Source, slide_id: str, read: Callable[[], SlideScores], thumbnails: Thumbnails
) -> None:
    if not is_safe_name(slide_id):
        raise SlideError(
            f"slide_id {slide_id!r} cannot be a file name.",
            hint="Allowed: letters, digits, '.', '_', '-', not starting with '.'.",
        )
    slide = read()
    values = colour_values(slide.scores, config.scale)
    if config.format != "png":
        path = config.out / f"{slide_id}.geojson"
        remove_leftovers(path)
        write_geojson(path, slide, values, config.scale)
    if config.format != "geojson":
        path = config.out / f"{slide_id}.png"
        remove_leftovers(path)
        whole = thumbnails.read(slide_id)
        other = whole is not None and min(slide.slide_size_l0) > 0 and slide.slide_size_l0 != whole.size_l0
        pixels = None if whole is None or other else whole.rgb
        placed = slide if whole is None or other else replace(slide, slide_size_l0=whole.size_l0)
        overlay = draw_overlay(placed, values, pixels, config.side_px)
        write_heatmap(path, heading(slide_id, source.model, source.aggregator), overlay, slide.scores, config.scale)
        if whole is not None and other:
            raise SlideError(
                f"The slide file has {_size(whole.size_l0)} px, the scores are of one with "
                f"{_size(slide.slide_size_l0)}: shown without pixels.",
                hint="Name the file that was embedded in the manifest. Squares of features that were imported without "
                "the slide's size cannot be laid on its pixels.",
            )


def _size(size_l0: tuple[int, int]) -> str:
    return f"{size_l0[0]:,} x {size_l0[1]:,}"


def _read(config: HeatmapConfig) -> Source:
    path = config.scores / score_file.FILENAME if config.scores.is_dir() else config.scores
    if not path.is_file():
        raise UsageError(
            f"{path} does not exist.",
            hint="Give scores.h5 or the folder of `slpd mil-eval` that holds it, or a CSV.",
        )
    if path.suffix.lower() == ".csv":
        if config.model or config.aggregator:
            raise UsageError(f"{path} is a CSV: --model and --aggregator choose within a scores.h5.")
        return Source("", "", read_score_csv(path))
    table = _choose_table(config, path, score_file.read_scores(path))
    slides = {slide: partial(table.slide, index) for index, slide in enumerate(table.slide_ids)}
    return Source(table.model, table.aggregator, slides)


def _choose_table(config: HeatmapConfig, path: Path, tables: tuple[ScoreTable, ...]) -> ScoreTable:
    if not tables:
        raise UsageError(
            f"{path} holds no scores: probes have no attention, vectors of slides no regions.",
            hint="Run `slpd mil-eval` with --aggregator abmil.",
        )
    fitting = [
        table
        for table in tables
        if config.model in {None, table.model} and config.aggregator in {None, table.aggregator}
    ]
    if len(fitting) != 1:
        found = "; ".join(f"--model {table.model} --aggregator {table.aggregator}" for table in fitting or tables)
        what = "several sets of scores fit" if fitting else "no scores fit"
        raise UsageError(f"{path}: {what} --model and --aggregator.", hint=f"Choose one: {found}.")
    return fitting[0]


def _choose_slides(config: HeatmapConfig, source: Source) -> Source:
    absent = [slide for slide in config.slide if slide not in source.slides]
    if absent:
        raise UsageError(f"--slide: {listed(absent)} has no scores; {listed(source.slides)} have.")
    names = list(config.slide or source.slides)[: config.limit or None]
    return replace(source, slides={name: source.slides[name] for name in names})
