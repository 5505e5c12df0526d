from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from slpd_toolkit.config.objective import SlidePrototypesConfig
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.vectors import kmeans
from slpd_toolkit.objectives.slide_prototypes import PrototypeBank, build_bank

K, D, MIN_REGIONS, R = 3, 8, 6, 2
REGIONS_PER_SLIDE = (9, 4, 7, 12, 5, 6, 8)  # slides 1 and 4 have too few


def cohort(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Draw unit vectors of regions in random order, and the slide of each."""
    rng = torch.Generator().manual_seed(seed)
    slides = torch.arange(len(REGIONS_PER_SLIDE)).repeat_interleave(torch.tensor(REGIONS_PER_SLIDE))
    slides = slides[torch.randperm(len(slides), generator=rng)]
    return F.normalize(torch.randn(len(slides), D, generator=rng), dim=-1), slides


def bank_of(vectors: Tensor, slides: Tensor, **settings: object) -> PrototypeBank:
    seed: Any = settings.pop("seed", 0)
    backbone: Any = settings.pop("backbone", None)
    if backbone is not None:
        settings["cluster_features"] = "backbone"
    chosen: dict[str, Any] = {"clusters": K, "min_regions": MIN_REGIONS, "neighbours": R} | settings
    return build_bank(vectors, slides, SlidePrototypesConfig(**chosen), backbone=backbone, seed=seed)


def test_kmeans_finds_well_separated_clusters() -> None:
    rng = torch.Generator().manual_seed(0)
    centres = 10 * torch.eye(4, 5)
    truth = torch.arange(4).repeat(10)
    vectors = centres[truth] + 0.1 * torch.randn(40, 5, generator=rng)
    centroids, assigned = kmeans(vectors.numpy(), 4)
    for cluster in range(4):
        members = vectors[torch.from_numpy(assigned) == cluster]
        assert len(members) == 10
        torch.testing.assert_close(torch.from_numpy(centroids[cluster]), members.mean(0))
    assert all(len(set(assigned[truth == cluster])) == 1 for cluster in range(4))


def test_kmeans_beats_a_single_start_and_repeats_itself() -> None:
    vectors, _ = cohort()

    def cost(restarts: int) -> float:
        centroids, assigned = kmeans(vectors.numpy(), 6, restarts=restarts)
        return float(((vectors.numpy() - centroids[assigned]) ** 2).sum())

    assert cost(20) <= cost(5) <= cost(1)
    assert cost(20) < cost(1)
    assert cost(5) == cost(5)


def test_slides_with_too_few_regions_are_nowhere_in_the_bank() -> None:
    vectors, slides = cohort()
    bank = bank_of(vectors, slides)
    assert bank.slides.tolist() == [0, 2, 3, 5, 6]
    excluded = (slides == 1) | (slides == 4)
    assert torch.equal(bank.row < 0, excluded)
    assert torch.equal(bank.cluster < 0, excluded)
    assert torch.equal(bank.slides[bank.row[~excluded]], slides[~excluded])
    assert bank.neighbours.shape == (5, R)
    assert (bank.neighbours != torch.arange(5).unsqueeze(1)).all()


def test_prototypes_are_the_unit_centroids_of_the_regions_given_to_them() -> None:
    vectors, slides = cohort()
    bank = bank_of(vectors, slides)
    torch.testing.assert_close(bank.prototypes.norm(dim=-1), torch.ones(5, K))
    for row, slide in enumerate(bank.slides):
        regions = slides == slide
        for cluster in range(K):
            members = vectors[regions & (bank.cluster == cluster)]
            torch.testing.assert_close(bank.prototypes[row, cluster], F.normalize(members.mean(0), dim=0))


def test_the_order_of_the_regions_does_not_matter() -> None:
    vectors, slides = cohort()
    order = slides.argsort(stable=True)
    shuffled, grouped = bank_of(vectors, slides), bank_of(vectors[order], slides[order])
    assert torch.equal(shuffled.prototypes, grouped.prototypes)
    assert torch.equal(shuffled.cluster[order], grouped.cluster)
    assert torch.equal(shuffled.neighbours, grouped.neighbours)


def test_the_seed_decides_and_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    vectors, slides = cohort()
    first, again, other = (bank_of(vectors, slides, seed=seed) for seed in (0, 0, 5))
    assert torch.equal(first.prototypes, again.prototypes)
    assert not torch.equal(first.prototypes, other.prototypes)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("correspondence", ["matched", "nearest"])
def test_targets_are_what_a_loop_over_regions_looks_up(correspondence: str) -> None:
    vectors, slides = cohort()
    bank = bank_of(vectors, slides, correspondence=correspondence)
    batch = torch.randperm(len(slides), generator=torch.Generator().manual_seed(1))[:30]
    targets = bank.targets(batch)
    rows = {int(slide): row for row, slide in enumerate(bank.slides)}
    assert 0 < targets.valid.sum() < 30
    for b, region in enumerate(batch):
        row = rows.get(int(slides[region]))
        assert bool(targets.valid[b]) == (row is not None)
        if row is None:
            assert not targets.own[b].any()
            assert not targets.neighbours[:, b].any()
            continue
        cluster = int(bank.cluster[region])
        assert torch.equal(targets.own[b], bank.prototypes[row, cluster])
        for j in range(R):
            theirs = bank.prototypes[bank.neighbours[row, j]]
            expected = theirs[bank.counterpart[row, cluster, j]]
            assert torch.equal(targets.neighbours[j, b], expected)
            if correspondence == "nearest":
                assert torch.equal(expected, theirs[(theirs @ targets.own[b]).argmax()])


def test_clusters_of_other_features_average_the_bottleneck_of_their_members() -> None:
    vectors, slides = cohort()
    features = torch.randn(len(slides), 3, generator=torch.Generator().manual_seed(9))
    bank = bank_of(vectors, slides, backbone=features)
    regions = torch.nonzero(slides == bank.slides[1]).squeeze(1)
    _, assigned = kmeans(F.normalize(features[regions], dim=1).numpy(), K)
    assert torch.equal(bank.cluster[regions], torch.from_numpy(assigned))
    lengths = torch.linspace(0.1, 50, len(slides)).unsqueeze(1)
    longer = bank_of(vectors, slides, backbone=features * lengths)
    assert torch.equal(longer.cluster, bank.cluster)  # as published, the length of a region embedding does not matter
    for cluster in range(K):
        members = vectors[regions][torch.from_numpy(assigned) == cluster]
        torch.testing.assert_close(bank.prototypes[1, cluster], F.normalize(members.mean(0), dim=0))


def test_quality_counts_sizes_and_finds_degenerate_clusters() -> None:
    vectors, slides = cohort()
    vectors[slides == 3] = vectors[slides == 3][0].clone()  # a blank slide: all regions alike
    bank = bank_of(vectors, slides)
    sizes = bank.cluster_sizes()
    assert sizes.sum(1).tolist() == [9, 7, 12, 6, 8]
    assert sorted(sizes[2].tolist()) == [0, 0, 12]
    quality = bank.quality()
    assert (quality.smallest, quality.largest) == (0, 12)
    assert quality.empty == pytest.approx(2 / 15)
    singles = int((sizes == 1).sum())
    assert quality.degenerate == pytest.approx((singles + 2) / 15)


def test_an_empty_cluster_of_other_features_still_has_a_prototype() -> None:
    vectors, slides = cohort()
    bank = bank_of(vectors, slides, backbone=torch.ones(len(slides), 3))
    assert bank.quality().empty == pytest.approx(2 / 3)
    torch.testing.assert_close(bank.prototypes.norm(dim=-1), torch.ones(5, K))


def test_settings_that_no_slide_can_meet_are_refused() -> None:
    vectors, slides = cohort()
    with pytest.raises(ValueError, match="requires the backbone embeddings"):
        bank_of(vectors, slides, cluster_features="backbone")
    with pytest.raises(UsageError, match="1 slide has at least 12 regions, but 2 neighbors require 3 slides"):
        bank_of(vectors, slides, min_regions=12)


def test_no_slide_gets_more_prototypes_than_it_has_regions() -> None:
    vectors, slides = cohort()
    assert bank_of(vectors, slides, min_regions=1).slides.tolist() == [
        int(slide)
        for slide in slides.unique()  # type: ignore[no-untyped-call]
        if (slides == slide).sum() >= K
    ]


def test_a_bank_moves_as_one() -> None:
    bank = bank_of(*cohort()).to("meta")
    assert {getattr(bank, name).device.type for name in bank.__slots__} == {"meta"}
