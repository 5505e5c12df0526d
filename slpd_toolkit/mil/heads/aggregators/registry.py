"""Aggregators by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.mil.heads.aggregators.clam_sb import ClamSb
from slpd_toolkit.mil.heads.aggregators.ds_mil import DsMil
from slpd_toolkit.mil.heads.aggregators.pooling import AttentionMil, MeanPoolMlp
from slpd_toolkit.mil.heads.aggregators.slide_transformer import SlideTransformer
from slpd_toolkit.mil.heads.aggregators.trans_mil import TransMil

if TYPE_CHECKING:
    from collections.abc import Callable

    from slpd_toolkit.mil.heads.aggregators.aggregator import Aggregator
    from slpd_toolkit.mil.tasks.likelihoods import Objective

_CLAM = "clam-sb"
_PLAIN: dict[str, Callable[[int, int], Aggregator]] = {
    "mean-mlp": MeanPoolMlp,
    "abmil": AttentionMil,
    "ds-mil": DsMil,
    "trans-mil": TransMil,
    "hipt": SlideTransformer,
}
HEADS = (*_PLAIN, _CLAM)


def build(name: str, width: int, objective: Objective) -> Aggregator:
    """Build an aggregator with fresh weights from torch's global generator.

    Args:
        name: One of `HEADS`.
        width: Width of a region embedding.
        objective: What it will be trained on.

    Raises:
        UsageError: An unknown name, or CLAM-SB for a task without classes.
    """
    if name in _PLAIN:
        return _PLAIN[name](width, objective.outputs)
    if name != _CLAM:
        raise UsageError(f"Unknown aggregator {name!r}.", hint=f"Allowed: {', '.join(HEADS)}.")
    if objective.labels is None:
        raise UsageError("CLAM-SB clusters regions by class, survival has none.", hint="Take another aggregator.")
    return ClamSb(width, objective.outputs, classes=int(objective.labels.max()) + 1)
