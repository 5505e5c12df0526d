"""Optimizer, gradient clipping and the teacher's moving average, each as multi-tensor operations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

if TYPE_CHECKING:
    from collections.abc import Iterable


def make_optimiser(model: nn.Module) -> Optimizer:
    """Build an AdamW optimizer; `set_step` sets its learning rate and weight decay at every step.

    Args:
        model: The student. Biases and 1-d parameters form a separate group without weight decay.
    """
    return AdamW(parameter_groups(model), lr=0.0, weight_decay=0.0, fused=True)


def parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Split trainable parameters into a group with weight decay, and biases and 1-d parameters without it."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for parameter in trained if parameter.ndim > 1], "decayed": True},
        {"params": [parameter for parameter in trained if parameter.ndim <= 1], "decayed": False},
    ]


def set_step(optimiser: Optimizer, *, learning_rate: float, weight_decay: float) -> None:
    """Set learning rate and weight decay of the current step in every group."""
    for group in optimiser.param_groups:
        group["lr"] = learning_rate
        group["weight_decay"] = weight_decay if group["decayed"] else 0.0


@torch.no_grad()
def clip_each(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Clip the gradient of each parameter tensor by its own norm, as DINO does, not by the global norm.

    Args:
        parameters: Parameters; those without a gradient are skipped.
        max_norm: Maximum norm of the gradient of one tensor.

    Returns:
        The global gradient norm before clipping, a scalar on the gradients' device.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norms = torch.stack(torch._foreach_norm(gradients))  # noqa: SLF001  # PyTorch has no public multi-tensor norm
    factors = (max_norm / (norms + 1e-6)).clamp_(max=1.0)
    torch._foreach_mul_(gradients, list(factors.unbind()))
    total: Tensor = torch.linalg.vector_norm(norms)
    return total


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, momentum: float) -> None:
    """Update the moving average of every parameter: average <- momentum * average + (1 - momentum) * model."""
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1.0 - momentum)
