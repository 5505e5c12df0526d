"""Region ViT, trained in stage two: maps the token grid of a region to one embedding."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import torch
from torch.nn import functional as F

from slpd_toolkit.config.region_vit import RegionViTConfig
from slpd_toolkit.core.errors import UsageError, WeightsError
from slpd_toolkit.models import weights
from slpd_toolkit.models.token_projection import TokenProjection
from slpd_toolkit.models.transformer import (
    LAYER_NORM_EPS,
    VisionTransformer,
    fewest_values,
    initialise,
    mean_token,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from torch import Tensor

Network = TypeVar("Network", bound="RegionViT")

REGION_VIT = "region_vit.pt"
"""Name of the weights file in the run folder of `slpd pretrain`."""


class RegionViT(VisionTransformer):
    """Vision transformer that embeds a region from its grid of tokens: Linear + GELU per token, then a ViT.

    Token grids are channels-last, (N, h, w, D), as in the cache, so that a crop gathers whole rows of D values and phi
    needs no transpose. With `config.centering` "slide", tokens must be relative to the mean token of their slide, as
    `store.centered_tokens.CenteredTokens` reads them. `config.whitening` is part of phi.

    Args:
        config: Architecture.
        generator: Random generator of the initial weights; None uses PyTorch's global one.
        input_dim: Width D of the cached tokens.
        grid: Side length of the token grid for which position embeddings are learned: that of the global crops.

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
        self, config: RegionViTConfig, generator: torch.Generator | None = None, *, input_dim: int = 384, grid: int = 14
    ) -> None:
        super().__init__(
            embed_dim=config.embed_dim,
            grid=grid,
            depth=config.depth,
            heads=config.heads,
            mlp_ratio=config.mlp_ratio,
            drop_path=config.drop_path,
            registers=config.registers,
        )
        self.config = config
        self.input_dim = input_dim
        self.phi = TokenProjection(input_dim, config.embed_dim, whitened=config.whitening != "none")
        initialise(self, generator, scheme=config.weight_init)

    def forward(
        self, tokens: Tensor, generator: torch.Generator | None = None, present: Tensor | None = None
    ) -> Tensor:
        """Embed token grids.

        Args:
            tokens: (N, h, w, D) of any floating-point type and any grid.
            generator: Random generator of stochastic depth in training mode, on the tokens' device; None uses
                PyTorch's global one.
            present: (N, h, w) bool, the tokens that exist; the values of the others are ignored. None for all.

        Returns:
            (N, E) region embeddings; with other values of `config.pooling` than "cls", (N, 2 E) or (N, 3 E).
        """
        projected = self.project(tokens, present)
        parts = [self.outputs(projected, generator, present)]
        if self.config.pooling == "cls+mean+input":  # standardized like the outputs, so that no part dominates
            parts.append(F.layer_norm(mean_token(projected, present), projected.shape[-1:], eps=LAYER_NORM_EPS))
        return torch.cat(parts, dim=-1)

    def outputs(
        self, projected: Tensor, generator: torch.Generator | None = None, present: Tensor | None = None
    ) -> Tensor:
        """Compute what the DINO head sees of the region embeddings from tokens after phi, (N, h, w, E).

        It does not see the mean input, which is so easy to predict that the targets would collapse.
        """
        if self.config.pooling == "cls":
            return self.encode(projected, generator, present)  # without the outputs of other tokens
        return self.pool(*self.encode_tokens(projected, generator, present), present)

    def pool(self, cls: Tensor, grid: Tensor, present: Tensor | None = None) -> Tensor:
        """Return `outputs` for what `encode_tokens` returned; `present` is that of `mean_token`."""
        return cls if self.config.pooling == "cls" else torch.cat((cls, mean_token(grid, present)), dim=-1)

    def last_attention(self, tokens: Tensor, present: Tensor | None = None) -> Tensor:
        """Return the last block's CLS attention: (N, h, w, D) -> (N, heads, 1 + h * w), CLS first, grid row-major."""
        return self.encode_attention(self.project(tokens, present), present)

    def project(self, tokens: Tensor, present: Tensor | None = None) -> Tensor:
        """Apply phi: (N, h, w, D) -> (N, h, w, E). `present` is only checked."""
        if tokens.ndim != 4 or tokens.shape[-1] != self.input_dim:
            raise ValueError(f"tokens must be (N, h, w, {self.input_dim}), got {tuple(tokens.shape)}")
        if present is not None and present.shape != tokens.shape[:-1]:
            raise ValueError(f"present must be {tuple(tokens.shape[:-1])}, got {tuple(present.shape)}")
        embedded: Tensor = self.phi(tokens.to(self.cls_token.dtype))
        return embedded

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Self:
        """Load a trained network, in eval mode on the CPU.

        Args:
            path: A run folder of `slpd pretrain`, a `region_vit.pt` written by `save`, or a HIPT, DINO or published
                SLPD checkpoint (its teacher). The latter store no architecture, so it must be ViT-4K-XS.

        Raises:
            WeightsError: The file is unreadable, or its keys or shapes do not match the network.
        """
        path = _weights_file(path)
        return cls.from_checkpoint(weights.read_checkpoint(path), path)

    @classmethod
    def from_checkpoint(cls, checkpoint: Mapping[str, Any], path: Path) -> Self:
        """Build a trained network from the content of a file; see `from_file`.

        Args:
            checkpoint: The content.
            path: The file, for messages.

        Raises:
            WeightsError: Its keys or shapes do not match the network.
        """
        return _from_checkpoint(cls, checkpoint, path)

    def load_file(self, path: str | os.PathLike[str]) -> None:
        """Load weights into this network, which must have the same architecture, from any file `from_file` supports.

        Raises:
            WeightsError: The file is unreadable, or its keys or shapes do not match the network.
        """
        path = _weights_file(path)
        _require_same_map(checkpoint := weights.read_checkpoint(path), self.config, path)
        state = weights.backbone_state(checkpoint, path)
        if self.config.whitening != "none":  # weights of networks without whitening keep the map of this network
            state = {"phi.token_mean": self.phi.token_mean, "phi.token_map": self.phi.token_map} | state
        weights.load_strict(self, state, path)

    def shape(self) -> dict[str, int | float | str]:
        """Return input width, grid and architecture as plain values, as stored by `save`.

        Stochastic depth, used only in training, is set to 0; the weight initialization is left out.
        """
        architecture = asdict(self.config) | {"drop_path": 0.0}
        del architecture["weight_init"]
        for name in ("centering", "whitening", "registers", "pooling"):
            if architecture[name] in {"none", 0, "cls"}:  # as in files of versions without this setting
                del architecture[name]
        return {"input_dim": self.input_dim, "grid": self.grid, **architecture}

    def save(self, path: Path | str, provenance: Mapping[str, object] | None = None) -> None:
        """Write architecture and weights for `from_file`, atomically. Stochastic depth is not stored.

        Args:
            path: The file.
            provenance: What the network was trained on, stored with the weights.
        """
        stored = {"config": self.shape(), "state_dict": self.state_dict(), "provenance": dict(provenance or {})}
        weights.write_checkpoint(stored, path)


def _require_same_map(checkpoint: Mapping[str, Any], config: RegionViTConfig, path: Path) -> None:
    """Check that weights with a map of tokens are loaded into a network whose map is of the same kind."""
    stored: Any = checkpoint.get("config", {})
    found = stored.get("whitening", "none") if isinstance(stored, dict) else "none"
    if found not in ("none", config.whitening):
        raise WeightsError(
            f"{path} has whitening {found!r}, this network {config.whitening!r}.", hint=f"Use --whitening {found}."
        )


def _from_checkpoint(network: type[Network], checkpoint: Mapping[str, Any], path: Path) -> Network:
    stored: Any = checkpoint.get("config", {})
    try:
        shape: dict[str, Any] = {"drop_path": 0.0} | dict(stored)
        sizes: Any = {name: shape.pop(name) for name in ("input_dim", "grid") if name in shape}
        config, state = RegionViTConfig(**shape), weights.backbone_state(checkpoint, path)
        if stored:
            weights.require_room(state, _fewest_values(config, **sizes), path)
        model = network(config, **sizes)
    except (TypeError, ValueError, OverflowError, UsageError) as error:
        raise WeightsError(
            f"{path}: the stored config is not a region ViT config ({error}).",
            hint="Use a region_vit.pt written by slpd pretrain.",
        ) from error
    weights.load_strict(model, state, path)
    return model.eval()


def _fewest_values(config: RegionViTConfig, *, input_dim: Any = 0, grid: Any = 0) -> float:
    if not all(isinstance(size, int) and size >= 0 for size in (input_dim, grid)):
        raise ValueError(f"input_dim {input_dim}, grid {grid}")
    rows = input_dim + grid**2 + config.registers
    whitened = input_dim**2 if config.whitening != "none" else 0
    return whitened + fewest_values(config.embed_dim, config.depth, config.mlp_ratio, rows=rows)


def _weights_file(path: str | os.PathLike[str]) -> Path:
    """Return the weights file of a run folder, or the path itself if it is a file."""
    path = Path(path)
    return path / REGION_VIT if path.is_dir() else path
