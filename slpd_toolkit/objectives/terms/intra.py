"""Intra-slide distillation (SLPD, https://arxiv.org/abs/2307.10696): regions against the prototype of their cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slpd_toolkit.objectives.term import Targets, equal_pairs

if TYPE_CHECKING:
    from slpd_toolkit.objectives.term import TermInputs

ORDER = 2
WEIGHT = 1.0
"""Weight of the intra-slide loss, which distills the prototype of a region's cluster into its views. 0 disables it."""
CENTRE = "prototype_centre"
NEEDS_PROTOTYPES = True


def targets(inputs: TermInputs) -> Targets | None:
    """Return the prototype that each region belongs to; None before the first clustering."""
    if inputs.prototypes is None:
        return None
    own = inputs.prototypes.own.unsqueeze(0)
    pairs = equal_pairs(own, inputs.student, skip_same=inputs.view_rule == "published")
    return Targets(own, pairs, inputs.prototypes.valid)
