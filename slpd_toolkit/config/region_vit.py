"""Settings of the networks trained in stage two."""

from dataclasses import dataclass
from typing import Literal, get_args

from slpd_toolkit.config.checks import flag, require, require_at_least

WeightInit = Literal["published", "fan-in"]
"""See `models.transformer.initialise`."""
Centering = Literal["none", "slide"]
Whitening = Literal["none", "between-slides", "within-kinds", "wiener"]
Pooling = Literal["cls", "cls+mean", "cls+mean+input"]
_CHOICES = {"weight_init": WeightInit, "centering": Centering, "whitening": Whitening, "pooling": Pooling}


@dataclass(frozen=True, kw_only=True)
class RegionViTConfig:
    """Architecture of a region ViT; the defaults are HIPT's "ViT-4K-XS" (`vit4k_xs_dino.pth`)."""

    embed_dim: int = 192
    """Dimension of the transformer's tokens and, with `pooling` "cls", of the region embedding."""

    depth: int = 6
    """Number of transformer blocks."""

    heads: int = 6
    """Number of attention heads per block."""

    mlp_ratio: float = 4.0
    """Ratio of the hidden width of MLPs to --embed-dim."""

    weight_init: WeightInit = "published"
    """Standard deviation of initial weights: 0.02 (`published`, as in HIPT), or 1/sqrt(number of inputs), and 1 for
    position embeddings (`fan-in`), which suits small networks."""

    centering: Centering = "none"
    """Subtract the mean token of the slide from its tokens (`slide`), which removes slide-level differences such as
    stain and scanner, but also the overall composition of a slide. Stored with the weights and applied wherever
    they are used."""

    whitening: Whitening = "none"
    """Scale down the directions in which slides differ, such as stain and scanner, instead of subtracting a slide's
    mean token. `between-slides`: directions in which mean tokens differ, which include composition. `within-kinds`:
    directions in which tokens of the same kind (cluster) differ between slides, so that composition is kept.
    `wiener`: the same directions, but all others keep their variance (a Wiener filter). Estimated from the slides of
    the run, and stored with the weights."""

    registers: int = 0
    """Number of additional learned tokens without a position, which every token can attend to."""

    pooling: Pooling = "cls"
    """Region embedding: the output of the CLS token (`cls`, as published), followed by the mean output of the region's
    tokens (`cls+mean`, twice as many features), and also by the mean of the projected tokens that enter the
    transformer (`cls+mean+input`, three times as many), which keeps more of what a region consists of. The DINO head
    does not see this third part."""

    drop_path: float = 0.1
    """Stochastic-depth rate of the student's last block, decreasing linearly to 0 at the first."""

    @property
    def region_dim(self) -> int:
        """Dimension of the region embedding."""
        return self.embed_dim * len(self.pooling.split("+"))

    @property
    def head_dim(self) -> int:
        """Dimension of the part of it that the DINO head sees."""
        return self.embed_dim * (1 if self.pooling == "cls" else 2)

    def __post_init__(self) -> None:
        """Check the values and their combinations."""
        for name, choices in _CHOICES.items():  # stored configs are not checked against types
            allowed, value = get_args(choices), getattr(self, name)
            require(value in allowed, flag(name), value, ", ".join(allowed))
        for name in ("embed_dim", "depth", "heads"):
            require_at_least(1, name, getattr(self, name))
        for name in ("mlp_ratio", "registers"):
            require_at_least(0, name, getattr(self, name))
        require(0 <= self.drop_path <= 1, "--drop-path", self.drop_path, "0 to 1")
        require(self.embed_dim % self.heads == 0, "--heads", self.heads, f"a divisor of --embed-dim ({self.embed_dim})")


@dataclass(frozen=True, kw_only=True)
class DinoHeadConfig:
    """Architecture of a DINO head; the defaults are DINO's."""

    hidden_dim: int = 2048
    """Width of the two hidden layers of the DINO head."""

    bottleneck_dim: int = 256
    """Width of the DINO head's L2-normalized bottleneck, the space of the slide prototypes."""

    out_dim: int = 65536
    """Number of outputs of the DINO head's last layer."""

    def __post_init__(self) -> None:
        """Check each value."""
        for name in ("hidden_dim", "bottleneck_dim", "out_dim"):
            require_at_least(1, name, getattr(self, name))
