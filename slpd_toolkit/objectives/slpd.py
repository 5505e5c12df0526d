"""The SLPD objective: student, teacher, centers, and the losses of a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, distributed

from slpd_toolkit.models.network import Embedded, RegionNetwork
from slpd_toolkit.objectives.distillation import CrossViewEntropy, cross_view_entropy
from slpd_toolkit.objectives.student_teacher import Losses, StudentTeacher, processes
from slpd_toolkit.objectives.term import (
    MaskedTokens,
    Term,
    TermInputs,
    active_terms,
    centres_of,
    masked_terms,
    other_losses,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slpd_toolkit.config.objective import ObjectiveConfig
    from slpd_toolkit.objectives.crops import Masks, Views
    from slpd_toolkit.objectives.slide_prototypes import PrototypeTargets


class Slpd(StudentTeacher[RegionNetwork]):
    """The SLPD objective.

    Args:
        config: Weights and constants.
        student: The network to train; the teacher is initialized as its copy.
    """

    prototype_centre: Tensor

    def __init__(self, config: ObjectiveConfig, student: RegionNetwork) -> None:
        super().__init__(student, centres_of(config))
        self.config = config

    def forward(
        self,
        views: Views,
        prototypes: PrototypeTargets | None = None,
        generator: torch.Generator | None = None,
        step: PrototypeTargets | None = None,
    ) -> Losses:
        """Compute the losses of a batch. Does not change the state.

        Args:
            views: Crops of B regions: the student sees all V, the teacher only the global ones.
            prototypes: Targets of the two prototype terms; None before the first clustering.
            generator: Random generator of the student's stochastic depth, on the views' device; None uses PyTorch's
                global one.
            step: When gradients are accumulated over equal parts, the prototype targets of all parts. The mean loss of
                the parts, and the centers, then equal those of the whole batch, however many regions with prototypes
                each part contains. None if the batch is the whole step.

        Raises:
            ValueError: No active term has targets.
        """
        crops = [view.flatten(0, 1) for view in (views.global_crops, views.local_crops)]
        regions = views.global_crops.shape[1]
        chosen = views.masked.flatten(0, 1) if self.config.uses_masks and views.masked is not None else None
        with torch.no_grad():
            seen = self.teacher.embed(crops[:1], None, _flat(views.teacher_sees, 1), chosen)
            teacher = _by_view(self.teacher.head.bottleneck(seen.regions), regions)
        own = self.student.embed(crops, generator, _flat(views.student_sees, 2), chosen, hidden=True)
        student = _by_view(self.student.head.bottleneck(own.regions), regions)
        masked = self._masked(own, seen, chosen, views)
        of_global = _by_view(own.regions[: len(crops[0])], regions)
        inputs = TermInputs(student, teacher, prototypes, self.config.view_rule, of_global, masked)
        terms = active_terms(self.config, inputs)
        whole = terms if step is None else active_terms(self.config, inputs._replace(prototypes=step))
        counts, used, centres = self._move_centres(whole)
        if step is not None:  # each part counts as if it had an equal share of the step's regions
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
        for info, found in masked_terms(self.config, inputs):
            losses[info.name], centres[info.centre] = self._token_loss(found, info.centre)
            total = total + self.config.weights[info.name] * losses[info.name]
        off = total.new_zeros(())
        unweighted = {name: losses.get(name, off).detach() for name in self.config.weights}
        return Losses(total, unweighted, _mean_entropy(terms, counts, entropies), centres)

    def _masked(self, own: Embedded, seen: Embedded, chosen: Tensor | None, views: Views) -> MaskedTokens | None:
        """Apply the heads to the masked tokens, and weight the (Vg * B, k) positions `chosen`."""
        if chosen is None or own.tokens is None or seen.tokens is None:
            return None
        there = torch.ones(chosen.shape, device=chosen.device)
        if views.teacher_sees is not None:
            there = views.teacher_sees.global_crops.flatten(0, 1).flatten(1).gather(1, chosen).float()
        weights = there / there.sum(1, keepdim=True).clamp(min=1) / len(chosen)
        with torch.no_grad():
            targets = self.teacher.head.bottleneck(seen.tokens.flatten(0, 1))
        return MaskedTokens(self.student.head.bottleneck(own.tokens.flatten(0, 1)), targets, weights.flatten())

    def _token_loss(self, tokens: MaskedTokens, centre: str) -> tuple[Tensor, Tensor]:
        """Compute this process's loss of masked tokens, and their center after the step."""
        ours, theirs, used = self.student.head.last_layer, self.teacher.head.last_layer, self.get_buffer(centre)
        entropy = cross_view_entropy(
            tokens.student.unsqueeze(0),
            ours.weight_v,
            tokens.teacher.unsqueeze(0),
            theirs.weight_v,
            used.unsqueeze(0),
            student_gain=ours.weight_g,
            teacher_gain=theirs.weight_g,
            student_temp=self.config.student_temp,
            teacher_temp=self.config.teacher_temp,
        )
        loss = (entropy.cross_entropy[0, 0] * tokens.weights).sum()
        with torch.no_grad(), torch.autocast(loss.device.type, enabled=False):
            mean = (tokens.teacher * tokens.weights.unsqueeze(-1)).sum(0)
            if processes() > 1:
                distributed.all_reduce(mean)
            moved = torch.lerp(theirs(mean.unsqueeze(0) / processes())[0], used, self.config.centre_momentum)
        return loss, moved

    @torch.no_grad()
    def _move_centres(self, terms: Sequence[Term]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Compute the center that each term uses, and the centers after the step.

        The two prototype terms share one center, which the first term updates before the second uses it. Because the
        last layer is linear, batch means are taken before it: processes exchange d values per term instead of O.

        Returns:
            (T,) regions of each term on all processes; (Q, O) center of each target; the centers after the step.
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


def _by_view(vectors: Tensor, regions: int) -> Tensor:
    """(V * B, d) -> (V, B, d)."""
    return vectors.view(-1, regions, vectors.shape[-1])


def _flat(masks: Masks | None, sizes: int) -> list[Tensor] | None:
    """Return the masks of the first `sizes` crop sizes, with views and regions flattened into one dimension."""
    return None if masks is None else [mask.flatten(0, 1) for mask in masks[:sizes]]


def _global_means(terms: Sequence[Term]) -> tuple[Tensor, Tensor]:
    """Return the number of valid regions, (T,), and the mean target, (T, d), of each term over all processes."""
    sums = torch.stack([(term.targets * term.valid.unsqueeze(-1)).mean(0).sum(0) for term in terms])
    packed = torch.cat((sums, torch.stack([term.valid.sum() for term in terms]).unsqueeze(1)), dim=1)
    if processes() > 1:
        distributed.all_reduce(packed)
    counts = packed[:, -1]
    return counts, packed[:, :-1] / counts.clamp(min=1).unsqueeze(1)


def _term_losses(terms: Sequence[Term], counts: Tensor, cross_entropy: Tensor) -> dict[str, Tensor]:
    """Return this process's share of each term: its sum over regions x processes / regions of all processes."""
    blocks = torch.split(cross_entropy, [len(term.targets) for term in terms])
    losses: dict[str, Tensor] = {}
    for term, count, block in zip(terms, counts, blocks, strict=True):
        # A sum rather than an einsum, which autocast would run in bf16.
        per_region = (block * term.pairs.unsqueeze(-1)).sum((0, 1)) * term.valid
        losses[term.name] = per_region.sum() * processes() / _at_least_some(count)
    return losses


def _mean_entropy(terms: Sequence[Term], counts: Tensor, entropies: CrossViewEntropy) -> Tensor:
    """Return this process's share of the mean entropy of all targets on all processes."""
    valid = torch.cat([term.valid.expand(len(term.targets), -1) for term in terms])
    targets = torch.stack([count * len(term.targets) for term, count in zip(terms, counts, strict=True)]).sum()
    return (entropies.target_entropy * valid).sum() * processes() / _at_least_some(targets)


def _at_least_some(count: Tensor) -> Tensor:
    """Replace a count of 0 by 1 for use as a divisor. Counts of a part of a step can be fractional."""
    return torch.where(count > 0, count, 1)
