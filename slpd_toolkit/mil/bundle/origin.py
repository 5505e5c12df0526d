"""What the embeddings of a bundle are made of: encoder, geometry and region ViT, or a table of vectors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from slpd_toolkit.mil.descriptors.descriptor import ChosenDescriptor
    from slpd_toolkit.models.region_vit import RegionViT

OriginKind = Literal["region-vit", "mean-tokens", "table"]
View = Literal["full", "centre"]
VIEWS: tuple[View, ...] = ("full", "centre")
KINDS: tuple[OriginKind, ...] = ("region-vit", "mean-tokens", "table")


@dataclass(frozen=True, eq=False)
class Origin:
    """How slides become bags of embeddings."""

    kind: OriginKind
    source: str
    """Description, for readers."""
    digest: str
    """Digest of the model's file; empty for mean tokens."""
    width: int
    """Width of the embeddings."""
    view: View = "full"
    """Tokens that the region ViT uses."""
    precision: str = "fp32"
    """Arithmetic of the region ViT."""
    tokens: Mapping[str, object] = field(default_factory=dict)
    """Encoder and geometry of the token cache: the attributes that all its files share; empty for tables."""
    recipe: Mapping[str, object] = field(default_factory=dict)
    """Settings of `slpd embed` that made the cache; empty for tables and for imported tokens."""
    network: RegionViT | None = None
    """The region ViT."""
    descriptor: ChosenDescriptor | None = None
    """Descriptor of slides that is applied to the regions; `width` is that of the regions if it is fitted in each
    fold."""

    @property
    def is_fitted(self) -> bool:
        """Whether each head has its own descriptor, fitted on its training slides."""
        return self.descriptor is not None and self.descriptor.load().is_fitted
