from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from slpd_toolkit.models.dino_head import WeightNormLinear
from slpd_toolkit.objectives.distillation import CrossViewEntropy, cross_view_entropy

V, Q, B, D, O = 5, 3, 4, 6, 23  # noqa: E741  # the letters of the formula


def pair_weights() -> Tensor:
    """Draw (Q, V, B) weights, with one pair of weight 0."""
    weights = torch.randn(Q, V, B, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weights[1, 2] = 0
    return weights


class Case:
    """Random student, teacher and centers, in double precision by default."""

    def __init__(self, dtype: torch.dtype = torch.float64, outputs: int = O) -> None:
        rng = torch.Generator().manual_seed(7)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=rng, dtype=dtype)

        self.student = F.normalize(draw(V, B, D), dim=-1).requires_grad_()
        self.targets = F.normalize(draw(Q, B, D), dim=-1)
        self.centres = draw(Q, outputs) * 0.1
        self.layers = []
        for _ in range(2):
            layer = WeightNormLinear(D, outputs, rng).to(dtype)
            layer.weight_g.copy_(1 + 0.1 * draw(outputs, 1))
            self.layers.append(layer)

    def ours(self, **settings: Any) -> CrossViewEntropy:
        settings = {"student_temp": 0.1, "teacher_temp": 0.04} | settings
        student, teacher = self.layers
        gains: Any = {"student_gain": student.weight_g, "teacher_gain": teacher.weight_g}
        return cross_view_entropy(
            self.student, student.weight_v, self.targets, teacher.weight_v, self.centres, **gains, **settings
        )

    def naive(self, student_temp: float = 0.1, teacher_temp: float = 0.04) -> tuple[Tensor, Tensor]:
        """Compute one log-softmax per pair, like the published loss."""
        pairs, entropies = [], []
        for q in range(Q):
            with torch.no_grad():
                p = ((self.layers[1](self.targets[q]) - self.centres[q]) / teacher_temp).softmax(-1)
            entropies.append(-torch.xlogy(p, p).sum(-1))
            logits = [self.layers[0](view) / student_temp for view in self.student]
            pairs.append(torch.stack([-(p * view.log_softmax(-1)).sum(-1) for view in logits]))
        return torch.stack(pairs), torch.stack(entropies)

    def gradients(self, pairs: Tensor) -> tuple[Tensor, Tensor]:
        student, direction = torch.autograd.grad(
            (pair_weights().to(pairs.dtype) * pairs).sum(), (self.student, self.layers[0].weight_v), retain_graph=True
        )
        return student, direction


def test_without_gains_rows_have_length_one() -> None:
    case = Case()
    for layer in case.layers:
        layer.weight_g.fill_(1.0)
    weights = [layer.weight_v for layer in case.layers]
    plain = cross_view_entropy(case.student, weights[0], case.targets, weights[1], case.centres)
    torch.testing.assert_close(plain.cross_entropy, case.naive()[0])


@pytest.mark.parametrize("columns", [1, 7, O, 4096])
def test_pairs_entropies_and_gradients_equal_the_naive_loop_for_any_block(columns: int) -> None:
    case = Case()
    ours, (pairs, entropies) = case.ours(columns=columns), case.naive()
    torch.testing.assert_close(ours.cross_entropy, pairs)
    torch.testing.assert_close(ours.target_entropy, entropies)
    for got, expected in zip(case.gradients(ours.cross_entropy), case.gradients(pairs), strict=True):
        torch.testing.assert_close(got, expected)


def test_float32_keeps_five_digits() -> None:
    exact, single = Case(outputs=5000), Case(torch.float32, outputs=5000)
    for name in ("student", "targets", "centres"):
        setattr(single, name, getattr(exact, name).detach().float().requires_grad_(name == "student"))
    for mine, theirs in zip(single.layers, exact.layers, strict=True):
        mine.load_state_dict(theirs.state_dict())
    pairs, _ = exact.naive()
    ours = single.ours(columns=512).cross_entropy
    torch.testing.assert_close(ours.double(), pairs, rtol=1e-5, atol=0)
    for got, expected in zip(single.gradients(ours), exact.gradients(pairs), strict=True):
        assert (got - expected).abs().max() / expected.abs().max() < 1e-5


def test_autocast_multiplies_in_bfloat16_and_stays_close() -> None:
    case = Case(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        ours = case.ours()
    pairs, _ = case.naive()
    assert ours.cross_entropy.dtype == torch.float32
    assert not torch.equal(ours.cross_entropy, pairs)
    assert (ours.cross_entropy - pairs).norm() / pairs.norm() < 0.02
    for got, expected in zip(case.gradients(ours.cross_entropy), case.gradients(pairs), strict=True):
        assert (got - expected).norm() / expected.norm() < 0.03


class _ProductTypes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the dtypes in which large matrices are multiplied."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.types: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.mm.default:
            self.types |= {args[0].dtype, args[1].dtype}
        return func(*args, **(kwargs or {}))


def test_autocast_decides_the_type_of_all_products_forward_and_backward() -> None:
    case = Case(torch.float32)
    inputs = (case.student, case.layers[0].weight_v)
    for enabled, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        with _ProductTypes() as seen:
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                pairs = case.ours().cross_entropy
            torch.autograd.grad(pairs.sum(), inputs)
        assert seen.types == {dtype}


def test_tiny_temperatures_neither_overflow_nor_lose_the_value() -> None:
    case = Case(torch.float32)
    pairs, _ = case.naive(1e-3, 1e-3)
    ours = case.ours(student_temp=1e-3, teacher_temp=1e-3, columns=5)
    torch.testing.assert_close(ours.cross_entropy, pairs, rtol=1e-4, atol=1e-4)
    assert ours.target_entropy.isfinite().all()


def test_a_frozen_last_layer_gets_no_gradient_and_the_backbone_the_same_one() -> None:
    case = Case()
    expected = case.gradients(case.ours().cross_entropy)[0]
    case.layers[0].weight_v.requires_grad_(False)
    (got,) = torch.autograd.grad((pair_weights() * case.ours().cross_entropy).sum(), case.student)
    torch.testing.assert_close(got, expected)


def test_the_teacher_its_targets_and_the_centres_get_no_gradient() -> None:
    case = Case()
    case.targets.requires_grad_()
    case.centres.requires_grad_()
    result = case.ours()
    assert not result.target_entropy.requires_grad
    inputs = (case.targets, case.centres, case.layers[1].weight_v)
    gradients = torch.autograd.grad(result.cross_entropy.sum(), inputs, allow_unused=True)
    assert len(set(gradients)) == 1
    assert set(gradients).pop() is None


class _LargestArray(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the largest new array of any operation, ignoring views of existing ones."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, Tensor) and not tensor._is_view():
                self.largest = max(self.largest, tensor.numel())
        return result


def test_no_array_of_views_by_prototypes_is_ever_made() -> None:
    case = Case(torch.float32, outputs=2048)
    with _LargestArray() as seen:
        inputs = (case.student, case.layers[0].weight_v)
        torch.autograd.grad(case.ours(columns=64).cross_entropy.sum(), inputs)
    assert seen.largest == 2048 * D  # the last layer's gradient
    assert seen.largest < V * B * 2048
