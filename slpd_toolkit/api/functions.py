"""Functions without a command: region embeddings in memory, encoders, and verbosity."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from slpd_toolkit.core import console
from slpd_toolkit.core.errors import UsageError

if TYPE_CHECKING:
    from slpd_toolkit.api.settings import StrPath
    from slpd_toolkit.core.precision import Precision
    from slpd_toolkit.encoders.encoder import Encoder
    from slpd_toolkit.models.region_vit import RegionViT
    from slpd_toolkit.representations.region_embeddings import RegionEmbeddings


def region_embeddings(
    cache: StrPath,
    model: StrPath | RegionViT,
    *,
    precision: Precision = "auto",
    device: str = "auto",
    workers: int = 2,
) -> RegionEmbeddings:
    """Embed every region of a token cache; returns bags of vectors with coordinates.

    Embeddings of a weights file or run folder are stored next to it and reused; those of a network in memory are not.

    Args:
        cache: Folder of the token cache, or a `TokenStore` opened from it.
        model: A region ViT, its weights file, a run, or `mean-tokens` (mean of the tissue tokens of each region).
        precision: Precision of the model. `auto`: bf16 if the device supports it natively, otherwise fp32.
        device: Device of the model: `auto` (GPU if available), `cpu`, `cuda`, `mps`.
        workers: Number of threads that read tokens ahead of the model.

    Returns:
        One vector per region; slides without regions are left out.

    Raises:
        UsageError: The model does not match the cache, or does not embed regions.
        WeightsError: The model's file cannot be read.
        CacheError: The cache is empty, mixed or damaged.
        DeviceMemoryError: The device does not have enough memory.

    >>> bags = slpd.region_embeddings("cache", "runs/slpd", device="cpu")
    >>> bags
    RegionEmbeddings(12 slides, 68 regions x 24)
    >>> bags["slide000"].shape
    (9, 24)
    >>> bags.regions[["slide_id", "x_l0", "y_l0"]].head(2).values.tolist()
    [['slide000', 0, 0], ['slide000', 1536, 0]]
    """
    from slpd_toolkit.models.region_vit import RegionViT
    from slpd_toolkit.representations.region_embeddings import embed_regions
    from slpd_toolkit.store.token_file import TokenStore

    store = cache if isinstance(cache, TokenStore) else TokenStore.open(cache)
    network = model if isinstance(model, RegionViT) else os.fspath(model)
    return embed_regions(store, network, precision=precision, device=device, workers=workers)


def load_encoder(
    name: str,
    *,
    weights: StrPath | None = None,
    patch_px: int = 0,
    seed: int = 0,
    allow_download: bool = False,
    mean: str = "",
    std: str = "",
    pooling: str = "",
) -> Encoder:
    """Load a frozen patch encoder, on the CPU and in eval mode.

    Args:
        name: Name of the encoder, as for `slpd embed --encoder`.
        weights: Weights file, for encoders that need one.
        patch_px: Side of the patches, px. 0: what the encoder was made for.
        seed: Seed of the `random` encoders' weights.
        allow_download: Allow `timm:` encoders to download their weights.
        mean: Mean of RGB, as in `slpd embed --mean`; only for `timm:<architecture>` with a local file.
        std: Standard deviation of RGB, likewise.
        pooling: Pooling of the tokens, likewise.

    Raises:
        UsageError: The name is unknown, or the encoder cannot process patches of this size.
        WeightsError: The weights are missing, unsafe, or do not fit the encoder.

    >>> encoder = slpd.load_encoder("handcrafted", patch_px=32)
    >>> pixels = torch.randint(256, (2, 32, 32, 3), dtype=torch.uint8)
    >>> encoder.embed(pixels, "fp32").shape
    torch.Size([2, 37])
    """
    from slpd_toolkit.encoders.registry import make_encoder

    path = None if weights is None else Path(weights)
    return make_encoder(
        name,
        weights=path,
        patch_px=patch_px,
        seed=seed,
        allow_download=allow_download,
        mean=mean,
        std=std,
        pooling=pooling,
    )


def set_verbosity(level: Literal["normal", "quiet"]) -> None:
    """Set what functions write to standard error in this process.

    Args:
        level: `normal`: progress, notes and warnings, like the commands. `quiet`: warnings only.

    Raises:
        UsageError: The level is unknown.

    >>> slpd.set_verbosity("quiet")
    """
    if level not in {"normal", "quiet"}:
        raise UsageError(f"set_verbosity: got {level!r}, allowed: normal, quiet.")
    console.VERBOSITY.quiet = level == "quiet"
