"""Building the encoder of the settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slpd_toolkit.encoders.registry import make_encoder

if TYPE_CHECKING:
    from collections.abc import Callable

    from slpd_toolkit.config.embed import EmbedConfig
    from slpd_toolkit.encoders.encoder import Encoder
    from slpd_toolkit.encoders.geometry import Geometry


def encoder_of(config: EmbedConfig, geometry: Geometry, make: Callable[..., Encoder] = make_encoder) -> Encoder:
    """Build the only encoder of a run, on the CPU; see `encoders.registry.make_encoder`."""
    return make(
        config.encoder_name,
        weights=config.weights,
        patch_px=geometry.patch_px,
        seed=config.seed,
        allow_download=config.allow_download,
        mean=config.mean,
        std=config.std,
        pooling=config.pooling,
    )
