"""Optimisers, gradient clipping and the teacher's moving average, each over all tensors at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

if TYPE_CHECKING:
    from collections.abc import Iterable

OptimiserName = Literal["adamw", "sgd", "lars"]
SGD_MOMENTUM = 0.9


def make_optimiser(name: OptimiserName, model: nn.Module) -> Optimizer:
    """Build an optimiser whose learning rate and weight decay are set at every step by `set_step`.

    Args:
        name: "adamw"; "sgd" or "lars", both with momentum 0.9.
        model: The student. Biases and 1-d parameters form a group of their own, never decayed.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [parameter for parameter in trained if parameter.ndim > 1], "decayed": True},
        {"params": [parameter for parameter in trained if parameter.ndim <= 1], "decayed": False},
    ]
    for group in groups:
        group["weight_decay"] = 0.0
    if name == "adamw":
        return AdamW(groups, lr=0.0, fused=True)
    if name == "sgd":
        return SGD(groups, lr=0.0, momentum=SGD_MOMENTUM)
    return Lars(groups, momentum=SGD_MOMENTUM)


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


class Lars(Optimizer):
    """Layer-wise adaptive rate scaling (https://arxiv.org/abs/1708.03888) around SGD with momentum.

    As in DINO's code, the step of a 1-d parameter is neither scaled nor decayed.

    Args:
        params: Parameters or groups.
        lr: Learning rate.
        momentum: Momentum of the scaled gradient.
        weight_decay: Decay, added to the gradient before scaling.
        trust: Trust coefficient eta.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 0.0,
        momentum: float = SGD_MOMENTUM,
        weight_decay: float = 0.0,
        trust: float = 1e-3,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no line search here  # noqa: ARG002
        """Take one step."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step_one(parameter, group)

    def _step_one(self, parameter: Tensor, group: dict[str, Any]) -> None:
        assert parameter.grad is not None
        step = parameter.grad
        if parameter.ndim > 1:
            step = step.add(parameter, alpha=group["weight_decay"])
            length, pull = parameter.norm(), step.norm()
            scale = torch.where((length > 0) & (pull > 0), group["trust"] * length / pull, torch.ones_like(pull))
            step = step * scale
        velocity = self.state[parameter].setdefault("velocity", torch.zeros_like(parameter))
        velocity.mul_(group["momentum"]).add_(step)
        parameter.sub_(velocity, alpha=group["lr"])
