"""CLAM-SB, gated attention with region classifiers trained on attention-based pseudo-labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.mil.heads.aggregators.abmil import AttentionMil
from slpd_toolkit.mil.heads.bag_network import BagNetwork

if TYPE_CHECKING:
    from torch import Tensor

    from slpd_toolkit.mil.tasks.likelihoods import Objective

_BAG_SHARE = 0.7
_MARGIN = 1.0


class ClamSb(AttentionMil):
    """CLAM-SB (Lu et al., Nat Biomed Eng 2021;5:555), with the published weights of its two losses.

    At test time it is gated ABMIL. In training, the regions with the highest attention are positives for the slide's
    class and negatives for the others, and those with the lowest attention are negatives for the slide's class.
    Requires classes, so it does not support survival.

    Args:
        width: Width of the region embeddings.
        outputs: Number of logits.
        classes: Number of classes; for ordered classes one more than logits.
        hidden: Width of the embedded regions.
        dropout: Dropout on the embedded regions.
        sampled: Maximum number of regions from either end of the attention ranking; at most half a bag.
    """

    def __init__(
        self, width: int, outputs: int, *, classes: int, hidden: int = 64, dropout: float = 0.25, sampled: int = 8
    ) -> None:
        super().__init__(width, outputs, hidden=hidden, dropout=dropout)
        self.classes, self.sampled = classes, sampled
        self.region_classifier = nn.Linear(hidden, classes)

    @classmethod
    def check(cls, objective: Objective) -> None:
        """Check that the objective has classes.

        Raises:
            UsageError: The objective has no classes.
        """
        if objective.labels is None:
            raise UsageError(
                "--aggregator: clam-sb clusters regions by class, and this target has no classes.",
                hint="Use another aggregator.",
            )

    @classmethod
    def sizes(cls, width: int, objective: Objective) -> dict[str, int]:
        """Add the number of region classifiers, one per class."""
        assert objective.labels is not None
        return super().sizes(width, objective) | {"classes": int(objective.labels.max()) + 1}

    def training_loss(self, bags: Tensor, mask: Tensor, objective: Objective, rows: Tensor) -> Tensor:
        """Compute 0.7 x slide loss + 0.3 x loss of the sampled regions, (B,)."""
        if objective.labels is None:
            raise ValueError("CLAM-SB requires class labels")
        regions = self.embed(bags)
        output = self.aggregate(regions, mask)
        of_regions = self.region_loss(regions, output.attention, mask, objective.labels[rows])
        return _BAG_SHARE * objective.loss(output.logits, rows) + (1 - _BAG_SHARE) * of_regions

    def region_loss(self, regions: Tensor, attention: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
        """Compute the loss of the region classifiers, averaged over classes and sampled regions.

        Args:
            regions: (B, N, hidden).
            attention: (B, N); selects regions, and receives no gradient from this loss.
            mask: (B, N).
            labels: (B,) class of each slide.

        Returns:
            (B,); 0 for a bag with a single region.
        """
        counts = torch.clamp(mask.sum(dim=1) // 2, max=self.sampled)
        reach = max(int(counts.max()), 1)
        sampled = torch.arange(reach) < counts.unsqueeze(1)
        highest = attention.masked_fill(~mask, -1).topk(reach, dim=1).indices
        lowest = attention.masked_fill(~mask, 2).topk(reach, dim=1, largest=False).indices
        own = F.one_hot(labels, self.classes).unsqueeze(1)
        of_highest = self._margin_loss(regions, highest, own)
        of_lowest = self._margin_loss(regions, lowest, torch.zeros_like(own))
        # The slide's class learns from both ends of the ranking; the other classes only from the highest attention.
        per_class = own * (of_highest + of_lowest) / 2 + (1 - own) * of_highest
        return (per_class.mean(dim=2) * sampled).sum(dim=1) / counts.clamp(min=1)

    def _margin_loss(self, regions: Tensor, chosen: Tensor, positive: Tensor) -> Tensor:
        """Compute the smooth SVM loss of the chosen (B, K) regions for targets (B, 1, classes): (B, K, classes).

        With temperature 1 it is the logistic loss with a margin of 1 (Berrada et al., ICLR 2018).
        """
        picked = regions.gather(1, chosen.unsqueeze(2).expand(-1, -1, regions.shape[2]))
        return F.softplus(self.region_classifier(picked) * (1 - 2 * positive) + _MARGIN)


HEAD = BagNetwork(ClamSb)
