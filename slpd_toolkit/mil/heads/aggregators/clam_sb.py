"""CLAM-SB, gated attention with region classifiers that learn from the attention."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.mil.heads.aggregators.abmil import AttentionMil
from slpd_toolkit.mil.heads.bag_network import BagNetwork

if TYPE_CHECKING:
    from typing import Self

    from torch import Tensor

    from slpd_toolkit.mil.tasks.likelihoods import Objective

_BAG_SHARE = 0.7
_MARGIN = 1.0


class ClamSb(AttentionMil):
    """CLAM-SB (Lu et al., Nat Biomed Eng 2021;5:555), with its published weights of the two losses.

    At test it is gated ABMIL. In training the regions of highest attention count as evidence for the slide's class and
    against the others, those of lowest attention as no evidence for it. Needs classes: survival has none.

    Args:
        width: Width of a region embedding.
        outputs: Number of logits.
        classes: Number of classes; ordered classes have one more than logits.
        hidden: Width of the embedded regions.
        dropout: On the embedded regions.
        sampled: Most regions taken from either end of the attention; half a bag at most.
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
            UsageError: It has none.
        """
        if objective.labels is None:
            raise UsageError(
                "--aggregator: clam-sb clusters regions by class, and this target has no classes.",
                hint="Use another aggregator.",
            )

    @classmethod
    def for_objective(cls, width: int, objective: Objective) -> Self:
        """Build it with a region classifier per class."""
        cls.check(objective)
        assert objective.labels is not None
        return cls(width, objective.outputs, classes=int(objective.labels.max()) + 1)

    def training_loss(self, bags: Tensor, mask: Tensor, objective: Objective, rows: Tensor) -> Tensor:
        """(B,) 0.7 x loss of the slides + 0.3 x loss of the sampled regions."""
        if objective.labels is None:
            raise ValueError("CLAM-SB needs class labels")
        regions = self.embed(bags)
        output = self.aggregate(regions, mask)
        of_regions = self.region_loss(regions, output.attention, mask, objective.labels[rows])
        return _BAG_SHARE * objective.loss(output.logits, rows) + (1 - _BAG_SHARE) * of_regions

    def region_loss(self, regions: Tensor, attention: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
        """Loss of the region classifiers, mean over classes and sampled regions.

        Args:
            regions: (B, N, hidden).
            attention: (B, N); chooses regions, is not taught by this loss.
            mask: (B, N).
            labels: (B,) class of each slide.

        Returns:
            (B,); 0 for a bag of one region, which has no two ends.
        """
        counts = torch.clamp(mask.sum(dim=1) // 2, max=self.sampled)
        reach = max(int(counts.max()), 1)
        sampled = torch.arange(reach) < counts.unsqueeze(1)
        highest = attention.masked_fill(~mask, -1).topk(reach, dim=1).indices
        lowest = attention.masked_fill(~mask, 2).topk(reach, dim=1, largest=False).indices
        own = F.one_hot(labels, self.classes).unsqueeze(1)
        of_highest = self._margin_loss(regions, highest, own)
        of_lowest = self._margin_loss(regions, lowest, torch.zeros_like(own))
        # A slide's own class is taught from both ends, the others, which it cannot be as well, from the highest.
        per_class = own * (of_highest + of_lowest) / 2 + (1 - own) * of_highest
        return (per_class.mean(dim=2) * sampled).sum(dim=1) / counts.clamp(min=1)

    def _margin_loss(self, regions: Tensor, chosen: Tensor, positive: Tensor) -> Tensor:
        """(B, K, classes) smooth SVM loss of the chosen (B, K) regions, for targets (B, 1, classes) of 0 or 1.

        With temperature 1 it is the logistic loss, the right answer handicapped by a margin of 1 (Berrada et al., ICLR
        2018).
        """
        picked = regions.gather(1, chosen.unsqueeze(2).expand(-1, -1, regions.shape[2]))
        return F.softplus(self.region_classifier(picked) * (1 - 2 * positive) + _MARGIN)


HEAD = BagNetwork(ClamSb)
