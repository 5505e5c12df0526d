"""Masked tokens, KoLeo and registers against plain loops."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from slpd_toolkit.commands import pretrain
from slpd_toolkit.config.objective import ObjectiveConfig
from slpd_toolkit.config.region_vit import DinoHeadConfig, RegionViTConfig
from slpd_toolkit.config.views import CropsConfig
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.models.network import RegionNetwork
from slpd_toolkit.models.region_vit import RegionViT
from slpd_toolkit.objectives.augment import draw_masked
from slpd_toolkit.objectives.crops import Masks, Views, cut_crops, draw_crops
from slpd_toolkit.objectives.slpd import Slpd
from slpd_toolkit.training.metrics_file import read_metrics
from tests.training.runs import run_until, tiny, weights

if TYPE_CHECKING:
    from pathlib import Path

REGIONS, SIDE = 4, 3
CROPS = CropsConfig(global_crops=2, global_side=SIDE, local_crops=2, local_side=2)
BACKBONE = RegionViTConfig(embed_dim=8, depth=2, heads=2, mlp_ratio=2, drop_path=0.0, registers=2)
HEAD = DinoHeadConfig(hidden_dim=16, bottleneck_dim=6, out_dim=20)
OFF = {"dino": 1.0, "intra": 0.0, "inter": 0.0}


def build(weights_of: dict[str, float], *, masks: bool = True, pooling: Any = "cls") -> Slpd:
    """Build an objective in double precision, with a teacher that differs from the student and large weights."""
    rng = torch.Generator().manual_seed(0)
    network = RegionNetwork(replace(BACKBONE, pooling=pooling), HEAD, input_dim=5, grid=SIDE, masks=masks)
    slpd = Slpd(ObjectiveConfig(weights=OFF | weights_of), network).double().train()
    for network in (slpd.student, slpd.teacher):
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.5, generator=rng)
    return slpd


def draw_views(*, gaps: bool = False) -> Views:
    rng = torch.Generator().manual_seed(7)
    tokens = torch.randn(REGIONS, 4, 5, 5, generator=rng, dtype=torch.float64)
    present = torch.rand(REGIONS, 4, 5, generator=rng) < 0.7 if gaps else None
    views = cut_crops(tokens, CROPS, draw_crops(CROPS, REGIONS, (4, 5), rng), present)
    return views._replace(masked=draw_masked(views, 0.4, rng))


def plain_tokens(network: RegionNetwork, grid: Tensor, hidden: list[int], there: list[bool]) -> tuple[Tensor, Tensor]:
    """Embed one (side, side, D) grid token by token: the CLS token and the (side * side, E) tokens."""
    vit = network.backbone
    rows = [vit.phi(token) for token in grid.flatten(0, 1)]
    rows = [network.mask_token if place in hidden else row for place, row in enumerate(rows)]
    placed = [row + vit.pos_embed[0, 1 + place] for place, row in enumerate(rows) if there[place]]
    x = torch.stack([vit.cls_token[0, 0] + vit.pos_embed[0, 0], *vit.register_tokens[0], *placed])[None]
    for block in vit.blocks:
        x = block(x)
    x = vit.norm(x)[0]
    found = torch.zeros(len(rows), x.shape[-1], dtype=x.dtype)
    found[torch.tensor(there)] = x[1 + BACKBONE.registers :]
    return x[0], found


def logits(network: RegionNetwork, vector: Tensor) -> Tensor:
    hidden = network.head.mlp(vector)
    weight = network.head.last_layer.weight_v
    gains = network.head.last_layer.weight_g[:, 0]
    found: Tensor = gains * (weight @ (hidden / hidden.norm())) / weight.norm(dim=1)
    return found


@pytest.mark.parametrize("pooling", ["cls", "cls+mean", "cls+mean+input"])
@pytest.mark.parametrize("gaps", [False, True])
def test_masked_tokens_equal_the_plain_loops(gaps: bool, pooling: str) -> None:
    """With mean outputs, a token is its own mean: like a region that consists of one token."""
    slpd, views = build({"masked": 0.7}, pooling=pooling), draw_views(gaps=gaps)
    slpd.get_buffer("masked_centre").normal_()
    centre = slpd.get_buffer("masked_centre").clone()
    losses = slpd(views)
    assert views.masked is not None
    assert views.masked.shape == (2, REGIONS, 4)
    total, mean = torch.zeros((), dtype=torch.float64), torch.zeros(20, dtype=torch.float64)
    for view in range(2):
        for region in range(REGIONS):
            grid, hidden = views.global_crops[view, region], views.masked[view, region].tolist()
            there = [True] * SIDE**2
            if views.teacher_sees is not None:
                there = views.teacher_sees.global_crops[view, region].flatten().tolist()
            _, ours = plain_tokens(slpd.student, grid, hidden, there)
            _, theirs = plain_tokens(slpd.teacher, grid, [], there)
            if pooling != "cls":
                ours, theirs = torch.cat((ours, ours), 1), torch.cat((theirs, theirs), 1)
            predicted = [place for place in hidden if there[place]]
            for place in predicted:
                target = logits(slpd.teacher, theirs[place]).detach()
                p = ((target - centre) / 0.04).softmax(-1)
                log_q = (logits(slpd.student, ours[place]) / 0.1).log_softmax(-1)
                total = total - (p * log_q).sum() / len(predicted) / (2 * REGIONS)
                mean += target / len(predicted) / (2 * REGIONS)
    torch.testing.assert_close(losses.terms["masked"], total.detach())
    torch.testing.assert_close(losses.total - losses.terms["dino"], 0.7 * total)
    torch.testing.assert_close(losses.centres["masked_centre"], 0.9 * centre + 0.1 * mean)
    (one,) = torch.autograd.grad(losses.terms["dino"] * 0 + losses.total, [slpd.student.mask_token], retain_graph=True)
    assert one.abs().max() > 0


def test_the_regions_of_masked_views_see_the_mask_token() -> None:
    """The student's region embedding of a global view is that of the view with masked tokens, as in iBOT."""
    slpd, views = build({"masked": 1.0}), draw_views()
    assert views.masked is not None
    slpd.student.eval()
    found = slpd.student.embed([views.global_crops.flatten(0, 1)], masked=views.masked.flatten(0, 1), hidden=True)
    everywhere = [True] * SIDE**2
    wanted, _ = plain_tokens(slpd.student, views.global_crops[1, 2], views.masked[1, 2].tolist(), everywhere)
    torch.testing.assert_close(found.regions[REGIONS + 2], wanted)


def test_koleo_equals_the_plain_loops() -> None:
    slpd, views = build({"koleo": 0.2}, masks=False), draw_views()
    losses = slpd(views)
    total = torch.zeros((), dtype=torch.float64)
    for view in views.global_crops:
        vectors = [plain_tokens(slpd.student, grid, [], [True] * SIDE**2)[0] for grid in view]
        unit = [vector / vector.norm() for vector in vectors]
        for one in unit:
            total = total - min((one - other).norm() for other in unit if other is not one).log() / (2 * REGIONS)
    torch.testing.assert_close(losses.terms["koleo"], total.detach(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(losses.total - losses.terms["dino"], 0.2 * losses.terms["koleo"])


def test_koleo_of_equal_regions_is_finite_and_of_one_region_is_zero() -> None:
    from slpd_toolkit.objectives.term import TermInputs
    from slpd_toolkit.objectives.terms.koleo import loss

    def of(regions: Tensor) -> Tensor:
        return loss(TermInputs(regions, regions, None, "paper", regions))

    same = torch.ones(2, 3, 4, requires_grad=True)
    found = of(same)
    (gradient,) = torch.autograd.grad(found, [same])
    assert found.isfinite()
    assert gradient.isfinite().all()
    assert of(torch.ones(2, 1, 4)) == 0


def test_masks_have_the_wanted_size_and_differ_between_views() -> None:
    views = Views(torch.zeros(2, 50, 4, 4, 1), torch.zeros(0, 50, 2, 2, 1))
    drawn = draw_masked(views, 0.3, torch.Generator().manual_seed(0))
    assert drawn.shape == (2, 50, 5)
    assert all(len(set(each.tolist())) == 5 for each in drawn.flatten(0, 1))
    counts = torch.bincount(drawn.flatten(), minlength=16)
    assert counts.min() > 10
    assert not torch.equal(drawn[0], drawn[1])


def test_registers_have_no_position_and_no_attention_of_their_own() -> None:
    vit = RegionViT(BACKBONE, torch.Generator().manual_seed(0), input_dim=5, grid=SIDE).eval()
    plain = RegionViT(replace(BACKBONE, registers=0), input_dim=5, grid=SIDE).eval()
    assert "registers" in vit.shape()
    assert "registers" not in plain.shape()
    tokens = torch.randn(2, SIDE, SIDE, 5)
    attention = vit.last_attention(tokens)
    assert attention.shape == (2, 2, 1 + SIDE**2)
    assert (attention.sum(-1) < 1).all()
    present = torch.rand(2, SIDE, SIDE) < 0.5
    torch.testing.assert_close(
        vit(tokens, present=present), vit(torch.where(present[..., None], tokens, 9.0), present=present)
    )
    regions, grid = vit.encode_tokens(vit.project(tokens))
    torch.testing.assert_close(regions, vit(tokens))
    assert grid.shape == (2, SIDE, SIDE, 8)


@pytest.mark.slow
@pytest.mark.usefixtures("no_curves")
@pytest.mark.parametrize("pooling", ["cls", "cls+mean", "cls+mean+input"])
def test_runs_with_all_terms_resume_exactly(
    pooling: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"masked_weight": 1.0, "koleo_weight": 0.1, "registers": 1, "epochs": 2, "pooling": pooling}
    whole, parts = (tiny(cache, tmp_path / name, **changes) for name in ("whole", "parts"))
    assert pretrain.run(whole) == 0
    assert run_until(monkeypatch, parts, 4) == 143
    assert pretrain.run(parts) == 0
    one, other = weights(whole.out), weights(parts.out)
    assert all(torch.equal(one[name], other[name]) for name in one)
    row = read_metrics(whole.out / "metrics.csv")[-1]
    assert float(row["masked"]) > 0
    assert float(row["koleo"]) != 0


def test_koleo_needs_whole_batches(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--accumulate: got 2, allowed: 1 with --koleo-weight"):
        tiny(tmp_path, tmp_path / "out", koleo_weight=0.1, accumulate=2)


def test_parts_of_a_step_give_the_loss_of_masked_tokens_of_the_whole() -> None:
    slpd, views = build({"masked": 1.0}), draw_views(gaps=True)
    whole = slpd(views)

    def part(cut: slice) -> Views:
        assert views.masked is not None
        assert views.student_sees is not None
        masks = Masks(*(mask[:, cut] for mask in views.student_sees))
        crops = views.global_crops[:, cut], views.local_crops[:, cut]
        return Views(*crops, teacher_sees=masks, student_sees=masks, masked=views.masked[:, cut])

    halves = [slpd(part(cut)) for cut in (slice(0, 2), slice(2, 4))]
    torch.testing.assert_close(torch.stack([half.terms["masked"] for half in halves]).mean(), whole.terms["masked"])
    slpd.update_centres(halves)
    torch.testing.assert_close(slpd.get_buffer("masked_centre"), whole.centres["masked_centre"])
