"""Cross-view distillation: cross entropy of every target with every student view, in one pass over the prototypes.

Self-distillation, intra-slide and inter-slide distillation apply the same function to different (target, view) pairs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:
    from collections.abc import Iterator

COLUMNS = 4096


class CrossViewEntropy(NamedTuple):
    """Result of `cross_view_entropy` for Q targets, V views and B regions."""

    cross_entropy: Tensor
    """(Q, V, B): H(q, v) of every pair; differentiable with respect to the student."""
    target_entropy: Tensor
    """(Q, B): entropy of the targets, to detect collapse (0: all mass on one prototype; log O: uniform)."""


def cross_view_entropy(
    student: Tensor,
    student_weight: Tensor,
    targets: Tensor,
    teacher_weight: Tensor,
    centres: Tensor,
    *,
    student_temp: float = 0.1,
    teacher_temp: float = 0.04,
    student_gain: Tensor | None = None,
    teacher_gain: Tensor | None = None,
    columns: int = COLUMNS,
) -> CrossViewEntropy:
    """Compute the cross entropy between teacher targets and student views, both given before the last layer.

    The last layer is weight-normalized and has no bias: its row j is gain[j] * weight[j] / norm(weight[j]). With
    s = student_layer(student[v, b]), t = teacher_layer(targets[q, b]) and sums over the O prototypes j (DINO,
    https://arxiv.org/abs/2104.14294, eq. 2)::

        p[j] = softmax((t - centres[q]) / teacher_temp)[j]
        H(q, v, b) = - sum_j p[j] * log_softmax(s / student_temp)[j]
                   = logsumexp(s / student_temp) - sum_j p[j] * s[j] / student_temp

    The function includes both last layers: it processes the prototypes in blocks of columns with a running log-sum-exp
    per target and view, and recomputes the blocks in the backward pass, where the targets of a view are summed before
    they are combined with the student's softmax. No B x O array is stored, at the cost of one more product with each
    last layer. Under autocast, products use the autocast type and everything else float32.

    Args:
        student: (V, B, d) unit vectors, the student's bottleneck.
        student_weight: (O, d) weight of the student's last layer before normalization; receives gradients.
        targets: (Q, B, d) unit vectors: the teacher's bottleneck, or slide prototypes. No gradient.
        teacher_weight: (O, d) weight of the teacher's last layer before normalization. No gradient.
        centres: (Q, O) center of each target's logits. No gradient.
        student_temp: Temperature of the views.
        teacher_temp: Temperature of the targets.
        student_gain: (O, 1) norm of the rows of the student's last layer; None for 1. No gradient.
        teacher_gain: (O, 1) norm of the rows of the teacher's last layer; None for 1. No gradient.
        columns: Number of prototypes per block: trades memory against kernel launches.

    Example:
        Two global views of four regions, and a head with 1024 outputs:

        >>> import torch
        >>> import slpd_toolkit as slpd
        >>> from torch.nn import functional as F
        >>> views, weight = torch.randn(2, 4, 256), torch.randn(1024, 256, requires_grad=True)
        >>> student = F.normalize(views, dim=-1).requires_grad_()
        >>> targets = F.normalize(views + 0.1 * torch.randn(2, 4, 256), dim=-1)
        >>> found = slpd.cross_view_entropy(student, weight, targets, weight.detach(), torch.zeros(2, 1024))
        >>> found.cross_entropy.shape  # target, view, region
        torch.Size([2, 2, 4])
        >>> loss = (found.cross_entropy[0, 1] + found.cross_entropy[1, 0]).mean() / 2
        >>> loss.backward()
        >>> student.grad.shape, weight.grad.shape
        (torch.Size([2, 4, 256]), torch.Size([1024, 256]))
    """
    cross_entropy, target_entropy = _CrossViewEntropy.apply(  # type: ignore[no-untyped-call]
        student,
        student_weight,
        _scale(student_weight, student_gain),
        _Targets(
            (targets.detach().transpose(0, 1) / teacher_temp).contiguous(),
            teacher_weight.detach(),
            _scale(teacher_weight, teacher_gain),
            centres.detach() / teacher_temp,
        ),
        student_temp,
        _product_dtype(student),
        columns,
    )
    return CrossViewEntropy(cross_entropy, target_entropy)


def _scale(weight: Tensor, gain: Tensor | None) -> Tensor:
    """Return the factor between rows of the weight and rows of the layer: gain / norm, (O, 1)."""
    lengths: Tensor = torch.linalg.vector_norm(weight.detach(), dim=1, keepdim=True)
    return lengths.reciprocal() if gain is None else gain.detach() / lengths


class _Targets(NamedTuple):
    """Everything that determines the targets' distributions."""

    vectors: Tensor  # (B, Q, d), divided by the temperature
    weight_v: Tensor  # (O, d)
    scale: Tensor  # (O, 1)
    centres: Tensor  # (Q, O), divided by the temperature

    def logits(self, block: slice, dtype: torch.dtype) -> Tensor:
        """Return the (B, Q, C) centered logits of one block."""
        weight = _block_weight(self.weight_v, self.scale, block, dtype)
        return _product(self.vectors, weight, self.centres.dtype).sub_(self.centres[:, block])


class _CrossViewEntropy(torch.autograd.Function):
    """Arrays are region-major, (B, V, C) and (B, Q, C), so that the pairs of a region are small matrix products."""

    @staticmethod
    def forward(
        ctx: Any,
        student: Tensor,
        weight_v: Tensor,
        scale: Tensor,
        targets: _Targets,
        temperature: float,
        dtype: torch.dtype,
        columns: int,
    ) -> tuple[Tensor, Tensor]:
        views = (student.transpose(0, 1) / temperature).to(targets.centres.dtype).contiguous()
        regions, count = views.shape[:2]
        view_mass = views.new_full((regions, count), -torch.inf)  # running log-sum-exp of the views
        target_mass = views.new_full(targets.vectors.shape[:2], -torch.inf)  # and of the targets
        mean_view = views.new_zeros(*target_mass.shape, count)  # running sum_j p[j] s[j]
        mean_target = torch.zeros_like(target_mass)  # running sum_j p[j] t[j]
        with torch.autocast(student.device.type, enabled=False):
            for block in _blocks(len(weight_v), columns):
                s = _product(views, _block_weight(weight_v, scale, block, dtype), views.dtype)
                view_mass = torch.logaddexp(view_mass, s.logsumexp(-1))
                t = targets.logits(block, dtype)
                mass = t.logsumexp(-1)
                p = (t - mass.unsqueeze(-1)).exp_()  # softmax within the block; weighted below by its share of the mass
                total = torch.logaddexp(target_mass, mass)
                before, now = (target_mass - total).exp_(), (mass - total).exp_()
                mean_view = mean_view * before.unsqueeze(-1) + torch.bmm(p, s.mT) * now.unsqueeze(-1)
                mean_target = mean_target * before + p.mul_(t).sum(-1) * now
                target_mass = total
        ctx.save_for_backward(views, weight_v, scale, *targets, view_mass, target_mass)
        ctx.temperature, ctx.dtype, ctx.columns, ctx.student_dtype = temperature, dtype, columns, student.dtype
        target_entropy = (target_mass - mean_target).T
        ctx.mark_non_differentiable(target_entropy)
        return (view_mass.unsqueeze(1) - mean_view).permute(1, 2, 0), target_entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, pair_grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        views, weight_v, scale, *rest, view_mass, target_mass = ctx.saved_tensors
        targets = _Targets(*rest)
        per_target = pair_grad.permute(2, 1, 0).to(views.dtype).contiguous()  # (B, V, Q)
        per_view = per_target.sum(-1, keepdim=True)
        flat_views = views.flatten(0, 1).to(ctx.dtype)
        views_grad = torch.zeros_like(views)
        weight_grad = torch.empty_like(weight_v) if ctx.needs_input_grad[1] else None
        with torch.autocast(views.device.type, enabled=False):
            for block in _blocks(len(weight_v), ctx.columns):
                weight = _block_weight(weight_v, scale, block, ctx.dtype)
                p = targets.logits(block, ctx.dtype).sub_(target_mass.unsqueeze(-1)).exp_()
                s = _product(views, weight, views.dtype).sub_(view_mass.unsqueeze(-1)).exp_()
                # dH/ds = sum_q grad[q, v] * (softmax(s_v) - p_q): each view's softmax once, its targets in one product
                s_grad = s.mul_(per_view).baddbmm_(per_target, p, alpha=-1.0).to(ctx.dtype).flatten(0, 1)
                views_grad += (s_grad @ weight).view_as(views)
                if weight_grad is not None:
                    weight_grad[block] = _direction_grad(s_grad.mT @ flat_views, weight_v[block], scale[block])
        student_grad = (views_grad.transpose(0, 1) / ctx.temperature).to(ctx.student_dtype)
        return student_grad, weight_grad, None, None, None, None, None


def _direction_grad(weight_grad: Tensor, weight_v: Tensor, scale: Tensor) -> Tensor:
    """Apply the chain rule of w = gain * v / |v| per row: gain / |v| times the component of dw orthogonal to v."""
    along = (weight_grad * weight_v).sum(1, keepdim=True) / weight_v.square().sum(1, keepdim=True)
    return (weight_grad - along * weight_v).mul_(scale)


def _block_weight(weight_v: Tensor, scale: Tensor, block: slice, dtype: torch.dtype) -> Tensor:
    """Return the effective weight of one block of prototypes, (C, d)."""
    return (weight_v[block] * scale[block]).to(dtype)


def _product(vectors: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Multiply (B, n, d) vectors by (C, d) weights in the weights' type; return (B, n, C) in `dtype`."""
    flat = vectors.flatten(0, 1).to(weight.dtype)
    return (flat @ weight.T).to(dtype).view(*vectors.shape[:2], -1)


def _blocks(total: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, total)) for start in range(0, total, size))


def _product_dtype(tensor: Tensor) -> torch.dtype:
    device = tensor.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else tensor.dtype
