"""Probes of one vector a slide: nearest neighbours and logistic regression. What a representation shows without MIL."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler
from torch.nn import functional as F

from slpd_toolkit.mil.tasks.hazards import stops_and_passes
from slpd_toolkit.mil.tasks.likelihoods import CrossEntropy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from slpd_toolkit.mil.arrays import FloatArray, IntArray
    from slpd_toolkit.mil.tasks.likelihoods import Hazards, Objective

    Fitted = Callable[[FloatArray], Tensor]
    """(n, D) standardised embeddings to (n, outputs) logits."""

KNN, LOGISTIC, HISTOGRAM = "knn", "probe", "prototype-histogram"
PROBES = (KNN, LOGISTIC, HISTOGRAM)
"""The first two look at the mean embedding, the last is a logistic regression on the soft prototype histogram."""
_NEIGHBOURS = (5, 10, 20, 40)
_INVERSE_PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_MOST_ITERATIONS = 2000
# Columns that stand for intervals are this large, so that the penalty hardly touches their coefficients.
_INTERVAL_SCALE = 10.0


@dataclass(frozen=True, eq=False)
class ProbeResult:
    """Logits of the test part, and the setting that the validation part chose."""

    logits: Tensor
    setting: str


def run_probe(
    name: str, embeddings: NDArray[np.float32], objective: Objective, *, train: IntArray, val: IntArray, test: IntArray
) -> ProbeResult:
    """Fit a probe on train with each of its settings, take the one of least loss on val, apply it to test.

    Args:
        name: One of `PROBES`.
        embeddings: (S, D) vector of every slide; standardised by those of train.
        objective: From `Task.objective` of the same training rows.
        train: Rows to learn from.
        val: Rows that choose the number of neighbours, or the strength of the penalty.
        test: Rows to predict.
    """
    scaler = StandardScaler().fit(embeddings[train].astype(np.float64))
    known, seen, unseen = (scaler.transform(embeddings[rows].astype(np.float64)) for rows in (train, val, test))
    candidates = fit_neighbours if name == KNN else fit_logistic
    losses = {
        setting: (objective.loss(fitted(seen), torch.tensor(val)).mean().item(), fitted)
        for setting, fitted in candidates(known, objective, torch.tensor(train))
    }
    setting = min(losses, key=lambda each: losses[each][0])
    return ProbeResult(losses[setting][1](unseen), setting)


def fit_neighbours(known: FloatArray, objective: Objective, rows: Tensor) -> Iterator[tuple[str, Fitted]]:
    """K nearest neighbours by Euclidean distance, for several K: the estimate of least loss for these K slides.

    One more neighbour stands for the average slide, so that nothing is ever certain.

    Args:
        known: (n, D) embeddings of the training slides.
        objective: What is estimated from neighbours.
        rows: (n,) which slides they are.
    """
    index = NearestNeighbors().fit(known)

    def fitted(embeddings: FloatArray, count: int) -> Tensor:
        nearest = torch.tensor(index.kneighbors(embeddings, count, return_distance=False))
        shares = torch.full((len(embeddings), len(rows)), 1 / len(rows))
        shares.scatter_add_(1, nearest, torch.ones(nearest.shape))
        return objective.estimate(shares / (count + 1), rows)

    # With more than half of the slides as neighbours, all slides look alike.
    for count in [count for count in _NEIGHBOURS if 2 * count <= len(rows)] or [max(1, len(rows) // 2)]:
        yield f"{count} neighbours", partial(fitted, count=count)


def fit_logistic(known: FloatArray, objective: Objective, rows: Tensor) -> Iterator[tuple[str, Fitted]]:
    """L2-penalised logistic regression, for several penalties.

    Hazards are learnt on the person-period table: a row for each interval that a slide reached, with an intercept each
    (Singer & Willett, J Educ Stat 1993;18:155).

    Args:
        known: (n, D) embeddings of the training slides.
        objective: Which likelihood.
        rows: (n,) which slides they are.
    """
    for inverse_penalty in _INVERSE_PENALTIES:
        if isinstance(objective, CrossEntropy):
            fitted = _fit_classes(known, objective, rows, inverse_penalty)
        else:
            fitted = _fit_hazards(known, objective, rows, inverse_penalty)
        yield f"C = {inverse_penalty:g}", fitted


def _fit_classes(known: FloatArray, objective: CrossEntropy, rows: Tensor, inverse_penalty: float) -> Fitted:
    model = LogisticRegression(C=inverse_penalty, max_iter=_MOST_ITERATIONS)
    model.fit(known, objective.labels[rows].numpy(), sample_weight=objective.weights[rows].numpy())

    def fitted(embeddings: FloatArray) -> Tensor:
        scores = torch.tensor(model.decision_function(embeddings), dtype=torch.float32)
        # Of two classes scikit-learn gives the second one's logit against the first.
        return scores if scores.ndim == 2 else torch.stack([torch.zeros_like(scores), scores], dim=1)

    return fitted


def _fit_hazards(known: FloatArray, objective: Hazards, rows: Tensor, inverse_penalty: float) -> Fitted:
    stops, passes = stops_and_passes(objective.interval[rows], objective.stopped[rows], objective.outputs)
    slide, interval = torch.nonzero(stops + passes, as_tuple=True)
    intercepts = _INTERVAL_SCALE * F.one_hot(interval, objective.outputs).numpy()
    model = LogisticRegression(C=inverse_penalty, max_iter=_MOST_ITERATIONS, fit_intercept=False)
    model.fit(
        np.hstack([known[slide.numpy()], intercepts]),
        stops[slide, interval].numpy(),
        sample_weight=objective.weights[rows][slide].numpy(),
    )
    slopes, levels = np.split(model.coef_[0], [known.shape[1]])

    def fitted(embeddings: FloatArray) -> Tensor:
        logits = (embeddings @ slopes)[:, None] + _INTERVAL_SCALE * levels
        return torch.tensor(logits, dtype=torch.float32)

    return fitted
