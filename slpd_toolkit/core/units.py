"""Coordinate frames and units: variable names state them, and only this module converts between them.

Suffixes used throughout the package:

- `_l0`: level-0 pixels of the slide, the frame common to all slide tools
- `_px`: pixels at the target resolution, the frame of the encoder's input
- `_lv`: pixels of the pyramid level being read
- `_th`: pixels of the tissue thumbnail
- `_rc`: (row, column) in a region's grid of patches
- `_um`: micrometers on the glass;  `mpp`: micrometers per pixel
"""

MPP_RANGE = (0.1, 5.0)
"""Plausible scanner resolutions in um/px; the 96-dpi default of TIFF headers, for example, is 264.6."""


def is_plausible_mpp(mpp: float) -> bool:
    """Return whether `mpp` lies in `MPP_RANGE`; False for NaN and infinities."""
    return MPP_RANGE[0] <= mpp <= MPP_RANGE[1]


def l0_from_px(length_px: float, *, target_mpp: float, mpp_l0: float) -> float:
    """Convert a length at the target resolution to level-0 pixels."""
    return length_px * target_mpp / mpp_l0
