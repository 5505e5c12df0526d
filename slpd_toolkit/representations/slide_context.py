"""Slide ViTs as models: the regions of each slide in the context of the slide."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from slpd_toolkit.mil.bags import Bags
from slpd_toolkit.models.slide_vit import SlideRegions
from slpd_toolkit.training.slide_views import SlideBags

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    import numpy.typing as npt

    from slpd_toolkit.core.console import Progress
    from slpd_toolkit.mil.statistics.results import RegionPlaces, Representation
    from slpd_toolkit.models.slide_vit import SlideViT
    from slpd_toolkit.representations.models import Cache, RegionModel


@dataclass(frozen=True, eq=False)
class ContextModel:
    """The regions of a slide in its context, by a slide ViT over the regions of another model."""

    name: str
    source: str
    digest: str
    regions: RegionModel
    """Embeds the regions."""
    network: SlideViT
    device: torch.device
    pretrained: frozenset[str] = frozenset()
    """Slides that the slide ViT or its model of regions was trained on."""
    pretraining_known: bool = False
    of_cache: bool = True

    @property
    def cache(self) -> Cache:
        """The token cache of its regions."""
        return self.regions.cache

    @property
    def slides(self) -> Collection[str]:
        """IDs of the slides in the cache that have regions."""
        return self.regions.slides

    def represent(self, slides: Sequence[str], bar: Progress) -> Representation:
        """See `Model.represent`."""
        found = self.regions.represent(slides, bar)
        assert found.places is not None  # regions have coordinates
        bags = slide_bags(found.bags, found.places)
        if self.network.config.centering == "slide":
            bags = bags.centered()
        values = in_context(self.network, bags, self.device)
        return replace(
            found,
            name=self.name,
            source=self.source,
            bags=Bags(bags.slides, values, bags.offsets),
            pretrained=self.pretrained,
            pretraining_known=self.pretraining_known,
        )


def slide_bags(bags: Bags, places: RegionPlaces) -> SlideBags:
    """Combine region vectors with the centers of the regions, in units of their side."""
    side = np.repeat(places.region_l0, bags.sizes)[:, None]
    centers = (places.coords_l0 / side + 0.5).astype(np.float32)
    return SlideBags(bags.slides, bags.features, centers, bags.offsets)


def in_context(network: SlideViT, bags: SlideBags, device: torch.device) -> npt.NDArray[np.float32]:
    """Return the regions of each slide in its context, (R, E), slide by slide in float32.

    Args:
        network: The slide ViT.
        bags: Regions, centered if the network expects them so.
        device: Device of the network.
    """
    return _of_slides(bags, device, network, lambda regions: network(regions)[1][0])


def attention_of(network: SlideViT, bags: SlideBags, device: torch.device) -> npt.NDArray[np.float64]:
    """Return the last block's CLS attention to each region, mean over heads, (R,); it sums to 1 per slide."""

    def attend(regions: SlideRegions) -> torch.Tensor:
        attention = network.last_attention(regions)[0, :, 1:].mean(0)
        return (attention / attention.sum()).unsqueeze(-1)

    return _of_slides(bags, device, network, attend)[:, 0].astype(np.float64)


@torch.inference_mode()
def _of_slides(
    bags: SlideBags, device: torch.device, network: SlideViT, compute: Callable[[SlideRegions], torch.Tensor]
) -> npt.NDArray[np.float32]:
    """Compute (n, E) from the n regions of each slide. One slide at a time: its result depends on no other slide."""
    network.to(device).eval()
    found = []
    for start, stop in zip(bags.offsets, bags.offsets[1:], strict=False):
        values, places = (torch.from_numpy(each[start:stop])[None] for each in (bags.values, bags.places))
        present = torch.ones(values.shape[:2], dtype=torch.bool)
        found.append(compute(SlideRegions(values, places, present).to(device)).float().cpu().numpy())
    return np.concatenate(found)
