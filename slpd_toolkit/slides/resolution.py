"""The resolution of a slide: what the file and the manifest state, and whether it agrees."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from slpd_toolkit.core.errors import SlideError
from slpd_toolkit.core.units import MPP_RANGE, is_plausible_mpp

if TYPE_CHECKING:
    from slpd_toolkit.core.files import Location
    from slpd_toolkit.slides.source import SourceInfo

AGREE_WITHIN = 0.05
_ANISOTROPY = 0.01
_MPP_AT_1X = 10.0
_OBJECTIVE_WITHIN = 2.5
"""Scanners with 0.35 um/px are labeled 20x as well as 40x."""
_OF_SCREENS = frozenset({"generic-tiff", "picture"})
"""Formats that many programs write, with the resolution of a screen or printer."""
_OVERVIEW = (
    "The file may be the overview of a slide: list the file with the full resolution in the manifest. If the "
    "resolution in the file is wrong, enter that of level 0 in the column `mpp`."
)


def choose_mpp(path: Location, info: SourceInfo, given: float | None) -> float:
    """Return the resolution: `given`, otherwise that of the file.

    Args:
        path: The slide, for messages.
        info: Header information of the file.
        given: um/px according to the manifest.

    Raises:
        SlideError: It is missing or implausible, or pixels are not square according to the file.
    """
    fix, said = "Enter the resolution of level 0 in the column `mpp` of the manifest.", info.mpp_xy
    try:
        mpp_x, mpp_y = (float(value) for value in said if value is not None)
    except ValueError as error:
        if given is not None:
            return given
        raise SlideError(
            f"{path} does not contain its resolution (mpp-x, mpp-y: {said[0]}, {said[1]}).", hint=fix
        ) from error
    if 0 < mpp_x < math.inf and 0 < mpp_y < math.inf and abs(mpp_x / mpp_y - 1) > _ANISOTROPY:
        raise SlideError(
            f"{path} has pixels of {mpp_x:.6g} x {mpp_y:.6g} um; they must be square within {_ANISOTROPY:.0%}.",
            hint="Resample the slide to square pixels (for example with `vips resize --vscale`). A resolution in the "
            "manifest cannot correct this, because it is one number for both axes.",
        )
    if given is not None:
        return given
    low, high = MPP_RANGE
    if not (is_plausible_mpp(mpp_x) and is_plausible_mpp(mpp_y)):
        raise SlideError(
            f"{path} has a resolution of {mpp_x:.6g} x {mpp_y:.6g} um/px; plausible values are {low} to {high}.",
            hint=_OVERVIEW if mpp_x > high and info.vendor not in _OF_SCREENS else fix,
        )
    return (mpp_x + mpp_y) / 2


def doubt_of_resolution(info: SourceInfo, given: float | None) -> str:
    """Describe statements about the resolution that contradict each other; the result is empty if there are none.

    Args:
        info: Header information of the file.
        given: um/px according to the manifest.
    """
    said = _plausible(info.mpp_xy[0])
    if given is not None:
        meant = said if info.vendor in _OF_SCREENS else _number(info.mpp_xy[0])
        return "" if agree(meant, given) else f"{given:.4g} um/px in the manifest, {meant:.4g} in the file"
    tags = _plausible(info.mpp_tags)
    if not agree(said, tags):
        return f"{said:.4g} um/px in the description, {tags:.4g} in the TIFF tags"
    power = _number(info.objective_power)
    if said and power and not 1 / _OBJECTIVE_WITHIN <= said * power / _MPP_AT_1X <= _OBJECTIVE_WITHIN:
        return f"{said:.4g} um/px with an objective of {power:.4g}x"
    return ""


def agree(one: float | None, other: float | None) -> bool:
    """Whether two resolutions are the same up to rounding; True if one is unknown."""
    return one is None or other is None or abs(one / other - 1) <= AGREE_WITHIN


def _plausible(value: float | str | None) -> float | None:
    mpp = _number(value)
    return mpp if mpp is not None and is_plausible_mpp(mpp) else None


def _number(value: float | str | None) -> float | None:
    try:
        number = None if value is None else float(value)
    except ValueError:
        return None
    return number if number is not None and 0 < number < math.inf else None
