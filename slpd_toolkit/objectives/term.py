"""What a term of the objective receives and returns, and the terms that are on."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from slpd_toolkit.config.terms import TERMS, objective_terms

if TYPE_CHECKING:
    from slpd_toolkit.config.objective import ObjectiveConfig, ViewRule
    from slpd_toolkit.objectives.slide_prototypes import PrototypeTargets


class TermInputs(NamedTuple):
    """A batch of B regions as the terms see it; all vectors are unit vectors in the bottleneck."""

    student: Tensor
    """(V, B, d) the student's views, the global ones first; with gradient."""
    teacher: Tensor
    """(Vg, B, d) the teacher's global views; without gradient."""
    prototypes: PrototypeTargets | None
    """Slide prototypes; None before the first clustering."""
    view_rule: ViewRule
    """Views that are compared with prototypes."""


class Targets(NamedTuple):
    """Targets of a distillation term: its loss is the sum over pairs of `pairs` times the mean of H over regions."""

    vectors: Tensor
    """(q, B, d) unit vectors, which the teacher's last layer turns into distributions."""
    pairs: Tensor
    """(q, V) weight of every pair of target and view; they sum to 1."""
    valid: Tensor
    """(B,) bool: regions that have these targets."""


class Term(NamedTuple):
    """A distillation term that is on and has targets."""

    name: str
    weight: float
    centre: str
    """Name of the centre of the targets' logits."""
    targets: Tensor
    """(q, B, d) unit vectors."""
    pairs: Tensor
    """(q, V) weight of every pair of target and view; they sum to 1."""
    valid: Tensor
    """(B,) bool: regions that have these targets."""


def active_terms(config: ObjectiveConfig, inputs: TermInputs) -> list[Term]:
    """Return the distillation terms that are on and have targets, in the order in which they move their centres.

    Raises:
        ValueError: No term is left.
    """
    active = []
    for info in objective_terms():
        module, weight = TERMS.load(info.file), config.weights[info.name]
        found = module.targets(inputs) if weight > 0 and hasattr(module, "targets") else None
        if found is not None:
            active.append(Term(info.name, weight, info.centre, *found))
    if not active:
        raise ValueError("no term has targets: switch self-distillation on until the prototypes are built")
    return active


def other_losses(config: ObjectiveConfig, inputs: TermInputs) -> dict[str, Tensor]:
    """Return the unweighted losses of terms that are no distillation, by name: scalars, means over the batch."""
    found = {}
    for info in objective_terms():
        module = TERMS.load(info.file)
        if config.weights[info.name] > 0 and hasattr(module, "loss"):
            found[info.name] = module.loss(inputs)
    return found


def centres_of(config: ObjectiveConfig) -> tuple[str, ...]:
    """Return the names of all centres: SLPD's two, and those of other terms that are on."""
    on = [info.centre for info in objective_terms() if config.weights[info.name] > 0]
    return tuple(dict.fromkeys(("centre", "prototype_centre", *on)))


def equal_pairs(targets: Tensor, student: Tensor, *, skip_same: bool) -> Tensor:
    """Return equal weights over pairs of target and view: (q, V), sum 1.

    Args:
        targets: (q, B, d) targets.
        student: (V, B, d) views.
        skip_same: Leave out view q of target q.
    """
    counts = torch.ones(len(targets), len(student), device=student.device)
    if skip_same:
        counts -= torch.eye(*counts.shape, device=student.device)
    return counts / counts.sum()


def everywhere(inputs: TermInputs) -> Tensor:
    """Return the mask of targets that every region has, (B,)."""
    return torch.ones(inputs.teacher.shape[1], dtype=torch.bool, device=inputs.teacher.device)
