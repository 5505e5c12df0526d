"""Optimal-transport embedding: mean displacement of a slide's regions to a reference set of cohort prototypes.

The reference z_1 ... z_K are the k-means centroids of the standardized training regions, each with the share b_k of the
training regions nearest to it. P is the entropic optimal transport plan between the slide's n regions, each with mass
1/n, and the reference, with cost c_ik = |x_i - z_k|^2:

    P   = argmin <P, c> - e H(P)   subject to   sum_k P_ik = 1/n,  sum_i P_ik = b_k,
    v_k = sqrt(b_k) (sum_i P_ik x_i / b_k - z_k)                            (K D numbers, K = 16 by default)

Euclidean distances between these vectors approximate Wasserstein distances between slides: linear optimal transport
(Kolouri et al., Wasserstein Embedding for Graph Learning, ICLR 2021; Mialon et al., ICLR 2021, whose plan is also
entropic). e is a tenth of the mean squared distance of a training region to its nearest centroid. Sinkhorn iterations
in the log domain (Cuturi, NIPS 2013) stop once the masses of the regions agree to 1e-4, or after 200 iterations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from scipy.special import logsumexp

from slpd_toolkit.mil.descriptors.cohort_prototypes import (
    PROTOTYPES,
    CohortPrototypes,
    fit_prototypes,
    squared_distances,
)
from slpd_toolkit.mil.descriptors.descriptor import Described, Descriptor, Fitted, as_vector

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from slpd_toolkit.mil.arrays import FloatArray, IntArray
    from slpd_toolkit.mil.bags import Bags

RELATIVE_ENTROPY = 0.1
ITERATIONS = 200
TOLERANCE = 1e-4


def sinkhorn(costs: FloatArray, shares: FloatArray, entropy: float) -> FloatArray:
    """Compute the entropic transport plan between n regions of equal mass and K references, (n, K).

    Args:
        costs: (n, K)
        shares: (K,) masses of the references, above 0; the plan attains them exactly.
        entropy: e, above 0, in the unit of the costs.
    """
    kernel = (costs.min(axis=1, keepdims=True) - costs) / entropy
    log_shares, log_mass = np.log(shares), -np.log(len(costs))
    columns, plan = np.zeros(len(shares)), np.zeros(costs.shape)
    for _ in range(ITERATIONS):
        rows = log_mass - logsumexp(kernel + columns, axis=1)
        columns = log_shares - logsumexp(kernel + rows[:, None], axis=0)
        np.exp(kernel + rows[:, None] + columns, out=plan)
        if np.abs(plan.sum(axis=1) * len(costs) - 1).max() < TOLERANCE:
            break
    return plan


class TransportEmbedding(Descriptor):
    """See the module."""

    is_fitted: ClassVar = True
    clusters: ClassVar = PROTOTYPES

    def fit(self, bags: Bags, train: IntArray, *, clusters: int, seed: int) -> Fitted:
        """See `Descriptor.fit`."""
        cohort, sample = fit_prototypes(bags, train, clusters, seed)
        counts = np.bincount(
            squared_distances(sample, cohort.centroids).argmin(axis=1), minlength=len(cohort.centroids)
        )
        references = cohort.centroids[counts > 0]  # of coinciding centroids, all but one are empty
        shares = counts[counts > 0] / counts.sum()
        return self.restore({**cohort.parameters, "references": references, "shares": shares}, clusters=clusters)

    def restore(self, parameters: Mapping[str, NDArray[Any]], *, clusters: int) -> Fitted:  # noqa: ARG002
        """See `Descriptor.restore`."""
        cohort = CohortPrototypes.of_parameters(parameters)
        references, shares = np.asarray(parameters["references"]), np.asarray(parameters["shares"])
        if shares.ndim != 1 or references.shape != (len(shares), *cohort.scaler.mean.shape):
            raise ValueError("the arrays of the references do not match")
        if not len(shares) or not (shares > 0).all():
            raise ValueError("the references have shares that are not above 0")

        def describe(regions: NDArray[np.float32]) -> Described:
            x = cohort.standardized(regions)
            plan = sinkhorn(squared_distances(x, references), shares, RELATIVE_ENTROPY * cohort.width)
            displaced = (plan.T @ x) / shares[:, None] - references
            return as_vector((np.sqrt(shares)[:, None] * displaced).ravel())

        return Fitted(describe, parameters)


DESCRIPTOR = TransportEmbedding()
