"""The objective of the slide ViT against the same formulas, term by term."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from slpd_toolkit.config.slide_vit import SlideHeadConfig, SlideObjectiveConfig, SlideViewsConfig, SlideViTConfig
from slpd_toolkit.models.slide_vit import SlideNetwork
from slpd_toolkit.objectives.slide_distillation import SlideDistillation, SlideViews
from slpd_toolkit.training.sampling import Schedule
from slpd_toolkit.training.slide_views import SlideBags, SlideViewSource

WIDTH = 5
HEAD = SlideHeadConfig(hidden_dim=12, bottleneck_dim=8, out_dim=20)
EVERY = SlideObjectiveConfig(slide_weight=1.0, region_weight=1.0)
VIEWS = SlideViewsConfig(global_share=0.6, local_share=0.3, hidden=0.4)


def bags(sizes: tuple[int, ...] = (9, 6, 12, 1)) -> SlideBags:
    rng = np.random.default_rng(0)
    places = np.concatenate([np.stack(np.divmod(rng.permutation(16)[:size], 4), axis=1) for size in sizes])
    return SlideBags(
        tuple(f"s{index}" for index in range(len(sizes))),
        rng.normal(size=(sum(sizes), WIDTH)).astype(np.float32),
        places.astype(np.float32),
        np.concatenate([[0], np.cumsum(sizes)]),
    )


def source(config: SlideViewsConfig = VIEWS, rank: int = 0, world: int = 1, batch: int = 4) -> SlideViewSource:
    return SlideViewSource(bags(), config, Schedule(4, batch, rank, world, seed=7), torch.device("cpu"))


def objective(config: SlideObjectiveConfig) -> SlideDistillation:
    weights = torch.Generator().manual_seed(0)
    vit = SlideViTConfig(embed_dim=8, depth=2, heads=2)
    found = SlideDistillation(config, SlideNetwork(vit, HEAD, weights, input_dim=WIDTH))
    with torch.no_grad():
        for each in found.student.parameters():
            each.add_(0.05 * torch.randn(each.shape, generator=weights))
        found.centre.copy_(torch.randn(20, generator=weights))
        found.region_centre.copy_(torch.randn(20, generator=weights))
    return found


@torch.no_grad()
def expected(of: SlideDistillation, views: SlideViews) -> tuple[dict[str, float], torch.Tensor]:
    config, count = of.config, views.slides
    t_slides, t_regions = (of.teacher.head(each) for each in of.teacher.backbone(views.large))
    slides, inside = of.student.backbone(views.large, views.hidden)
    large, regions = of.student.head(slides), of.student.head(inside)
    assert views.small is not None
    small = of.student.head(of.student.backbone(views.small)[0])
    students = torch.cat((large, small)).view(-1, count, 20)
    slide_losses, region_losses, content_losses = [], [], []
    scaled = (views.large.values - of.student.backbone.shift) / of.student.backbone.scale
    for q, target in enumerate(t_slides.view(-1, count, 20)):
        for v, view in enumerate(students):
            if q != v:
                p = ((target - of.centre) / config.teacher_temp).softmax(-1)
                slide_losses.append(-(p * F.log_softmax(view / config.student_temp, -1)).sum(-1).mean())
    means = []
    for row, mask in enumerate(views.hidden):
        p = ((t_regions[row][mask] - of.region_centre) / config.teacher_temp).softmax(-1)
        entropy = -(p * F.log_softmax(regions[row][mask] / config.student_temp, -1)).sum(-1)
        region_losses.append(entropy.mean() if mask.any() else entropy.sum())
        error = (of.student.decoder(inside[row][mask]) - scaled[row][mask]).square()
        content_losses.append(error.mean() if mask.any() else error.sum())
        means.append(t_regions[row][mask].mean(0) if mask.any() else torch.zeros(20))
    mean = torch.stack(means).mean(0)
    losses = {"content": content_losses, "slide": slide_losses, "region": region_losses}
    return {name: float(torch.stack(each).mean()) for name, each in losses.items()}, mean


def test_losses_and_centers_are_those_of_the_formulas() -> None:
    config = SlideObjectiveConfig(content_weight=3.0, slide_weight=0.5, region_weight=2.0)
    of = objective(config)
    of.student.backbone.fit_scale(1 + 2 * bags().values)
    views = source().cut(3, np.arange(4))
    losses = of(views)
    terms, mean = expected(of, views)
    assert {name: float(each) for name, each in losses.terms.items()} == pytest.approx(terms, rel=1e-4)
    assert float(losses.total.detach()) == pytest.approx(
        sum(config.weights[name] * value for name, value in terms.items()), rel=1e-4
    )
    torch.testing.assert_close(
        losses.centres["region_centre"], 0.9 * of.region_centre + 0.1 * mean, rtol=1e-4, atol=1e-5
    )


def test_what_does_not_distill_needs_no_teacher() -> None:
    of, views = objective(SlideObjectiveConfig()), source().cut(3, np.arange(4))
    before = of(views)
    of.teacher.requires_grad_(False).apply(lambda each: [value.fill_(torch.nan) for value in each.parameters()])
    after = of(views)
    assert after.total == before.total
    assert torch.equal(after.centres["centre"], of.centre)
    assert float(before.terms["slide"]) == float(before.terms["region"]) == 0


def test_parts_of_a_step_are_the_whole_step() -> None:
    of, views = objective(EVERY), source().cut(3, np.arange(4))
    whole = of(views)
    parts = [of(views.part(part)) for part in (slice(0, 2), slice(2, 4))]
    torch.testing.assert_close(torch.stack([part.total for part in parts]).mean(), whole.total)
    for name, centre in whole.centres.items():
        torch.testing.assert_close(torch.stack([part.centres[name] for part in parts]).mean(0), centre)


@pytest.mark.parametrize(
    ("views", "config"),
    [
        (VIEWS, SlideObjectiveConfig()),
        (replace(VIEWS, hidden=0.0), EVERY),
        (replace(VIEWS, local_views=0), replace(EVERY, region_weight=0.0)),
        (replace(VIEWS, global_views=1, local_views=0), replace(EVERY, slide_weight=0.0)),
    ],
)
def test_every_parameter_has_a_gradient_where_it_is_used(views: SlideViewsConfig, config: SlideObjectiveConfig) -> None:
    of = objective(config)
    losses = of(source(views).cut(0, np.arange(4)))
    losses.total.backward()
    assert torch.isfinite(losses.total)
    missing = {name for name, each in of.student.named_parameters() if each.grad is None}
    assert missing == set()


def test_views_are_compact_parts_of_one_slide_and_depend_on_seed_and_step_only() -> None:
    one, again, other = (source().cut(step, np.array([2, 0])) for step in (5, 5, 6))
    assert torch.equal(one.large.values, again.large.values)
    assert not torch.equal(one.large.values, other.large.values)
    alone = source().cut(5, np.array([0]))
    size = int(alone.large.present[0].sum())
    assert torch.equal(one.large.values[1, :size], alone.large.values[0, :size])
    found = bags()
    own = {row.tobytes() for row in found.values[15:27]}
    seen = one.large.values[0][one.large.present[0]].numpy()
    assert {row.tobytes() for row in seen} <= own
    assert 7 <= len(seen) <= 12
    places = one.large.places[0][one.large.present[0]]
    center = places[0]  # the nearest to the random region is itself
    outside = [place for place, row in zip(found.places[15:27], found.values[15:27], strict=True)
               if row.tobytes() not in {each.tobytes() for each in seen}]  # fmt: skip
    far = (places - center).square().sum(1).max()
    assert all(np.square(place - center.numpy()).sum() >= far - 0.01 for place in outside)


def test_hidden_regions_are_a_share_of_those_present_and_never_all() -> None:
    views = source().cut(1, np.arange(4))
    counts = views.large.present.sum(1)
    hidden = views.hidden.sum(1)
    assert not (views.hidden & ~views.large.present).any()
    assert (hidden < counts).all()
    assert (hidden[counts > 1] >= 1).all()
    assert hidden[counts == 1].sum() == 0


def test_processes_divide_a_batch() -> None:
    whole, parts = (
        source().schedule.batch(2),
        [source(rank=rank, world=2, batch=2).schedule.batch(2) for rank in (0, 1)],
    )
    assert np.concatenate(parts).tolist() == whole.tolist()


def test_centering_removes_what_the_regions_of_a_slide_share() -> None:
    shifted = bags()
    shifted.values[:9] += 3
    assert np.allclose(shifted.centered().values, bags().centered().values, atol=1e-5)
