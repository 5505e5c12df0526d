"""Frames and units of coordinates, said in names, converted only here.

Suffixes used throughout the package:

- `_l0`: level-0 pixels of the slide, the frame that every slide tool shares
- `_px`: pixels at the target resolution, the frame that the encoder sees
- `_lv`: pixels of the pyramid level that is read
- `_th`: pixels of the tissue thumbnail
- `_rc`: (row, column) in a region's grid of patches
- `_um`: micrometres on the glass;  `mpp`: micrometres per pixel
"""

MPP_RANGE = (0.1, 5.0)
"""Plausible scanner resolutions in um/px; 264.6 is what a 96-dpi default in a TIFF header looks like."""


def is_plausible_mpp(mpp: float) -> bool:
    """Whether `mpp` lies in `MPP_RANGE`; False for NaN and infinities."""
    return MPP_RANGE[0] <= mpp <= MPP_RANGE[1]


def l0_from_px(length_px: float, *, target_mpp: float, mpp_l0: float) -> float:
    """Convert a length at the target resolution into level-0 pixels."""
    return length_px * target_mpp / mpp_l0
