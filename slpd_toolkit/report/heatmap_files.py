"""The heatmap files of one slide: an image, and objects for QuPath."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from slpd_toolkit.core.errors import SlideError
from slpd_toolkit.core.failures import Failure
from slpd_toolkit.core.files import is_safe_name
from slpd_toolkit.report.heatmap_figure import write_heatmap
from slpd_toolkit.report.overlays import colour_values, draw_overlay
from slpd_toolkit.report.qupath import write_geojson
from slpd_toolkit.report.scores import require_drawable
from slpd_toolkit.report.thumbnails import Thumbnails

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from slpd_toolkit.config.heatmap import HeatmapConfig
    from slpd_toolkit.core.manifest import SlideEntry
    from slpd_toolkit.report.scores import SlideScores
    from slpd_toolkit.report.thumbnails import SlideFrame

STAGE = "heatmap"
SUFFIXES = {"both": ("geojson", "png"), "geojson": ("geojson",), "png": ("png",)}


@dataclass(frozen=True)
class Drawn:
    """Outcome for one slide."""

    done: bool
    """Whether all of its files were written."""
    corner_l0: tuple[int, int] | None = None
    """Origin of its GeoJSON coordinates, level-0 px of the whole slide; None if its bounds are unknown."""
    failures: tuple[Failure, ...] = ()


def needs_slides(config: HeatmapConfig) -> bool:
    """Whether the written files depend on the slide files: images, and GeoJSON relative to OpenSlide's bounds."""
    return config.format != "geojson" or config.crop


def read_squares(config: HeatmapConfig, slide_id: str, read: Callable[[], SlideScores]) -> SlideScores | Failure:
    """Read and check the squares of a slide; return the problem instead of raising."""
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
            f"slide_id {slide_id!r} is not a valid file name.",
            hint="Allowed: letters, digits, '.', '_', '-', not starting with '.'.",
        )


def draw_slide(
    config: HeatmapConfig, title: str, slide_id: str, squares: SlideScores | Failure, entry: SlideEntry | None
) -> Drawn:
    """Write the files of a slide; outdated files of an earlier run are removed if they cannot be replaced."""
    paths = (
        [config.out / f"{slide_id}.{suffix}" for suffix in SUFFIXES[config.format]] if is_safe_name(slide_id) else []
    )
    if isinstance(squares, Failure):
        _remove(paths)
        return Drawn(done=False, failures=(squares,))
    thumbnails = Thumbnails({} if entry is None else {slide_id: entry}, config.side_px)
    errors: list[Exception] = []
    corner_l0 = None
    try:
        frame = thumbnails.frame(slide_id) if needs_slides(config) else None
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
    """Return the problem if the slide file is not the one that was scored; its pixels and bounds are then not used."""
    if min(slide.slide_size_l0) <= 0 or slide.slide_size_l0 == frame.size_l0:
        return None
    result = "written in whole-slide coordinates" if config.format == "geojson" else "shown without pixels"
    return SlideError(
        f"The slide file has {_size(frame.size_l0)} px, but the scored slide had {_size(slide.slide_size_l0)}: "
        f"{result}.",
        hint="List the file that was embedded in the manifest. Scores of features that were imported without the "
        "size of the slide cannot be drawn over its pixels.",
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
        title: Title of the image.
        slide: Squares with their scores.
        paths: The files to write.
        thumbnails: Reader of the pixels; None to draw without pixels.
        corner_l0: Origin of the GeoJSON coordinates, if it is known and used.
    """
    values = colour_values(slide.scores, config.scale)
    for path in paths:
        if path.suffix == ".geojson":
            write_geojson(path, slide, values, config.scale, (corner_l0 or (0, 0)) if config.crop else (0, 0))
            continue
        whole = None if thumbnails is None else thumbnails.read(slide.slide_id)
        placed = slide if whole is None else replace(slide, slide_size_l0=whole.size_l0)
        overlay = draw_overlay(placed, values, None if whole is None else whole.rgb, config.side_px)
        write_heatmap(path, title, overlay, slide.scores, config.scale)


def _size(size_l0: tuple[int, int]) -> str:
    return f"{size_l0[0]:,} x {size_l0[1]:,}"
