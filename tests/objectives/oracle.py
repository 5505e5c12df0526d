"""The SLPD training step as plain loops over regions, views and parameters: slow but simple."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from slpd_toolkit.config.objective import ObjectiveConfig
    from slpd_toolkit.models.network import RegionNetwork
    from slpd_toolkit.objectives.slide_prototypes import PrototypeTargets


@dataclass
class Oracle:
    config: ObjectiveConfig
    student: RegionNetwork
    teacher: nn.Module = field(init=False)
    centre: Tensor = field(init=False)
    prototype_centre: Tensor = field(init=False)
    moments: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    steps: int = 0

    def __post_init__(self) -> None:
        self.teacher = deepcopy(self.student)
        outputs = self.student.head.config.out_dim
        self.centre = torch.zeros(outputs, dtype=torch.float64)
        self.prototype_centre = torch.zeros(outputs, dtype=torch.float64)

    @staticmethod
    def last_layer(network: nn.Module, vector: Tensor) -> Tensor:
        head = network.head
        assert isinstance(head, nn.Module)
        direction = dict(head.named_parameters())["last_layer.weight_v"]
        return direction @ vector / direction.square().sum(1).sqrt()

    def logits(self, network: nn.Module, crop: Tensor) -> Tensor:
        features = network.backbone(crop.unsqueeze(0))[0]  # type: ignore[operator]
        hidden = network.head.mlp(features)  # type: ignore[operator, union-attr]
        return self.last_layer(network, hidden / hidden.norm())

    def cross_entropy(self, view: Tensor, target: Tensor, centre: Tensor) -> Tensor:
        p = ((target - centre) / self.config.teacher_temp).softmax(-1)
        return -(p * (view / self.config.student_temp).log_softmax(-1)).sum()

    def losses(self, crops: list[list[Tensor]], prototypes: PrototypeTargets | None) -> dict[str, Tensor]:
        """Compute the losses and update both centers; `crops[v][b]` is view v of region b, global views first."""
        views = [[self.logits(self.student, crop) for crop in regions] for regions in crops]
        result = {}
        if self.config.weights["dino"] > 0:
            result["dino"] = self.dino(views, crops[:2])
        if prototypes is not None and self.config.weights["intra"] > 0:
            result["intra"] = self.prototype_loss(views, [prototypes.own], prototypes.valid)
        if prototypes is not None and self.config.weights["inter"] > 0:
            result["inter"] = self.prototype_loss(views, list(prototypes.neighbours), prototypes.valid)
        return result

    def dino(self, views: list[list[Tensor]], global_crops: list[list[Tensor]]) -> Tensor:
        with torch.no_grad():
            targets = [[self.logits(self.teacher, crop) for crop in regions] for regions in global_crops]
        values = [
            self.cross_entropy(view[b], target[b], self.centre)
            for q, target in enumerate(targets)
            for v, view in enumerate(views)
            for b in range(len(view))
            if v != q
        ]
        self.centre = self.moved(self.centre, [logits for target in targets for logits in target])
        return torch.stack(values).mean()

    def prototype_loss(self, views: list[list[Tensor]], sets: list[Tensor], valid: Tensor) -> Tensor:
        values, seen = [], []
        for q, vectors in enumerate(sets):
            for b in range(len(vectors)):
                if not valid[b]:
                    continue
                with torch.no_grad():
                    target = self.last_layer(self.teacher, vectors[b])
                seen.append(target)
                for v, view in enumerate(views):
                    if self.config.view_rule == "paper" or v != q:
                        values.append(self.cross_entropy(view[b], target, self.prototype_centre))
        self.prototype_centre = self.moved(self.prototype_centre, seen)
        return torch.stack(values).mean()

    def moved(self, centre: Tensor, logits: list[Tensor]) -> Tensor:
        momentum = self.config.centre_momentum
        return momentum * centre + (1 - momentum) * torch.stack(logits).mean(0)

    def step(self, total: Tensor, *, rate: float, decay: float, clip: float, momentum: float) -> dict[str, Tensor]:
        """Run backward, clipping, AdamW (0.9, 0.999, 1e-8) and the teacher update. Returns the unclipped gradients."""
        named = dict(self.student.named_parameters())
        gradients = dict(zip(named, torch.autograd.grad(total, list(named.values())), strict=True))
        self.steps += 1
        averages = dict(self.teacher.named_parameters())
        with torch.no_grad():
            for name, parameter in named.items():
                gradient = gradients[name]
                if gradient.norm() > clip:
                    gradient = gradient * clip / (gradient.norm() + 1e-6)
                first, second = self.moments.get(name, (torch.zeros_like(gradient), torch.zeros_like(gradient)))
                first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
                self.moments[name] = (first, second)
                if parameter.ndim > 1:
                    parameter.mul_(1 - rate * decay)
                first_hat, second_hat = first / (1 - 0.9**self.steps), second / (1 - 0.999**self.steps)
                parameter.sub_(rate * first_hat / (second_hat.sqrt() + 1e-8))
                averages[name].copy_(momentum * averages[name] + (1 - momentum) * parameter)
        return gradients
