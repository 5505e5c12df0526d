"""Self-distillation (DINO, https://arxiv.org/abs/2104.14294): each student view against the teacher's other views."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slpd_toolkit.objectives.term import Targets, equal_pairs, everywhere

if TYPE_CHECKING:
    from slpd_toolkit.objectives.term import TermInputs

ORDER = 1
WEIGHT = 1.0
"""Weight of the self-distillation loss. 0 disables it."""
CENTRE = "centre"
NEEDS_PROTOTYPES = False


def targets(inputs: TermInputs) -> Targets:
    """Return the teacher's embeddings of the global crops; a view is not compared with itself."""
    return Targets(inputs.teacher, equal_pairs(inputs.teacher, inputs.student, skip_same=True), everywhere(inputs))
