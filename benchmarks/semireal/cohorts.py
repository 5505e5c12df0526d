"""Planted cohorts whose tokens are real: every token is an encoded tile of its kind of tissue.

    python -m benchmarks.planted.ablate --out runs/semireal --tiles runs/tiles.npz --cohorts "colon composition shift"

Architectures, slides, patients and targets are those of `benchmarks.planted.cohorts`. A token is drawn from the tiles
of its tissue that its patient has: a random part, so that patients differ in more than their mixtures. With a site
shift, all tiles of a slide are seen under the stain and scanner of one staining batch of its site; without, as they
are. Tiles are shared among patients and drawn more than once, so figures compare representations of the same cohort;
they do not estimate the accuracy on new tissue.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.planted.cohorts import Architectures, draw_kinds, plan

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from benchmarks.planted.cohorts import IntArray, Planted
    from benchmarks.semireal.tiles import Tiles

PART_OF_PATIENT = 0.25
"""Fraction of the tiles of each tissue that a patient has."""

_SIZE: dict[str, Any] = {
    "slides": 48,
    "regions": 20.0,
    "grid": 6,
    "kinds": 4,
    "noise": 0.0,
    "slide_shift": 0.0,
    "region_shift": 0.0,
    "drift": 0.0,
    "site_shift": 0.0,
}
_CLASSES: dict[str, dict[str, Any]] = {
    "colon composition": {"pairings": 3, "scales": (1.0,), "composition": True},
    "colon pairs": {"pairings": 3, "scales": (1.0,)},
    "colon arrangement": {"pairings": 1, "scales": (0.0, 1.5)},
}
TILE_COHORTS = {
    f"{name}{suffix}": {**_SIZE, **changes, "site_shift": strength}
    for name, changes in _CLASSES.items()
    for suffix, strength in (("", 0.0), (" shift", 1.0))
}
"""The class lies in how much tumor a slide has, in which tissues share a region, or in how they are arranged there.
Any `site_shift` above 0 selects the transforms of the sites, whose strength is fixed."""
_RUN: dict[str, Any] = {
    "epochs": 20,
    "batch_size": 40,
    "prototype_epoch": 8,
    "global_side": 4,
    "local_side": 2,
    "lr": 0.006,
    "teacher_momentum": 0.98,
}
TILE_RUNS = {
    name: _RUN | ({"global_side": 5, "local_side": 3} if "arrangement" in name else {}) for name in TILE_COHORTS
}
"""Settings of training, about 480 steps."""


class TileModel:
    """Draws tokens from encoded tiles."""

    def __init__(self, planted: Planted, tiles: Tiles, view: int = 0) -> None:
        """Prepare a cohort, or its stain view from 1 up: the same tiles under another stain.

        Raises:
            ValueError: There are fewer tissues than kinds, or fewer sites than the cohort has.
        """
        tissues, sites = len(tiles.tissues), int(tiles.site.max()) + 1
        if tissues < planted.kinds or (planted.site_shift > 0 and sites < planted.sites):
            raise ValueError(
                f"The cohort has {planted.kinds} kinds and {planted.sites} sites; the tiles have {tissues} tissues and "
                f"{sites} sites. Encode more with benchmarks.semireal.tiles."
            )
        self.tokens = tiles.stained[view - 1] if view else tiles.tokens
        self.planted, self.tiles, self.known = planted, tiles, Architectures.of(planted)
        self.patient_of_slide = np.unique(plan(planted).patients, return_inverse=True)[1]

    def draw(self, slide: int, site: int, architectures: IntArray) -> NDArray[np.float32]:
        """Draw the tokens of a slide, (R, grid, grid, D)."""
        rng = self.planted.rng(2, slide)
        transforms = self.tiles.site == (site if self.planted.site_shift > 0 else -1)
        transform = rng.choice(np.flatnonzero(transforms))
        kinds = draw_kinds(self.planted, architectures, self.known, rng)
        chosen = np.empty(kinds.shape, np.int64)
        for kind, own in enumerate(self.tiles_of(int(self.patient_of_slide[slide]))):
            of_kind = kinds == kind
            chosen[of_kind] = rng.choice(own, int(of_kind.sum()))
        tokens: NDArray[np.float32] = self.tokens[transform, chosen].astype(np.float32)
        return tokens

    def tiles_of(self, patient: int) -> list[IntArray]:
        """Draw the tiles of each kind that a patient has."""
        rng, found = self.planted.rng(3, patient), []
        for kind in range(self.planted.kinds):
            of_kind = np.flatnonzero(self.tiles.kind == kind)
            found.append(rng.choice(of_kind, max(1, round(PART_OF_PATIENT * len(of_kind))), replace=False))
        return found
