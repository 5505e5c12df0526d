"""Vision transformer shared by the patch ViT and the region ViT: pre-norm blocks over a CLS token and a token grid.

Names and computation follow DINO (https://arxiv.org/abs/2104.14294), so that published weights load without renaming.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from slpd_toolkit.config.region_vit import WeightInit

LAYER_NORM_EPS = 1e-6
INIT_STD = 0.02


def fewest_values(embed_dim: int, depth: int, mlp_ratio: float, *, rows: int) -> float:
    """Return a lower bound of the number of values of a transformer: its matrices.

    Args:
        embed_dim: Width of its tokens.
        depth: Number of blocks.
        mlp_ratio: Hidden width of MLPs, as a multiple.
        rows: Number of rows of this width outside the blocks: inputs, positions, registers.
    """
    return embed_dim * rows + depth * embed_dim * (4 * embed_dim + 2 * int(embed_dim * mlp_ratio))


class Attention(nn.Module):
    """Multi-head self-attention with a query/key/value bias.

    In all methods, `keys` is (N, 1, 1, T) bool: the tokens that can be attended to; None for all. Or it is a bias of
    the attention scores, (N, heads or 1, T, T), with -inf where a token cannot be attended to.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, keys: Tensor | None = None) -> Tensor:
        """Attend from every token to every token: (N, T, E) -> (N, T, E)."""
        q, k, v = self._split_heads(self.qkv(x), 3)
        return self._merge_heads(_attend(q, k, v, keys))

    def forward_cls(self, x: Tensor, keys: Tensor | None = None) -> Tensor:
        """Compute only the CLS row of `forward`, without the queries of other tokens: (N, T, E) -> (N, 1, E)."""
        q, k, v = self._cls_qkv(x)
        return self._merge_heads(_attend(q, k, v, None if keys is None else keys[:, :, :1]))

    def cls_weights(self, x: Tensor, keys: Tensor | None = None) -> Tensor:
        """Return the CLS token's attention to all tokens, CLS first: (N, T, E) -> (N, heads, T); rows sum to 1."""
        q, k, _ = self._cls_qkv(x)
        scores: Tensor = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
        if keys is not None:
            keys = keys[:, :, :1]
            scores = scores.masked_fill(~keys, -torch.inf) if keys.dtype == torch.bool else scores + keys
        return scores.softmax(dim=-1).squeeze(2)

    def _cls_qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        dim = x.shape[-1]
        weight, bias = self.qkv.weight, self.qkv.bias
        (q,) = self._split_heads(F.linear(x[:, :1], weight[:dim], bias[:dim]), 1)
        k, v = self._split_heads(F.linear(x, weight[dim:], bias[dim:]), 2)
        return q, k, v

    def _split_heads(self, packed: Tensor, parts: int) -> tuple[Tensor, ...]:
        """(N, T, parts * E) -> parts x (N, heads, T, E / heads)."""
        n, tokens, width = packed.shape
        split = packed.view(n, tokens, parts, self.heads, width // (parts * self.heads))
        return split.permute(2, 0, 3, 1, 4).unbind(0)

    def _merge_heads(self, attended: Tensor) -> Tensor:
        merged: Tensor = self.proj(attended.transpose(1, 2).flatten(2))
        return merged


def _attend(q: Tensor, k: Tensor, v: Tensor, keys: Tensor | None) -> Tensor:
    """Compute fused attention of (N, heads, T, size) tensors."""
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.requires_grad:
        # On the CPU, the backward pass is 4 to 6 times slower in bfloat16 than in float32, casts included (torch 2.13).
        with torch.autocast("cpu", enabled=False):
            return F.scaled_dot_product_attention(q.float(), k.float(), v.float(), keys).to(v.dtype)
    if keys is not None and keys.dtype != torch.bool:
        keys = keys.to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, keys)


class Mlp(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, E) -> (N, T, E)."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class Block(nn.Module):
    """One pre-norm transformer block: x + attention(norm1(x)), then x + mlp(norm2(x))."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x: Tensor, branch_scale: Tensor | None = None, keys: Tensor | None = None) -> Tensor:
        """(N, T, E) -> (N, T, E).

        Args:
            x: CLS token and grid tokens.
            branch_scale: (2, N, 1, 1) factors of the attention and the MLP branch (stochastic depth); None for 1.
            keys: (N, 1, 1, T) bool, the tokens that can be attended to; None for all.
        """
        return self._add_branches(x, self.attn(self.norm1(x), keys), branch_scale)

    def forward_cls(self, x: Tensor, branch_scale: Tensor | None = None, keys: Tensor | None = None) -> Tensor:
        """Compute only the CLS row of `forward`, a sixth of the work: (N, T, E) -> (N, 1, E)."""
        return self._add_branches(x[:, :1], self.attn.forward_cls(self.norm1(x), keys), branch_scale)

    def _add_branches(self, x: Tensor, attended: Tensor, branch_scale: Tensor | None) -> Tensor:
        x = x + (attended if branch_scale is None else attended * branch_scale[0])
        hidden: Tensor = self.mlp(self.norm2(x))
        return x + (hidden if branch_scale is None else hidden * branch_scale[1])


class VisionTransformer(nn.Module):
    """CLS token, learned position embedding, blocks and a final LayerNorm; subclasses provide the token grid.

    Args:
        embed_dim: Width E of the tokens.
        grid: Side length of the square grid for which position embeddings are learned.
        depth: Number of blocks.
        heads: Number of attention heads per block; must divide `embed_dim`.
        mlp_ratio: Ratio of the MLPs' hidden width to `embed_dim`.
        drop_path: Stochastic depth rate of the last block; it grows linearly from 0 in the first block. Only active in
            training mode.
        registers: Number of learned tokens between CLS and the grid, without position embeddings
            (https://arxiv.org/abs/2309.16588).
    """

    def __init__(
        self,
        *,
        embed_dim: int,
        grid: int,
        depth: int,
        heads: int,
        mlp_ratio: float,
        drop_path: float,
        registers: int = 0,
    ) -> None:
        super().__init__()
        if embed_dim % heads:
            raise ValueError(f"embed_dim must be a multiple of heads, got {embed_dim} and {heads}")
        self.grid = grid
        self.drop_path = drop_path
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid * grid, embed_dim))
        self.registers = registers
        if registers:
            self.register_tokens = nn.Parameter(torch.zeros(1, registers, embed_dim))
        self.blocks = nn.ModuleList(Block(embed_dim, heads, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(embed_dim, eps=LAYER_NORM_EPS)

    def encode(self, tokens: Tensor, generator: torch.Generator | None = None, present: Tensor | None = None) -> Tensor:
        """Encode a grid of embedded tokens: (N, h, w, E) -> (N, E), the CLS token after the final LayerNorm.

        The last block computes only the CLS row, because nothing else is used: the result is exact, and a seventh
        faster at depth 6.

        Args:
            tokens: Embedded tokens, without position embedding.
            generator: Random generator of stochastic depth, on the tokens' device; None uses PyTorch's global one.
            present: (N, h, w) bool, the tokens that can be attended to: the result is that of a grid with only these
                tokens, at their positions. If there are none, CLS attends only to itself. None for all.
        """
        scales, keys = self._branch_scales(tokens, generator), self._attention_keys(present)
        x = self._trunk(tokens, scales, keys)
        last_scale = None if scales is None else scales[-1]
        x = self.blocks[-1].forward_cls(x, last_scale, keys)  # type: ignore[operator]  # a Block
        cls: Tensor = self.norm(x[:, 0])
        return cls

    def encode_tokens(
        self, tokens: Tensor, generator: torch.Generator | None = None, present: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Encode a grid of embedded tokens as `encode`, and return all its tokens.

        Returns:
            (N, E) CLS tokens and (N, h, w, E) tokens of the grid, after the final LayerNorm.
        """
        scales, keys = self._branch_scales(tokens, generator), self._attention_keys(present)
        x = self._trunk(tokens, scales, keys)
        x = self.norm(self.blocks[-1](x, None if scales is None else scales[-1], keys))
        return x[:, 0], x[:, 1 + self.registers :].unflatten(1, tokens.shape[1:3])

    def encode_attention(self, tokens: Tensor, present: Tensor | None = None) -> Tensor:
        """Return the last block's CLS attention: (N, h, w, E) -> (N, heads, 1 + h * w), CLS first, grid row-major.

        It is 0 where `present`, (N, h, w) bool, is False. Attention to registers is left out.
        """
        last = self.blocks[-1]
        assert isinstance(last, Block)
        keys = self._attention_keys(present)
        x = self._trunk(tokens, self._branch_scales(tokens, None), keys)
        weights = last.attn.cls_weights(last.norm1(x), keys)
        return torch.cat((weights[..., :1], weights[..., 1 + self.registers :]), dim=-1) if self.registers else weights

    def _trunk(self, tokens: Tensor, scales: Tensor | None, keys: Tensor | None) -> Tensor:
        """Apply all blocks except the last: (N, h, w, E) -> (N, 1 + registers + h * w, E)."""
        n, h, w, _ = tokens.shape
        x = torch.cat((self.cls_token.expand(n, -1, -1), tokens.flatten(1, 2)), dim=1)
        x = x + resize_position_embedding(self.pos_embed, self.grid, h, w)
        if self.registers:
            x = torch.cat((x[:, :1], self.register_tokens.expand(n, -1, -1), x[:, 1:]), dim=1)
        for i, block in enumerate(self.blocks[:-1]):
            x = block(x, None if scales is None else scales[i], keys)
        return x

    def _branch_scales(self, tokens: Tensor, generator: torch.Generator | None) -> Tensor | None:
        """Draw stochastic depth per block, branch and sample: (depth, 2, N, 1, 1) of 0 or 1 / keep, or None."""
        if not self.training or self.drop_path == 0.0:
            return None
        depth, n, device = len(self.blocks), tokens.shape[0], tokens.device
        keep = 1.0 - torch.linspace(0.0, self.drop_path, depth, device=device).view(depth, 1, 1, 1, 1)
        drawn = torch.rand(depth, 2, n, 1, 1, device=device, generator=generator)
        return (drawn < keep) / keep

    def _attention_keys(self, present: Tensor | None) -> Tensor | None:
        """Return the attention key mask, which includes CLS and registers: (N, h, w) bool -> (N, 1, 1, T)."""
        if present is None:
            return None
        return F.pad(present.flatten(1), (1 + self.registers, 0), value=True)[:, None, None]


def mean_token(grid: Tensor, present: Tensor | None = None) -> Tensor:
    """Return the mean of the tokens that are present: (N, h, w, E) -> (N, E).

    Args:
        grid: Tokens.
        present: (N, h, w) bool, the tokens that count; None for all. The mean of no tokens is 0.
    """
    if present is None:
        return grid.mean(dim=(1, 2))
    total = (grid * present.unsqueeze(-1)).sum(dim=(1, 2))
    return total / present.sum(dim=(1, 2)).clamp(min=1).unsqueeze(-1)


def resize_position_embedding(pos_embed: Tensor, grid: int, h: int, w: int) -> Tensor:
    """Resize a learned position embedding to a grid of h x w tokens.

    Uses bicubic interpolation with the scale factors (h + 0.1) / grid and (w + 0.1) / grid rather than a target size,
    as DINO and HIPT do; the results differ in the third digit.

    Args:
        pos_embed: (1, 1 + grid * grid, E), CLS first, then the grid in row-major order.
        grid: Side length of the square grid for which it was learned.
        h: Number of output rows.
        w: Number of output columns.

    Returns:
        (1, 1 + h * w, E); `pos_embed` itself if h and w equal `grid`.
    """
    if h == w == grid:
        return pos_embed
    dim = pos_embed.shape[-1]
    plane = pos_embed[:, 1:].reshape(1, grid, grid, dim).permute(0, 3, 1, 2)
    factors = ((h + 0.1) / grid, (w + 0.1) / grid)
    resized = F.interpolate(plane, scale_factor=factors, mode="bicubic")
    return torch.cat((pos_embed[:, :1], resized.permute(0, 2, 3, 1).reshape(1, h * w, dim)), dim=1)


@torch.no_grad()
def initialise(model: nn.Module, generator: torch.Generator | None = None, *, scheme: WeightInit = "published") -> None:
    """Initialize weights: truncated normals, zero biases, LayerNorm as identity.

    Args:
        model: Any network of this package; modified in place.
        generator: Random generator of the weights; None uses PyTorch's global one.
        scheme: `published`: standard deviation 0.02 everywhere, as in DINO and HIPT. `fan-in`: 1 / sqrt(inputs) for
            matrices and 1 for position embeddings, which matches the scale of the tokens; attention is then not uniform
            at the start and can distinguish neighboring positions.
    """
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif parameter.ndim == 1:
            nn.init.ones_(parameter)
        else:
            nn.init.trunc_normal_(parameter, std=_initial_std(name, parameter, scheme), generator=generator)


def _initial_std(name: str, parameter: Tensor, scheme: WeightInit) -> float:
    if scheme == "published" or name.endswith(("cls_token", "register_tokens")):
        return INIT_STD
    return 1.0 if name.endswith("pos_embed") else float(parameter.shape[1] ** -0.5)
