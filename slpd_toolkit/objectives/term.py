"""Inputs and outputs of objective terms, and the active terms."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from slpd_toolkit.config.terms import TERMS, objective_terms

if TYPE_CHECKING:
    from slpd_toolkit.config.objective import ObjectiveConfig, ViewRule
    from slpd_toolkit.config.terms import TermInfo
    from slpd_toolkit.objectives.slide_prototypes import PrototypeTargets


class TermInputs(NamedTuple):
    """Inputs of the terms for a batch of B regions; all vectors are unit vectors in bottleneck space."""

    student: Tensor
    """(V, B, d): the student's views, global views first; with gradient."""
    teacher: Tensor
    """(Vg, B, d): the teacher's global views; without gradient."""
    prototypes: PrototypeTargets | None
    """Slide prototypes; None before the first clustering."""
    view_rule: ViewRule
    """Which views are compared with prototypes."""
    regions: Tensor
    """(Vg, B, E or 2 E): the student's global views before the head; with gradient. Not unit vectors."""
    masked: MaskedTokens | None = None
    """Tokens that the student predicts; None if no term needs them."""


class MaskedTokens(NamedTuple):
    """Masked tokens of a batch: M = Vg * B * k, for k tokens per global view. Their loss is the sum of weights * H."""

    student: Tensor
    """(M, d) unit vectors; with gradient."""
    teacher: Tensor
    """(M, d) unit vectors, which the teacher's last layer maps to distributions; without gradient."""
    weights: Tensor
    """(M,) 0 for positions without a token; those of a view sum to 1 / (Vg * B)."""


class Targets(NamedTuple):
    """Targets of a distillation term. Its loss is the sum over pairs of `pairs` times the mean of H over regions."""

    vectors: Tensor
    """(q, B, d) unit vectors, which the teacher's last layer maps to distributions."""
    pairs: Tensor
    """(q, V) weight of every pair of target and view; they sum to 1."""
    valid: Tensor
    """(B,) bool: regions that have these targets."""


class Term(NamedTuple):
    """An active distillation term that has targets."""

    name: str
    weight: float
    centre: str
    """Name of the center of the targets' logits."""
    targets: Tensor
    """(q, B, d) unit vectors."""
    pairs: Tensor
    """(q, V) weight of every pair of target and view; they sum to 1."""
    valid: Tensor
    """(B,) bool: regions that have these targets."""


def active_terms(config: ObjectiveConfig, inputs: TermInputs) -> list[Term]:
    """Return the active distillation terms that have targets, in the order in which they update their centers.

    Raises:
        ValueError: There are none.
    """
    active = []
    for info in objective_terms():
        module, weight = TERMS.load(info.file), config.weights[info.name]
        found = module.targets(inputs) if weight > 0 and hasattr(module, "targets") else None
        if found is not None:
            active.append(Term(info.name, weight, info.centre, *found))
    if not active:
        raise ValueError("no term has targets: enable self-distillation until the prototypes are built")
    return active


def other_losses(config: ObjectiveConfig, inputs: TermInputs) -> dict[str, Tensor]:
    """Return the unweighted losses of terms other than distillation, by name: scalars, means over the batch."""
    found = {}
    for info in objective_terms():
        module = TERMS.load(info.file)
        if config.weights[info.name] > 0 and hasattr(module, "loss"):
            found[info.name] = module.loss(inputs)
    return found


def masked_terms(config: ObjectiveConfig, inputs: TermInputs) -> list[tuple[TermInfo, MaskedTokens]]:
    """Return the active terms that predict tokens, with their tokens."""
    active = []
    for info in objective_terms():
        module = TERMS.load(info.file)
        found = module.tokens(inputs) if config.weights[info.name] > 0 and hasattr(module, "tokens") else None
        if found is not None:
            active.append((info, found))
    return active


def centres_of(config: ObjectiveConfig) -> tuple[str, ...]:
    """Return the names of all centers: the two of SLPD, and those of other active terms."""
    on = [info.centre for info in objective_terms() if config.weights[info.name] > 0]
    return tuple(dict.fromkeys(("centre", "prototype_centre", *on)))


def equal_pairs(targets: Tensor, student: Tensor, *, skip_same: bool) -> Tensor:
    """Return uniform weights over pairs of target and view: (q, V), summing to 1.

    Args:
        targets: (q, B, d) targets.
        student: (V, B, d) views.
        skip_same: Exclude the pair of target q and view q.
    """
    counts = torch.ones(len(targets), len(student), device=student.device)
    if skip_same:
        counts -= torch.eye(*counts.shape, device=student.device)
    return counts / counts.sum()


def everywhere(inputs: TermInputs) -> Tensor:
    """Return an all-True mask, (B,), for targets that every region has."""
    return torch.ones(inputs.teacher.shape[1], dtype=torch.bool, device=inputs.teacher.device)
