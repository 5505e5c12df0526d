"""Student, teacher and centers of self-distillation, and the losses of a batch."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Self, TypeVar

import torch
from torch import Tensor, distributed, nn

from slpd_toolkit.objectives.optim import update_average

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Network = TypeVar("Network", bound=nn.Module)
"""A network with `backbone` and `head`."""


class Losses(NamedTuple):
    """Losses of a batch. In distributed runs each process has its share; the batch loss is their mean."""

    total: Tensor
    """Weighted sum of the terms, a scalar; the only value with a gradient."""
    terms: Mapping[str, Tensor]
    """Loss of every term by name, unweighted and without gradient; 0 if a term is off or has no targets yet."""
    target_entropy: Tensor
    """Mean entropy of all targets in nats; values near 0 or log O indicate collapse."""
    centres: Mapping[str, Tensor]
    """(O,) values of the centers after the step, by name."""


class StudentTeacher(nn.Module, Generic[Network]):
    """Student, teacher and centers: the whole state of an objective of self-distillation.

    A training step consists of `forward`, the backward pass, the optimizer step, `update_centres` and `update_teacher`.
    None of these calls another, so an abandoned step does not change the state.

    Args:
        student: The network to train; the teacher is initialized as its copy.
        centres: Names of the centers; `centre` is one of them.
    """

    centre: Tensor

    def __init__(self, student: Network, centres: Sequence[str]) -> None:
        super().__init__()
        self.student: Any = student
        self.teacher: Any = deepcopy(student).requires_grad_(requires_grad=False).eval()
        head: Any = student.head
        for name in centres:
            self.register_buffer(name, torch.zeros(head.config.out_dim))

    def train(self, mode: bool = True) -> Self:  # noqa: FBT001  # nn.Module's signature
        """Set the student's mode; the teacher stays in eval mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    @torch.no_grad()
    def update_centres(self, losses: Sequence[Losses]) -> None:
        """Update the centers, once per step: c <- m * c + (1 - m) * mean of the targets' logits.

        Args:
            losses: Results of `forward` in this step; several if gradients are accumulated.
        """
        for name in losses[0].centres:
            self.get_buffer(name).copy_(torch.stack([part.centres[name] for part in losses]).mean(0))

    def update_teacher(self, momentum: float) -> None:
        """Update the teacher, including its last layer: teacher <- momentum * teacher + (1 - momentum) * student."""
        update_average(self.teacher, self.student, momentum)


def processes() -> int:
    """Return the number of training processes."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1
