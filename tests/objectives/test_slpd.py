from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slpd_toolkit.config.objective import ObjectiveConfig
from slpd_toolkit.config.region_vit import DinoHeadConfig, RegionViTConfig
from slpd_toolkit.config.settings import assemble
from slpd_toolkit.config.views import CropsConfig
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.models.dino_head import DinoHead
from slpd_toolkit.models.network import Embedded, RegionNetwork
from slpd_toolkit.objectives.crops import Masks, Views, cut_crops, draw_crops
from slpd_toolkit.objectives.optim import clip_each, make_optimiser, set_step
from slpd_toolkit.objectives.slide_prototypes import PrototypeTargets
from slpd_toolkit.objectives.slpd import Slpd
from tests.objectives.oracle import Oracle
from tests.published import relative_error

if TYPE_CHECKING:
    from slpd_toolkit.objectives.student_teacher import Losses
    from tests.published import PublishedNumbers

REGIONS, BOTTLENECK, OUTPUTS = 4, 6, 30
CROPS = CropsConfig(global_crops=2, global_side=4, local_crops=3, local_side=2)
BACKBONE = RegionViTConfig(embed_dim=8, depth=2, heads=2, mlp_ratio=2, drop_path=0.0)
HEAD = DinoHeadConfig(hidden_dim=16, bottleneck_dim=BOTTLENECK, out_dim=OUTPUTS)


def build(config: ObjectiveConfig, seed: int = 0) -> Slpd:
    """Build a small objective in double precision, with a teacher that differs from the student and large weights."""
    rng = torch.Generator().manual_seed(seed)
    slpd = Slpd(config, RegionNetwork(BACKBONE, HEAD, input_dim=5, grid=4)).double().train()
    for network in (slpd.student, slpd.teacher):
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.5, generator=rng)
    return slpd


def draw_views(step: int) -> Views:
    rng = torch.Generator().manual_seed(100 + step)
    tokens = torch.randn(REGIONS, 5, 6, 5, generator=rng, dtype=torch.float64)
    return cut_crops(tokens, CROPS, draw_crops(CROPS, REGIONS, (5, 6), rng))


def draw_prototypes(step: int, r: int, valid: tuple[bool, ...] = (True, False, True, True)) -> PrototypeTargets:
    rng = torch.Generator().manual_seed(200 + step)
    mask = torch.tensor(valid)
    unit = F.normalize(torch.randn(1 + r, REGIONS, BOTTLENECK, generator=rng, dtype=torch.float64), dim=-1)
    unit = unit * mask.unsqueeze(-1)
    return PrototypeTargets(mask, unit[0], unit[1:])


def numbers_of(losses: Losses) -> list[Tensor]:
    """Return total, terms, entropy and centers."""
    return [losses.total, *losses.terms.values(), losses.target_entropy, *losses.centres.values()]


def crops_of(views: Views) -> list[list[Tensor]]:
    return [list(view) for size in views[:2] for view in size]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "r"),
    [
        ({}, 1),
        ({"view_rule": "published"}, 1),
        ({"view_rule": "published", "intra_weight": 0.3, "inter_weight": 2.0}, 3),
        ({"intra_weight": 0.3, "inter_weight": 2.0, "student_temp": 0.2, "teacher_temp": 0.07}, 2),
        ({"intra_weight": 0.0, "centre_momentum": 0.5}, 2),
        ({"inter_weight": 0.0}, 1),
        ({"dino_weight": 0.0}, 1),
        ({"intra_weight": 0.0, "inter_weight": 0.0}, 1),
    ],
)
def test_four_steps_equal_the_plain_loops(settings: dict[str, Any], r: int) -> None:
    config = assemble(ObjectiveConfig, settings)
    slpd = build(config)
    oracle = Oracle(config, build(config).student)
    oracle.teacher.load_state_dict(slpd.teacher.state_dict())
    optimiser = make_optimiser(slpd.student)
    for step in range(4):
        rate, decay, momentum = 0.01 * (step + 1), 0.1 * (4 - step), 0.9 + 0.02 * step
        views = draw_views(step)
        prototypes = None if step == 0 and config.weights["dino"] else draw_prototypes(step, r)
        losses = slpd(views, prototypes)
        optimiser.zero_grad()
        losses.total.backward()
        gradients = {name: p.grad.clone() for name, p in slpd.student.named_parameters() if p.grad is not None}
        clip = float(torch.stack([gradient.norm() for gradient in gradients.values()]).median())
        clip_each(slpd.student.parameters(), clip)
        set_step(optimiser, learning_rate=rate, weight_decay=decay)
        optimiser.step()
        slpd.update_centres([losses])
        slpd.update_teacher(momentum)

        expected = oracle.losses(crops_of(views), prototypes)
        total = sum(config.weights[name] * value for name, value in expected.items())
        assert isinstance(total, Tensor)
        expected_gradients = oracle.step(total, rate=rate, decay=decay, clip=clip, momentum=momentum)

        torch.testing.assert_close(losses.total, total)
        for name in ("dino", "intra", "inter"):
            torch.testing.assert_close(losses.terms[name], expected.get(name, torch.tensor(0.0)).double().detach())
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, expected_gradients[name], msg=f"gradient of {name}, step {step}")
        torch.testing.assert_close(slpd.centre, oracle.centre)
        torch.testing.assert_close(slpd.prototype_centre, oracle.prototype_centre)
        for ours, theirs in ((slpd.student, oracle.student), (slpd.teacher, oracle.teacher)):
            for (name, got), wanted in zip(ours.named_parameters(), theirs.parameters(), strict=True):
                torch.testing.assert_close(got, wanted, msg=f"{name}, step {step}")


class _Features(nn.Module):
    """A network without computation: views are the features themselves, or are replaced by `features`."""

    def __init__(self, head: DinoHead, features: Tensor | None = None) -> None:
        super().__init__()
        self.head = head
        self.features = features

    def embed(self, views: list[Tensor], *_: None, hidden: bool = False) -> Embedded:
        return Embedded(torch.cat(views) if self.features is None else self.features, None)


def test_losses_and_centres_over_two_calls_are_those_of_the_published_code(published: PublishedNumbers) -> None:
    batch, r = published.meta["B"], published.meta["r"]
    head = DinoHead(DinoHeadConfig(out_dim=published.meta["out_dim"]))
    published.load_into(head)
    student: Any = _Features(head)
    slpd = Slpd(ObjectiveConfig(view_rule="published"), student)
    teacher: Any = _Features(head, published.input("teacher_features", 2 * batch, 192))
    slpd.teacher = teacher
    features = published.input("region_features", 10 * batch, 192).view(10, batch, 192)
    views = Views(features[:2], features[2:])
    prototypes = PrototypeTargets(
        torch.ones(batch, dtype=torch.bool),
        F.normalize(published.input("prototypes", batch, 256), dim=-1),
        F.normalize(published.input("neighbour_prototypes", r * batch, 256), dim=-1).view(r, batch, 256),
    )
    first = slpd(views, prototypes)
    slpd.update_centres([first])
    assert relative_error(slpd.prototype_centre, published["loss/prototype_center_after_both"][0]) < 1e-5
    second = slpd(views, prototypes)
    slpd.update_centres([second])
    assert relative_error(slpd.centre, published["loss/dino_center"][0]) < 1e-5
    dino = published["loss/dino"]
    assert float(first.terms["dino"]) == pytest.approx(float(dino[0]), rel=1e-5)
    assert float(second.terms["dino"]) == pytest.approx(float(dino[1]), rel=1e-5)
    assert float(first.terms["intra"]) == pytest.approx(float(published["loss/intra_first_call"]), rel=1e-5)
    assert float(first.terms["inter"]) == pytest.approx(
        float(published["loss/inter_second_call_same_center"]), rel=1e-5
    )


def test_a_forward_pass_changes_no_state() -> None:
    slpd = build(ObjectiveConfig())
    before = {name: tensor.clone() for name, tensor in slpd.state_dict().items()}
    first = slpd(draw_views(0), draw_prototypes(0, 2))
    again = slpd(draw_views(0), draw_prototypes(0, 2))
    assert torch.equal(first.total, again.total)
    assert all(torch.equal(tensor, before[name]) for name, tensor in slpd.state_dict().items())


def test_a_batch_without_any_prototypes_moves_no_prototype_centre_and_costs_nothing() -> None:
    slpd = build(ObjectiveConfig())
    slpd.prototype_centre.normal_()
    losses = slpd(draw_views(0), draw_prototypes(0, 2, valid=(False,) * REGIONS))
    assert losses.terms["intra"] == losses.terms["inter"] == 0
    assert torch.equal(losses.total, losses.terms["dino"])
    assert torch.equal(losses.centres["prototype_centre"], slpd.prototype_centre)


def test_centres_of_accumulated_batches_are_those_of_the_whole_batch() -> None:
    slpd = build(ObjectiveConfig())
    slpd.centre.normal_()
    slpd.prototype_centre.normal_()
    views, prototypes = draw_views(0), draw_prototypes(0, 2, valid=(True, False, False, False))
    whole = slpd(views, prototypes)
    halves = []
    for part in (slice(0, 2), slice(2, 4)):
        half = PrototypeTargets(prototypes.valid[part], prototypes.own[part], prototypes.neighbours[:, part])
        halves.append(slpd(Views(views.global_crops[:, part], views.local_crops[:, part]), half, None, prototypes))
    slpd.update_centres(halves)
    torch.testing.assert_close(slpd.centre, whole.centres["centre"])
    torch.testing.assert_close(slpd.prototype_centre, whole.centres["prototype_centre"])
    for one, two, both in zip(*(numbers_of(losses) for losses in (*halves, whole)), strict=True):
        torch.testing.assert_close((one + two) / 2, both)
    assert halves[1].terms["intra"] == halves[1].terms["inter"] == 0


def test_the_teacher_starts_as_the_student_stays_in_eval_mode_and_learns_nothing_by_gradient() -> None:
    network = RegionNetwork(replace(BACKBONE, drop_path=0.5), HEAD, input_dim=5, grid=4)
    slpd = Slpd(ObjectiveConfig(), network).train()
    assert slpd.student.training
    assert not any(module.training for module in slpd.teacher.modules())
    for (name, ours), theirs in zip(slpd.teacher.named_parameters(), network.parameters(), strict=True):
        assert torch.equal(ours, theirs), name
        assert not ours.requires_grad
        assert theirs.requires_grad
        assert ours.data_ptr() != theirs.data_ptr()


def test_entropy_lies_between_collapse_and_uniform() -> None:
    slpd = build(ObjectiveConfig(teacher_temp=1e3))
    uniform = slpd(draw_views(0), draw_prototypes(0, 1)).target_entropy
    assert float(uniform) == pytest.approx(float(torch.tensor(float(OUTPUTS)).log()), rel=1e-4)
    slpd.config = ObjectiveConfig(teacher_temp=1e-4)
    assert slpd(draw_views(0), draw_prototypes(0, 1)).target_entropy < 1e-3


def test_entropy_is_the_mean_over_the_targets_that_exist() -> None:
    slpd = build(ObjectiveConfig(weights={"dino": 0.0}))
    prototypes = draw_prototypes(0, 2)
    losses = slpd(draw_views(0), prototypes)
    vectors = torch.cat((prototypes.own.unsqueeze(0), prototypes.neighbours))[:, prototypes.valid]
    logits = slpd.teacher.head.last_layer(vectors)
    moved = 0.1 * logits[0].mean(0)  # the centre that the second term finds
    p = ((logits - torch.stack((torch.zeros_like(moved), moved, moved)).unsqueeze(1)) / 0.04).softmax(-1)
    torch.testing.assert_close(losses.target_entropy, -torch.xlogy(p, p).sum(-1).mean())


def test_global_crops_alone_are_enough() -> None:
    slpd = build(ObjectiveConfig())
    views = draw_views(0)
    alone = Views(views.global_crops, views.local_crops[:0])
    oracle = Oracle(ObjectiveConfig(), slpd.student)
    oracle.teacher = slpd.teacher
    prototypes = draw_prototypes(0, 1)
    losses = slpd(alone, prototypes)
    for name, value in oracle.losses(crops_of(alone), prototypes).items():
        torch.testing.assert_close(losses.terms[name], value.detach())


def test_state_holds_both_networks_and_both_centres() -> None:
    slpd, other = build(ObjectiveConfig(), seed=0), build(ObjectiveConfig(), seed=1)
    slpd.update_centres([slpd(draw_views(0), draw_prototypes(0, 1))])
    other.load_state_dict(slpd.state_dict())
    losses: list[Losses] = [model(draw_views(1), draw_prototypes(1, 1)) for model in (slpd, other)]
    assert all(torch.equal(a, b) for a, b in zip(*map(numbers_of, losses), strict=True))


def test_prototype_terms_alone_need_prototypes() -> None:
    with pytest.raises(ValueError, match="no term has targets"):
        build(ObjectiveConfig(weights={"dino": 0.0}))(draw_views(0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"dino_weight": 0, "intra_weight": 0, "inter_weight": 0},
            "--inter-weight, --masked-weight, --koleo-weight: got 0, 0, 0, 0, 0, allowed: at least one above 0",
        ),
        ({"intra_weight": -1.0}, "--intra-weight: got -1.0, allowed: at least 0"),
        ({"teacher_temp": 0.0}, "--teacher-temp: got 0.0, allowed: above 0"),
        ({"centre_momentum": 1.0}, "--centre-momentum: got 1.0, allowed: 0 to below 1"),
    ],
)
def test_constants_without_meaning_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        assemble(ObjectiveConfig, settings)


def test_what_is_hidden_from_the_student_is_the_teacher_s_alone() -> None:
    """Hidden tokens affect the loss only through the targets; hidden from the teacher as well, they have no effect."""
    slpd = build(ObjectiveConfig())
    views, prototypes = draw_views(0), draw_prototypes(0, 2)
    rng = torch.Generator().manual_seed(0)
    hidden = Masks(
        *(torch.rand(view.shape[:-1], generator=rng) < 0.6 for view in (views.global_crops, views.local_crops))
    )
    other = torch.where(hidden.global_crops.unsqueeze(-1), views.global_crops, 3.0)
    losses = {}
    for teacher_sees in (None, hidden):
        for name, tokens in (("given", views.global_crops), ("other", other)):
            leaves = [tokens.clone().requires_grad_(), views.local_crops.clone().requires_grad_()]
            found = slpd(Views(leaves[0], leaves[1], teacher_sees, hidden), prototypes)
            for leaf, shown in zip(leaves, hidden, strict=True):
                (gradient,) = torch.autograd.grad(found.total, leaf, retain_graph=True)
                assert (gradient[~shown] == 0).all()
                assert (gradient[shown] != 0).any()
            losses[teacher_sees is None, name] = torch.stack(numbers_of(found)[:4]).detach()
    assert torch.equal(losses[False, "given"], losses[False, "other"])
    assert (losses[True, "given"][1] - losses[True, "other"][1]).abs() > 1e-3
    assert torch.equal(losses[True, "given"][2:], losses[True, "other"][2:])  # prototypes face the student alone


def test_views_with_all_tokens_shown_are_views_without_masks() -> None:
    slpd = build(ObjectiveConfig())
    views = draw_views(0)
    everything = Masks(
        *(torch.ones(view.shape[:-1], dtype=torch.bool) for view in (views.global_crops, views.local_crops))
    )
    masked = slpd(views._replace(teacher_sees=everything, student_sees=everything))
    torch.testing.assert_close(masked.total, slpd(views).total, rtol=1e-12, atol=0)
