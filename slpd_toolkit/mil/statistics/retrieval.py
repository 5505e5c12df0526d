"""Retrieval of similar slides, without training: is the label of a test slide that of the slides most similar to it?

The queries are the test slides of the first repeat's folds, or 2 000 of them drawn at random. Searched are slides of
other patients outside the test part, so that descriptors that are fitted on training slides can be measured as well.
Sets of prototypes are compared by matching (`mil.set_similarity`), everything else by the cosine of mean vectors.

Majority at k: whether the most frequent label of the k most similar slides is the query's; of equally frequent labels,
that of the most similar slide counts. mAP at 5: mean over queries of the average precision of the five most similar
slides, sum_i P(i) rel(i) / min(5, number of slides with the query's label that could be found), where P(i) is the share
of the first i with the query's label.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.mil.heads.training_sets import small_sets
from slpd_toolkit.mil.set_similarity import padded_sets, similarities

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slpd_toolkit.mil.arrays import FloatArray, IntArray
    from slpd_toolkit.mil.bags import Bags
    from slpd_toolkit.mil.cohort.patients import Cohort
    from slpd_toolkit.mil.cohort.splits import Split
    from slpd_toolkit.mil.statistics.results import Representation

MAJORITY_AT = (1, 3, 5)
PRECISION_AT = 5
METRICS = (*(f"majority_{k}" for k in MAJORITY_AT), f"map_{PRECISION_AT}")
WORDS = {**{f"majority_{k}": f"majority at {k}" for k in MAJORITY_AT}, f"map_{PRECISION_AT}": f"mAP at {PRECISION_AT}"}
MOST_QUERIES = 2000
"""Comparing all slides of a large cohort with all others would take time in proportion to their square."""
_REPLICATES = 2000
_TAIL = 0.025


@dataclass(frozen=True)
class RetrievalValue:
    """One metric: its mean over patients, with a 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Retrieval:
    """Retrieval by one representation."""

    model: str
    values: dict[str, RetrievalValue]
    """By name of the metric."""
    chance: float
    """Mean over queries of the share of slides with the query's label among those that could be found."""
    queries: int
    patients: int


def measure_retrieval(
    representation: Representation, labels: IntArray, cohort: Cohort, splits: Sequence[Split], seed: int
) -> Retrieval | None:
    """Measure retrieval by a representation.

    Intervals are percentiles of a bootstrap over the patients of the queries; where all patients have the same extreme
    value, they are the exact binomial bound. The searched slides are taken as given.

    Args:
        representation: Bags in the order of the cohort.
        labels: (N,) label of each slide.
        cohort: Slides and patients.
        splits: Those of the first repeat are used.
        seed: Seed of fitted descriptors, of the drawn queries and of the bootstrap.

    Returns:
        The result; None if no query has any slide to find.
    """
    first = [split for split in splits if split.repeat == splits[0].repeat]
    chosen = _draw_queries([len(split.test) for split in first], seed)
    rows, found, shares = [], [], []
    for split, drawn in zip(first, chosen, strict=True):
        train, query = representation.bags.index_of(split.train), representation.bags.index_of(split.test)[drawn]
        known = np.concatenate([train, representation.bags.index_of(split.val)])
        bags = representation.bags
        if representation.descriptor is not None:
            bags = representation.descriptor.apply(bags, train, seed)
        near = slide_similarities(bags, query, known)
        near[cohort.patients[query][:, None] == cohort.patients[known]] = -np.inf
        for row, scores in zip(query, near, strict=True):
            candidates = np.flatnonzero(np.isfinite(scores))
            if len(candidates):
                order = candidates[np.argsort(-scores[candidates], kind="stable")]
                same = labels[known[order]] == labels[row]
                rows.append(row)
                found.append(_of_query(labels[known[order]], int(labels[row])))
                shares.append(same.mean())
    if not rows:
        return None
    values = np.array(found)
    _, of_query = np.unique(cohort.patients[rows], return_inverse=True)
    counts = np.bincount(of_query)
    of_patient = np.stack([np.bincount(of_query, values[:, j]) / counts for j in range(values.shape[1])], axis=1)
    measured = {name: _interval(of_patient[:, j], seed) for j, name in enumerate(METRICS)}
    return Retrieval(representation.name, measured, float(np.mean(shares)), len(rows), len(counts))


def _draw_queries(sizes: Sequence[int], seed: int) -> list[IntArray]:
    """Return the positions of the queries in the test part of each fold: all, or `MOST_QUERIES` altogether."""
    total = sum(sizes)
    drawn = np.arange(total)
    if total > MOST_QUERIES:
        drawn = np.sort(np.random.default_rng([seed, 3]).choice(total, MOST_QUERIES, replace=False))
    starts = np.concatenate([[0], np.cumsum(sizes)])
    return [drawn[(drawn >= start) & (drawn < stop)] - start for start, stop in pairwise(starts.tolist())]


def slide_similarities(bags: Bags, query: IntArray, known: IntArray) -> FloatArray:
    """Compare slides, (len(query), len(known)): by matching if they are sets, else by the cosine of mean vectors."""
    if bags.weights is not None:
        sets = small_sets(bags)
        return similarities(padded_sets(sets.subset(query)), padded_sets(sets.subset(known)))
    means = bags.mean().astype(np.float64)
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    unit = means / np.where(lengths > 0, lengths, 1)
    found: FloatArray = np.round(unit[query] @ unit[known].T, 9)
    return found


def _of_query(labels: IntArray, wanted: int) -> list[float]:
    """Metrics of one query, in the order of `METRICS`.

    Args:
        labels: Labels of the slides that could be found, most similar first.
        wanted: Label of the query.
    """
    majorities = []
    for k in MAJORITY_AT:
        nearest = labels[:k].tolist()
        majority = max(nearest, key=lambda label: (nearest.count(label), -nearest.index(label)))
        majorities.append(float(majority == wanted))
    same = labels[:PRECISION_AT] == wanted
    relevant = min(PRECISION_AT, int((labels == wanted).sum()))
    precision = np.cumsum(same) / np.arange(1, len(same) + 1)
    return [*majorities, float((precision * same).sum() / relevant) if relevant else 0.0]


def _interval(values: FloatArray, seed: int) -> RetrievalValue:
    mean = float(values.mean())
    if (values == values[0]).all() and values[0] in {0.0, 1.0}:
        bound = float(_TAIL ** (1 / len(values)))
        return RetrievalValue(mean, bound, 1.0) if mean else RetrievalValue(mean, 0.0, 1 - bound)
    rng = np.random.default_rng([seed, 2])
    drawn = rng.multinomial(len(values), np.full(len(values), 1 / len(values)), _REPLICATES) @ values / len(values)
    low, high = np.quantile(drawn, [_TAIL, 1 - _TAIL])
    return RetrievalValue(mean, float(low), float(high))
