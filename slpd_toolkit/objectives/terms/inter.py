"""Inter-slide distillation (SLPD, https://arxiv.org/abs/2307.10696): regions against prototypes of similar slides."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slpd_toolkit.objectives.term import Targets, equal_pairs

if TYPE_CHECKING:
    from slpd_toolkit.objectives.term import TermInputs

ORDER = 3
WEIGHT = 1.0
"""Weight of the inter-slide loss, which distills the corresponding prototypes of similar slides into a region's views.
0 disables it."""
CENTRE = "prototype_centre"
NEEDS_PROTOTYPES = True


def targets(inputs: TermInputs) -> Targets | None:
    """Return the corresponding prototypes of the slide's neighbors; None before the first clustering."""
    if inputs.prototypes is None:
        return None
    near = inputs.prototypes.neighbours
    pairs = equal_pairs(near, inputs.student, skip_same=inputs.view_rule == "published")
    return Targets(near, pairs, inputs.prototypes.valid)
