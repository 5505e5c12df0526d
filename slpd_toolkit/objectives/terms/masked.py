"""Masked tokens (iBOT, https://arxiv.org/abs/2111.07832): the student predicts the teacher's tokens that it cannot see.

Part of the tokens of the student's global views is replaced by a learned token. At these positions, the output of the
region ViT is compared with that of the teacher, which sees the whole view, through the same head as regions. A view
counts equally whatever its number of masked tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slpd_toolkit.objectives.term import MaskedTokens, TermInputs

ORDER = 4
WEIGHT = 0.0
"""Weight of the prediction of masked tokens in the student's global views, as in iBOT. 0 disables it."""
CENTRE = "masked_centre"
NEEDS_PROTOTYPES = False
NEEDS_MASKS = True


def tokens(inputs: TermInputs) -> MaskedTokens | None:
    """Return the masked tokens of both networks."""
    return inputs.masked
