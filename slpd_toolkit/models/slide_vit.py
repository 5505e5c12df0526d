"""Slide ViT: maps the region vectors of a slide, with their places, to one vector and to each region in its context."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slpd_toolkit.config.slide_vit import SlideViTConfig
from slpd_toolkit.core.errors import UsageError, WeightsError
from slpd_toolkit.models import weights
from slpd_toolkit.models.dino_head import DinoHead
from slpd_toolkit.models.transformer import INIT_STD, LAYER_NORM_EPS, Block, fewest_values, initialise

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    import numpy as np
    import numpy.typing as npt

    from slpd_toolkit.config.region_vit import DinoHeadConfig

SLIDE_VIT = "slide_vit.pt"
"""Name of the weights file in the run folder of `slpd pretrain-slides`."""


class SlideRegions(NamedTuple):
    """Regions of N slides, or of N views of slides, padded to the same number n."""

    values: Tensor
    """(N, n, D) region vectors."""
    places: Tensor
    """(N, n, 2) center of each region, in units of its side."""
    present: Tensor
    """(N, n) bool: False for padding."""

    def to(self, device: torch.device, *, non_blocking: bool = False) -> SlideRegions:
        """Return the same regions on another device."""
        return SlideRegions(*(each.to(device, non_blocking=non_blocking) for each in self))


class SlideViT(nn.Module):
    """Transformer over the regions of a slide, whose attention depends on their distance.

    Each head adds -slope x distance to its attention scores, with a slope that is fixed per head (ALiBi,
    https://arxiv.org/abs/2108.12409) and the Euclidean distance between the centers of two regions in units of their
    side, as slide encoders do (TITAN, https://arxiv.org/abs/2411.19666). The slopes halve from head to head; the last
    is 0. Nothing depends on the direction or the number of regions, so slides of any size and orientation can be
    encoded. The CLS token has no place and attends to all regions alike.

    Args:
        config: Architecture.
        generator: Random generator of the initial weights; None uses PyTorch's global one.
        input_dim: Width D of the region vectors.
    """

    shift: Tensor
    scale: Tensor
    slopes: Tensor

    def __init__(
        self, config: SlideViTConfig, generator: torch.Generator | None = None, *, input_dim: int = 192
    ) -> None:
        super().__init__()
        self.config, self.input_dim = config, input_dim
        self.embed = nn.Linear(input_dim, config.embed_dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.embed_dim))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, config.embed_dim))
        self.blocks = nn.ModuleList(
            Block(config.embed_dim, config.heads, config.mlp_ratio) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.embed_dim, eps=LAYER_NORM_EPS)
        initialise(self, generator, scheme="fan-in")
        nn.init.trunc_normal_(self.mask_token, std=INIT_STD, generator=generator)
        self.register_buffer("shift", torch.zeros(input_dim))
        self.register_buffer("scale", torch.ones(input_dim))
        steps = torch.arange(config.heads, dtype=torch.float32)
        slopes = config.steepest_slope * 0.5**steps
        self.register_buffer("slopes", torch.where(steps == config.heads - 1, 0.0, slopes))

    def fit_scale(self, values: npt.NDArray[np.float32]) -> None:
        """Standardize inputs by the mean and standard deviation of these regions, (R, D), centered if inputs are."""
        mean, sd = values.mean(axis=0, dtype="float64"), values.std(axis=0, dtype="float64")
        self.shift.copy_(torch.from_numpy(mean))
        self.scale.copy_(torch.from_numpy(sd).clamp(min=1e-6))

    def standardized(self, values: Tensor) -> Tensor:
        """Return region vectors on the scale of `fit_scale`: (..., D) -> (..., D)."""
        return (values.to(self.shift.dtype) - self.shift) / self.scale

    def forward(
        self, regions: SlideRegions, hidden: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Encode slides.

        Args:
            regions: Regions of N slides; with `config.centering` "slide", relative to the mean region of their slide.
            hidden: (N, n) bool, regions whose vectors are replaced by the mask token; None for none.
            generator: Random generator of stochastic depth in training mode; None uses PyTorch's global one.

        Returns:
            (N, E) slides: the CLS token. (N, n, E) regions in the context of their slide; meaningless for padding.
        """
        x, bias = self._inputs(regions, hidden)
        scales = self._branch_scales(len(x), generator)
        for index, block in enumerate(self.blocks):
            x = block(x, None if scales is None else scales[index], bias)
        x = self.norm(x)
        return x[:, 0], x[:, 1:]

    def last_attention(self, regions: SlideRegions) -> Tensor:
        """Return the last block's CLS attention: (N, heads, 1 + n), CLS first; rows sum to 1, padding has 0."""
        x, bias = self._inputs(regions, None)
        for block in self.blocks[:-1]:
            x = block(x, None, bias)
        last = self.blocks[-1]
        assert isinstance(last, Block)
        return last.attn.cls_weights(last.norm1(x), bias)

    def _inputs(self, regions: SlideRegions, hidden: Tensor | None) -> tuple[Tensor, Tensor]:
        values, places, present = regions
        if values.ndim != 3 or values.shape[-1] != self.input_dim:
            raise ValueError(f"regions must be (N, n, {self.input_dim}), got {tuple(values.shape)}")
        x = self.embed(self.standardized(values))
        if hidden is not None:
            x = torch.where(hidden.unsqueeze(-1), self.mask_token.to(x.dtype), x)
        x = torch.cat((self.cls_token.to(x.dtype).expand(len(x), -1, -1), x), dim=1)
        with torch.autocast(x.device.type, enabled=False):
            distance = torch.cdist(places.float(), places.float(), compute_mode="donot_use_mm_for_euclid_dist")
            bias = F.pad(-self.slopes.view(1, -1, 1, 1) * distance.unsqueeze(1), (1, 0, 1, 0))
            bias = bias.masked_fill(~F.pad(present, (1, 0), value=True)[:, None, None], -torch.inf)
        return x, bias

    def _branch_scales(self, count: int, generator: torch.Generator | None) -> Tensor | None:
        """Draw stochastic depth: (depth, 2, N, 1, 1) of 0 or 1 / keep, or None."""
        if not self.training or self.config.drop_path == 0.0:
            return None
        device, depth = self.shift.device, len(self.blocks)
        keep = 1.0 - torch.linspace(0.0, self.config.drop_path, depth, device=device).view(depth, 1, 1, 1, 1)
        return (torch.rand(depth, 2, count, 1, 1, device=device, generator=generator) < keep) / keep

    def save(self, path: Path | str, provenance: Mapping[str, object] | None = None) -> None:
        """Write architecture and weights for `from_file`, atomically.

        Args:
            path: The file.
            provenance: What the network was trained on, stored with the weights; `regions` is the model of regions.
        """
        config = {"input_dim": self.input_dim, **asdict(self.config), "drop_path": 0.0}
        stored = {"slide_vit": config, "state_dict": self.state_dict(), "provenance": dict(provenance or {})}
        weights.write_checkpoint(stored, path)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> tuple[Self, dict[str, Any]]:
        """Load a trained network, in eval mode on the CPU, and its provenance.

        Args:
            path: A run folder of `slpd pretrain-slides`, or a `slide_vit.pt` written by `save`.

        Raises:
            WeightsError: The file is unreadable, or is not a slide ViT.
        """
        path = Path(path) / SLIDE_VIT if Path(path).is_dir() else Path(path)
        checkpoint = weights.read_checkpoint(path)
        try:
            stored: dict[str, Any] = dict(checkpoint["slide_vit"])
            input_dim, provenance = int(stored.pop("input_dim")), dict(checkpoint["provenance"])
            config, state = SlideViTConfig(**stored), dict(checkpoint["state_dict"])
            least = fewest_values(config.embed_dim, config.depth, config.mlp_ratio, rows=input_dim)
            weights.require_room(state, least, path)
            model = cls(config, input_dim=input_dim)
        except (KeyError, TypeError, ValueError, OverflowError, UsageError) as error:
            raise WeightsError(
                f"{path} is not a slide ViT ({error!r}).", hint=f"Use a {SLIDE_VIT} of slpd pretrain-slides."
            ) from error
        weights.load_strict(model, state, path)
        return model.eval(), provenance


class SlideNetwork(nn.Module):
    """Student or teacher: a slide ViT, a linear decoder of region vectors, and a DINO head of slides and regions.

    Args:
        config: Architecture of the slide ViT.
        head: Architecture of the head.
        generator: Random generator of the initial weights; None uses PyTorch's global one.
        input_dim: Width D of the region vectors.
    """

    def __init__(
        self, config: SlideViTConfig, head: DinoHeadConfig, generator: torch.Generator | None = None, *, input_dim: int
    ) -> None:
        super().__init__()
        self.backbone = SlideViT(config, generator, input_dim=input_dim)
        self.head = DinoHead(head, generator, input_dim=config.embed_dim)
        self.decoder = nn.Linear(config.embed_dim, input_dim)
        initialise(self.decoder, generator, scheme="fan-in")
