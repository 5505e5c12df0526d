"""`slpd heatmap`: stored scores as pictures and as QuPath objects, with or without the slides."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import joblib

from slpd_toolkit.core import console
from slpd_toolkit.core.errors import SlideError, UsageError
from slpd_toolkit.core.failures import FILENAME, Failure, FailureLog
from slpd_toolkit.core.files import claim_folder, is_safe_name, remove_leftovers
from slpd_toolkit.core.text import listed
from slpd_toolkit.core.workers import in_processes, release_workers
from slpd_toolkit.report import scores as score_file
from slpd_toolkit.report.heatmap_figure import heading, write_heatmap
from slpd_toolkit.report.overlays import colour_values, draw_overlay
from slpd_toolkit.report.qupath import write_geojson
from slpd_toolkit.report.score_csv import read_score_csv
from slpd_toolkit.report.scores import require_drawable
from slpd_toolkit.report.thumbnails import Thumbnails, find_slides

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from slpd_toolkit.config.heatmap import HeatmapConfig
    from slpd_toolkit.core.manifest import SlideEntry
    from slpd_toolkit.report.scores import ScoreTable, SlideScores
    from slpd_toolkit.report.thumbnails import SlideFrame

STAGE = "heatmap"
_SUFFIXES = {"both": ("geojson", "png"), "geojson": ("geojson",), "png": ("png",)}
_MESSAGES = 20
_SLIDES_A_PROCESS = 8
"""Drawing as many takes as long as starting a process."""


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
        UsageError: No scores are there, or it is not clear which, or a slide has none, or nothing can be written.
        SlpdError: A process was killed.
        CacheError: scores.h5 is damaged.
    """
    source = _choose_slides(config, _read(config))
    entries, problems = find_slides(config.manifest, config.slides_root)
    claim_folder(config.out, (FILENAME,))
    failures = FailureLog(config.out / FILENAME)
    if _needs_slides(config):
        result = "Written in coordinates of the whole slide" if config.format == "geojson" else "Shown without pixels"
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
            _squares(config, slide_id, read),
            entries.get(slide_id),
        )
        for slide_id, read in source.slides.items()
    )
    with console.progress(STAGE, total=len(source.slides), unit="slides") as progress:
        for slide_id, drawn in zip(source.slides, in_processes(_draw, calls, jobs, doing="draws"), strict=True):
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
            f"{len(unlisted)} slides are not in {config.manifest}, and shown without pixels: {listed(unlisted)}."
        )
    _say_frames(config, corners_l0)
    failed = f"; {len(failures)} failed, see {failures.path}" if len(failures) else ""
    console.note(f"{done:,} of {len(source.slides):,} slides are in {config.out}{failed}.")
    if not config.manifest and config.format != "geojson":
        console.note("With --manifest the pictures show the slides' pixels.")
    return 1 if len(failures) else 0


@dataclass(frozen=True)
class Drawn:
    """What became of a slide."""

    done: bool
    """Whether its files are there, as they should be."""
    corner_l0: tuple[int, int] | None = None
    """Where the coordinates of its GeoJSON start, level-0 px of the whole slide; None if its bounds are not known."""
    failures: tuple[Failure, ...] = ()


def _needs_slides(config: HeatmapConfig) -> bool:
    """Whether files are written that depend on the slides: pictures, and GeoJSON that follows QuPath's crop."""
    return config.format != "geojson" or config.crop


def _say_frames(config: HeatmapConfig, corners_l0: Sequence[tuple[int, int] | None]) -> None:
    """Say in which frame GeoJSON is, where it matters: a viewer shows squares at wrong places without an error."""
    if config.format == "png" or not config.crop:
        return
    cropped = sum(corner_l0 not in {None, (0, 0)} for corner_l0 in corners_l0)
    unknown = sum(corner_l0 is None for corner_l0 in corners_l0)
    if cropped:
        console.note(
            f"GeoJSON of {cropped} slides is relative to OpenSlide's bounds, as QuPath shows them by default. For "
            "images added to QuPath with --no-crop, use --no-crop here as well."
        )
    if unknown:
        where = f"{config.manifest} does not give their files" if config.manifest else "no --manifest gives their files"
        console.note(
            f"GeoJSON of {unknown} slides is in coordinates of the whole slide ({where}). QuPath crops MRXS, SCN and "
            "sparse slides to their bounds: use --manifest, or add these images to QuPath with --no-crop."
        )


def _squares(config: HeatmapConfig, slide_id: str, read: Callable[[], SlideScores]) -> SlideScores | Failure:
    """Read a slide's squares and check them, or give what is wrong: the other slides go on."""
    try:
        _require_safe(slide_id)
        slide = read()
        require_drawable(slide)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with one slide must not end the run
        return Failure.of(STAGE, slide_id, config.scores, error)
    return slide


def _require_safe(slide_id: str) -> None:
    if not is_safe_name(slide_id):
        raise SlideError(
            f"slide_id {slide_id!r} cannot be a file name.",
            hint="Allowed: letters, digits, '.', '_', '-', not starting with '.'.",
        )


def _draw(
    config: HeatmapConfig, title: str, slide_id: str, squares: SlideScores | Failure, entry: SlideEntry | None
) -> Drawn:
    """Write the files of a slide; those of an earlier run go if they cannot be replaced, as they show other scores."""
    paths = (
        [config.out / f"{slide_id}.{suffix}" for suffix in _SUFFIXES[config.format]] if is_safe_name(slide_id) else []
    )
    if isinstance(squares, Failure):
        _remove(paths)
        return Drawn(done=False, failures=(squares,))
    thumbnails = Thumbnails({} if entry is None else {slide_id: entry}, config.side_px)
    errors: list[Exception] = []
    corner_l0 = None
    try:
        frame = thumbnails.frame(slide_id) if _needs_slides(config) else None
        odd = None if frame is None else _other_size(config, squares, frame)
        errors += [] if odd is None else [odd]
        corner_l0 = None if frame is None or odd is not None else frame.bounds_corner_l0
        _write(config, title, squares, paths, thumbnails if odd is None else None, corner_l0)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with one slide must not end the run
        _remove(paths)
        errors.append(error)
    done = not errors
    errors += thumbnails.failures.values()
    return Drawn(done, corner_l0, tuple(Failure.of(STAGE, slide_id, config.scores, error) for error in errors))


def _remove(paths: Sequence[Path]) -> None:
    for path in paths:
        with suppress(OSError):
            path.unlink()


def _other_size(config: HeatmapConfig, slide: SlideScores, frame: SlideFrame) -> SlideError | None:
    """Return what is wrong where the slide file is not the one that was scored; its pixels and bounds are not used."""
    if min(slide.slide_size_l0) <= 0 or slide.slide_size_l0 == frame.size_l0:
        return None
    result = "written in coordinates of the whole slide" if config.format == "geojson" else "shown without pixels"
    return SlideError(
        f"The slide file has {_size(frame.size_l0)} px, the scores are of one with {_size(slide.slide_size_l0)}: "
        f"{result}.",
        hint="Name the file that was embedded in the manifest. Squares of features that were imported without "
        "the slide's size cannot be laid on its pixels.",
    )


def _write(
    config: HeatmapConfig,
    title: str,
    slide: SlideScores,
    paths: Sequence[Path],
    thumbnails: Thumbnails | None,
    corner_l0: tuple[int, int] | None,
) -> None:
    """Write each file.

    Args:
        config: The settings.
        title: Heading of the picture.
        slide: Squares with their scores.
        paths: The files to write.
        thumbnails: Where pixels are read; None draws without.
        corner_l0: Where the coordinates of GeoJSON start, if that is known and wanted.
    """
    values = colour_values(slide.scores, config.scale)
    for path in paths:
        remove_leftovers(path)
        if path.suffix == ".geojson":
            write_geojson(path, slide, values, config.scale, (corner_l0 or (0, 0)) if config.crop else (0, 0))
            continue
        whole = None if thumbnails is None else thumbnails.read(slide.slide_id)
        placed = slide if whole is None else replace(slide, slide_size_l0=whole.size_l0)
        overlay = draw_overlay(placed, values, None if whole is None else whole.rgb, config.side_px)
        write_heatmap(path, title, overlay, slide.scores, config.scale)


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
