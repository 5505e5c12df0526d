"""Settings of stage two."""

from dataclasses import dataclass, field
from pathlib import Path

from slpd_toolkit.config.auto_recipe import CHOSEN, IF_SMALL
from slpd_toolkit.config.checks import require
from slpd_toolkit.config.objective import ObjectiveConfig, SlidePrototypesConfig
from slpd_toolkit.config.optimisation import OptimisationConfig
from slpd_toolkit.config.region_vit import DinoHeadConfig, RegionViTConfig
from slpd_toolkit.config.terms import objective_terms
from slpd_toolkit.config.training import RunningConfig, TrainingSlidesConfig, check_length
from slpd_toolkit.config.views import AugmentationConfig, CropsConfig


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Stage two: train the region ViT on a token cache with the SLPD objectives.

    slpd pretrain cache/ --out runs/nsclc --recipe stages/pretrain/nsclc.toml
    """

    cache: Path
    """Token cache written by `slpd embed` or `slpd import`."""

    out: Path
    """Run folder: region_vit.pt, last.pt, metrics.csv, prototypes.h5, recipe.toml, curves.svg. An interrupted run in
    this folder is resumed."""

    init: Path | None = None
    """Initial weights: HIPT's vit4k_xs_dino.pth, a published SLPD checkpoint, or a region_vit.pt."""

    auto: tuple[str, ...] = ()
    """Settings to choose from the numbers of slides, regions and tokens, unless they are given explicitly (recipe
    `auto`). Each is printed with its reason and written to recipe.toml, from which a resumed run takes it. Without a
    recipe, they are chosen if there are fewer than 5,000 regions and no flag gives one that follows from the size of
    the cohort, such as --epochs, --lr, --clusters or --embed-dim."""

    # -- Slides --
    slides: TrainingSlidesConfig = field(default_factory=TrainingSlidesConfig)

    # -- Length and batches --
    epochs: int = 100
    """Number of passes over all regions."""

    batch_size: int = 128
    """Batch size per process, in regions. The learning rate scales with the batch size over all processes."""

    accumulate: int = 1
    """Number of parts that each step is split into to save memory; a divisor of the batch size."""

    # -- Objectives --
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)

    # -- Prototypes --
    prototypes: SlidePrototypesConfig = field(default_factory=SlidePrototypesConfig)

    # -- Views --
    crops: CropsConfig = field(default_factory=CropsConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)

    # -- Region ViT --
    region_vit: RegionViTConfig = field(default_factory=RegionViTConfig)

    # -- DINO head --
    dino_head: DinoHeadConfig = field(default_factory=DinoHeadConfig)

    # -- Optimization --
    optimisation: OptimisationConfig = field(default_factory=OptimisationConfig)

    # -- Running --
    running: RunningConfig = field(default_factory=RunningConfig)

    def __post_init__(self) -> None:
        """Check the values that the parts do not check, and their combinations, before any work starts."""
        check_length(self)
        whole = [term.flag for term in objective_terms() if term.whole_batch and self.objective.weights[term.name] > 0]
        require(
            self.accumulate == 1 or not whole,
            "--accumulate",
            self.accumulate,
            f"1 with {', '.join(whole)}, which compares the regions of a batch",
        )
        unknown = [name for name in self.auto if name not in {*CHOSEN, IF_SMALL}]
        require(not unknown, "--auto", ", ".join(unknown), ", ".join(CHOSEN))
        if not self.auto:  # else the values are not known yet
            self._check_combinations()

    def _check_combinations(self) -> None:
        warmup, first = self.optimisation.warmup_epochs, self.prototypes.prototype_epoch
        without = [term.flag for term in objective_terms() if term.trains_alone]
        require(warmup <= self.epochs, "--warmup-epochs", warmup, f"at most --epochs ({self.epochs})")
        require(
            self.objective.works_without_prototypes or (self.uses_prototypes and first == 0),
            "--prototype-epoch",
            first,
            f"0 if {', '.join(without)} is 0: before the first prototypes there would be no loss",
        )
        require(
            not self.uses_prototypes or self.prototypes.min_regions >= self.prototypes.clusters,
            "--min-regions",
            self.prototypes.min_regions,
            f"at least --clusters ({self.prototypes.clusters})",
            "A slide cannot have more prototypes than regions.",
        )

    @property
    def uses_prototypes(self) -> bool:
        """Whether a prototype loss is enabled in any epoch."""
        return self.objective.uses_prototypes and self.prototypes.prototype_epoch < self.epochs
