"""Mixture statistics against cohort prototypes: share, mean and variance of each component on the slide.

A Gaussian mixture with K components and diagonal covariances, p(x) = sum_k pi_k N(x; m_k, s_k^2), is fitted to the
standardized training regions by EM, starting from k-means. With the posteriors r_ik of a slide's n regions,

    n_k = sum_i r_ik,   p_k = n_k / n,
    u_k = (sum_i r_ik x_i + t m_k) / (n_k + t),
    w_k = (sum_i r_ik x_i^2 + t (s_k^2 + m_k^2)) / (n_k + t) - u_k^2,
    v   = [p_1 ... p_K, u_1 ... u_K, w_1 ... w_K]                           (K (1 + 2 D) numbers, K = 16 by default)

which is one maximum a posteriori step of EM per slide with a prior worth t = 1 region (Gauvain & Lee, IEEE TSAP
1994;2:291): a component that does not occur on a slide keeps the cohort's mean and variance. PANTHER (Song et al.,
CVPR 2024) describes slides by these statistics.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from slpd_toolkit.mil.descriptors.cohort_prototypes import (
    PROTOTYPES,
    fit_prototypes,
    scaler_of,
    squared_distances,
    standardize,
)
from slpd_toolkit.mil.descriptors.descriptor import PART, Described, Descriptor, Fitted, as_vector

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from slpd_toolkit.mil.arrays import FloatArray, IntArray
    from slpd_toolkit.mil.bags import Bags

ITERATIONS = 20
PRIOR_REGIONS = 1.0
LEAST_VARIANCE = 1e-3
"""Lower bound of a component's variance, relative to that of all training regions."""


@dataclass(frozen=True, eq=False)
class Mixture:
    """A Gaussian mixture with diagonal covariances."""

    shares: FloatArray
    """(K,) pi"""
    means: FloatArray
    """(K, D) m"""
    variances: FloatArray
    """(K, D) s^2"""


@dataclass(frozen=True, eq=False)
class Sums:
    """Sufficient statistics of regions under a mixture."""

    counts: FloatArray
    """(K,) sum of the posteriors."""
    first: FloatArray
    """(K, D) sum of posterior * x."""
    second: FloatArray
    """(K, D) sum of posterior * x^2."""


def posteriors(regions: FloatArray, mixture: Mixture) -> FloatArray:
    """Compute the posterior probability of each component for (n, D) regions, (n, K)."""
    precision = 1 / mixture.variances
    distances = (
        np.square(regions) @ precision.T
        - 2 * regions @ (mixture.means * precision).T
        + (np.square(mixture.means) * precision).sum(axis=1)
    )
    with np.errstate(divide="ignore"):  # a component without regions has share 0
        log_joint = np.log(mixture.shares) - 0.5 * (distances + np.log(mixture.variances).sum(axis=1))
    log_joint -= log_joint.max(axis=1, keepdims=True)
    joint: FloatArray = np.exp(log_joint)
    joint /= joint.sum(axis=1, keepdims=True)
    return joint


def sums_of(regions: NDArray[np.floating], mixture: Mixture) -> Sums:
    """Compute the sufficient statistics of (n, D) regions, part by part."""
    components, width = mixture.means.shape
    counts, first, second = np.zeros(components), np.zeros((components, width)), np.zeros((components, width))
    for part in _parts(regions):
        weights = posteriors(part, mixture)
        counts += weights.sum(axis=0)
        first += weights.T @ part
        second += weights.T @ np.square(part)
    return Sums(counts, first, second)


def fit_mixture(sample: NDArray[np.float32], centroids: NDArray[np.float32]) -> Mixture:
    """Fit a mixture by EM, starting from k-means clusters.

    Args:
        sample: (m, D) standardized training regions.
        centroids: (K, D) centroids of k-means.
    """
    counts, squares = np.zeros(len(centroids)), np.zeros(centroids.shape)
    for part in _parts(sample):
        members = np.eye(len(centroids))[squared_distances(part, centroids).argmin(axis=1)]
        counts += members.sum(axis=0)
        squares += members.T @ np.square(part)
    means = centroids.astype(np.float64)
    variances = np.maximum(squares / np.maximum(counts, 1)[:, None] - np.square(means), LEAST_VARIANCE)
    mixture = Mixture(counts / len(sample), means, variances)
    for _ in range(ITERATIONS):
        mixture = _maximized(sums_of(sample, mixture), mixture)
    return mixture


def _maximized(sums: Sums, before: Mixture) -> Mixture:
    """M-step; components without regions do not change."""
    counts = np.maximum(sums.counts, np.finfo(np.float64).tiny)[:, None]
    kept = (sums.counts > 1e-6)[:, None]
    means = np.where(kept, sums.first / counts, before.means)
    variances = np.where(kept, np.maximum(sums.second / counts - np.square(means), LEAST_VARIANCE), before.variances)
    return Mixture(sums.counts / sums.counts.sum(), means, variances)


def statistics(sums: Sums, mixture: Mixture) -> FloatArray:
    """Compute the descriptor of a slide from its sufficient statistics, (K (1 + 2 D),)."""
    weight = (sums.counts + PRIOR_REGIONS)[:, None]
    means = (sums.first + PRIOR_REGIONS * mixture.means) / weight
    squares = (sums.second + PRIOR_REGIONS * (mixture.variances + np.square(mixture.means))) / weight
    variances = np.maximum(squares - np.square(means), 0)
    return np.concatenate([sums.counts / sums.counts.sum(), means.ravel(), variances.ravel()])


def _parts(regions: NDArray[np.floating]) -> Iterator[FloatArray]:
    for start in range(0, len(regions), PART):
        yield regions[start : start + PART].astype(np.float64)


class MixtureStatistics(Descriptor):
    """See the module."""

    is_fitted: ClassVar = True
    clusters: ClassVar = PROTOTYPES

    def fit(self, bags: Bags, train: IntArray, *, clusters: int, seed: int) -> Fitted:
        """See `Descriptor.fit`."""
        cohort, sample = fit_prototypes(bags, train, clusters, seed)
        mixture = fit_mixture(sample, cohort.centroids)
        fitted = {"shares": mixture.shares, "means": mixture.means, "variances": mixture.variances}
        return self.restore({"mean": cohort.scaler.mean, "sd": cohort.scaler.sd, **fitted}, clusters=clusters)

    def restore(self, parameters: Mapping[str, NDArray[Any]], *, clusters: int) -> Fitted:  # noqa: ARG002
        """See `Descriptor.restore`."""
        scaler = scaler_of(parameters)
        mixture = Mixture(*(np.asarray(parameters[name]) for name in ("shares", "means", "variances")))
        shape = (len(mixture.shares), *scaler.mean.shape)
        if scaler.mean.ndim != 1 or mixture.means.shape != shape or mixture.variances.shape != shape:
            raise ValueError("the arrays of the mixture do not match")
        if not (mixture.variances > 0).all() or not (mixture.shares >= 0).all() or not mixture.shares.any():
            raise ValueError("the mixture has variances or shares that are not above 0")

        def describe(regions: NDArray[np.float32]) -> Described:
            return as_vector(statistics(sums_of(standardize(regions, scaler), mixture), mixture))

        return Fitted(describe, parameters)


DESCRIPTOR = MixtureStatistics()
