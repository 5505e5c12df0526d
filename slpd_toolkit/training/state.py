"""Training state: networks, optimizer and progress, updated by each step and saved in checkpoints."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.parallel import DistributedDataParallel

from slpd_toolkit.core import compute
from slpd_toolkit.objectives.optim import make_optimiser
from slpd_toolkit.training.checkpoint import Progress

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from torch import Tensor, nn
    from torch.optim import Optimizer

    from slpd_toolkit.core.precision import Precision
    from slpd_toolkit.objectives.slide_prototypes import PrototypeTargets
    from slpd_toolkit.objectives.student_teacher import StudentTeacher


@dataclass
class TrainingState:
    """All state that training changes."""

    slpd: StudentTeacher[Any]
    """Student, teacher and centers."""
    optimiser: Optimizer
    """Optimizer of the student."""
    scaler: torch.amp.GradScaler
    """Loss scaling, active in fp16 only."""
    device: torch.device
    """Device of the networks."""
    precision: Precision
    """Resolved precision."""
    model: nn.Module
    """`slpd`, or its wrapper that synchronizes gradients between processes."""
    progress: Progress = field(default_factory=Progress)
    """Number of steps completed, and the prototypes of the current epoch."""

    def targets(self, regions: Tensor) -> PrototypeTargets | None:
        """Return the prototypes used as targets of these regions; None before the first clustering."""
        return None if self.progress.bank is None else self.progress.bank.targets(regions)

    def gradient_exchange(self, *, last: bool) -> AbstractContextManager[object]:
        """Return the context of a backward pass: gradients are synchronized only in the last part of a step."""
        if isinstance(self.model, DistributedDataParallel) and not last:
            return self.model.no_sync()
        return nullcontext()

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context of a forward pass at the run's precision."""
        return compute.autocast(self.device, self.precision)

    def is_finite(self) -> bool:
        """Return whether all weights of student and teacher are finite. Synchronizes with the device."""
        return all(norm.isfinite() for norm in torch._foreach_norm(list(self.slpd.parameters())))  # noqa: SLF001


def make_state(
    slpd: StudentTeacher[Any], device: torch.device, precision: Precision, *, grouped: bool = False
) -> TrainingState:
    """Build the state at the start of training.

    Args:
        slpd: Networks and centers, already on the device.
        device: Their device.
        precision: Resolved precision.
        grouped: Whether the process belongs to a group, which averages gradients.
    """
    model: nn.Module = slpd.train()
    if grouped:
        gpu = [device] if device.type == "cuda" else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PyTorch 2.6 lacks the new name
            model = DistributedDataParallel(slpd, device_ids=gpu, broadcast_buffers=False)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    return TrainingState(slpd, make_optimiser(slpd.student), scaler, device, precision, model)
