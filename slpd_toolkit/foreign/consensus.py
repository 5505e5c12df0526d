"""Encoder and geometry of an import, chosen by a vote of some slides, and the check of the others."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.core.errors import SlideError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slpd_toolkit.foreign.features import SlideFeatures

USUAL_GRID = 16
_RESOLUTION_WITHIN = 1.5
"""Maximum factor between the resolutions of a slide and the cohort: 20x covers 0.35 to 0.7 um/px, and 40x is twice as
fine."""


@dataclass(frozen=True)
class Cohort:
    """Encoder and geometry of an import."""

    encoder: str
    embedding_dim: int
    patch_px: int
    target_mpp: float
    grid: int
    """Number of patches along the side of a region."""

    @property
    def region_px(self) -> int:
        """Side of a region, px at `target_mpp`."""
        return self.grid * self.patch_px


def choose_cohort(slides: Sequence[SlideFeatures], region_px: int) -> Cohort:
    """Choose encoder and geometry of most slides; in a tie, those of the first slide.

    Args:
        slides: Some slides of the folder, at least one.
        region_px: Requested side of a region; 0: that of the files, or `USUAL_GRID` patches.

    Raises:
        UsageError: The requested region is not a whole number of patches, or differs from the regions in the files.
    """
    votes = Counter(_kind(slide) for slide in slides)
    encoder, width, patch_px, own_grid = votes.most_common(1)[0][0]
    target_mpp = float(np.median([slide.target_mpp for slide in slides if _kind(slide) == votes.most_common(1)[0][0]]))
    if own_grid is not None and region_px not in {0, own_grid * patch_px}:
        raise UsageError(
            f"--region-px: got {region_px}, allowed: {own_grid * patch_px}, because the files contain whole regions of "
            f"{own_grid} x {own_grid} patches of {patch_px} px.",
            hint="Omit it.",
        )
    grid = own_grid or max(1, round((region_px or USUAL_GRID * patch_px) / patch_px))
    if region_px not in {0, grid * patch_px} or grid < 2:
        raise UsageError(
            f"--region-px: got {region_px}, allowed: a multiple of the patch side ({patch_px} px), at least two "
            "patches.",
            hint=f"Use {max(grid, 2) * patch_px} ({max(grid, 2)} x {max(grid, 2)} patches).",
        )
    return Cohort(encoder, width, patch_px, target_mpp, grid)


def require_member(slide: SlideFeatures, cohort: Cohort) -> None:
    """Check that a slide matches the cohort.

    Raises:
        SlideError: It has another encoder, width, patch, region or resolution.
    """
    found = {
        "encoder": slide.encoder,
        "features": slide.features.shape[1],
        "patch_px": slide.patch_px,
        "patches along a region": slide.grid or cohort.grid,
    }
    wanted = dict(zip(found, (cohort.encoder, cohort.embedding_dim, cohort.patch_px, cohort.grid), strict=True))
    differences = [
        f"{name}: {found[name]!r} instead of {wanted[name]!r}" for name in found if found[name] != wanted[name]
    ]
    if differences:
        raise SlideError(
            f"{slide.files[0]} does not match the other slides: {'; '.join(differences)}.",
            hint="All slides of a cache must have the same encoder and geometry: import it into a separate cache.",
        )
    ratio = slide.effective_mpp / cohort.target_mpp
    if max(ratio, 1 / ratio) > _RESOLUTION_WITHIN:
        raise SlideError(
            f"{slide.files[0]}: patches have {slide.effective_mpp:.3g} um/px, the cohort {cohort.target_mpp:.3g}, "
            f"allowed: {cohort.target_mpp / _RESOLUTION_WITHIN:.3g} to {cohort.target_mpp * _RESOLUTION_WITHIN:.3g}.",
            hint="Its features have another magnification. Check its mpp, or extract it at the resolution of the "
            "others.",
        )


def _kind(slide: SlideFeatures) -> tuple[str, int, int, int | None]:
    return slide.encoder, slide.features.shape[1], slide.patch_px, slide.grid
