"""Common result of the readers of other tools' files: features of a slide, their coordinates and metadata."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from slpd_toolkit.core.errors import SlideError
from slpd_toolkit.core.text import count

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy.typing as npt

OBJECTIVE_UM = 10.0
"""A magnification of m corresponds to 10 / m um/px: 20x to 0.5, 40x to 0.25."""

_USUAL_MPP = tuple(0.125 * 2**power for power in range(6))
_USUAL_WITHIN = 1.12
"""Relative tolerance of nominal resolutions: 40x scanners have 0.22 to 0.28 um/px."""

_MISSING = {"", "none", "nan", "null"}
"""Values that other tools store for unknown names, in lower case."""


class MissingSettingError(SlideError):
    """The files lack information that the user can provide; the hint names the option."""


class Rows(Protocol):
    """Features of a slide, (N, D), read a few rows at a time."""

    @property
    def shape(self) -> tuple[int, int]:
        """N and D."""

    def take(self, index: npt.NDArray[np.int64]) -> npt.NDArray[np.floating]:
        """Read rows: (n,) indices to (n, D)."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Information from the user that files may lack."""

    coords: Path | None = None
    """Folder of the coordinates, if they are separate from the features."""
    encoder: str = ""
    """Name of the patch encoder."""
    mpp: float | None = None
    """um/px of the coordinates: that of level 0, except in STAMP's oldest files."""
    mpp_l0: float | None = None
    """Level-0 um/px of this slide, from the manifest; takes precedence over `mpp`."""
    target_mpp: float | None = None
    """um/px of the patches."""
    region_px: int | None = None
    """Side of a region in px at `target_mpp`, for files of whole regions that do not record it."""


@dataclass(frozen=True, kw_only=True)
class SlideFeatures:
    """Features of one slide from another tool. Coordinates are in level-0 px, unless a note says otherwise."""

    slide_id: str
    tool: str
    """Name of the format."""
    files: tuple[Path, ...]
    """Files that were read, features first."""
    features: Rows
    coords_l0: npt.NDArray[np.float64]
    """x, y of top-left corners: (N, 2) of the patches, or (R, 2) of the regions if `grid` is set."""
    grid: int | None = None
    """Number of patches along the side of a region, if the files contain whole regions: features are in rows
    r * grid^2 + row * grid + column."""
    patch_l0: float
    """Side of a patch, level-0 px; not always whole."""
    steps_l0: tuple[float, ...]
    """Distance between neighboring patches according to the files, level-0 px; possible interpretations, best first."""
    patch_px: int
    """Side of a patch in px at `target_mpp`, as seen by the encoder."""
    mpp_l0: float
    target_mpp: float
    """Requested um/px; the effective value is `patch_l0 * mpp_l0 / patch_px`."""
    size_l0: tuple[int, int] | None = None
    """Width and height of the slide, if known."""
    located: bool = True
    """Whether the coordinates are level-0 px of the slide."""
    encoder: str
    usable: npt.NDArray[np.bool_] | None = None
    """(N,) bool, rows that are unmodified patches of the slide; None if all are."""
    notes: tuple[str, ...] = ()
    """Assumptions, one sentence each."""

    @property
    def effective_mpp(self) -> float:
        """Effective resolution of the patches, um/px."""
        return self.patch_l0 * self.mpp_l0 / self.patch_px


def nominal_mpp(effective_mpp: float) -> float:
    """Return the intended resolution: a nearby standard one (0.5, 0.25, ...), otherwise the rounded effective one."""
    nearest = min(_USUAL_MPP, key=lambda usual: abs(np.log(effective_mpp / usual)))
    ratio = max(effective_mpp / nearest, nearest / effective_mpp)
    return nearest if ratio <= _USUAL_WITHIN else round(effective_mpp, 3)


def known(attributes: Mapping[str, Any], *names: str) -> Any:
    """Return the first of the named attributes that has a value; some tools store the word "None" for no value."""
    for name in names:
        value = attributes.get(name)
        if isinstance(value, np.ndarray):  # some tools store a single value as an array; a list is kept
            value = value.item() if value.size == 1 else value.tolist()
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        if value is None or (isinstance(value, str) and value.strip().lower() in _MISSING):
            continue
        return value.item() if isinstance(value, np.generic) else value
    return None


def number(attributes: Mapping[str, Any], path: Path, *names: str) -> float | None:
    """Return the first of the named attributes that has a value, as a positive number.

    Raises:
        SlideError: It is not a positive number.
    """
    value = known(attributes, *names)
    if value is None:
        return None
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = float("nan")
    if not 0 < found < float("inf"):
        raise SlideError(
            f"{path}: attribute {names[0]} is {value!r}, allowed: a number above 0.",
            hint="The file is damaged or was written by another tool: extract the features of the slide again.",
        )
    return found


def is_a_name(text: str) -> bool:
    """Whether a text is a valid name of a slide or encoder; "None", for example, stands for a missing name."""
    return text.strip().lower() not in _MISSING


def require_encoder(name: object, settings: Settings, path: Path, tool: str) -> str:
    """Return the name of the encoder from the settings, otherwise from the files.

    Raises:
        MissingSettingError: It is in neither.
    """
    if settings.encoder:
        return settings.encoder
    if name is None or not is_a_name(str(name)):
        raise MissingSettingError(
            f"{path}: {tool} does not record which encoder made these features.",
            hint="Pass its name, for example --encoder-name uni_v1. Names must be exact: encoders are never mixed.",
        )
    return str(name)


def require_mpp(settings: Settings, path: Path) -> float:
    """Return the level-0 resolution of the slide from the settings.

    Raises:
        MissingSettingError: It is not set.
    """
    mpp = settings.mpp_l0 or settings.mpp
    if mpp is None:
        raise MissingSettingError(
            f"{path}: the files do not record the resolution of the slide at level 0.",
            hint="Pass --mpp 0.25 (um/px of level 0) if it is the same for all slides, otherwise --manifest with a "
            "column mpp.",
        )
    return mpp


def check_pairs(coords: npt.NDArray[Any], patches: int, path: Path, what: str = "patches") -> npt.NDArray[np.float64]:
    """Check that coordinates are finite, with one pair per patch.

    Raises:
        SlideError: There are none, or they do not match the features.
    """
    if patches == 0:
        raise SlideError(
            f"{path} contains no {what}.", hint="Check that tissue was found, and extract the features again."
        )
    if coords.dtype.kind not in "iuf" or coords.ndim != 2 or coords.shape[1] != 2:
        raise SlideError(
            f"{path}: coordinates are {coords.shape} {coords.dtype}, expected (N, 2) numbers.",
            hint="Extract the slide's features again.",
        )
    if len(coords) != patches:
        raise SlideError(
            f"{path}: {count(len(coords), 'coordinate')} for {patches:,} {what}.",
            hint="Features and coordinates are from different runs, or a run was interrupted: extract the slide again.",
        )
    pairs = coords.astype(np.float64)
    if not np.isfinite(pairs).all():
        raise SlideError(f"{path}: coordinates are NaN or infinite.", hint="Extract the slide's features again.")
    return pairs
