"""What every reader of another tool's files gives: one slide's features, where they lie, and what is known of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from slpd_toolkit.core.errors import SlideError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy.typing as npt

OBJECTIVE_UM = 10.0
"""A magnification label m stands for 10 / m um/px: 20x for 0.5, 40x for 0.25."""

_USUAL_MPP = tuple(0.125 * 2**power for power in range(6))
_USUAL_WITHIN = 1.12
"""Scanners called 40x lie at 0.22 to 0.28 um/px."""

_MISSING = {"", "none", "nan", "null"}
"""What other tools store where they know nothing, in lower case."""


class MissingSettingError(SlideError):
    """The files do not say something that the user can: the message's hint names the option."""


class Rows(Protocol):
    """Features of a slide, (N, D), read a few rows at a time."""

    @property
    def shape(self) -> tuple[int, int]:
        """N and D."""

    def take(self, index: npt.NDArray[np.int64]) -> npt.NDArray[np.floating]:
        """Read rows: (n,) indices to (n, D)."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the user says where the files do not."""

    coords: Path | None = None
    """Folder of the coordinates, where they are kept apart from the features."""
    encoder: str = ""
    """Name of the patch encoder."""
    mpp: float | None = None
    """um/px of the px that coordinates are given in: level 0, but in STAMP's oldest files."""
    mpp_l0: float | None = None
    """Level-0 um/px of this one slide, from the manifest; before `mpp`."""
    target_mpp: float | None = None
    """um/px that the patches were read at."""
    region_px: int | None = None
    """Side of a region in px at `target_mpp`, for files that hold whole regions and do not say it."""


@dataclass(frozen=True, kw_only=True)
class SlideFeatures:
    """One slide as another tool left it. Coordinates are of level 0, but where a note says otherwise."""

    slide_id: str
    tool: str
    """Name of the format."""
    files: tuple[Path, ...]
    """What was read, the features first."""
    features: Rows
    coords_l0: npt.NDArray[np.float64]
    """x, y of top-left corners: (N, 2) of the patches, or (R, 2) of the regions where `grid` is given."""
    grid: int | None = None
    """Patches along a region's side where the files hold whole regions: row r * grid^2 + row * grid + column."""
    patch_l0: float
    """Side of a patch, level-0 px; not always whole."""
    steps_l0: tuple[float, ...]
    """What the files say of the distance between neighbouring patches, level-0 px; readings of the same, best first."""
    patch_px: int
    """Side of a patch in px at `target_mpp`, as the encoder was given it."""
    mpp_l0: float
    target_mpp: float
    """um/px that was asked for; what was got is `patch_l0 * mpp_l0 / patch_px`."""
    size_l0: tuple[int, int] | None = None
    """Width and height of the slide, where known."""
    located: bool = True
    """Whether the coordinates are those of the slide's own level 0."""
    encoder: str
    usable: npt.NDArray[np.bool_] | None = None
    """(N,), which rows are plain patches of the slide; None where all are."""
    notes: tuple[str, ...] = ()
    """What had to be assumed, a sentence each."""

    @property
    def effective_mpp(self) -> float:
        """The resolution that the patches really have, um/px."""
        return self.patch_l0 * self.mpp_l0 / self.patch_px


def nominal_mpp(effective_mpp: float) -> float:
    """Return the intended resolution: a standard one nearby (0.5, 0.25, ...), else the effective one, rounded."""
    nearest = min(_USUAL_MPP, key=lambda usual: abs(np.log(effective_mpp / usual)))
    ratio = max(effective_mpp / nearest, nearest / effective_mpp)
    return nearest if ratio <= _USUAL_WITHIN else round(effective_mpp, 3)


def known(attributes: Mapping[str, Any], *names: str) -> Any:
    """Return the first of some attributes that has a value; some tools store the word "None" for no value."""
    for name in names:
        value = attributes.get(name)
        if isinstance(value, np.ndarray):  # a single value is stored as an array by some; a list is a value of its own
            value = value.item() if value.size == 1 else value.tolist()
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        if value is None or (isinstance(value, str) and value.strip().lower() in _MISSING):
            continue
        return value.item() if isinstance(value, np.generic) else value
    return None


def number(attributes: Mapping[str, Any], path: Path, *names: str) -> float | None:
    """Return the first of some attributes that has a value, as a positive number.

    Raises:
        SlideError: It is none.
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
            hint="The file is damaged, or was written by another tool: extract the slide's features again.",
        )
    return found


def is_a_name(text: str) -> bool:
    """Whether a slide or an encoder can be called so: "None" is what was written for want of a name."""
    return text.strip().lower() not in _MISSING


def require_encoder(name: object, settings: Settings, path: Path, tool: str) -> str:
    """Return the encoder's name from the settings, else from the files.

    Raises:
        MissingSettingError: Nobody says it.
    """
    if settings.encoder:
        return settings.encoder
    if name is None or not is_a_name(str(name)):
        raise MissingSettingError(
            f"{path}: {tool} does not say which encoder made these features.",
            hint="Name it: --encoder-name uni_v1. Features of different encoders are never mixed, so be exact.",
        )
    return str(name)


def require_mpp(settings: Settings, path: Path) -> float:
    """Return the slide's level-0 resolution from the settings.

    Raises:
        MissingSettingError: The user does not.
    """
    mpp = settings.mpp_l0 or settings.mpp
    if mpp is None:
        raise MissingSettingError(
            f"{path}: the files do not say the slide's resolution at level 0.",
            hint="Give --mpp 0.25 (um/px of level 0) if it is that of all slides, else --manifest with a column mpp.",
        )
    return mpp


def check_pairs(coords: npt.NDArray[Any], patches: int, path: Path, what: str = "patches") -> npt.NDArray[np.float64]:
    """Check that there are coordinates, finite, a pair for each patch.

    Raises:
        SlideError: There are none, or they do not fit the features.
    """
    if patches == 0:
        raise SlideError(f"{path} holds no {what}.", hint="Extract the slide's features again; was tissue found on it?")
    if coords.dtype.kind not in "iuf" or coords.ndim != 2 or coords.shape[1] != 2:
        raise SlideError(
            f"{path}: coordinates are {coords.shape} {coords.dtype}, expected (N, 2) numbers.",
            hint="Extract the slide's features again.",
        )
    if len(coords) != patches:
        raise SlideError(
            f"{path}: {len(coords):,} coordinates for {patches:,} {what}.",
            hint="Features and coordinates are of different runs, or a run was cut short: extract the slide again.",
        )
    pairs = coords.astype(np.float64)
    if not np.isfinite(pairs).all():
        raise SlideError(f"{path}: coordinates are NaN or infinite.", hint="Extract the slide's features again.")
    return pairs
