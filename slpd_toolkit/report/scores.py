"""scores.h5: attention of each aggregator by region, with everything needed to draw heatmaps without the slides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from slpd_toolkit.core.errors import CacheError, SlideError
from slpd_toolkit.core.hdf5_reader import Hdf5Error, describe_hdf5, digest_of, read_hdf5
from slpd_toolkit.core.hdf5_writer import write_hdf5
from slpd_toolkit.core.text import agree, count
from slpd_toolkit.core.version import __version__, is_version
from slpd_toolkit.report.mean_attention import mean_attention

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from slpd_toolkit.mil.arrays import FloatArray, IntArray
    from slpd_toolkit.mil.statistics.results import Evaluation, RegionPlaces, Representation, Result

SCHEMA, VERSION = "slpd-scores", 1
FILENAME = "scores.h5"
FURTHEST_L0 = 10**9
"""Upper bound of a slide's side, px."""
ARRAYS = ("offsets", "coords_l0", "region_l0", "slide_size_l0", "scores")


@dataclass(frozen=True, eq=False)
class SlideScores:
    """The scored squares of one slide."""

    slide_id: str
    coords_l0: IntArray
    """(n, 2) x, y of each square's top-left corner, level-0 px."""
    sizes_l0: IntArray
    """(n,) side of each square, level-0 px."""
    scores: FloatArray
    """(n,) scores; higher means more attention."""
    slide_size_l0: tuple[int, int] = (0, 0)
    """Width and height of the slide, level-0 px; 0 if unknown."""


def require_drawable(slide: SlideScores) -> None:
    """Check that squares can be drawn and that their scores can be ranked.

    Raises:
        SlideError: A score is not finite, or a square has no size or lies outside any possible slide.
    """
    wrong = ~np.isfinite(slide.scores)
    if wrong.any():
        raise SlideError(
            f"{wrong.sum()} of {count(len(wrong), 'score')} {agree(wrong.sum(), 'is', 'are')} NaN or infinite.",
            hint="Score this slide again, or leave it out.",
        )
    corners_l0 = np.abs(slide.coords_l0).max(axis=1)
    wrong = (slide.sizes_l0 < 1) | (slide.sizes_l0 > FURTHEST_L0) | (corners_l0 > FURTHEST_L0)
    if wrong.any():
        raise SlideError(
            f"{wrong.sum()} of {count(len(wrong), 'square')} cannot lie on a slide; the first is at "
            f"{slide.coords_l0[wrong][0].tolist()} with a side of {slide.sizes_l0[wrong][0]} px.",
            hint=f"Allowed: a side of at least 1 px, and no coordinate or side above {FURTHEST_L0:,} px.",
        )


@dataclass(frozen=True, eq=False)
class ScoreTable:
    """Scores of one model with one aggregator: S slides with M regions in total."""

    model: str
    aggregator: str
    slide_ids: tuple[str, ...]
    offsets: IntArray
    """(S + 1,) the regions of slide i are offsets[i] to offsets[i + 1] - 1."""
    coords_l0: IntArray
    """(M, 2) x, y of each region's top-left corner, level-0 px."""
    region_l0: IntArray
    """(S,) side of a region on each slide, level-0 px."""
    slide_size_l0: IntArray
    """(S, 2) width and height of each slide, level-0 px; 0 if unknown."""
    scores: FloatArray
    """(M,) attention weights, mean over the folds in which the slide was tested; they sum to 1 per slide."""

    def slide(self, index: int) -> SlideScores:
        """Return the squares of one slide."""
        inside = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        width, height = self.slide_size_l0[index].tolist()
        sizes = np.full(inside.stop - inside.start, self.region_l0[index], np.int64)
        return SlideScores(
            self.slide_ids[index], self.coords_l0[inside], sizes, self.scores[inside], (int(width), int(height))
        )


def slide_scores(places: RegionPlaces, representation: Representation, row: int, attention: FloatArray) -> SlideScores:
    """Combine the attention of a slide with the coordinates of its regions.

    Args:
        places: Coordinates of the regions of the representation.
        representation: Representation whose bags were scored.
        row: Position of the slide in the bags.
        attention: (n,) attention weight of each region.
    """
    bags = representation.bags
    inside = slice(int(bags.offsets[row]), int(bags.offsets[row + 1]))
    width, height = places.slide_size_l0[row].tolist()
    sizes = np.full(len(attention), places.region_l0[row], np.int64)
    return SlideScores(bags.slides[row], places.coords_l0[inside], sizes, attention, (int(width), int(height)))


def write_scores(path: Path, evaluation: Evaluation) -> None:
    """Write the attention of every model and aggregator that has attention, atomically.

    Slide vectors have no coordinates and probes have no attention: they are omitted, and the file may have no tables.
    """
    representations = {each.name: each for each in evaluation.representations}
    tables = [_table(result, representations[result.model]) for result in evaluation.results]
    write_score_tables(path, [table for table in tables if table is not None], evaluation.target)


def write_score_tables(path: Path, tables: Sequence[ScoreTable], target: str) -> None:
    """Write tables of scores, atomically.

    Args:
        path: The file.
        tables: The tables; may be empty.
        target: Manifest columns of the target.
    """
    groups, datasets = dict[str, dict[str, str]](), dict[str, Any]()
    for number, table in enumerate(tables):
        arrays = {name: getattr(table, name) for name in ("slide_ids", *ARRAYS)}
        groups[str(number)] = {"model": table.model, "aggregator": table.aggregator, "digest": digest_of(arrays)}
        datasets |= {f"{number}/{name}": values for name, values in arrays.items()}
    attributes = {
        "schema": SCHEMA,
        "schema_version": VERSION,
        "toolkit_version": __version__,
        "target": target,
    }
    write_hdf5(path, attributes, datasets, groups)


def read_scores(path: Path) -> tuple[ScoreTable, ...]:
    """Read every table of a scores.h5.

    Raises:
        CacheError: It is missing, unreadable, of another version, or inconsistent.
    """
    try:
        contents = describe_hdf5(path)
        found = (contents.attributes.get("schema"), contents.attributes.get("schema_version"))
        if found[0] != SCHEMA or not is_version(found[1], {VERSION}):
            raise CacheError(f"{path}: schema {found}, expected {(SCHEMA, VERSION)}.", hint=_WRITTEN_BY)
        return tuple(_read_table(path, name, contents.groups[name]) for name in sorted(contents.groups, key=int))
    except Hdf5Error as error:
        hint = _WRITTEN_BY if error.kind in {"missing", "damaged", "not HDF5", "cut short"} else error.hint
        raise CacheError(f"{path} cannot be read as a score file ({error.reason}).", hint=hint) from error
    except (LookupError, ValueError, TypeError) as error:
        raise CacheError(f"{path} cannot be read as a score file ({error}).", hint=_WRITTEN_BY) from error


_WRITTEN_BY = "`slpd mil-eval` writes it, and `slpd pretrain-slides` with --slide-weight above 0."


def _table(result: Result, representation: Representation) -> ScoreTable | None:
    attention = mean_attention(result)
    places = representation.places
    if not attention or places is None:
        return None
    slides = [slide_scores(places, representation, row, attention[row]) for row in sorted(attention)]
    return ScoreTable(
        result.model,
        result.aggregator,
        tuple(slide.slide_id for slide in slides),
        np.concatenate([[0], np.cumsum([len(slide.scores) for slide in slides])]).astype(np.int64),
        np.concatenate([slide.coords_l0 for slide in slides]),
        np.array([places.region_l0[row] for row in sorted(attention)], np.int64),
        np.array([slide.slide_size_l0 for slide in slides], np.int64),
        np.concatenate([slide.scores for slide in slides]),
    )


def _read_table(path: Path, group: str, attributes: Mapping[str, Any]) -> ScoreTable:
    arrays = {name: read_hdf5(path, f"{group}/{name}") for name in ARRAYS}
    ids = tuple(map(str, read_hdf5(path, f"{group}/slide_ids").tolist()))
    table = ScoreTable(str(attributes["model"]), str(attributes["aggregator"]), ids, **arrays)
    slides, regions = len(ids), len(table.scores)
    shapes = {"offsets": (slides + 1,), "coords_l0": (regions, 2), "region_l0": (slides,), "slide_size_l0": (slides, 2)}
    wrong = [name for name, shape in shapes.items() if arrays[name].shape != shape]
    odd = [name for name in ARRAYS if arrays[name].dtype.kind not in ("f" if name == "scores" else "iu")]
    if odd:
        kinds = ", ".join(f"{name} ({arrays[name].dtype})" for name in odd)
        raise CacheError(f"{path}: {kinds} has the wrong type.", hint=_WRITTEN_BY)
    if len(set(ids)) < slides:
        raise CacheError(f"{path}: duplicate slide_id.", hint=_WRITTEN_BY)
    if table.scores.ndim != 1 or wrong:
        raise CacheError(
            f"{path}: the shape of {', '.join(wrong) or 'scores'} does not match the other arrays.", hint=_WRITTEN_BY
        )
    steps = np.diff(table.offsets)
    if table.offsets[0] != 0 or table.offsets[-1] != regions or (steps <= 0).any():
        raise CacheError(
            f"{path}: offsets do not divide the {count(regions, 'region')} among slides.", hint=_WRITTEN_BY
        )
    digest = attributes.get("digest")  # missing in files of earlier versions
    if digest is not None and digest != digest_of(arrays | {"slide_ids": np.array(ids)}):
        raise CacheError(f"{path} is damaged: its contents do not match their digest.", hint=_WRITTEN_BY)
    return table
