"""The patch size, resolution and precision that an encoder was made for, and what the user chose instead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from slpd_toolkit.config.embed import require_whole_patches
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.encoders.preset import Scale, require_preset

if TYPE_CHECKING:
    import torch

    from slpd_toolkit.config.embed import EmbedConfig
    from slpd_toolkit.core.precision import Precision
    from slpd_toolkit.encoders.preset import Preset

TIMM = "timm:"
_WITHOUT_PRESET = Scale(256, 0.5)
GRID = 16
"""Patches along one side of a region, unless told otherwise."""


@dataclass(frozen=True)
class Geometry:
    """How slides are divided. `EmbedConfig` has only what the user chose, so that nothing is read from there."""

    patch_px: int
    """Side of a patch at the target resolution."""
    mpp: float
    """Target resolution, um/px."""
    region_px: int
    """Side of a region at the target resolution."""

    @property
    def grid(self) -> int:
        """Number of patches along one side of a region."""
        return self.region_px // self.patch_px


def resolve_geometry(config: EmbedConfig) -> tuple[Geometry, list[str]]:
    """Return patch size, resolution and region size: the user's choices, and the encoder's where there is none.

    Returns:
        The geometry, and remarks on a resolution that the encoder was not made for.

    Raises:
        UsageError: The encoder is unknown or was not made for the patch size, or a region is not whole patches.
    """
    encoder = config.encoder_name
    preset = None if encoder.startswith(TIMM) else require_preset(encoder)
    scale = _default_scale(preset, config)
    patch_px, mpp = config.patch_px or scale.patch_px, config.mpp or scale.mpp
    region_px = config.region_px or GRID * patch_px
    require_whole_patches(region_px, patch_px)
    remarks = []
    if preset is not None:
        require_patch_px(preset, patch_px)
        resolutions = sorted({each.mpp for each in preset.scales if each.patch_px == patch_px})
        if resolutions and preset.weights.kind == "file" and mpp not in resolutions:
            remarks.append(
                f"{preset.name} was made for {patch_px}-px patches at {_listed(resolutions)} um/px; they are read at "
                f"{mpp:g} um/px, as requested."
            )
    return Geometry(patch_px, mpp, region_px), remarks


def require_patch_px(preset: Preset, patch_px: int) -> None:
    """Check that an encoder was made for a patch size.

    Raises:
        UsageError: It was not.
    """
    if preset.patch_px_multiple:
        if patch_px % preset.patch_px_multiple:
            raise UsageError(
                f"--patch-px: got {patch_px}, allowed with encoder {preset.name}: multiples of "
                f"{preset.patch_px_multiple}."
            )
        return
    sizes = list(dict.fromkeys(scale.patch_px for scale in preset.scales))
    if patch_px not in sizes:
        raise UsageError(
            f"--patch-px: got {patch_px}, allowed with encoder {preset.name}: {_listed(sizes)}.",
            hint="Leave --patch-px out to use the size that the encoder was made for.",
        )


def preferred_precision(encoder: str, requested: Precision, device: torch.device) -> Precision:
    """Replace `auto` by the arithmetic in which an encoder's publishers run it, where the device is made for that.

    Returns:
        `requested` unless it is `auto`; `fp32` for an encoder that is run in full precision; `fp16` or `bf16` for
        others on a CUDA device; else `auto`.
    """
    if requested != "auto" or encoder.startswith(TIMM):
        return requested
    precision = require_preset(encoder).precision
    if precision == "fp32":
        return "fp32"
    if device.type == "cuda" and precision != "any":
        return precision
    return "auto"


def _default_scale(preset: Preset | None, config: EmbedConfig) -> Scale:
    """Choose the first scale that has the patch size or resolution that the user asked for."""
    if preset is None:
        return _WITHOUT_PRESET
    for scale in preset.scales:
        if config.patch_px in {None, scale.patch_px} and config.mpp in {None, scale.mpp}:
            return scale
    for scale in preset.scales:
        if config.patch_px == scale.patch_px:
            return scale
    return preset.scales[0]


def _listed(values: list[int] | list[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
