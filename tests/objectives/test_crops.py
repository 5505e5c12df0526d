from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from slpd_toolkit.config.views import CropsConfig
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.objectives.crops import CropPlan, centre_crop, cut_crops, draw_crops


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cut_one(tokens: Tensor, plan: CropPlan, view: int, region: int, side: int) -> Tensor:
    """Cut one crop by slicing, like the published code."""
    top, left = int(plan.top[view, region]), int(plan.left[view, region])
    crop = tokens[region, top : top + side, left : left + side]
    if plan.flip_rows[view, region]:
        crop = crop.flip(0)
    if plan.flip_columns[view, region]:
        crop = crop.flip(1)
    return crop.rot90(int(plan.quarter_turns[view, region]))


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 4), st.integers(3, 9), st.integers(3, 9), st.integers(1, 3), st.integers(0, 3), st.integers(0, 99)
)
def test_one_gather_cuts_what_slicing_cuts(
    regions: int, height: int, width: int, global_crops: int, local_crops: int, seed: int
) -> None:
    if global_crops + local_crops < 2:
        local_crops = 1
    crops = CropsConfig(
        global_crops=global_crops,
        global_side=3,
        local_crops=local_crops,
        local_side=2,
        flip_up_down=0.5,
        quarter_turns=0.7,
    )
    tokens = torch.randn(regions, height, width, 4, generator=generator(seed))
    plan = draw_crops(crops, regions, (height, width), generator(seed))
    present = torch.rand(regions, height, width, generator=generator(seed)) < 0.5
    views = cut_crops(tokens, crops, plan, present)
    masks = views.teacher_sees
    assert masks is not None
    assert views.student_sees is masks
    for view in range(global_crops):
        for b in range(regions):
            assert torch.equal(views.global_crops[view, b], cut_one(tokens, plan, view, b, 3))
            assert torch.equal(masks.global_crops[view, b], cut_one(present, plan, view, b, 3))
    for view in range(local_crops):
        for b in range(regions):
            assert torch.equal(views.local_crops[view, b], cut_one(tokens, plan, global_crops + view, b, 2))
            assert torch.equal(masks.local_crops[view, b], cut_one(present, plan, global_crops + view, b, 2))


def test_every_flip_and_turn_is_that_of_torch() -> None:
    """All sixteen combinations, which are the eight symmetries of a square, each twice."""
    crops = CropsConfig(global_crops=1, global_side=3, local_crops=1, local_side=3)
    rows, columns, turns = (axis.flatten() for axis in torch.meshgrid(*map(torch.arange, (2, 2, 4)), indexing="ij"))
    tokens = torch.arange(20.0).view(1, 4, 5, 1).expand(16, -1, -1, -1).contiguous()
    corner = torch.ones(2, 16, dtype=torch.int64)
    plan = CropPlan(corner, corner, rows.bool().expand(2, -1), columns.bool().expand(2, -1), turns.expand(2, -1))
    found = cut_crops(tokens, crops, plan)
    assert found.teacher_sees is found.student_sees is None
    seen = set()
    for b, (down, across, turn) in enumerate(zip(rows, columns, turns, strict=True)):
        crop = tokens[b, 1:4, 1:4]
        crop = torch.rot90(crop.flip([axis for axis, flipped in ((0, down), (1, across)) if flipped]), int(turn))
        assert torch.equal(found.global_crops[0, b], crop)
        assert torch.equal(found.local_crops[0, b], crop)
        seen.add(tuple(crop.flatten().tolist()))
    assert len(seen) == 8


@pytest.mark.parametrize("probability", [0.4, 1.0])
def test_turns_are_uniform_with_their_probability_and_change_no_other_draw(probability: float) -> None:
    plain = draw_crops(CropsConfig(flip_up_down=0.5), 5_000, (16, 16), generator())
    turned = draw_crops(CropsConfig(flip_up_down=0.5, quarter_turns=probability), 5_000, (16, 16), generator())
    assert not plain.quarter_turns.any()
    assert all(torch.equal(one, two) for one, two in zip(plain[:4], turned[:4], strict=True))
    shares = torch.bincount(turned.quarter_turns.flatten()) / turned.quarter_turns.numel()
    wanted = torch.tensor([1 - 0.75 * probability] + 3 * [probability / 4])
    torch.testing.assert_close(shares, wanted, atol=0.01, rtol=0)


def test_offsets_are_uniform_over_every_place_that_fits() -> None:
    crops = CropsConfig(global_crops=1, global_side=14, local_crops=1, local_side=6)
    plan = draw_crops(crops, 20_000, (16, 18), generator())
    for offsets, places in (
        (plan.top[0], 3),
        (plan.left[0], 5),
        (plan.top[1], 11),
        (plan.left[1], 13),
    ):
        counts = torch.bincount(offsets)
        assert len(counts) == places
        assert (counts / 20_000 - 1 / places).abs().max() < 0.02


def test_flips_happen_with_their_own_probability_on_their_own_axis() -> None:
    plan = draw_crops(CropsConfig(flip_left_right=0.5), 5_000, (16, 16), generator())
    assert not plan.flip_rows.any()
    assert abs(float(plan.flip_columns.double().mean()) - 0.5) < 0.02
    plan = draw_crops(CropsConfig(flip_left_right=0.0, flip_up_down=0.25), 5_000, (16, 16), generator())
    assert not plan.flip_columns.any()
    assert abs(float(plan.flip_rows.double().mean()) - 0.25) < 0.02


def test_a_plan_follows_its_generator_alone() -> None:
    first, again, other = (draw_crops(CropsConfig(), 7, (16, 16), generator(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.top, other.top)


def test_processes_that_share_a_plan_cut_the_same_views_as_one() -> None:
    tokens = torch.randn(6, 16, 16, 2, generator=generator())
    crops = CropsConfig()
    plan = draw_crops(crops, 6, (16, 16), generator())
    whole = cut_crops(tokens, crops, plan)
    second = cut_crops(tokens[3:], crops, plan.of_regions(slice(3, 6)))
    assert torch.equal(whole.local_crops[:, 3:], second.local_crops)
    assert torch.equal(whole.global_crops[:, 3:], second.global_crops)


def test_the_centre_crop_lies_in_the_middle() -> None:
    tokens = torch.arange(16 * 16.0).view(1, 16, 16, 1)
    crop = centre_crop(tokens, 14)
    assert crop.shape == (1, 14, 14, 1)
    assert crop[0, 0, 0, 0] == 17
    assert torch.equal(centre_crop(tokens, 16), tokens)


def test_a_crop_larger_than_the_grid_is_refused() -> None:
    with pytest.raises(ValueError, match="14 tokens do not fit into a grid of 16 x 8"):
        draw_crops(CropsConfig(), 2, (16, 8), generator())


@pytest.mark.parametrize("arguments", [{"global_crops": 0}, {"global_crops": 1, "local_crops": 0}, {"local_side": 0}])
def test_crops_that_leave_nothing_to_learn_from_are_refused(arguments: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        CropsConfig(**arguments)
