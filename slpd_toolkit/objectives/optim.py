"""Optimiser, gradient clipping and the teacher's moving average, each over all tensors at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

if TYPE_CHECKING:
    from collections.abc import Iterable


def make_optimiser(model: nn.Module) -> Optimizer:
    """Build AdamW; `set_step` sets its learning rate and weight decay at every step.

    Args:
        model: The student. Biases and 1-d parameters form a group of their own, which is never decayed.
    """
    return AdamW(parameter_groups(model), lr=0.0, weight_decay=0.0, fused=True)


def parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Split trainable parameters into those that are decayed, and biases and 1-d parameters, which are not."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for parameter in trained if parameter.ndim > 1], "decayed": True},
        {"params": [parameter for parameter in trained if parameter.ndim <= 1], "decayed": False},
    ]


def set_step(optimiser: Optimizer, *, learning_rate: float, weight_decay: float) -> None:
    """Set this iteration's values in every group."""
    for group in optimiser.param_groups:
        group["lr"] = learning_rate
        group["weight_decay"] = weight_decay if group["decayed"] else 0.0


@torch.no_grad()
def clip_each(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Clip each parameter tensor's gradient to its own norm, as DINO does (not the norm of all together).

    Args:
        parameters: Parameters; those without a gradient are passed over.
        max_norm: Largest norm of one tensor's gradient.

    Returns:
        The norm of all gradients together before clipping, a scalar on their device.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norms = torch.stack(torch._foreach_norm(gradients))  # noqa: SLF001  # torch has no public multi-tensor norm
    factors = (max_norm / (norms + 1e-6)).clamp_(max=1.0)
    torch._foreach_mul_(gradients, list(factors.unbind()))
    total: Tensor = torch.linalg.vector_norm(norms)
    return total


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, momentum: float) -> None:
    """Move every parameter: average <- momentum * average + (1 - momentum) * model."""
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1.0 - momentum)
