"""The SLPD objective: student, teacher and centres, and the losses of a batch."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, NamedTuple, Self

import torch
from torch import Tensor, distributed, nn

from slpd_toolkit.objectives.distillation import CrossViewEntropy, cross_view_entropy
from slpd_toolkit.objectives.optim import update_average
from slpd_toolkit.objectives.term import Term, TermInputs, active_terms, centres_of, other_losses

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from slpd_toolkit.config.objective import ObjectiveConfig
    from slpd_toolkit.models.network import RegionNetwork
    from slpd_toolkit.objectives.crops import Masks, Views
    from slpd_toolkit.objectives.slide_prototypes import PrototypeTargets


class SlpdLosses(NamedTuple):
    """Losses of a batch. Each process of a distributed run holds its share: their mean is the whole batch's loss."""

    total: Tensor
    """Weighted sum of the terms; a scalar, the only one with a gradient."""
    terms: Mapping[str, Tensor]
    """Loss of every term by name, unweighted and without gradient; 0 if a term is off or has no targets yet."""
    target_entropy: Tensor
    """Mean entropy of all targets in nats: near 0 or near log O means collapse."""
    centres: Mapping[str, Tensor]
    """(O,) values that the centres move to after the step, by name."""


class Slpd(nn.Module):
    """Student, teacher and the centres: all the state of the objective.

    A training step is `forward`, the backward pass, the optimiser's step, then `update_centres` and `update_teacher`.
    Neither happens on its own, so a step that is given up leaves no trace.

    Args:
        config: Weights and constants.
        student: The network to train; the teacher starts as its copy.
    """

    centre: Tensor
    prototype_centre: Tensor

    def __init__(self, config: ObjectiveConfig, student: RegionNetwork) -> None:
        super().__init__()
        self.config = config
        self.student = student
        self.teacher = deepcopy(student).requires_grad_(requires_grad=False).eval()
        for name in centres_of(config):
            self.register_buffer(name, torch.zeros(student.head.config.out_dim))

    def train(self, mode: bool = True) -> Self:  # noqa: FBT001  # nn.Module's signature
        """Set the student's mode; the teacher stays in eval mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(
        self,
        views: Views,
        prototypes: PrototypeTargets | None = None,
        generator: torch.Generator | None = None,
        step: PrototypeTargets | None = None,
    ) -> SlpdLosses:
        """Losses of a batch. Changes no state.

        Args:
            views: Crops of B regions: the student sees all V, the teacher the global ones.
            prototypes: Targets of the two prototype terms; None before the first clustering.
            generator: Source of the student's stochastic depth, on the views' device; None takes torch's global one.
            step: Where gradients are accumulated over equal parts, the prototype terms' targets of all parts: the mean
                of the parts' losses is then that of the whole batch, whatever number of regions with prototypes each
                part holds, and so are the centres. None where the batch is the whole step.

        Raises:
            ValueError: No term is switched on that has targets.
        """
        crops = [view.flatten(0, 1) for view in (views.global_crops, views.local_crops)]
        regions = (-1, views.global_crops.shape[1])
        with torch.no_grad():
            teacher = self.teacher(crops[:1], present=_flat(views.teacher_sees, 1)).unflatten(0, regions)
        student = self.student(crops, generator, _flat(views.student_sees, 2)).unflatten(0, regions)
        inputs = TermInputs(student, teacher, prototypes, self.config.view_rule)
        terms = active_terms(self.config, inputs)
        whole = terms if step is None else active_terms(self.config, inputs._replace(prototypes=step))
        counts, used, centres = self._move_centres(whole)
        if step is not None:  # each part counts as if it held its equal share of the step's regions
            parts = [len(one.valid) / len(part.valid) for one, part in zip(whole, terms, strict=True)]
            counts = counts / counts.new_tensor(parts)
        ours, theirs = self.student.head.last_layer, self.teacher.head.last_layer
        entropies = cross_view_entropy(
            student,
            ours.weight_v,
            torch.cat([term.targets for term in terms]),
            theirs.weight_v,
            used,
            student_gain=ours.weight_g,
            teacher_gain=theirs.weight_g,
            student_temp=self.config.student_temp,
            teacher_temp=self.config.teacher_temp,
        )
        losses = _term_losses(terms, counts, entropies.cross_entropy)
        total = torch.stack([term.weight * losses[term.name] for term in terms]).sum()
        for name, loss in other_losses(self.config, inputs).items():
            losses[name] = loss
            total = total + self.config.weights[name] * loss
        off = total.new_zeros(())
        unweighted = {name: losses.get(name, off).detach() for name in self.config.weights}
        return SlpdLosses(total, unweighted, _mean_entropy(terms, counts, entropies), centres)

    @torch.no_grad()
    def update_centres(self, losses: Sequence[SlpdLosses]) -> None:
        """Move the centres, once per step: c <- m * c + (1 - m) * mean of the targets' logits.

        Args:
            losses: What `forward` returned in this step; several where gradients are accumulated.
        """
        for name in losses[0].centres:
            self.get_buffer(name).copy_(torch.stack([part.centres[name] for part in losses]).mean(0))

    def update_teacher(self, momentum: float) -> None:
        """Move the teacher, the last layer included: teacher <- momentum * teacher + (1 - momentum) * student."""
        update_average(self.teacher, self.student, momentum)

    @torch.no_grad()
    def _move_centres(self, terms: Sequence[Term]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Compute the centre that each term uses, and the centres after the step.

        The two prototype terms share one centre, which the first moves before the second uses it. The mean over a batch
        is taken before the last layer, which is linear: processes exchange d numbers per term instead of O.

        Returns:
            (T,) regions of each term on all processes; (Q, O) centre of each target; centres after the step.
        """
        counts, means = _global_means(terms)
        with torch.autocast(means.device.type, enabled=False):
            logits = self.teacher.head.last_layer(means)
        centres = {name: self.get_buffer(name) for name in centres_of(self.config)}
        used = []
        for term, count, mean in zip(terms, counts, logits, strict=True):
            found = centres[term.centre]
            centres[term.centre] = torch.where(count > 0, torch.lerp(mean, found, self.config.centre_momentum), found)
            used.append(found.expand(len(term.targets), -1))
        return counts, torch.cat(used), centres


def _flat(masks: Masks | None, sizes: int) -> list[Tensor] | None:
    """Masks of the first sizes of crops, views and regions in one dimension."""
    return None if masks is None else [mask.flatten(0, 1) for mask in masks[:sizes]]


def _global_means(terms: Sequence[Term]) -> tuple[Tensor, Tensor]:
    """(T,) valid regions and (T, d) mean target of each term, over the batches of all processes."""
    sums = torch.stack([(term.targets * term.valid.unsqueeze(-1)).mean(0).sum(0) for term in terms])
    packed = torch.cat((sums, torch.stack([term.valid.sum() for term in terms]).unsqueeze(1)), dim=1)
    if _processes() > 1:
        distributed.all_reduce(packed)
    counts = packed[:, -1]
    return counts, packed[:, :-1] / counts.clamp(min=1).unsqueeze(1)


def _term_losses(terms: Sequence[Term], counts: Tensor, cross_entropy: Tensor) -> dict[str, Tensor]:
    """This process's share of each term: sum over its regions, times processes, over the regions of all processes."""
    blocks = torch.split(cross_entropy, [len(term.targets) for term in terms])
    losses: dict[str, Tensor] = {}
    for term, count, block in zip(terms, counts, blocks, strict=True):
        # A sum rather than an einsum, which autocast would round to bf16.
        per_region = (block * term.pairs.unsqueeze(-1)).sum((0, 1)) * term.valid
        losses[term.name] = per_region.sum() * _processes() / _at_least_some(count)
    return losses


def _mean_entropy(terms: Sequence[Term], counts: Tensor, entropies: CrossViewEntropy) -> Tensor:
    """This process's share of the mean entropy of all targets on all processes."""
    valid = torch.cat([term.valid.expand(len(term.targets), -1) for term in terms])
    targets = torch.stack([count * len(term.targets) for term, count in zip(terms, counts, strict=True)]).sum()
    return (entropies.target_entropy * valid).sum() * _processes() / _at_least_some(targets)


def _at_least_some(count: Tensor) -> Tensor:
    """1 instead of 0: what nothing is divided by. Counts are fractions where a part has a share of a few regions."""
    return torch.where(count > 0, count, 1)


def _processes() -> int:
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1
