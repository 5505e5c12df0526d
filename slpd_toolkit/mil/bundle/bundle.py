"""A bundle in memory: heads of one model and aggregator, and their predictions for new slides."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.mil.bags import Bags
from slpd_toolkit.mil.descriptors.descriptor import describe_bags
from slpd_toolkit.mil.heads.head import load_head

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from slpd_toolkit.mil.arrays import FloatArray
    from slpd_toolkit.mil.bundle.decision import Decision
    from slpd_toolkit.mil.bundle.distance import TrainingSet
    from slpd_toolkit.mil.bundle.origin import Origin
    from slpd_toolkit.mil.heads.head import HeadState
    from slpd_toolkit.mil.tasks.readouts import Readout

FINAL = "final"
"""Name of the head that was trained on all patients."""
COVARIATES = "covariates"
"""Name of the fact that lists the covariates that the evaluation compared; the heads do not use them."""


@dataclass(frozen=True, eq=False)
class BundledHead:
    """One trained head."""

    name: str
    """`<repeat>.<fold>`, or `final`."""
    state: HeadState
    setting: str
    """Setting selected on the validation part."""
    readout: Readout
    temperature: float
    """Logits are divided by it; fitted on the validation part."""
    held_out_risks: FloatArray
    """Rising risks of the head's test part, for percentiles of risks; empty for other outputs."""


@dataclass(frozen=True, eq=False)
class Bundle:
    """Everything that predictions for new slides need."""

    model: str
    """Name of the representation."""
    aggregator: str
    target: str
    """Manifest columns of the target."""
    task: Mapping[str, object]
    """Description of the task, as in metrics.json."""
    origin: Origin
    heads: Sequence[BundledHead]
    decision: Decision
    training: TrainingSet
    known_means: NDArray[np.float32] | None = None
    """(S, D) mean embeddings of the training cohort, for heads that compare; with a fitted descriptor, each head has
    its own."""
    facts: Mapping[str, object] = field(default_factory=dict)
    """What was measured: cohort, metrics with intervals, covariates."""
    digest: str = ""
    """Digest of the files, once they are written."""

    @property
    def ensemble(self) -> Sequence[BundledHead]:
        """The heads of the folds."""
        return [head for head in self.heads if head.name != FINAL]

    @property
    def unused_covariates(self) -> list[str]:
        """Covariates that the evaluation compared with the heads; predictions do not use them."""
        found = self.facts.get(COVARIATES)
        return [str(name) for name in found] if isinstance(found, list) else []

    def known(self) -> Bags | None:
        """Return the training cohort for heads that compare; None for others."""
        return _as_bags(self.known_means)

    def inputs_of(self, head: BundledHead, bags: Bags, known: Bags | None) -> tuple[Bags, Bags | None]:
        """Return what `Head.apply` takes: the bags, and the training cohort for heads that compare.

        Args:
            head: A head of the bundle.
            bags: The slides.
            known: Result of `known`.
        """
        if not self.origin.is_fitted or self.origin.descriptor is None:
            return bags, known
        fitted = self.origin.descriptor.restore(head.state.descriptor)
        return describe_bags(fitted, bags), _as_bags(head.state.known_means)


def _as_bags(means: NDArray[np.float32] | None) -> Bags | None:
    """Return a bag of one vector for each of (S, D) means; None for None."""
    return None if means is None else Bags.pack({str(index): mean[None] for index, mean in enumerate(means)})


@dataclass(frozen=True, eq=False)
class HeadOutputs:
    """Predictions of one head for n slides."""

    name: str
    raw: FloatArray
    """(n, C) outputs without temperature, as in the predictions.csv of the evaluation."""
    outputs: FloatArray
    """(n, C) outputs with temperature."""
    percentiles: FloatArray
    """(n,) rank of each risk among the risks of the head's test part, 0-1; NaN for other outputs."""
    attention: tuple[FloatArray, ...]
    """Attention weights of each slide's regions; empty for heads without attention."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predictions of a bundle for n slides."""

    slides: tuple[str, ...]
    heads: tuple[HeadOutputs, ...]
    """Those that were asked for."""
    outputs: FloatArray
    """(n, C) mean over heads."""
    spread: FloatArray
    """(n, C) standard deviation over heads; NaN for a single head."""
    percentiles: FloatArray
    """(n,) mean over heads; NaN for outputs other than risks."""
    decisions: tuple[str, ...]
    distances: FloatArray
    """(n,) distance of each slide from the training set."""
    unusual: tuple[bool, ...]
    """Whether the distance exceeds the limit."""
    attention: tuple[FloatArray, ...]
    """Mean over heads, (regions,) per slide; empty for heads without attention."""


def apply_head(bundle: Bundle, head: BundledHead, bags: Bags, known: Bags | None) -> HeadOutputs:
    """Apply one head of a bundle; see `Head.apply`."""
    rows = np.arange(len(bags.slides))
    described, of_training = bundle.inputs_of(head, bags, known)
    logits, attention = load_head(bundle.aggregator).apply(head.state, described, rows, of_training)
    raw = head.readout.one_by_one(logits)
    outputs = head.readout.one_by_one(logits.double() / head.temperature)
    percentiles = np.full(len(rows), np.nan)
    if head.readout.kind == "risk" and len(head.held_out_risks):
        below = np.searchsorted(head.held_out_risks, raw[:, 0], side="left")
        up_to = np.searchsorted(head.held_out_risks, raw[:, 0], side="right")
        percentiles = (below + up_to) / 2 / len(head.held_out_risks)
    return HeadOutputs(head.name, raw, outputs, percentiles, attention)


def predict(bundle: Bundle, bags: Bags, *, final: bool = False) -> Predictions:
    """Predict slides with the heads of the folds, or with the head that was trained on all patients.

    The prediction of a slide does not depend on the other slides, to the last bit.

    Args:
        bundle: The heads.
        bags: The slides.
        final: Use the head trained on all patients.
    """
    known = bundle.known()
    chosen = [head for head in bundle.heads if head.name == FINAL] if final else bundle.ensemble
    heads = tuple(apply_head(bundle, head, bags, known) for head in chosen)
    stacked = np.stack([head.outputs for head in heads])
    outputs = stacked.mean(axis=0)
    spread = stacked.std(axis=0, ddof=1) if len(heads) > 1 else np.full_like(outputs, np.nan)
    percentiles = np.stack([head.percentiles for head in heads]).mean(axis=0)
    distances = bundle.training.neighbourhood.distances(bags.mean())
    attention: tuple[FloatArray, ...] = ()
    if heads[0].attention:
        attention = tuple(_mean_shares([head.attention[row] for head in heads]) for row in range(len(bags.slides)))
    return Predictions(
        bags.slides,
        heads,
        outputs,
        spread,
        percentiles,
        tuple(bundle.decision.decide(outputs, percentiles)),
        distances,
        tuple((distances > bundle.training.limit).tolist()),
        attention,
    )


def _mean_shares(shares: Sequence[FloatArray]) -> FloatArray:
    total = np.sum(shares, axis=0)
    mean: FloatArray = total / total.sum()
    return mean
