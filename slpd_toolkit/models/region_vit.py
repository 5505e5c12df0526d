"""The region ViT: a region's grid of tokens to one embedding. The network that stage two trains."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from torch import Tensor, nn

from slpd_toolkit.core.errors import WeightsError
from slpd_toolkit.models import weights
from slpd_toolkit.models.transformer import VisionTransformer, WeightInit, initialise

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    import torch

FILENAME = "region_vit.pt"
"""What `slpd pretrain` calls the weights in a run folder."""


@dataclass(frozen=True, slots=True)
class RegionViTConfig:
    """Shape of a region ViT; the defaults are HIPT's "ViT-4K-XS" (`vit4k_xs_dino.pth`)."""

    input_dim: int = 384
    """Width D of the cached tokens."""
    grid: int = 14
    """Side of the token grid for which position embeddings are learned: that of the global crops."""
    embed_dim: int = 192
    """Width E of the region embedding."""
    depth: int = 6
    """Number of transformer blocks."""
    heads: int = 6
    """Attention heads a block."""
    mlp_ratio: float = 4.0
    """Hidden width of the MLPs over `embed_dim`."""
    drop_path: float = 0.0
    """Stochastic depth of the last block in training mode; 0 in the teacher and in shared weights."""


class RegionViT(VisionTransformer):
    """Vision transformer that embeds a region from its grid of tokens: Linear + GELU per token, then a ViT.

    Token grids are channels-last, (N, h, w, D), as they lie in the cache: a crop is then a gather of whole rows of D
    numbers, and phi needs no transpose.

    Args:
        config: Shape of the network.
        generator: Source of the initial weights; None takes torch's global one.
        weight_init: How they are drawn, see `initialise`.

    >>> model = slpd.RegionViT.from_file("runs/slpd")
    >>> tokens = torch.from_numpy(slpd.TokenStore.open("cache")["slide000"].tokens)
    >>> tokens.shape
    torch.Size([9, 6, 6, 8])
    >>> model(tokens).shape
    torch.Size([9, 24])
    >>> model.last_attention(tokens).shape
    torch.Size([9, 3, 37])
    """

    def __init__(
        self,
        config: RegionViTConfig,
        generator: torch.Generator | None = None,
        weight_init: WeightInit = "published",
    ) -> None:
        super().__init__(
            embed_dim=config.embed_dim,
            grid=config.grid,
            depth=config.depth,
            heads=config.heads,
            mlp_ratio=config.mlp_ratio,
            drop_path=config.drop_path,
        )
        self.config = config
        self.phi = nn.Sequential(nn.Linear(config.input_dim, config.embed_dim), nn.GELU())
        initialise(self, generator, scheme=weight_init)

    def forward(
        self, tokens: Tensor, generator: torch.Generator | None = None, present: Tensor | None = None
    ) -> Tensor:
        """Embed token grids.

        Args:
            tokens: (N, h, w, D) of any floating type and any grid.
            generator: Source of stochastic depth in training mode, on the tokens' device; None takes torch's own.
            present: (N, h, w) bool, the tokens that there are; the values of the others do not matter. None for all.

        Returns:
            (N, E) region embeddings.
        """
        return self.encode(self._embed(tokens, present), generator, present)

    def last_attention(self, tokens: Tensor, present: Tensor | None = None) -> Tensor:
        """CLS attention of the last block: (N, h, w, D) -> (N, heads, 1 + h * w), CLS first, then the grid by rows."""
        return self.encode_attention(self._embed(tokens, present), present)

    def _embed(self, tokens: Tensor, present: Tensor | None) -> Tensor:
        if tokens.ndim != 4 or tokens.shape[-1] != self.config.input_dim:
            raise ValueError(f"tokens must be (N, h, w, {self.config.input_dim}), got {tuple(tokens.shape)}")
        if present is not None and present.shape != tokens.shape[:-1]:
            raise ValueError(f"present must be {tuple(tokens.shape[:-1])}, got {tuple(present.shape)}")
        embedded: Tensor = self.phi(tokens.to(self.cls_token.dtype))
        return embedded

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], config: RegionViTConfig | None = None) -> Self:
        """Load shared weights, in eval mode on the CPU.

        Args:
            path: A run folder of `slpd pretrain`, `region_vit.pt` as `save` writes it, or a HIPT, DINO or published
                SLPD checkpoint (its teacher).
            config: Shape of the network. None takes the file's own, or ViT-4K-XS where the file has none.

        Raises:
            WeightsError: The file is unreadable, or its keys or shapes are not those of the network.
        """
        path = Path(path)
        if path.is_dir():
            path /= FILENAME
        checkpoint = weights.read_checkpoint(path)
        model = cls(config or _config_of(checkpoint, path))
        weights.load_strict(model, weights.backbone_state(checkpoint, path), path)
        return model.eval()

    def config_dict(self) -> dict[str, int | float]:
        """The shape as plain values, without stochastic depth, which only training has."""
        return asdict(self.config) | {"drop_path": 0.0}

    def save(self, path: Path | str, provenance: Mapping[str, object] | None = None) -> None:
        """Write config and weights for `from_file`: what users share. Atomic; stochastic depth is left behind.

        Args:
            path: The file.
            provenance: What the network was trained on, kept beside the weights.
        """
        stored = {"config": self.config_dict(), "state_dict": self.state_dict(), "provenance": dict(provenance or {})}
        weights.write_checkpoint(stored, path)


def _config_of(checkpoint: dict[str, object], path: Path | str) -> RegionViTConfig:
    stored = checkpoint.get("config", {})
    try:
        return RegionViTConfig(**stored)  # type: ignore[arg-type]  # checked by the constructor: TypeError below
    except TypeError as error:
        raise WeightsError(
            f"{path}: the stored config is not that of a region ViT ({error}).",
            hint="Use a region_vit.pt written by slpd pretrain.",
        ) from error
