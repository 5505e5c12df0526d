"""From the name that the user gives to a frozen encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.files import sha256
from slpd_toolkit.encoders.encoder import IMAGENET_MEAN, IMAGENET_STD, Encoder, digest_of_state, freeze
from slpd_toolkit.encoders.handcrafted import StainStatistics
from slpd_toolkit.models.patch_vit import PATCH_PX, PatchViT
from slpd_toolkit.models.weights import backbone_state, load_strict, read_checkpoint

if TYPE_CHECKING:
    from pathlib import Path


HIPT_MEAN = HIPT_STD = (0.5, 0.5, 0.5)
KNOWN = "hipt, handcrafted, random, random:vit_tiny, random:vit_small, timm:<model>"


def make_encoder(name: str, *, weights: Path | None, patch_px: int, seed: int, allow_download: bool) -> Encoder:
    """Build the encoder called `name`, on the CPU, frozen and in eval mode.

    Args:
        name: `hipt`, `handcrafted`, `random[:vit_tiny|:vit_small]` or `timm:<model>`.
        weights: Weights file; needed by `hipt`, not allowed for `random` and `handcrafted`.
        patch_px: Side of the patches; ViTs of this project see them at that size.
        seed: Of the `random` encoders.
        allow_download: Whether `timm:` may use the network.

    Raises:
        UsageError: Unknown name, or a patch size that the encoder cannot see.
        WeightsError: The weights are missing, unsafe, or not of this network.
    """
    family, _, variant = name.partition(":")
    if family == "timm" and variant:
        from slpd_toolkit.encoders.timm import make_timm  # an extra: imported when asked for

        return make_timm(variant, weights=weights, allow_download=allow_download)
    if patch_px % PATCH_PX:
        raise UsageError(f"--patch-px: got {patch_px}, allowed with encoder {name}: multiples of {PATCH_PX}.")
    if name == "hipt":
        return _hipt(weights, patch_px)
    if name == "handcrafted":
        network = freeze(StainStatistics())
        return Encoder(name, network, StainStatistics.DIM, patch_px, (0.0,) * 3, (1.0,) * 3, digest_of_state(network))
    if family == "random" and variant in {"", "vit_tiny", "vit_small"}:
        return _random(name, variant or "vit_tiny", patch_px, seed)
    raise UsageError(
        f"--encoder: got {name!r}, allowed: {KNOWN}.",
        hint="UNI, Virchow, H-optimus and others are timm models: see the README.",
    )


def _hipt(weights: Path | None, patch_px: int) -> Encoder:
    """HIPT's ViT-S/16 (vit256_small_dino.pth), any DINO ViT-S/16, or the patch ViT that published SLPD used."""
    if weights is None:
        raise UsageError(
            "--encoder hipt needs --weights.", hint="HIPT's file is vit256_small_dino.pth; --encoder random needs none."
        )
    network = PatchViT()
    load_strict(network, backbone_state(read_checkpoint(weights), weights), weights)
    return Encoder("hipt", freeze(network), 384, patch_px, HIPT_MEAN, HIPT_STD, sha256(weights))


def _random(name: str, variant: str, patch_px: int, seed: int) -> Encoder:
    """An untrained ViT: an honest baseline, and what works with nothing downloaded."""
    dim, heads = {"vit_tiny": (192, 3), "vit_small": (384, 6)}[variant]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = PatchViT(embed_dim=dim, heads=heads)
    return Encoder(name, freeze(network), dim, patch_px, IMAGENET_MEAN, IMAGENET_STD, digest_of_state(network))
