"""Multi-crop views of token grids, cut with one gather per batch on its device."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from slpd_toolkit.config.views import CropsConfig


class CropPlan(NamedTuple):
    """Position and orientation of V crops (global crops first) of each of B regions, on the CPU."""

    top: Tensor
    """(V, B) int64: first row."""
    left: Tensor
    """(V, B) int64: first column."""
    flip_rows: Tensor
    """(V, B) bool: flipped vertically."""
    flip_columns: Tensor
    """(V, B) bool: flipped horizontally."""
    quarter_turns: Tensor
    """(V, B) int64: quarter turns counter-clockwise, 0 to 3, after the flips."""

    def of_regions(self, part: slice) -> CropPlan:
        """Return the plan for a part of the batch, so that processes can draw one plan and cut their share."""
        return CropPlan(*(field[:, part] for field in self))


class Masks(NamedTuple):
    """Tokens of a batch's crops that can be attended to. A crop without any is embedded from its CLS token alone."""

    global_crops: Tensor
    """(Vg, B, side, side) bool."""
    local_crops: Tensor
    """(Vl, B, side, side) bool."""


class Views(NamedTuple):
    """Global and local crops of a batch of B regions."""

    global_crops: Tensor
    """(Vg, B, side, side, D)."""
    local_crops: Tensor
    """(Vl, B, side, side, D)."""
    teacher_sees: Masks | None = None
    """Tokens that the teacher attends to; None for all."""
    student_sees: Masks | None = None
    """Tokens that the student attends to; None for all."""
    masked: Tensor | None = None
    """(Vg, B, k) int64: positions in the flattened global crops of tokens that the student predicts; None for none."""


def draw_crops(crops: CropsConfig, regions: int, grid: tuple[int, int], generator: torch.Generator) -> CropPlan:
    """Draw uniform offsets, flips and rotations for a batch.

    Args:
        crops: Number and size of the crops.
        regions: Batch size B.
        grid: Rows and columns of the regions' token grids.
        generator: CPU generator; the same state gives the same plan.

    Raises:
        ValueError: A crop is larger than the grid.
    """
    side = torch.tensor(crops.sides()).unsqueeze(1)
    if side.max() > min(grid):
        raise ValueError(f"crops of {int(side.max())} tokens do not fit into a grid of {grid[0]} x {grid[1]}")
    size = (len(side), regions)

    def uniform() -> Tensor:
        return torch.rand(size, generator=generator, dtype=torch.float64)

    return CropPlan(
        top=(uniform() * (grid[0] - side + 1)).long(),
        left=(uniform() * (grid[1] - side + 1)).long(),
        flip_rows=uniform() < crops.flip_up_down,
        flip_columns=uniform() < crops.flip_left_right,
        quarter_turns=_turns(uniform(), crops.quarter_turns) if crops.quarter_turns else torch.zeros(size).long(),
    )


def draw_stains(views: int, regions: int, stains: int, generator: torch.Generator) -> Tensor:
    """Draw the stain of each view, (V, B) int64: a random order of the stains per region, repeated as needed.

    The first min(V, S) views of a region, global ones first, therefore have different stains.

    Args:
        views: Number of views V of a region.
        regions: Batch size B.
        stains: Number of stains S.
        generator: CPU generator; the same state gives the same stains.
    """
    order = torch.rand((regions, stains), generator=generator, dtype=torch.float64).argsort(dim=1)
    return order[:, torch.arange(views) % stains].T.contiguous()


def cut_crops(
    tokens: Tensor,
    crops: CropsConfig,
    plan: CropPlan,
    present: Tensor | None = None,
    stains: Tensor | None = None,
) -> Views:
    """Cut all views of a batch with one gather of token rows, on the tokens' device.

    Crops are cut as planned even where hardly any token is present, so that all regions have the same number of views
    and the draws do not depend on the cache. Such crops are rare, because regions are selected by tissue.

    Args:
        tokens: (B, H, W, D) token grids, contiguous; with `stains`, (B, S, H, W, D), of each region under S stains.
        crops: Number and size of the crops.
        plan: Offsets, flips and rotations of this batch.
        present: (B, H, W) bool, on the tokens' device: patches that have a token; None if all have.
        stains: (V, B) stain of each view, on the CPU; None if the tokens have no dimension of stains.
    """
    height, width, dim = tokens.shape[-3:]
    global_part = CropPlan(*(field[: crops.global_crops] for field in plan))
    local_part = CropPlan(*(field[crops.global_crops :] for field in plan))
    parts = ((global_part, crops.global_side), (local_part, crops.local_side))
    rows = [_token_rows(part, side, height, width).to(tokens.device, non_blocking=True) for part, side in parts]
    gathered = torch.cat([index.flatten() for index in rows])
    stained = gathered
    if stains is not None:  # row r of region b is row r + h w (b (S - 1) + s) among all stains
        regions = torch.arange(len(tokens)) * (tokens.shape[1] - 1)
        shift = ((stains + regions) * (height * width)).to(tokens.device)[..., None, None]
        parts_of = (shift[: crops.global_crops], shift[crops.global_crops :])
        stained = torch.cat([(index + add).flatten() for index, add in zip(rows, parts_of, strict=True)])

    def cut(table: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        global_crops, local_crops = torch.split(table[wanted], [index.numel() for index in rows])
        return global_crops.view(*rows[0].shape, *table.shape[1:]), local_crops.view(*rows[1].shape, *table.shape[1:])

    masks = None if present is None else Masks(*cut(present.flatten(), gathered))
    return Views(*cut(tokens.reshape(-1, dim), stained), masks, masks)


def centre_crop(tokens: Tensor, side: int) -> Tensor:
    """Return a view of the central tokens: (B, H, W, ...) -> (B, side, side, ...). Rounds toward the top left."""
    top, left = (tokens.shape[1] - side) // 2, (tokens.shape[2] - side) // 2
    return tokens[:, top : top + side, left : left + side]


def _turns(uniform: Tensor, probability: float) -> Tensor:
    """Map uniform numbers in [0, 1) to quarter turns: uniform over 0 to 3 with the given probability, else 0."""
    return torch.where(uniform < probability, uniform / probability * 4, 0).long()


def _token_rows(plan: CropPlan, side: int, height: int, width: int) -> Tensor:
    """Return the rows of the (B * height * width, D) token matrix in each crop: (V, B, side, side) int64."""
    steps, turns = torch.arange(side), plan.quarter_turns
    # One or three turns swap rows and columns; two or three reverse the rows; one or two reverse the columns.
    flip_rows, flip_columns = plan.flip_rows ^ (turns >= 2), plan.flip_columns ^ ((turns == 1) | (turns == 2))
    down = torch.where(flip_rows.unsqueeze(-1), side - 1 - steps, steps) + plan.top.unsqueeze(-1)
    across = torch.where(flip_columns.unsqueeze(-1), side - 1 - steps, steps) + plan.left.unsqueeze(-1)
    region = torch.arange(plan.top.shape[1]).view(1, -1, 1, 1) * (height * width)
    rows = region + down.unsqueeze(-1) * width + across.unsqueeze(-2)
    return torch.where((turns % 2 == 1)[..., None, None], rows.mT, rows) if turns.any() else rows
