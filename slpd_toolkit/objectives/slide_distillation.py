"""Objective of the slide ViT: prediction of hidden regions, and self-distillation between views of a slide."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, distributed

from slpd_toolkit.models.slide_vit import SlideNetwork, SlideRegions
from slpd_toolkit.objectives.distillation import CrossViewEntropy, cross_view_entropy
from slpd_toolkit.objectives.student_teacher import Losses, StudentTeacher, processes

if TYPE_CHECKING:
    from slpd_toolkit.config.slide_vit import SlideObjectiveConfig


class SlideViews(NamedTuple):
    """Views of B slides: sets of their regions, each view padded to the same number of regions."""

    large: SlideRegions
    """(Vg B, n, ...) large views, view by view."""
    small: SlideRegions | None
    """(Vl B, m, ...) small views, view by view; None for none."""
    hidden: Tensor
    """(Vg B, n) bool: regions of the large views that the student does not see and predicts."""
    slides: int
    """Number of slides B."""

    def to(self, device: torch.device, *, non_blocking: bool = False) -> SlideViews:
        """Return the same views on another device."""
        small = None if self.small is None else self.small.to(device, non_blocking=non_blocking)
        large = self.large.to(device, non_blocking=non_blocking)
        return SlideViews(large, small, self.hidden.to(device, non_blocking=non_blocking), self.slides)

    def part(self, part: slice) -> SlideViews:
        """Return the views of some of the slides."""
        length = len(range(self.slides)[part])

        def cut(each: Tensor) -> Tensor:
            return each.view(-1, self.slides, *each.shape[1:])[:, part].flatten(0, 1)

        small = None if self.small is None else SlideRegions(*map(cut, self.small))
        return SlideViews(SlideRegions(*map(cut, self.large)), small, cut(self.hidden), length)


class SlideDistillation(StudentTeacher[SlideNetwork]):
    """Prediction of hidden regions, and self-distillation of slides and regions.

    The loss of content is the squared error of the student's prediction of the vector of each region that is hidden
    from it, standardized, from the other regions of the view (masked feature modeling, as BERT and masked
    autoencoders): 1 for a network that knows only the mean. The loss of slides is the mean cross entropy of each view
    of the student with each large view of the teacher, except the same one (DINO, https://arxiv.org/abs/2104.14294).
    The loss of regions is the cross entropy of each hidden region with the same region of the same view at the teacher,
    which sees it (iBOT, 2111.07832). Losses of regions are means over the hidden regions of a view, then over views.

    Args:
        config: Weights and constants.
        student: The network to train; the teacher is initialized as its copy.
    """

    region_centre: Tensor

    def __init__(self, config: SlideObjectiveConfig, student: SlideNetwork) -> None:
        super().__init__(student, ("centre", "region_centre"))
        self.config = config

    def forward(
        self, views: SlideViews, _prototypes: None = None, generator: torch.Generator | None = None, _step: None = None
    ) -> Losses:
        """Compute the losses of a batch. Does not change the state.

        Args:
            views: Views of B slides.
            generator: Random generator of the student's stochastic depth; None uses PyTorch's global one.
        """
        config, student = self.config, self.student
        slides, regions = student.backbone(views.large, views.hidden, generator)
        regions, share = regions[views.hidden], _shares(views.hidden)
        zero = slides.new_zeros(())
        terms = {"content": self._content(views, regions, share), "slide": zero, "region": zero}
        entropy, centres = zero, {name: self.get_buffer(name) for name in ("centre", "region_centre")}
        if config.distills:
            terms["slide"], terms["region"], entropy, centres = self._distilled(
                views, slides, regions, share, generator
            )
        total = sum((weight * terms[name] for name, weight in config.weights.items()), zero)
        # Every parameter has a gradient, also if its term is off or nothing is hidden.
        total = total + 0 * (slides.sum() + sum(each.sum() for each in student.head.parameters()))
        return Losses(total, {name: loss.detach() for name, loss in terms.items()}, entropy, centres)

    def _content(self, views: SlideViews, regions: Tensor, share: Tensor) -> Tensor:
        """Return the loss of content of (M, E) hidden regions, whose weights are `share`."""
        error = self.student.decoder(regions) - self.student.backbone.standardized(views.large.values[views.hidden])
        loss: Tensor = (error.float().square().mean(dim=1) * share).sum() / len(views.hidden)
        return loss

    def _distilled(
        self, views: SlideViews, slides: Tensor, regions: Tensor, share: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """Return the losses of slides and of regions, the entropy of the targets, and the centers after the step.

        Args:
            views: Views of B slides.
            slides: (Vg B, E) the student's large views.
            regions: (M, E) the student's hidden regions.
            share: (M,) their weights.
            generator: Random generator of the student's stochastic depth.
        """
        with torch.no_grad():
            t_slides, t_regions = self.teacher.backbone(views.large)
            seen = self.teacher.head.bottleneck(torch.cat((t_slides, t_regions[views.hidden])))
            t_slides, t_regions = seen[: len(slides)].unflatten(0, (-1, views.slides)), seen[len(slides) :]
            means = self._global_means(t_slides, t_regions, share, len(slides))
        s_slides = [slides]
        if views.small is not None:
            s_slides.append(self.student.backbone(views.small, None, generator)[0])
        count = sum(map(len, s_slides))
        out = self.student.head.bottleneck(torch.cat((*s_slides, regions)))
        of_slides = self._entropy(out[:count].unflatten(0, (-1, views.slides)), t_slides, self.centre)
        pairs = torch.ones(of_slides.cross_entropy.shape[:2], device=out.device)
        pairs.fill_diagonal_(0)
        # Without another view, a view is compared with itself.
        pairs = pairs / pairs.sum() if pairs.any() else torch.ones_like(pairs) / pairs.numel()
        slide_loss = (of_slides.cross_entropy.mean(-1) * pairs).sum()
        region_loss = slide_loss.new_zeros(())
        if len(t_regions):
            of_regions = self._entropy(out[count:].unsqueeze(0), t_regions.unsqueeze(0), self.region_centre)
            region_loss = (of_regions.cross_entropy[0, 0] * share).sum() / len(views.hidden)
        return slide_loss, region_loss, of_slides.target_entropy.mean(), self._centres(means)

    def _entropy(self, student: Tensor, teacher: Tensor, centre: Tensor) -> CrossViewEntropy:
        ours, theirs = self.student.head.last_layer, self.teacher.head.last_layer
        return cross_view_entropy(
            student,
            ours.weight_v,
            teacher,
            theirs.weight_v,
            centre.expand(len(teacher), -1),
            student_gain=ours.weight_g,
            teacher_gain=theirs.weight_g,
            student_temp=self.config.student_temp,
            teacher_temp=self.config.teacher_temp,
        )

    @staticmethod
    def _global_means(slides: Tensor, regions: Tensor, share: Tensor, views: int) -> Tensor:
        """Return the mean target of slides and of regions over all processes, (2, d)."""
        means = torch.stack((slides.flatten(0, 1).mean(0), (regions * share.unsqueeze(-1)).sum(0) / views))
        if processes() > 1:
            distributed.all_reduce(means)
        return means / processes()

    @torch.no_grad()
    def _centres(self, means: Tensor) -> dict[str, Tensor]:
        """Return the centers after the step. The last layer is linear, so the means are taken before it."""
        with torch.autocast(means.device.type, enabled=False):
            logits = self.teacher.head.last_layer(means.to(self.centre.dtype))
        momentum = self.config.centre_momentum
        return {
            name: torch.lerp(mean, self.get_buffer(name), momentum)
            for name, mean in zip(("centre", "region_centre"), logits, strict=True)
        }


def _shares(hidden: Tensor) -> Tensor:
    """Return the weight of each hidden region, 1 / the number of hidden regions of its view: (M,)."""
    shares: Tensor = (hidden / hidden.sum(dim=1, keepdim=True).clamp(min=1))[hidden]
    return shares
