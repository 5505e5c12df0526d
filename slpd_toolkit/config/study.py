"""Settings of `slpd study`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from slpd_toolkit.config.checks import require, require_at_least
from slpd_toolkit.config.choices import chosen_from
from slpd_toolkit.config.mil_eval import AGGREGATORS, TASKS

PLANS = ("commands", "slurm")
"""Values of --plan; the first is that of --plan alone."""


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """Compare representations on your slides in one command: embed, pretrain DINO and SLPD, evaluate, report.

    slpd study cohort.csv --encoder uni2-h --weights pytorch_model.bin --target label --out study/
    """

    manifest: Path
    """Cohort CSV with `slide_id`, `slide_path` and the target (see manifests/README.md)."""

    out: Path
    """Folder of the study: index.html, failures.csv, manifest.csv, and a folder per stage: cache, dino, slpd, eval,
    atlas, heatmaps. Run the same command again to resume."""

    slides_root: Path | None = None
    """Base folder of relative slide paths. Default: the manifest's folder."""

    plan: Literal["commands", "slurm"] | None = None
    """Do not run the study. `--plan`, or `--plan commands`: print its steps, estimates of time, disk and memory (from a
    sample of the slides, on this machine), and the equivalent commands. `--plan slurm`: also write these commands as
    job scripts to OUT/slurm."""

    # -- Tokens --
    cache: Path | None = None
    """Existing token cache of these slides, of `slpd embed` or `slpd import`. Without it, the slides are embedded."""

    encoder: str = "efficientnet-lite0"
    """Frozen patch encoder, as in `slpd embed`."""

    weights: Path | None = None
    """Weights file of the encoder."""

    embed_recipe: Path | None = None
    """Recipe of `slpd embed`, for all other settings of embedding, such as resolution, region size and masks."""

    # -- Target --
    task: str = chosen_from(TASKS, default="auto")
    """Kind of target. `auto`: survival if --time-column or --event-column is given, else classification."""

    target: str = "label"
    """Manifest column of the classes, or of the numbers for `--task regression`."""

    classes: tuple[str, ...] = ()
    """Class names; repeat the option, for ordinal classes from low to high. With --allow-missing, slides of other
    classes are not evaluated. Default: all classes in the manifest."""

    time_column: str | None = None
    """Manifest column of survival follow-up times. Default with --task survival: time."""

    event_column: str | None = None
    """Manifest column of survival events: 1 event, 0 censored. Default with --task survival: event."""

    allow_missing: bool = False
    """Use slides without a target for pretraining only, with a note, instead of stopping."""

    # -- Held-out patients --
    holdout: float = 0.2
    """Fraction of the patients of each class (with --by-site: of all patients) to hold out. They are not used for any
    training and are predicted once, at the end. 0: none."""

    holdout_column: str | None = None
    """Manifest column that names the held-out patients, instead of a random choice."""

    holdout_value: tuple[str, ...] = ("test",)
    """Value of --holdout-column that marks held-out patients; repeat the option for several."""

    by_site: bool = False
    """Hold out whole sites, and keep all patients of a site in the same fold."""

    site_column: str = "site"
    """Manifest column of the site."""

    # -- Pretraining --
    pretrain_recipe: str = "auto"
    """Recipe of `slpd pretrain` for DINO and SLPD; the two runs differ only in the prototype losses. `auto`:
    settings chosen from the numbers of slides and regions."""

    epochs: int = 0
    """Number of epochs of each pretraining run; warm-up and the first epoch with prototypes keep their proportion. 0:
    as in the recipe."""

    # -- Evaluation --
    model: tuple[str, ...] = ()
    """Further representation to compare with mean tokens, DINO and SLPD, as in `slpd mil-eval`; repeat the option for
    several."""

    ceiling: tuple[str, ...] = ()
    """Name of a --model that uses information other than the slides, such as a second reading or a known truth. It is
    evaluated like the others, but reported last, as a ceiling, and never as the best model; repeat the option for
    several."""

    aggregator: tuple[str, ...] = chosen_from(AGGREGATORS, default=("knn", "probe", "abmil"))
    """Aggregator that predicts slides from their regions; repeat the option to compare several."""

    eval_recipe: Path | None = None
    """Recipe of `slpd mil-eval`, for all other settings of the evaluation."""

    folds: int = 0
    """Number of cross-validation folds among the patients that are not held out. 0: 5, fewer if a class has fewer
    patients."""

    # -- Running --
    heatmaps: int = 40
    """Maximum number of slides for which the atlas and the heatmaps are drawn."""

    device: str = "auto"
    """Device: `auto` (GPU if available), `cpu`, `cuda`, `mps`."""

    jobs: int = 0
    """Number of processes that train heads and draw heatmaps. 0: one per core."""

    seed: int = 0
    """Random seed of the hold-out, pretraining and evaluation."""

    def __post_init__(self) -> None:
        """Check each value."""
        require(
            0 <= self.holdout < 1, "--holdout", self.holdout, "0 to below 1", "0.2 holds out a fifth of the patients."
        )
        for name in self.aggregator:
            AGGREGATORS.require(name)
        require(bool(self.aggregator), "--aggregator", "none", ", ".join(AGGREGATORS.names()))
        require_at_least(0, "epochs", self.epochs)
        require(self.folds == 0 or self.folds >= 3, "--folds", self.folds, "3 or more, or 0 (automatic)")
        require_at_least(1, "heatmaps", self.heatmaps)
        require_at_least(0, "jobs", self.jobs)
        require(0 <= self.seed < 2**31, "--seed", self.seed, "0 to 2147483647")
        given = [name for name in ("weights", "embed_recipe") if getattr(self, name) is not None]
        require(
            not (self.cache and given),
            " and ".join(["--cache", *(f"--{name.replace('_', '-')}" for name in given)]),
            "both",
            "only one of them",
            "With --cache, the slides are not embedded again.",
        )

    @property
    def slides_folder(self) -> Path:
        """Base folder of relative slide paths."""
        return self.slides_root or self.manifest.parent

    @property
    def holds_out(self) -> bool:
        """Whether patients are held out."""
        return self.holdout > 0 or self.holdout_column is not None
