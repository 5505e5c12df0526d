from __future__ import annotations

import pytest
import torch
from torch import Tensor

from slpd_toolkit.config.views import AugmentationConfig
from slpd_toolkit.objectives.augment import (
    TokenStatistics,
    add_noise,
    add_region_offset,
    augment,
    draw_blocks,
    draw_shown,
)
from slpd_toolkit.objectives.crops import Masks, Views

SCALE = torch.tensor([0.0, 0.5, 2.0, 10.0])
EVERYTHING = AugmentationConfig(token_noise=1.0, token_offset=1.0, region_offset=1.0, token_dropout=0.5, block_mask=0.5)
COHORT = TokenStatistics(SCALE, torch.eye(4))


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def views(regions: int = 50, dtype: torch.dtype = torch.float16) -> Views:
    return Views(
        torch.randn(2, regions, 14, 14, 4, generator=rng()).to(dtype),
        torch.randn(3, regions, 6, 6, 4, generator=rng(1)).to(dtype),
    )


def pair(masks: Masks | None) -> tuple[Tensor, Tensor]:
    assert masks is not None
    return masks.global_crops, masks.local_crops


def test_nothing_to_do_does_nothing_and_draws_nothing() -> None:
    given, source = views(), rng()
    before = source.get_state()
    assert augment(given, AugmentationConfig(), None, source) is given
    assert torch.equal(source.get_state(), before)


@pytest.mark.parametrize("name", ["token_noise", "token_offset", "region_offset"])
def test_noise_and_offsets_need_the_statistics_of_the_cohort(name: str) -> None:
    with pytest.raises(ValueError, match="require the statistics"):
        augment(views(), AugmentationConfig(**{name: 1.0}), None, rng())  # type: ignore[arg-type]


def test_noise_has_the_deviation_asked_for_and_is_each_token_s_own() -> None:
    given = views()
    found = augment(given, AugmentationConfig(token_noise=1.0), COHORT, rng())
    for before, after in ((given.global_crops, found.global_crops), (given.local_crops, found.local_crops)):
        noise = (after.double() - before.double()).reshape(-1, 4)
        torch.testing.assert_close(noise.std(0), SCALE.double(), rtol=0.03, atol=1e-6)
        assert (noise.mean(0).abs() <= 0.03 * SCALE + 1e-6).all()
        assert len(set(noise[:, 2].tolist())) > 0.99 * len(noise)
    assert torch.equal(found.global_crops[..., 0], given.global_crops[..., 0].float())
    assert found.student_sees is found.teacher_sees is None
    assert not torch.equal(found.global_crops[0] - given.global_crops[0], found.global_crops[1] - given.global_crops[1])


def test_an_offset_is_shared_by_the_tokens_of_a_view_and_by_no_others() -> None:
    given = views(400, torch.float32)
    found = augment(given, AugmentationConfig(token_offset=1.0), COHORT, rng())
    offsets = []
    for before, after in ((given.global_crops, found.global_crops), (given.local_crops, found.local_crops)):
        offset = after - before
        torch.testing.assert_close(offset, offset[:, :, :1, :1].expand_as(offset), atol=1e-5, rtol=1e-4)
        offsets.append(offset[:, :, 0, 0].flatten(0, 1))
    each = torch.cat(offsets)
    torch.testing.assert_close(each.std(0), SCALE, rtol=0.07, atol=1e-6)
    assert (each.mean(0).abs() <= 0.1 * SCALE + 1e-6).all()
    assert len(set(each[:, 3].tolist())) == len(each) == 5 * 400


def test_a_region_offset_is_the_difference_of_two_means_and_each_view_s_own() -> None:
    given, means = views(400, torch.float32), torch.randn(7, 4, generator=rng(5)) * SCALE
    found = augment(given, AugmentationConfig(region_offset=0.5), TokenStatistics(SCALE, 2 * means), rng())
    possible = (means[:, None] - means).reshape(-1, 4)
    for before, after in ((given.global_crops, found.global_crops), (given.local_crops, found.local_crops)):
        offset = after - before
        torch.testing.assert_close(offset, offset[:, :, :1, :1].expand_as(offset), atol=1e-5, rtol=1e-4)
        nearest = torch.cdist(offset[:, :, 0, 0].flatten(0, 1).double(), possible.double()).min(1)
        assert nearest.values.max() < 1e-4
        assert len(set(nearest.indices.tolist())) == 43  # 7 x 6 differences, and nothing where both are the same
        assert not torch.allclose(offset[0], offset[1])
    assert found.student_sees is None


def test_region_offsets_vary_the_way_that_regions_do() -> None:
    means = torch.randn(300, 4, generator=rng(5)) @ torch.tensor([[1.0, 2.0, 0.0, 0.0]] * 4)
    offsets = add_region_offset(torch.zeros(8, 500, 1, 1, 4), means, rng()).reshape(-1, 4)
    torch.testing.assert_close(torch.cov(offsets.T), 2 * torch.cov(means.T), rtol=0.15, atol=1e-4)


def test_small_noise_on_half_precision_is_not_rounded_away() -> None:
    tokens = torch.full((1, 1, 4, 4, 1), 1000.0, dtype=torch.float16)  # whose neighbours are 0.5 away
    noisy = add_noise(tokens, torch.tensor([0.01]), rng(), shared=False)
    assert noisy.dtype == torch.float32
    assert (noisy != 1000).all()


def test_offset_and_noise_add_up() -> None:
    given = views(400)
    both = augment(given, AugmentationConfig(token_noise=1.0, token_offset=2.0), COHORT, rng())
    spread = (both.global_crops.float() - given.global_crops.float())[..., 2].std()
    torch.testing.assert_close(spread, SCALE[2] * 5**0.5, rtol=0.1, atol=0)


@pytest.mark.parametrize("dropout", [0.1, 0.7])
def test_dropout_hides_its_share_of_every_student_view_and_nothing_of_the_teacher_s(dropout: float) -> None:
    given = views()
    found = augment(given, AugmentationConfig(token_dropout=dropout), None, rng())
    assert found.teacher_sees is None
    assert found.global_crops is given.global_crops
    for shown, view in zip(pair(found.student_sees), (given.global_crops, given.local_crops), strict=True):
        assert shown.shape == view.shape[:-1]
        assert abs(float(shown.double().mean()) - (1 - dropout)) < 0.02
        assert len({tuple(mask.flatten().tolist()) for mask in shown.flatten(0, 1)}) > 0.9 * len(shown.flatten(0, 1))


def test_what_is_missing_stays_missing_and_the_teacher_sees_the_rest() -> None:
    given = views()
    sizes = (given.global_crops, given.local_crops)
    present = Masks(*(torch.rand(view.shape[:-1], generator=rng(5)) < 0.5 for view in sizes))
    given = given._replace(teacher_sees=present, student_sees=present)
    settings = AugmentationConfig(token_dropout=0.3, block_mask=0.2)
    found = augment(given, settings, None, rng())
    assert found.teacher_sees is present
    drawn = draw_shown(given, settings, rng())
    for shown, there, alone in zip(pair(found.student_sees), present, drawn, strict=True):
        assert torch.equal(shown, there & alone)


@pytest.mark.parametrize("side", [14, 6, 1])
@pytest.mark.parametrize("share", [0.01, 0.1, 0.3, 0.5, 0.9])
def test_a_block_is_one_rectangle_of_the_area_asked_for(side: int, share: float) -> None:
    blocks = draw_blocks((2, 300, side, side), share, torch.device("cpu"), rng())
    area, ratios = share * side**2, set()
    for block in blocks.flatten(0, 1):
        rows, columns = block.any(1).nonzero().flatten(), block.any(0).nonzero().flatten()
        height, width = len(rows), len(columns)
        assert rows.tolist() == list(range(int(rows[0]), int(rows[0]) + height))
        assert columns.tolist() == list(range(int(columns[0]), int(columns[0]) + width))
        assert int(block.sum()) == height * width
        assert abs(height * width - area) <= max(1, height / 2)
        if side < area < 0.5 * side**2:
            assert max(height, width) < 2.6 * min(height, width)
        ratios.add((height, width))
    assert side < 14 or len(ratios) > (3 if 0.1 <= share <= 0.5 else 1)


def test_blocks_lie_anywhere_alike() -> None:
    blocks = draw_blocks((1, 20_000, 6, 6), 1 / 36, torch.device("cpu"), rng())
    assert int(blocks.sum()) == 20_000
    torch.testing.assert_close(blocks.double().mean((0, 1)), torch.full((6, 6), 1 / 36).double(), atol=0.005, rtol=0)


def test_the_block_is_hidden_in_global_views_alone() -> None:
    shown = pair(augment(views(), AugmentationConfig(block_mask=0.25), None, rng()).student_sees)
    assert ((~shown[0]).sum((2, 3)) - 49).abs().max() <= 5
    assert shown[1].all()


def test_views_without_local_crops_are_augmented_too() -> None:
    given = views()._replace(local_crops=torch.zeros(0, 50, 6, 6, 4))
    found = augment(given, EVERYTHING, COHORT, rng())
    assert pair(found.student_sees)[1].shape == (0, 50, 6, 6)


def test_all_follows_the_generator_alone() -> None:
    first, again, other = (augment(views(), EVERYTHING, COHORT, rng(seed)) for seed in (3, 3, 4))
    for one, two, three in (
        (first.global_crops, again.global_crops, other.global_crops),
        (first.local_crops, again.local_crops, other.local_crops),
        *zip(pair(first.student_sees), pair(again.student_sees), pair(other.student_sees), strict=True),
    ):
        assert torch.equal(one, two)
        assert not torch.equal(one, three)
