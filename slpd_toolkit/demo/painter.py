"""Rendering of pixels from anatomy. Rectangles of a slide can be rendered in any order, with the same result."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import cv2
import numpy as np

from slpd_toolkit.demo.anatomy import (
    COARSE,
    MAP_UM,
    tumour_cells,
)
from slpd_toolkit.demo.architectures import Kind
from slpd_toolkit.demo.fields import rank, torus
from slpd_toolkit.demo.nuclei import LOOKS, draw_bank
from slpd_toolkit.demo.stain import LEVELS, OD_STEP

if TYPE_CHECKING:
    import numpy.typing as npt

    from slpd_toolkit.demo.anatomy import Anatomy
    from slpd_toolkit.demo.artefacts import Artefacts
    from slpd_toolkit.demo.fields import Floats
    from slpd_toolkit.demo.stain import Stain

    T = TypeVar("T", bound=np.generic)

SHEET_SIDE, SHEET_MPP = 1024, 0.75
"""Side in pixels, and um/px, of the torus of the textures."""
SHEET_REACH = 2560
"""Side up to which deformed textures are repeated, because sampling across an edge is slow."""
MARGIN_PX = 12
"""Margin that is rendered around a rectangle for the filters, and cut off afterwards."""
NUCLEAR_OD = 2.5
"""Optical density of the darkest chromatin."""
_SHOWN = tuple(kind for kind in Kind if kind is not Kind.GLASS)
_UNFOCUSED_UM = 3.0
_REACH_UM = 16.0  # longer than any nucleus
_RAGGED_REACH_UM = 16.0  # displacements of edges are normal with a standard deviation of 1.5 um
_DUST_RGB = (90, 84, 80)


class Sheets(NamedTuple):
    """Textures on a torus."""

    fibres: npt.NDArray[np.uint8]
    """(reach, reach, 2) collagen bundles and the fibrils in them; 255 is densest."""
    grain: Floats
    """(S, S) grain of cytoplasm, 0 to 1."""
    wisps: Floats
    """(S, S) wisps of secretions, 0 to 1."""
    ragged_um: Floats
    """(S, S, 2) displacement of edges, x and y."""
    noise: npt.NDArray[np.uint8]
    """(S, S, 3) camera noise, around 128."""


@cache
def sheets() -> Sheets:
    """Draw the textures shared by all slides; each slide deforms, shifts, mixes and stains them differently."""
    rng, um = np.random.default_rng(13), 1 / SHEET_MPP
    bundles = torus(rng, SHEET_SIDE, 7 * um, 110 * um) + 0.5 * torus(rng, SHEET_SIDE, 3.5 * um, 45 * um)
    fibrils = torus(rng, SHEET_SIDE, 1.5 * um, 24 * um)
    fibres = np.round(255 * np.stack([rank(bundles), rank(fibrils)], axis=-1)).astype(np.uint8)
    more = SHEET_REACH - SHEET_SIDE
    return Sheets(
        fibres=np.pad(fibres, ((0, more), (0, more), (0, 0)), mode="wrap"),
        grain=rank(torus(rng, SHEET_SIDE, 2.2 * um, 2.2 * um) + 0.7 * torus(rng, SHEET_SIDE, 9 * um, 9 * um)),
        wisps=rank(torus(rng, SHEET_SIDE, 14 * um, 22 * um)),
        ragged_um=np.stack([1.5 * torus(rng, SHEET_SIDE, 5 * um, 5 * um) for _ in range(2)], axis=-1),
        noise=np.clip(rng.normal(128, 2.2, (SHEET_SIDE, SHEET_SIDE, 3)), 0, 255).round().astype(np.uint8),
    )


@cache
def _tumour_borders(mpp: float) -> Floats:
    """Return the borders between tumor cells, (S, S): 1 on a border."""
    return _bump(tumour_cells().gap * np.float32(mpp), 0.8)


class Painter:
    """Renders the pixels of a slide.

    Args:
        rng: Random generator of the shapes of nuclei.
        anatomy: Anatomy of the section.
        artefacts: Artifacts of the slide.
        stain: Stain and scanner.
        mpp: um/px at level 0.
    """

    def __init__(
        self, rng: np.random.Generator, anatomy: Anatomy, artefacts: Artefacts, stain: Stain, mpp: float
    ) -> None:
        self._anatomy, self._artefacts, self._stain, self._mpp = anatomy, artefacts, stain, mpp
        palette = stain.palette()
        self._glass = palette[0, 0]
        # One number per pair of amounts: its first byte is the amount of hematoxylin, as in `_section`.
        codes = np.arange(LEVELS * LEVELS, dtype=np.uint16).view(np.uint8).reshape(-1, 2)
        colours = np.zeros((LEVELS * LEVELS, 4), np.uint8)
        colours[:, :3] = palette[codes[:, 0], codes[:, 1]]
        self._colours = colours.view(np.uint32).ravel()
        self._banks = {cell: draw_bank(rng, LOOKS[cell], mpp) for cell in anatomy.nuclei}
        self._shares = {kind: (anatomy.kinds == kind).view(np.uint8) * np.uint8(255) for kind in _SHOWN}

    def paint(self, left_l0: int, top_l0: int, width: int, height: int) -> npt.NDArray[np.uint8]:
        """Render a rectangle: (height, width, 3) RGB."""
        margin = MARGIN_PX
        window = Window(left_l0 - margin, top_l0 - margin, width + 2 * margin, height + 2 * margin, self._mpp)
        spoilt = self._artefacts
        glass = not window.crop(self._anatomy.kinds).any()
        painted = np.broadcast_to(self._glass, (*window.shape, 3)) if glass else self._section(window)
        if spoilt.blur is not None and window.crop(spoilt.blur).any():
            soft = cv2.GaussianBlur(painted, (0, 0), _UNFOCUSED_UM / self._mpp)
            unfocused = window.upsampled(spoilt.blur, MAP_UM)[..., None]
            painted = (painted + unfocused * (soft.astype(np.float32) - painted)).astype(np.uint8)
        for cover, colour in ((spoilt.pen, spoilt.ink), (spoilt.dust, _DUST_RGB)):
            if cover is not None and window.crop(cover).any():
                light = 1 - window.upsampled(cover, MAP_UM)[..., None] * (1 - np.array(colour, np.float32) / 255)
                painted = (painted * light).astype(np.uint8)
        inner = np.ascontiguousarray(painted[margin:-margin, margin:-margin])
        noise = _tiled(sheets().noise, left_l0, top_l0, width, height)
        return np.asarray(cv2.addWeighted(inner, 1, noise, 1, -128), np.uint8)

    def is_empty(self, left_l0: int, top_l0: int, width: int, height: int) -> bool:
        """Whether a rectangle contains only clean glass."""
        window = Window(left_l0, top_l0, width, height, self._mpp)
        fields = (self._anatomy.kinds, self._artefacts.pen, self._artefacts.dust)
        return not any(window.crop(field).any() for field in fields if field is not None)

    def _section(self, window: Window) -> npt.NDArray[np.uint8]:
        eosin, haematoxylin = self._ground(window)
        nuclear = np.zeros(window.shape, np.uint8)
        for cell, nuclei in self._anatomy.nuclei.items():
            self._banks[cell].print_on(nuclear, nuclei.within(*window.bounds_um(_REACH_UM)), *window.corner_um)
        inside = nuclear.astype(np.float32) * (1 / 255)
        eosin *= 1 - 0.5 * inside
        np.maximum(haematoxylin, inside * NUCLEAR_OD, out=haematoxylin)
        if self._artefacts.fold is not None and window.crop(self._artefacts.fold).any():
            doubled = 1 + 0.85 * window.upsampled(self._artefacts.fold, MAP_UM)
            eosin *= doubled
            haematoxylin *= doubled
        amounts = cv2.GaussianBlur(cv2.merge([haematoxylin, eosin]), (0, 0), self._stain.focus_px)
        codes = np.ascontiguousarray(cv2.convertScaleAbs(amounts, alpha=1 / OD_STEP)).view(np.uint16)[..., 0]
        return self._colours.take(codes).view(np.uint8).reshape(*codes.shape, 4)[..., :3]

    def _ground(self, window: Window) -> tuple[Floats, Floats]:
        """Render everything except nuclei: amounts of eosin and hematoxylin, (H, W) each."""
        anatomy, texture, tile = self._anatomy, sheets(), window.tiled
        shares = self._kinds(window, tile(texture.ragged_um))
        grain = tile(texture.grain)
        eosin, haematoxylin = np.zeros(window.shape, np.float32), np.zeros(window.shape, np.float32)
        if (stroma := shares.get(Kind.STROMA)) is not None:
            bundles, fibrils = cv2.split(self._fibres(window).astype(np.float32) * (1 / 255))
            collagen = np.clip((bundles - 0.10) * 5.5, 0, 1)
            eosin += stroma * (0.05 + 0.10 * grain + collagen * (0.24 + 0.24 * bundles + 0.28 * fibrils))
            haematoxylin += stroma * (0.02 + 0.05 * collagen)
        if (tumour := shares.get(Kind.TUMOUR)) is not None:
            tumour = tumour * (1 - 0.35 * tile(_tumour_borders(self._mpp)))
            eosin += tumour * (0.30 + 0.24 * grain)
            haematoxylin += tumour * (0.12 + 0.14 * grain)
        if (lymphoid := shares.get(Kind.LYMPHOID)) is not None:
            eosin += lymphoid * (0.12 + 0.20 * grain)
            haematoxylin += lymphoid * (0.06 + 0.12 * grain)
        if (fat := shares.get(Kind.FAT)) is not None:
            eosin += fat * (0.015 + 0.55 * _bump(window.upsampled(anatomy.fat_gap_um, MAP_UM), 1.1))
        if (epithelium := shares.get(Kind.EPITHELIUM)) is not None:
            eosin += epithelium * (0.36 + 0.26 * grain)
            haematoxylin += epithelium * (0.08 + 0.12 * grain)
        if (lumen := shares.get(Kind.LUMEN)) is not None:
            eosin += lumen * (0.02 + 0.22 * np.clip((tile(texture.wisps) - 0.72) * 5, 0, 1))
        return eosin, haematoxylin

    def _fibres(self, window: Window) -> npt.NDArray[np.uint8]:
        drift = window.upsampled(self._anatomy.drift_um, MAP_UM * COARSE)
        x = (window.x_um + drift[..., 0]) * (1 / SHEET_MPP)
        y = (window.y_um[:, None] + drift[..., 1]) * (1 / SHEET_MPP)
        x -= SHEET_SIDE * np.floor(x.min() / SHEET_SIDE)
        y -= SHEET_SIDE * np.floor(y.min() / SHEET_SIDE)
        return np.asarray(cv2.remap(sheets().fibres, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP), np.uint8)

    def _kinds(self, window: Window, ragged_um: Floats) -> dict[Kind, Floats]:
        """Return the fraction of each kind in the rectangle at every pixel, with edges that are ragged over a few um.

        Glass, and kinds that do not occur within `_RAGGED_REACH_UM` of the rectangle, are left out.
        """
        near = np.unique(window.crop(self._anatomy.kinds, _RAGGED_REACH_UM))
        present = [kind for kind in _SHOWN if kind in near]
        x = (window.x_um + ragged_um[..., 0]) * (1 / MAP_UM) - 0.5
        y = (window.y_um[:, None] + ragged_um[..., 1]) * (1 / MAP_UM) - 0.5
        maps = cv2.convertMaps(x, y, cv2.CV_16SC2)
        sampled = {
            kind: cv2.remap(self._shares[kind], *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            for kind in present
        }
        return {kind: share.astype(np.float32) * np.float32(1 / 255) for kind, share in sampled.items()}


class Window:
    """A rectangle of a slide, in level-0 pixels, and the sampling of maps and textures in it."""

    def __init__(self, left_l0: int, top_l0: int, width: int, height: int, mpp: float) -> None:
        self.shape = (height, width)
        self._left_l0, self._top_l0, self._mpp = left_l0, top_l0, mpp
        self.x_um = np.asarray((left_l0 + np.arange(width) + 0.5) * mpp, np.float32)
        self.y_um = np.asarray((top_l0 + np.arange(height) + 0.5) * mpp, np.float32)

    @property
    def corner_um(self) -> tuple[float, float]:
        """Center of the first pixel, x and y."""
        return float(self.x_um[0]), float(self.y_um[0])

    def bounds_um(self, reach: float) -> tuple[float, float, float, float]:
        """Return left, top, right and bottom, each extended outwards by `reach`."""
        (left, top), right, bottom = self.corner_um, float(self.x_um[-1]), float(self.y_um[-1])
        return left - reach, top - reach, right + reach, bottom + reach

    def crop(self, field: npt.NDArray[np.generic], reach_um: float = 2 * MAP_UM) -> npt.NDArray[np.generic]:
        """Return the part of a map that overlaps the rectangle, or is within `reach_um` of it."""
        left, top, right, bottom = (int(bound / MAP_UM) for bound in self.bounds_um(reach_um))
        return field[max(0, top) : max(0, bottom) + 1, max(0, left) : max(0, right) + 1]

    def upsampled(self, field: Floats, pixel_um: float) -> Floats:
        """Sample a map with pixels of `pixel_um` at every pixel of the rectangle."""
        scale, (left, top) = self._mpp / pixel_um, self.corner_um
        matrix = np.array([[scale, 0, left / pixel_um - 0.5], [0, scale, top / pixel_um - 0.5]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        seen = cv2.warpAffine(field, matrix, self.shape[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(seen, np.float32)

    def tiled(self, sheet: Floats) -> Floats:
        """Return the part of a periodic texture, repeated over the slide pixel by pixel, in the rectangle."""
        height, width = self.shape
        return _tiled(sheet, self._left_l0, self._top_l0, width, height)


def _tiled(sheet: npt.NDArray[T], left: int, top: int, width: int, height: int) -> npt.NDArray[T]:
    rows, columns = np.arange(top, top + height) % len(sheet), np.arange(left, left + width) % len(sheet)
    return sheet.take(rows, 0).take(columns, 1)


def _bump(distance: Floats, width: float) -> Floats:
    """Return 1 at a line, falling to 0 at about twice `width` from it."""
    return np.asarray(np.exp(-((distance * (1 / width)) ** 2)), np.float32)
