from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.objectives import matching
from slpd_toolkit.objectives.matching import Neighbours, corresponding, match, nearest_slides
from tests.published import PublishedNumbers, relative_error


def random_prototypes(n: int, k: int, d: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(n, k, d, generator=torch.Generator().manual_seed(seed)), dim=-1)


def best_by_enumeration(a: Tensor, b: Tensor) -> float:
    cosines = a @ b.T
    return max(
        float(sum(cosines[k, s] for k, s in enumerate(order))) for order in itertools.permutations(range(len(a)))
    )


def check_against_enumeration(prototypes: Tensor, near: Neighbours, r: int) -> None:
    n, k, _ = prototypes.shape
    value = torch.tensor([[best_by_enumeration(a, b) for b in prototypes] for a in prototypes])
    value.fill_diagonal_(-torch.inf)
    torch.testing.assert_close(near.similarity, value.topk(r).values, atol=3e-6, rtol=0)
    torch.testing.assert_close(value.gather(1, near.index), near.similarity, atol=3e-6, rtol=0)
    for i in range(n):
        assert len(set(near.index[i].tolist()) - {i}) == r
        for j in range(r):
            order = near.permutation[i, j]
            assert sorted(order.tolist()) == list(range(k))
            total = (prototypes[i] * prototypes[near.index[i, j]][order]).sum()
            torch.testing.assert_close(total, near.similarity[i, j], atol=1e-5, rtol=0)


def test_matchings_and_neighbours_are_those_of_the_published_code(published: PublishedNumbers) -> None:
    n, k, r = (published.meta[key] for key in ("N", "K", "r"))
    prototypes = F.normalize(published.input("slide_prototypes", n, k, 256), dim=-1)
    similarity, permutation = match(torch.einsum("nkd,mld->nmkl", prototypes, prototypes).flatten(0, 1))
    assert relative_error(similarity.view(n, n), published["neighbours/similarity"]) < 1e-5
    assert torch.equal(permutation.view(n, n, k), published["neighbours/best_permutation"].long())
    near = nearest_slides(prototypes, r)
    assert torch.equal(near.index, published["neighbours/index"])
    assert torch.equal(
        corresponding(prototypes, near, "nearest"), published["neighbours/nearest_prototype"].view(n, k, r)
    )
    chosen = published["neighbours/best_permutation"].long()[torch.arange(n).unsqueeze(1), near.index]
    assert torch.equal(corresponding(prototypes, near, "matched"), chosen.transpose(1, 2))


@pytest.mark.slow
@settings(deadline=None, max_examples=25)
@given(st.integers(2, 9), st.integers(1, 5), st.integers(2, 5), st.integers(0, 999), st.data())
def test_neighbours_are_exact_for_any_shape(n: int, k: int, d: int, seed: int, data: st.DataObject) -> None:
    prototypes = random_prototypes(n, k, d, seed)
    r = data.draw(st.integers(1, n - 1))
    check_against_enumeration(prototypes, nearest_slides(prototypes, r), r)


@pytest.mark.slow
def test_more_prototypes_than_can_be_enumerated_are_assigned() -> None:
    assert matching.MAX_ENUMERATED < 720
    prototypes = random_prototypes(7, 6, 3, seed=0)
    check_against_enumeration(prototypes, nearest_slides(prototypes, 2), 2)


def test_blocks_of_slides_give_what_one_block_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    prototypes = random_prototypes(40, 3, 8, seed=1)
    whole = nearest_slides(prototypes, 3)
    for slides, pairs in ((1, 1), (7, 5), (39, 1000)):
        monkeypatch.setattr(matching, "BLOCK_VALUES", slides * 40 * 9)
        monkeypatch.setattr(matching, "MIN_BLOCK_SLIDES", 1)
        monkeypatch.setattr(matching, "PAIRS", pairs)
        blocks = nearest_slides(prototypes, 3)
        assert torch.equal(blocks.index, whole.index)
        assert torch.equal(blocks.permutation, whole.permutation)


def test_the_bound_is_never_below_the_best_matching_and_sometimes_reaches_it() -> None:
    prototypes = random_prototypes(30, 4, 16, seed=2)
    bound = matching._matching_bound(prototypes.transpose(0, 1).contiguous(), range(30))
    exact = match(torch.einsum("nkd,mld->nmkl", prototypes, prototypes).flatten(0, 1))[0].view(30, 30)
    assert (bound >= exact - 1e-5).all()
    assert ((bound - exact) < 1e-5).double().mean() > 0.1


@pytest.mark.parametrize("fast", [torch.float32, torch.bfloat16])
def test_no_cosine_changes_by_more_than_the_margin_when_its_factors_are_rounded(fast: torch.dtype) -> None:
    prototypes = random_prototypes(50, 3, 16, seed=7)
    rounded = prototypes.to(fast)
    allowed = matching._largest_change(prototypes, rounded.transpose(0, 1))
    a, b = prototypes.flatten(0, 1).double(), rounded.flatten(0, 1).double()
    assert (a @ a.T - b @ b.T).abs().max() <= allowed
    assert (allowed > 1e-3) == (fast == torch.bfloat16)


@pytest.mark.slow
@pytest.mark.parametrize("fast", [torch.float32, torch.bfloat16])
def test_slides_that_differ_by_less_than_a_rounding_are_still_told_apart(
    fast: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matching, "_fast_dtype", lambda _: fast)
    origin = random_prototypes(1, 3, 16, seed=5)
    shifts = torch.randn(60, 3, 16, generator=torch.Generator().manual_seed(6))
    prototypes = F.normalize(origin + 0.02 * shifts, dim=-1)  # cosines agree to three digits, bfloat16 has two
    check_against_enumeration(prototypes, nearest_slides(prototypes, 2), 2)


def test_slides_that_are_all_alike_still_get_other_slides_as_neighbours() -> None:
    prototypes = random_prototypes(1, 4, 8, seed=3).expand(12, 4, 8).contiguous()
    near = nearest_slides(prototypes, 2)
    assert (near.index != torch.arange(12).unsqueeze(1)).all()
    torch.testing.assert_close(near.similarity, torch.full((12, 2), 4.0))


def test_a_shuffled_copy_of_a_slide_is_its_neighbour_and_the_shuffle_its_matching() -> None:
    prototypes = random_prototypes(20, 6, 16, seed=4)
    order = torch.tensor([3, 5, 0, 1, 4, 2])
    prototypes[11] = prototypes[2][order]
    near = nearest_slides(prototypes, 1)
    assert near.index[2, 0] == 11
    assert torch.equal(near.permutation[11, 0], order)
    assert torch.equal(near.permutation[2, 0], order.argsort())


def test_nearest_and_matched_differ_where_two_prototypes_want_the_same_partner() -> None:
    a = F.normalize(torch.tensor([[1.0, 0.1, 0.0], [1.0, -0.1, 0.0]]), dim=-1)
    b = F.normalize(torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]), dim=-1)
    prototypes = torch.stack((a, b))
    near = nearest_slides(prototypes, 1)
    assert corresponding(prototypes, near, "nearest")[0, :, 0].tolist() == [0, 0]
    assert sorted(corresponding(prototypes, near, "matched")[0, :, 0].tolist()) == [0, 1]


@pytest.mark.parametrize(("n", "r"), [(3, 3), (1, 1), (4, 0)])
def test_more_neighbours_than_slides_are_refused(n: int, r: int) -> None:
    with pytest.raises(UsageError, match=f"{r} neighbors were requested, but only {n} slides? ha(s|ve)"):
        nearest_slides(random_prototypes(n, 2, 4, seed=0), r)
