"""Prediction of the site from slide vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.mil.statistics.bootstrap import (
    REPLICATES,
    Estimate,
    draw_units,
    exact_bound,
    percentile_interval,
)
from slpd_toolkit.mil.tasks.weighted_metrics import balanced_accuracy, count_classes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from slpd_toolkit.mil.arrays import FloatArray, IntArray, StrArray

FEWEST_PATIENTS, MOST_FOLDS = 3, 5
"""A site needs as many patients as there are folds, at least three."""
_ALPHAS = (0.1, 1.0, 10.0, 100.0, 1e3, 1e4, 1e5)


def predict_site(
    vectors: NDArray[np.float32], patients: StrArray, sites: StrArray, seed: int
) -> tuple[Estimate, float]:
    """Measure how well the site is predicted: balanced accuracy in folds of whole patients.

    Ridge regression of the site's indicator on standardized features, with balanced weights and its penalty chosen by
    leave-one-out on the training part. Each patient counts once, with the mean over its slides. Sites with fewer than
    three patients are left out.

    Args:
        vectors: (N, D) slide vectors.
        patients: (N,) patient of each slide.
        sites: (N,) site of each slide; empty where it is not known.
        seed: Seed of folds and bootstrap.

    Returns:
        The balanced accuracy, and its value by chance: 1 / number of sites.

    Raises:
        UsageError: Fewer than two sites have three or more patients.
    """
    rows = require_sites(patients, sites)
    names, site = np.unique(sites[rows], return_inverse=True)
    _, patient = np.unique(patients[rows], return_inverse=True)
    fewest = min(len(np.unique(patient[site == code])) for code in range(len(names)))
    predicted = _predict(vectors[rows], site, patient, min(MOST_FOLDS, fewest), seed)
    each = 1 / np.bincount(patient)[patient]

    def accuracy(weights: FloatArray) -> FloatArray:
        return balanced_accuracy(count_classes(site, predicted, len(names), weights * each))

    value = float(accuracy(np.ones((1, len(rows))))[0])
    first_slide = np.unique(patient, return_index=True)[1]
    drawn = draw_units(names[site[first_slide]], REPLICATES, np.random.default_rng([seed, 9]))
    found = percentile_interval(value, accuracy(drawn[:, patient]))
    return exact_bound(found, len(first_slide)), 1 / len(names)


def require_sites(patients: StrArray, sites: StrArray) -> IntArray:
    """Return the slides of sites with three or more patients.

    Raises:
        UsageError: There are fewer than two such sites.
    """
    names = np.unique(sites[sites != ""])
    if len(names) < 2:
        where = f"All slides are from one site, {names[0]}" if len(names) else "No slide has a site"
        raise UsageError(f"{where}: how well the site can be predicted cannot be measured.")
    large = [name for name in names if len(np.unique(patients[sites == name])) >= FEWEST_PATIENTS]
    if len(large) < 2:
        raise UsageError(
            f"How well the site can be predicted requires at least two sites with {FEWEST_PATIENTS} or more patients; "
            f"{len(large)} of {len(names)} {'has' if len(large) == 1 else 'have'} so many."
        )
    return np.flatnonzero(np.isin(sites, large))


def _predict(vectors: NDArray[np.float32], site: IntArray, patient: IntArray, folds: int, seed: int) -> IntArray:
    """Predict the site of each slide by a model that was fitted without its patient."""
    from sklearn.linear_model import RidgeClassifierCV
    from sklearn.model_selection import StratifiedGroupKFold
    from sklearn.preprocessing import StandardScaler

    renamed = np.random.default_rng([seed, 10]).permutation(patient.max() + 1)[patient]  # see cross_validation
    predicted = np.zeros_like(site)
    for train, test in StratifiedGroupKFold(folds).split(vectors, site, renamed):
        scaler = StandardScaler().fit(vectors[train].astype(np.float64))
        model = RidgeClassifierCV(_ALPHAS, class_weight="balanced")
        model.fit(scaler.transform(vectors[train].astype(np.float64)), site[train])
        predicted[test] = model.predict(scaler.transform(vectors[test].astype(np.float64)))
    return predicted
