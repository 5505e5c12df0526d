"""Patch ViT: maps the pixels of a patch to a token. Always frozen in this project."""

from __future__ import annotations

from torch import Tensor, nn

from slpd_toolkit.models.transformer import VisionTransformer, initialise

PATCH_PX = 16


class PatchViT(VisionTransformer):
    """DINO's ViT with 16 px patches; the defaults are HIPT's ViT-S/16 (`vit256_small_dino.pth`).

    Args:
        embed_dim: Embedding dimension (384 for ViT-S, 192 for ViT-Tiny).
        depth: Number of blocks.
        heads: Number of attention heads per block (6 for ViT-S, 3 for ViT-Tiny).
        grid: Side length of the grid for which position embeddings are learned (14 for 224 px).
    """

    def __init__(self, *, embed_dim: int = 384, depth: int = 12, heads: int = 6, grid: int = 14) -> None:
        super().__init__(embed_dim=embed_dim, grid=grid, depth=depth, heads=heads, mlp_ratio=4.0, drop_path=0.0)
        self.patch_embed = _PatchEmbed(embed_dim)
        initialise(self)

    def forward(self, pixels: Tensor) -> Tensor:
        """Embed patches: (N, 3, H, W) normalized RGB -> (N, E) CLS embeddings.

        Raises:
            ValueError: H or W is not a multiple of 16 px.
        """
        return self.encode(self._embed(pixels))

    def last_attention(self, pixels: Tensor) -> Tensor:
        """Return the last block's CLS attention: (N, 3, H, W) -> (N, heads, 1 + H/16 * W/16), CLS first, row-major."""
        return self.encode_attention(self._embed(pixels))

    def _embed(self, pixels: Tensor) -> Tensor:
        height, width = pixels.shape[-2:]
        if height % PATCH_PX or width % PATCH_PX:
            raise ValueError(f"image sides must be multiples of {PATCH_PX} px, got {height} x {width}")
        embedded: Tensor = self.patch_embed(pixels)
        return embedded


class _PatchEmbed(nn.Module):
    """Linear embedding of non-overlapping 16 x 16 px patches, (N, 3, H, W) -> (N, H/16, W/16, E)."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, embed_dim, kernel_size=PATCH_PX, stride=PATCH_PX)

    def forward(self, pixels: Tensor) -> Tensor:
        embedded: Tensor = self.proj(pixels)
        return embedded.permute(0, 2, 3, 1)
