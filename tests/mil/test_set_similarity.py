from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from slpd_toolkit.mil.bags import Bags
from slpd_toolkit.mil.set_similarity import match_sets, padded_sets, similarities
from slpd_toolkit.objectives.matching import match

RNG = np.random.default_rng(0)


def exact(cosines: np.ndarray, weights: np.ndarray, others: np.ndarray) -> float:
    """The linear program itself."""
    k, n = cosines.shape
    masses = np.concatenate([np.kron(np.eye(k), np.ones(n)), np.kron(np.ones(k), np.eye(n))])
    return float(-linprog(-cosines.ravel(), A_eq=masses, b_eq=np.concatenate([weights, others])).fun)


@pytest.mark.parametrize(("k", "others"), [(1, 1), (1, 5), (3, 3), (4, 6), (7, 2), (9, 9)])
def test_equals_the_linear_program(k: int, others: int) -> None:
    cosines = RNG.uniform(-1, 1, size=(12, k, others))
    cosines[:4] = np.round(cosines[:4], 1)  # with ties
    a, b = RNG.dirichlet(np.ones(k), size=12), RNG.dirichlet(np.full(others, 0.3), size=12)
    a[6:], b[6:] = 1 / k, 1 / others
    found, plans = match_sets(cosines, a, b)
    np.testing.assert_allclose(found, [exact(*each) for each in zip(cosines, a, b, strict=True)], atol=1e-9)
    assert (plans >= 0).all()
    np.testing.assert_allclose(plans.sum(axis=2), a, atol=1e-9)
    np.testing.assert_allclose(plans.sum(axis=1), b, atol=1e-9)


def test_with_equal_weights_it_is_the_best_one_to_one_matching() -> None:
    cosines = RNG.uniform(-1, 1, size=(20, 4, 4))
    uniform = np.full((20, 4), 0.25)
    found, _ = match_sets(cosines, uniform, uniform)
    best = [max(sum(each[i, p[i]] for i in range(4)) for p in permutations(range(4))) for each in cosines]
    np.testing.assert_allclose(found, np.array(best) / 4, atol=1e-12)
    np.testing.assert_allclose(found, match(torch.tensor(cosines))[0] / 4, atol=1e-12)


def test_padding_and_splitting_a_vector_change_nothing() -> None:
    cosines, a, b = RNG.uniform(-1, 1, size=(1, 3, 4)), RNG.dirichlet(np.ones(3), 1), RNG.dirichlet(np.ones(4), 1)
    (plain,), _ = match_sets(cosines, a, b)
    (padded,), _ = match_sets(
        np.pad(cosines, ((0, 0), (0, 2), (0, 1))), np.pad(a, ((0, 0), (0, 2))), np.pad(b, ((0, 0), (0, 1)))
    )
    halves = np.concatenate([a[:, :1] / 2, a[:, :1] / 2, a[:, 1:]], axis=1)
    (split,), _ = match_sets(np.concatenate([cosines[:, :1], cosines], axis=1), halves, b)
    assert padded == pytest.approx(plain, abs=1e-12)
    assert split == pytest.approx(plain, abs=1e-12)


def test_all_pairs_are_symmetric_and_a_set_equals_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slpd_toolkit.mil.set_similarity.PAIRS", 3)
    bags = Bags.pack({f"s{i}": RNG.normal(size=(size, 5)) for i, size in enumerate((2, 4, 1, 3))})
    sets = padded_sets(bags)
    found = similarities(sets, sets)
    np.testing.assert_allclose(found, found.T)
    np.testing.assert_allclose(np.diag(found), 1, atol=1e-6)
    unit = bags.features / np.linalg.norm(bags.features, axis=1, keepdims=True)
    assert found[0, 2] == pytest.approx((unit[:2] @ unit[6]).mean(), abs=1e-6)
