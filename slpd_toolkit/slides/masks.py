"""Masks provided by users: annotations in GeoJSON or a label image, drawn on the pixels of a slide's thumbnail."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from slpd_toolkit.core.errors import SlideError
from slpd_toolkit.core.files import fingerprint, read_json, sha256
from slpd_toolkit.slides.label_pictures import read_labels

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy.typing as npt

    from slpd_toolkit.slides.opened_slide import SlideHeader
    from slpd_toolkit.slides.slide import Thumbnail

    Mask = npt.NDArray[np.bool_]
    Ring = npt.NDArray[np.float64]

MaskMode = Literal["only", "and", "not"]
_FINER = 4
"""Polygons are drawn on a grid this much finer than the thumbnail, to know how much of a pixel they cover."""
_FURTHEST_L0 = 1e9
_LARGEST_BYTES = 1 << 30
_DIGESTED_BYTES = 64 << 20
_HINT = "Export it again: in QuPath, File > Export objects as GeoJSON, as FeatureCollection."


_NOTHING_TO_CUT = "Leave mask_path empty for slides without excluded areas; otherwise correct the annotations."
_CROSSINGS_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class MaskFile:
    """The mask of one slide, and how it is used."""

    path: Path
    mode: MaskMode = "only"
    """`only`: replaces the detected tissue; `and`: keeps the tissue inside; `not`: keeps the tissue outside."""
    classes: tuple[str, ...] = ()
    """Names of classes in GeoJSON, numbers in a label image; empty for all."""
    crop: bool = True
    """Whether the origin of GeoJSON coordinates is the corner of the scanned area, as in QuPath, instead of (0, 0)."""

    def identity(self) -> str:
        """Describe the content and use of the mask, as JSON.

        Raises:
            SlideError: The file cannot be read.
        """
        try:
            small = self.path.stat().st_size <= _DIGESTED_BYTES
            digest = sha256(self.path)[:16] if small else fingerprint(self.path)
        except OSError as error:
            raise SlideError(
                f"The mask {self.path} cannot be read ({error.strerror}).", hint="Check the path."
            ) from error
        used = asdict(self) | {"path": self.path.name, "digest": digest}
        return json.dumps(used, sort_keys=True)


def read_mask(file: MaskFile, slide: SlideHeader, thumbnail: Thumbnail) -> Mask:
    """Draw the areas of a mask on the thumbnail of its slide, (H, W).

    Raises:
        SlideError: The mask cannot be read, has none of the classes, or does not have the slide's aspect ratio.
    """
    if file.path.suffix.lower() in {".json", ".geojson"}:
        corner_l0 = slide.bounds_corner_l0 if file.crop else (0, 0)
        return _draw(_read_areas(file), thumbnail, corner_l0)
    return read_labels(file.path, file.classes, (slide.width_l0, slide.height_l0), thumbnail)


def _read_areas(file: MaskFile) -> list[list[Ring]]:
    """Read polygons: each a list of rings, (n, 2) level-0 px, the outline first and then its holes."""
    try:
        if file.path.stat().st_size > _LARGEST_BYTES:
            raise SlideError(f"The mask {file.path} has more than 1 GiB.", hint="Export fewer objects.")
        content = read_json(file.path)
        features = [(_class_of(feature), feature) for feature in _features(content)]
        named = {name for name, _ in features if name}
        wanted = [feature for name, feature in features if _is_wanted(name, file.classes)]
        absent = sorted(set(file.classes) - named)
        if file.classes and not wanted:
            raise SlideError(
                f"The mask {file.path} has no area of the class {', '.join(absent)}; found: "
                f"{', '.join(sorted(named)) or 'no classes'}.",
                hint=_NOTHING_TO_CUT if file.mode == "not" else "Correct --mask-classes, or the annotations.",
            )
        shapes = [feature.get("geometry", feature) for feature in wanted]
        areas = [area for shape in shapes if shape is not None for area in _polygons(shape)]
    except OSError as error:
        raise SlideError(f"The mask {file.path} cannot be read ({error.strerror}).", hint="Check the path.") from error
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError, RecursionError) as error:
        raise SlideError(f"The mask {file.path} is not GeoJSON ({str(error)[:200]}).", hint=_HINT) from error
    if not areas:
        raise SlideError(f"The mask {file.path} has no polygon.", hint=_NOTHING_TO_CUT if file.mode == "not" else _HINT)
    return areas


def _features(content: Any) -> Iterator[dict[str, Any]]:
    """Yield the features of a FeatureCollection, a list, a single feature or a bare geometry."""
    if isinstance(content, list):
        for item in content:
            yield from _features(item)
    elif content["type"] == "FeatureCollection":
        yield from content["features"]
    else:
        yield content


def _class_of(feature: dict[str, Any]) -> str:
    """Return the class of a feature, in the form that QuPath and TRIDENT write; empty if it has none."""
    properties = feature.get("properties") or {}
    for key in ("classification", "class", "label", "name"):
        value = properties.get(key)
        if isinstance(value, dict):
            value = value.get("name") or ": ".join(value.get("names") or [])  # a class, or one derived from another
        if isinstance(value, str | int) and not isinstance(value, bool) and value != "":
            return str(value)
    return ""


def _is_wanted(name: str, classes: tuple[str, ...]) -> bool:
    """Whether a class is used; without a choice all are, except those that QuPath ignores (`Ignore*`)."""
    return name in classes if classes else not name.endswith("*")


def _polygons(geometry: dict[str, Any]) -> Iterator[list[Ring]]:
    """Yield the polygons of a geometry; points and lines have no area."""
    kind = geometry["type"]
    if kind == "GeometryCollection":
        for part in geometry["geometries"]:
            yield from _polygons(part)
        return
    coordinates = geometry["coordinates"]
    polygons: dict[str, list[Any]] = {"Polygon": [coordinates], "MultiPolygon": coordinates}
    for rings in polygons.get(kind, []):
        arrays = [np.asarray([point[:2] for point in ring], np.float64) for ring in rings]
        for ring in arrays:
            if ring.size and (ring.ndim != 2 or ring.shape[1] != 2):
                raise ValueError(f"a {kind} with wrongly nested coordinates")
            if not (np.abs(ring) < _FURTHEST_L0).all():
                raise ValueError("coordinates outside any possible slide")
        if arrays and len(arrays[0]) >= 3:
            yield [ring.reshape(-1, 2) for ring in arrays]


def _draw(areas: list[list[Ring]], thumbnail: Thumbnail, corner_l0: tuple[int, int]) -> Mask:
    """Draw polygons; a pixel belongs to one that covers at least half of it."""
    height, width = thumbnail.rgb.shape[:2]
    mask = np.zeros((height, width), np.bool_)
    for rings in areas:
        on_thumbnail = [(ring + corner_l0) / thumbnail.step_l0 for ring in rings]
        low = np.clip(np.floor(on_thumbnail[0].min(axis=0)).astype(int), 0, (width, height))
        high = np.clip(np.ceil(on_thumbnail[0].max(axis=0)).astype(int), 0, (width, height))
        if (high <= low).any():
            continue
        columns, rows = (high - low).tolist()
        drawn = _inside([(ring - low) * _FINER for ring in on_thumbnail], rows * _FINER, columns * _FINER)
        covered = drawn.reshape(rows, _FINER, columns, _FINER).mean(axis=(1, 3)) >= 0.5
        mask[low[1] : high[1], low[0] : high[0]] |= covered
    return mask


def _inside(rings: list[Ring], rows: int, columns: int) -> Mask:
    """Return which pixel centers lie inside an odd number of rings, (rows, columns).

    Each edge toggles, in every row that it crosses, the pixels to its right.
    """
    toggled = np.zeros((rows, columns + 1), np.uint8)
    starts = np.concatenate(rings)
    ends = np.concatenate([np.roll(ring, -1, axis=0) for ring in rings])
    down = starts[:, 1] > ends[:, 1]
    starts[down], ends[down] = ends[down], starts[down]
    first, last = (np.clip(np.ceil(points[:, 1] - 0.5), 0, rows).astype(np.int64) for points in (starts, ends))
    total = np.cumsum(last - first)
    parts = np.searchsorted(total, np.arange(_CROSSINGS_AT_ONCE, total[-1], _CROSSINGS_AT_ONCE))
    for edges in np.split(np.arange(len(starts)), parts):
        _toggle(toggled, starts[edges], ends[edges], first[edges], last[edges])
    return np.bitwise_xor.accumulate(toggled, axis=1)[:, :columns].view(np.bool_)


def _toggle(
    toggled: npt.NDArray[np.uint8],
    starts: Ring,
    ends: Ring,
    first: npt.NDArray[np.int64],
    last: npt.NDArray[np.int64],
) -> None:
    """Mark, in each row that an edge crosses, the pixel at which the number of edges to the left changes."""
    columns, crossed = toggled.shape[1] - 1, last - first
    edge = np.repeat(np.arange(len(starts)), crossed)
    row = np.arange(crossed.sum()) - np.repeat(np.cumsum(crossed) - crossed, crossed) + first[edge]
    along = (row + 0.5 - starts[edge, 1]) / (ends[edge, 1] - starts[edge, 1])
    x = starts[edge, 0] + along * (ends[edge, 0] - starts[edge, 0])
    np.bitwise_xor.at(toggled, (row, np.clip(np.ceil(x - 0.5), 0, columns).astype(np.int64)), 1)
