"""Cohorts whose truth is known: classes apart in one direction of Gaussian embeddings, with or without site marks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.simulated.heads import fit
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.mil.bags import Bags
from slpd_toolkit.mil.cohort.patients import Cohort
from slpd_toolkit.mil.cohort.split_kinds.cross_validation import cross_validation
from slpd_toolkit.mil.cohort.splits import Split
from slpd_toolkit.mil.heads.fold_predictions import run_folds
from slpd_toolkit.mil.heads.training import HeadTraining
from slpd_toolkit.mil.tasks.kinds.classification import Classification

if TYPE_CHECKING:
    from slpd_toolkit.mil.arrays import FloatArray, IntArray, StrArray

WIDTH = 16
_SHARED = 0.5


@dataclass(frozen=True)
class Design:
    """What is simulated: who is in the cohort, and how it is divided."""

    patients: int = 150
    positive: float = 0.5
    """Share of the positive class."""
    folds: int = 5
    repeats: int = 1
    sites: int = 0
    """Number of sites; 0: patients are split one by one."""
    mark: float = 1.0
    """Standard deviation of a site's shift of all embeddings, in units of their own, where there are sites."""


@dataclass(frozen=True, eq=False)
class Layout:
    """Labels, sites and splits that a chunk of cohorts shares; embeddings differ between its cohorts."""

    labels: IntArray
    """(N,) 0 or 1."""
    units: IntArray
    """(N,) number of what is split: the patient or the site."""
    fold_of: IntArray
    """(R, N) fold in which a patient is tested, for each repeat."""
    folds: int
    by_site: bool = False

    def parts(self, repeat: int, fold: int) -> tuple[IntArray, IntArray, IntArray]:
        """Rows of train, val and test."""
        of = self.fold_of[repeat]
        test, val = of == fold, of == (fold + 1) % self.folds
        return np.flatnonzero(~test & ~val), np.flatnonzero(val), np.flatnonzero(test)


def lay_out(design: Design, rng: np.random.Generator) -> Layout:
    """Draw labels, sites and the product's own folds."""
    count = design.patients
    while True:
        if design.sites:
            # The class follows the site: half of the sites have few positives, half have many.
            site = np.sort(np.append(np.arange(design.sites), rng.integers(design.sites, size=count - design.sites)))
            share = rng.permutation(np.resize([0.3 * design.positive, 1.7 * design.positive], design.sites))
            labels = (rng.random(count) < np.clip(share, 0.05, 0.95)[site]).astype(np.int64)
        else:
            site = None
            labels = (np.arange(count) < round(design.positive * count)).astype(np.int64)
        names = np.array([f"{number:05}" for number in range(count)])
        sites: StrArray | None = None if site is None else site.astype(np.str_)
        cohort = Cohort(names, names, np.array(["no", "yes"])[labels], sites)
        try:
            splits = cross_validation(
                cohort,
                folds=design.folds,
                repeats=design.repeats,
                seed=int(rng.integers(2**31)),
                by_site=site is not None,
            )
        except UsageError:
            continue
        fold_of = np.zeros((design.repeats, count), dtype=np.int64)
        for split in splits:
            fold_of[split.repeat, [int(name) for name in split.test]] = split.fold
        return Layout(labels, np.arange(count) if site is None else site, fold_of, design.folds, site is not None)


def embed(
    layout: Layout, design: Design, distances: tuple[float, ...], cohorts: int, rng: np.random.Generator
) -> list[FloatArray]:
    """(B, N, D) embeddings of B cohorts by each of several representations, whose noise is partly shared.

    Args:
        layout: Labels and sites.
        design: Size of the site marks.
        distances: For each representation how far apart the classes' means are.
        cohorts: B.
        rng: Source of the noise.
    """
    shape = (cohorts, len(layout.labels), WIDTH)
    common = rng.standard_normal(shape) * np.sqrt(_SHARED)
    found = []
    for distance in distances:
        features = common + rng.standard_normal(shape) * np.sqrt(1 - _SHARED)
        features[:, :, 0] += distance * layout.labels
        if design.sites:
            marks = rng.standard_normal((cohorts, layout.units.max() + 1, WIDTH)) * design.mark
            features += marks[:, layout.units]
        found.append(features)
    return found


def predict(head: str, features: FloatArray, layout: Layout) -> FloatArray:
    """(R, B, N) out-of-fold logits of a head: `knn` or `probe` for all cohorts at once, `abmil` one by one."""
    if head == "abmil":
        return np.stack([_attention(each, layout) for each in features], axis=1)
    tested = np.zeros((len(layout.fold_of), len(features), len(layout.labels)))
    for repeat in range(len(layout.fold_of)):
        for fold in range(layout.folds):
            train, val, test = layout.parts(repeat, fold)
            tested[repeat][:, test] = fit(head, features, layout.labels, train, val, test)
    return tested


def _attention(features: FloatArray, layout: Layout) -> FloatArray:
    """(R, N) out-of-fold logits of the product's gated attention, on bags of noisy copies of each patient's vector."""
    count, regions = len(layout.labels), 6
    noise = np.random.default_rng(0).standard_normal((count, regions, features.shape[1]))
    bags = Bags.pack({f"{row:05}": features[row] + noise[row] for row in range(count)})
    task = Classification(("no", "yes"), layout.labels)
    scores = np.zeros(layout.fold_of.shape)
    for repeat in range(len(layout.fold_of)):
        splits = []
        for fold in range(layout.folds):
            train, val, test = (tuple(f"{row:05}" for row in part) for part in layout.parts(repeat, fold))
            splits.append(Split(fold, train, val, test, repeat))
        training = HeadTraining(steps=60, check_every=10, patience=3, learning_rate=3e-3)
        for found in run_folds(bags, task, splits, "abmil", training=training, seed=0, jobs=1):
            scores[repeat, found.rows] = np.log(found.outputs[:, 1]) - np.log(found.outputs[:, 0])
    return scores
