"""The squares of a slide that are embedded, in TRIDENT's terms."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slpd_toolkit.foreign.formats.trident import Squares

if TYPE_CHECKING:
    from slpd_toolkit.store.schema import TokenMeta


def patches(meta: TokenMeta) -> Squares:
    """Describe the patches of a slide."""
    return _squares(meta, meta.patch_px, round(meta.region_l0 / meta.grid))


def regions(meta: TokenMeta) -> Squares:
    """Describe the regions of a slide."""
    return _squares(meta, meta.region_px, meta.region_l0)


def _squares(meta: TokenMeta, side_px: int, side_l0: int) -> Squares:
    return Squares(
        side_px=side_px,
        side_l0=side_l0,
        target_mpp=meta.target_mpp,
        mpp_l0=meta.mpp_l0,
        size_l0=(meta.slide_width_l0, meta.slide_height_l0),
    )
