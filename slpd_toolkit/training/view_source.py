"""Views of each step's regions: cropped, masked where tokens are missing, and augmented."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from slpd_toolkit.objectives.augment import augment, draw_masked
from slpd_toolkit.objectives.crops import cut_crops, draw_crops, draw_stains
from slpd_toolkit.training.sampling import Stream, generator

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from slpd_toolkit.config.views import AugmentationConfig, CropsConfig
    from slpd_toolkit.objectives.augment import TokenStatistics
    from slpd_toolkit.objectives.crops import CropPlan, Views
    from slpd_toolkit.training.sampling import Schedule


class Draws(NamedTuple):
    """Random draws of one step."""

    crops: CropPlan
    """Crops of this process's regions."""
    depth: torch.Generator
    """Random generator of stochastic depth."""
    augmentation: torch.Generator
    """Random generator of augmentation."""
    stains: Tensor | None = None
    """(V, B) stain of each view of this process's regions; None without stain views."""


@dataclass(frozen=True)
class ViewSource:
    """Generates the views of a batch as a function of seed and step."""

    crops: CropsConfig
    """Number and size of the crops."""
    augmentation: AugmentationConfig
    """Augmentation of the crops."""
    schedule: Schedule
    """Regions of each step, and this process's share."""
    grid: int
    """Rows and columns of a region's token grid."""
    device: torch.device
    """Device of the tokens."""
    present: Tensor | None = None
    """(R, grid, grid) bool on the device: patches that have a token; None if none is missing."""
    statistics: TokenStatistics | None = None
    """Scale of noise and offsets, on the device; None if they are off."""
    masks: bool = False
    """Whether the student predicts masked tokens."""

    def draw(self, step: int) -> Draws:
        """Make the random draws of a step. Crops are drawn for all processes, everything else per process."""
        seed, rank = self.schedule.seed, self.schedule.rank
        crops = draw_crops(
            self.crops, self.schedule.global_batch, (self.grid, self.grid), generator(seed, Stream.VIEWS, step)
        ).of_regions(self.schedule.part)
        depth, augmentation = (
            generator(seed, stream, step, rank, device=self.device) for stream in (Stream.DEPTH, Stream.AUGMENTATION)
        )
        stains = None
        if self.augmentation.stain_views:
            stains = draw_stains(
                len(self.crops.sides()),
                self.schedule.global_batch,
                1 + self.augmentation.stain_views,
                generator(seed, Stream.STAIN, step),
            )[:, self.schedule.part]
        return Draws(crops, depth, augmentation, stains)

    def views(self, batch: Tensor, samples: Tensor, part: slice, draws: Draws) -> Views:
        """Cut and augment the views of a part of a batch.

        Args:
            batch: (B, grid, grid, D) tokens, on the device; (B, S, grid, grid, D) with stain views.
            samples: (B,) indices of the regions, on the device.
            part: The part.
            draws: Draws of the step.
        """
        present = None if self.present is None else self.present[samples[part]]
        stains = None if draws.stains is None else draws.stains[:, part]
        views = cut_crops(batch[part], self.crops, draws.crops.of_regions(part), present, stains)
        views = augment(views, self.augmentation, self.statistics, draws.augmentation)
        if self.masks:
            views = views._replace(masked=draw_masked(views, self.augmentation.masked_fraction, draws.augmentation))
        return views
