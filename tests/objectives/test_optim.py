from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import nn

from slpd_toolkit.objectives.optim import clip_each, make_optimiser, set_step, update_average


def small_model(seed: int = 0) -> nn.Sequential:
    model = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.Linear(3, 2)).double()
    rng = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        nn.init.normal_(parameter, generator=rng)
    return model


def backward(model: nn.Module, seed: int) -> None:
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    model.zero_grad()
    model(x).square().sum().backward()


def test_biases_and_1d_parameters_are_never_decayed() -> None:
    model = small_model()
    optimiser = make_optimiser(model)
    set_step(optimiser, learning_rate=0.1, weight_decay=0.5)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before = deepcopy(model.state_dict())
    optimiser.step()
    for parameter_name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[parameter_name]) == (parameter.ndim == 1), parameter_name


def test_frozen_parameters_are_left_to_themselves() -> None:
    model = small_model()
    model[0].requires_grad_(requires_grad=False)
    optimiser = make_optimiser(model)
    assert sum(len(group["params"]) for group in optimiser.param_groups) == 4


def test_adamw_takes_the_values_of_every_step() -> None:
    model = small_model()
    reference = deepcopy(model)
    optimiser = make_optimiser(model)
    weights = [p for p in reference.parameters() if p.ndim > 1]
    others = [p for p in reference.parameters() if p.ndim == 1]
    groups: list[dict[str, Any]] = [{"params": weights}, {"params": others, "weight_decay": 0.0}]
    plain = torch.optim.AdamW(groups, foreach=False)
    for step in range(3):
        rate, decay = 0.01 * (step + 1), 0.1 * (step + 1)
        set_step(optimiser, learning_rate=rate, weight_decay=decay)
        plain.param_groups[0].update(lr=rate, weight_decay=decay)
        plain.param_groups[1].update(lr=rate)
        for network, optim in ((model, optimiser), (reference, plain)):
            backward(network, step)
            optim.step()
        for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs)


def test_each_gradient_is_clipped_to_its_own_norm() -> None:
    model = small_model()
    backward(model, 0)
    before = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    limit = float(sorted(gradient.norm() for gradient in before)[2])
    total = clip_each(model.parameters(), limit)
    for parameter, gradient in zip(model.parameters(), before, strict=True):
        norm = gradient.norm()
        torch.testing.assert_close(parameter.grad, gradient * min(1.0, float(limit / (norm + 1e-6))))
    assert any(gradient.norm() > limit for gradient in before)
    assert any(gradient.norm() < limit for gradient in before)
    torch.testing.assert_close(total, torch.cat([gradient.flatten() for gradient in before]).norm())


def test_parameters_without_gradient_are_passed_over() -> None:
    model = small_model()
    backward(model, 0)
    model[2].weight.grad = None
    clip_each(model.parameters(), 3.0)
    assert model[2].weight.grad is None


def test_the_average_follows_its_formula_over_three_steps() -> None:
    average, model = small_model(0), small_model(1)
    expected = [p.detach().clone() for p in average.parameters()]
    for momentum in (0.9, 0.5, 0.996):
        update_average(average, model, momentum)
        expected = [momentum * a + (1 - momentum) * b for a, b in zip(expected, model.parameters(), strict=True)]
        for got, wanted in zip(average.parameters(), expected, strict=True):
            torch.testing.assert_close(got, wanted)
