"""An external validation: every bundle of an evaluation on the external cohort, and the audit of both cohorts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.core import console
from slpd_toolkit.core.text import agree, listed
from slpd_toolkit.mil.external.evaluating import Internal, Target, evaluate_external, judge_ensemble
from slpd_toolkit.mil.external.identities import find_shared_identities
from slpd_toolkit.mil.external.results import External
from slpd_toolkit.mil.statistics.comparisons import compare_all

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slpd_toolkit.mil.bundle.bundle import Bundle
    from slpd_toolkit.mil.external.inputs import ExternalInputs
    from slpd_toolkit.mil.external.results import ExternalResult
    from slpd_toolkit.mil.statistics.evaluation import Judgement, Permutations
    from slpd_toolkit.mil.statistics.results import Evaluation, Representation
    from slpd_toolkit.mil.tasks.task import Task


@dataclass(frozen=True, eq=False)
class OtherCohort:
    """The external cohort before its evaluation."""

    source: str
    """Description."""
    inputs: ExternalInputs
    representations: Sequence[Representation]
    """In the order of the evaluation's models."""


def validate(
    evaluation: Evaluation,
    judgements: Sequence[Judgement],
    bundles: Sequence[Bundle],
    other: OtherCohort,
    permutations: Permutations,
) -> External:
    """Apply every head of an evaluation to all slides of another cohort.

    Args:
        evaluation: The results in cross-validation.
        judgements: One per result.
        bundles: One per result.
        other: The external cohort.
        permutations: Number of swaps in the tests between models; their seed is also that of the bootstrap.
    """
    inputs = other.inputs
    target = Target(inputs.task, inputs.cohort, inputs.sites, evaluation.unit)
    bags = {each.name: each.bags for each in other.representations}
    results = []
    with console.progress("external", total=len(bundles), unit="models") as bar:
        for bundle, result, judgement in zip(bundles, evaluation.results, judgements, strict=True):
            wanted = None if result.calibration is None else result.calibration.sensitivity
            internal = Internal(evaluation.task, evaluation.cohort, judgement, result.folds, wanted)
            results.append(evaluate_external(bundle, internal, target, bags[bundle.model], permutations.seed))
            bar.advance(1, f"{bundle.model}, {bundle.aggregator}")
    audits = {
        inside.name: find_shared_identities(inside, evaluation.cohort, outside, inputs.cohort)
        for inside, outside in zip(evaluation.representations, other.representations, strict=True)
    }
    judged = [judge_ensemble(target, each.ensemble) for each in results]
    comparisons = compare_all(inputs.task, results, judged, permutations)
    notes = (*inputs.notes, *_undefined(results, inputs.task))
    return External(other.source, inputs.task, inputs.cohort, results, comparisons, audits, notes)


def _undefined(results: Sequence[ExternalResult], task: Task) -> list[str]:
    """Return notes on metrics without a value, and on a missing interval of the headline metric."""
    notes = []
    names = [name for name in results[0].values if all(np.isnan(each.values[name]).all() for each in results)]
    if names:
        labels = np.unique(task.strata).tolist() if task.strata_are_labels else []
        why = f", in which all slides have the label {labels[0]}" if len(labels) == 1 else ""
        notes.append(f"{listed(names)} {agree(len(names), 'is', 'are')} undefined in the external cohort{why}.")
    judged = [each for each in results if not np.isnan(each.values[task.headline]).all()]
    reasons = {each.intervals[task.headline].reason for each in judged} - {""}
    notes += [f"No interval can be computed in the external cohort: {reason}." for reason in sorted(reasons)]
    return notes
