"""AdamW for the short-lived processes that train heads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.optim.adamw import adamw

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn


class AdamW:
    """PyTorch's AdamW, using its function instead of its class, whose first use imports PyTorch's compiler.

    That import costs each process 90 MB, and often more time than training a head. Results are identical.

    Args:
        parameters: Parameters to optimize.
        learning_rate: Constant learning rate.
        weight_decay: Decoupled weight decay.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], *, learning_rate: float, weight_decay: float) -> None:
        self._parameters = list(parameters)
        self._learning_rate, self._weight_decay = learning_rate, weight_decay
        self._means = [torch.zeros_like(parameter) for parameter in self._parameters]
        self._squares = [torch.zeros_like(parameter) for parameter in self._parameters]
        self._steps = [torch.zeros(()) for _ in self._parameters]

    def zero_grad(self) -> None:
        """Reset the gradients."""
        for parameter in self._parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient."""
        used = [index for index, parameter in enumerate(self._parameters) if parameter.grad is not None]
        adamw(
            [self._parameters[index] for index in used],
            [gradient for parameter in self._parameters if (gradient := parameter.grad) is not None],
            [self._means[index] for index in used],
            [self._squares[index] for index in used],
            [],
            [self._steps[index] for index in used],
            foreach=False,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=self._learning_rate,
            weight_decay=self._weight_decay,
            eps=1e-8,
            maximize=False,
        )
