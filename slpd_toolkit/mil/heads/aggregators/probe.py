"""Logistic regression on the mean embedding."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slpd_toolkit.mil.heads.vector_probe import Linear, MeanVectors, VectorProbe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from slpd_toolkit.mil.arrays import FloatArray
    from slpd_toolkit.mil.tasks.likelihoods import Objective

_INVERSE_PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)


def fit_linear(known: FloatArray, objective: Objective, rows: Tensor) -> Iterator[tuple[str, Linear]]:
    """Fit an L2-penalized linear model of an objective (`Objective.fit_linear`), for several penalties.

    Args:
        known: (n, D) embeddings of the training slides.
        objective: Objective with the likelihood.
        rows: (n,) positions of these slides.
    """
    for inverse_penalty in _INVERSE_PENALTIES:
        fitted = objective.fit_linear(known, rows, inverse_penalty)
        yield f"C = {inverse_penalty:g}", Linear(fitted.coefficients, fitted.intercepts)


HEAD = VectorProbe(MeanVectors(), fit_linear, Linear)
