"""The training step of the published SLPD code, reimplemented as a baseline for measurements.

Crops are cut sample by sample, attention is explicit, every (target, view) pair has its own log-softmax over all
prototypes, slide prototypes pass through the last layer one by one, and parameters are clipped and averaged in a loop.
"""

from __future__ import annotations

import itertools
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slpd_toolkit.models.transformer import Attention, Block, resize_position_embedding

if TYPE_CHECKING:
    from slpd_toolkit.config.views import CropsConfig
    from slpd_toolkit.models.network import RegionNetwork
    from slpd_toolkit.objectives.crops import CropPlan
    from slpd_toolkit.objectives.slide_prototypes import PrototypeTargets


def cut_one_by_one(tokens: Tensor, crops: CropsConfig, plan: CropPlan) -> list[Tensor]:
    """Return V tensors (B, D, side, side), as the published loader does, from tokens (B, D, H, W)."""
    views = []
    for v, side in enumerate(crops.sides()):
        samples = []
        for b, grid in enumerate(tokens):
            top, left = int(plan.top[v, b]), int(plan.left[v, b])
            crop = grid[:, top : top + side, left : left + side]
            samples.append(crop.flip(-1) if plan.flip_columns[v, b] else crop)
        views.append(torch.stack(samples))
    return views


def attend(attention: Attention, x: Tensor) -> Tensor:
    n, tokens, dim = x.shape
    qkv = attention.qkv(x).reshape(n, tokens, 3, attention.heads, dim // attention.heads).permute(2, 0, 3, 1, 4)
    q, k, v = qkv[0], qkv[1], qkv[2]
    weights = ((q @ k.transpose(-2, -1)) * (dim // attention.heads) ** -0.5).softmax(dim=-1)
    attended: Tensor = attention.proj((weights @ v).transpose(1, 2).reshape(n, tokens, dim))
    return attended


def drop_path(x: Tensor, rate: float) -> Tensor:
    if rate == 0.0:
        return x
    keep = 1 - rate
    return x.div(keep) * (keep + torch.rand(x.shape[0], 1, 1, device=x.device)).floor_()


def embed(network: RegionNetwork, views: Tensor) -> Tensor:
    """Embed views: (N, D, h, w) -> (N, E)."""
    backbone = network.backbone
    n, _, h, w = views.shape
    x = backbone.phi(views.flatten(2, 3).transpose(1, 2))
    x = torch.cat((backbone.cls_token.expand(n, -1, -1), x), dim=1)
    x = x + resize_position_embedding(backbone.pos_embed, backbone.grid, h, w)
    rates = torch.linspace(0, backbone.drop_path, len(backbone.blocks)).tolist()
    for block, rate in zip(backbone.blocks, rates, strict=True):
        assert isinstance(block, Block)
        dropped = rate if backbone.training else 0.0
        x = x + drop_path(attend(block.attn, block.norm1(x)), dropped)
        x = x + drop_path(block.mlp(block.norm2(x)), dropped)
    out: Tensor = backbone.norm(x)[:, 0]
    return out


def last_layer(network: RegionNetwork, bottleneck: Tensor) -> Tensor:
    """Apply the last layer like PyTorch's weight norm: the whole weight is normalized, then multiplied."""
    layer = network.head.last_layer
    return F.linear(bottleneck, layer.weight_v * (layer.weight_g / layer.weight_v.norm(dim=1, keepdim=True)))


def logits(network: RegionNetwork, views: list[Tensor]) -> Tensor:
    """Compute logits, (V * B, O); views of equal size are concatenated, as in DINO's multi-crop wrapper."""
    sizes = [list(group) for _, group in itertools.groupby(views, key=lambda view: view.shape[-1])]
    features = torch.cat([embed(network, torch.cat(group)) for group in sizes])
    return last_layer(network, F.normalize(network.head.mlp(features), dim=-1))


class PairwiseLoss(nn.Module):
    """DINO's loss, which skips pairs with equal indices, and its center."""

    center: Tensor

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(1, outputs))

    def forward(self, student: Tensor, teacher: Tensor, views: int, targets: int) -> Tensor:
        student_out = (student / 0.1).chunk(views)
        teacher_out = F.softmax((teacher - self.center) / 0.04, dim=-1).detach().chunk(targets)
        total = student.new_zeros(())
        terms = 0
        for q, target in enumerate(teacher_out):
            for v, view in enumerate(student_out):
                if v == q:
                    continue
                total = total + torch.sum(-target * F.log_softmax(view, dim=-1), dim=-1).mean()
                terms += 1
        self.center = self.center * 0.9 + teacher.detach().mean(dim=0, keepdim=True) * 0.1
        return total / terms


class BaselineStep:
    """The published training step with its state: student, teacher, two losses, AdamW."""

    def __init__(self, student: RegionNetwork, crops: CropsConfig) -> None:
        self.crops = crops
        self.student = student
        self.teacher = deepcopy(student).requires_grad_(False).eval()
        outputs = student.head.config.out_dim
        device = student.head.last_layer.weight_v.device
        self.dino, self.prototype = PairwiseLoss(outputs).to(device), PairwiseLoss(outputs).to(device)
        decayed = [p for p in student.parameters() if p.ndim > 1]
        others = [p for p in student.parameters() if p.ndim <= 1]
        groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=1e-4, weight_decay=0.04)

    def losses(self, student: Tensor, teacher: Tensor, targets: PrototypeTargets) -> Tensor:
        """Compute the loss from student and teacher logits, (V * B, O) and (Vg * B, O)."""
        views = len(self.crops.sides())
        total = self.dino(student, teacher, views, self.crops.global_crops)
        with torch.no_grad():
            own = torch.cat([last_layer(self.teacher, vector.unsqueeze(0)) for vector in targets.own])
            near = torch.cat([last_layer(self.teacher, v.unsqueeze(0)) for v in targets.neighbours.flatten(0, 1)])
        total = total + self.prototype(student, own, views, 1)
        loss: Tensor = total + self.prototype(student, near, views, len(targets.neighbours))
        return loss

    def __call__(self, tokens: Tensor, plan: CropPlan, targets: PrototypeTargets) -> float:
        """Run one step on tokens (B, D, H, W)."""
        views = cut_one_by_one(tokens, self.crops, plan)
        with torch.no_grad():
            teacher = logits(self.teacher, views[: self.crops.global_crops])
        loss = self.losses(logits(self.student, views), teacher, targets)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for parameter in self.student.parameters():
            if parameter.grad is not None:
                coefficient = 3.0 / (parameter.grad.norm(2) + 1e-6)
                if coefficient < 1:
                    parameter.grad.mul_(coefficient)
        self.optimiser.step()
        with torch.no_grad():
            for average, parameter in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
                average.mul_(0.996).add_((1 - 0.996) * parameter.detach())
        return float(loss.detach())
