"""The three terms of the SLPD objective: which targets, which views they face, which centre, which regions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from slpd_toolkit.config.objective import ObjectiveConfig
    from slpd_toolkit.objectives.slide_prototypes import PrototypeTargets

TermName = Literal["dino", "intra", "inter"]


class Term(NamedTuple):
    """One term: its loss is the sum over pairs of `pairs` times the mean of H over the valid regions."""

    name: TermName
    weight: float
    targets: Tensor
    """(q, B, d) unit vectors."""
    pairs: Tensor
    """(q, V) weight of every target x view pair; they sum to 1."""
    valid: Tensor
    """(B,) bool: regions that have these targets."""


def active_terms(
    config: ObjectiveConfig, teacher: Tensor, prototypes: PrototypeTargets | None, views: int
) -> list[Term]:
    """Terms that are switched on and have targets, in the order in which they move their centres.

    Args:
        config: Weights and view rule.
        teacher: (Vg, B, d) the teacher's view of the global crops.
        prototypes: Targets of the prototype terms, None before the first clustering.
        views: Number V of student views; the first Vg are those of the teacher.

    Raises:
        ValueError: No term is left.
    """
    regions, device = teacher.shape[1], teacher.device
    everywhere = torch.ones(regions, dtype=torch.bool, device=device)
    terms = [Term("dino", config.dino_weight, teacher, _pairs(len(teacher), views, device, skip_same=True), everywhere)]
    if prototypes is not None:
        skip = config.view_rule == "published"  # it reuses the "same view" skip of self-distillation
        own, near = prototypes.own.unsqueeze(0), prototypes.neighbours
        valid = prototypes.valid
        terms += [
            Term("intra", config.intra_weight, own, _pairs(1, views, device, skip_same=skip), valid),
            Term("inter", config.inter_weight, near, _pairs(len(near), views, device, skip_same=skip), valid),
        ]
    active = [term for term in terms if term.weight > 0]
    if not active:
        raise ValueError("no term has targets: switch self-distillation on until the prototypes are built")
    return active


def _pairs(targets: int, views: int, device: torch.device, *, skip_same: bool) -> Tensor:
    """Equal weights over the pairs that count; `skip_same` leaves out view q of target q."""
    counts = torch.ones(targets, views, device=device)
    if skip_same:
        counts -= torch.eye(targets, views, device=device)
    return counts / counts.sum()
