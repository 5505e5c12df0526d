"""Settings of stage three."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from slpd_toolkit.config.checks import flag, require, require_at_least
from slpd_toolkit.core.precision import Precision

AGGREGATORS = ("knn", "probe", "prototype-histogram", "mean-mlp", "abmil", "ds-mil", "trans-mil", "hipt", "clam-sb")
TaskKind = Literal["classification", "ordinal", "survival"]
_FOLDS = 5


@dataclass(frozen=True, kw_only=True)
class MilEvalConfig:
    """Stage three: how good is a representation? Cross-validated MIL heads, with a leakage audit and statistics.

    slpd mil-eval cache/ --manifest cohort.csv --model runs/nsclc --model mean-tokens --out eval/nsclc
    """

    cache: Path | None = None
    """Token cache that `slpd embed` or `slpd import` wrote. Not needed where all models are tables of slide vectors."""

    manifest: Path
    """Cohort CSV with the targets. The slides themselves are needed for thumbnails only, and may be gone."""

    model: tuple[str, ...]
    """What to evaluate, `[name=]source`; repeat to compare. Source: a run folder of `slpd pretrain`, a region_vit.pt
    or HIPT checkpoint, a table of slide vectors (.csv, .npz, .parquet), `mean-tokens`, or `untrained`."""

    out: Path
    """Folder for report.html, metrics.json, predictions.csv, folds.csv, scores.h5, recipe.toml and figures/."""

    slides_root: Path | None = None
    """Folder that relative slide paths start from. Default: the manifest's folder."""

    # -- What is predicted --
    task: Literal["auto", "classification", "ordinal", "survival"] = "auto"
    """What the target is. `auto`: survival if --time-column or --event-column is given, else classification."""

    target: str = "label"
    """Manifest column of the classes."""

    classes: tuple[str, ...] = ()
    """The classes; repeat, ordinal ones from low to high. --allow-missing leaves others out. Default: all there are."""

    time_column: str | None = None
    """Manifest column of the follow-up times of survival. Default for --task survival: time."""

    event_column: str | None = None
    """Manifest column of survival's events: 1 seen, 0 censored. Default for --task survival: event."""

    time_bins: int = 4
    """Time bins of survival heads, with equally many training events each."""

    allow_missing: bool = False
    """Leave out slides without target or embedding, and say so, instead of stopping. Also for slides of --splits."""

    # -- Splits --
    folds: int | None = None
    """Folds of the cross-validation: whole patients, classes balanced. One tests, the next selects, others train.
    Default: 5. Not used with --splits or --fold-column, which say themselves how many there are."""

    repeats: int = 1
    """How often to divide anew."""

    by_site: bool = False
    """Keep every site within one fold, so that test sites were not trained on."""

    site_column: str = "site"
    """Manifest column of the site, for --by-site."""

    fold_column: str | None = None
    """Take folds from this manifest column: their names, or train, val and test."""

    splits: tuple[Path, ...] = ()
    """Take splits from CLAM's or HIPT's splits_*.csv: a file, repeated, or a folder of them."""

    train_fraction: float = 1.0
    """Share of the training patients of each class that heads learn from. Val and test stay whole."""

    shots: int = 0
    """Training patients of each class that heads learn from. 0: all."""

    # -- Heads --
    aggregator: tuple[str, ...] = ("knn", "probe", "abmil")
    """How slides are predicted from their regions; repeat. knn, probe (logistic) on the mean embedding;
    prototype-histogram (logistic) on how many regions are near each of 16 cluster centres of the training regions;
    mean-mlp, abmil, ds-mil, trans-mil, hipt (slide transformer), clam-sb on the bag."""

    steps: int = 1000
    """Most optimiser steps of a head."""

    head_batch: int = 32
    """Slides a step."""

    check_every: int = 20
    """Steps between two looks at the validation loss."""

    patience: int = 8
    """Looks without improvement before training stops."""

    lr: float = 0.001
    """Learning rate of AdamW, constant."""

    weight_decay: float = 0.01
    """Weight decay of AdamW."""

    # -- Region embeddings --
    view: Literal["full", "centre"] = "full"
    """What a region ViT sees of a region: all tokens, as in HIPT's evaluation, or the central ones, as many as a global
    crop had, as in the published clustering."""

    precision: Precision = "auto"
    """Arithmetic of the region ViT. `auto`: bf16 where the device computes it natively, else fp32."""

    device: str = "auto"
    """Where the region ViT runs: `auto` (GPU when there is one), `cpu`, `cuda`, `cuda:1`, `mps`. Heads run on CPUs."""

    workers: int = 2
    """Threads that read tokens ahead."""

    # -- Statistics --
    bootstrap: int = 2000
    """Bootstrap samples of patients for the 95 % intervals."""

    permutations: int = 2000
    """Random swaps of two models' predictions for the permutation test."""

    # -- Running --
    seed: int = 0
    """Seed of splits, weights, dropout, order and resampling."""

    jobs: int = 0
    """Processes that train heads, a fold each. The result does not depend on it. 0: one a core."""

    def __post_init__(self) -> None:
        """Check each value and how they relate, before any work starts."""
        require(bool(self.model), "--model", "none", "one or more, such as runs/a, mean-tokens or a table")
        unknown = [name for name in self.aggregator if name not in AGGREGATORS]
        require(not unknown, "--aggregator", ", ".join(unknown), ", ".join(AGGREGATORS))
        require(bool(self.aggregator), "--aggregator", "none", ", ".join(AGGREGATORS))
        for name in ("model", "aggregator", "classes", "splits"):
            values = [str(value) for value in getattr(self, name)]
            twice = sorted({value for value in values if values.count(value) > 1})
            require(not twice, flag(name), f"{', '.join(twice)} twice", "each once")
        if self.folds is not None:
            require_at_least(3, "folds", self.folds)
        for name in ("repeats", "steps", "head_batch", "check_every", "patience", "workers", "bootstrap"):
            require_at_least(1, name, getattr(self, name))
        for name in ("shots", "permutations", "weight_decay", "jobs"):
            require_at_least(0, name, getattr(self, name))
        require(0 <= self.seed < 2**32, "--seed", self.seed, "0 to 4294967295")
        require(self.lr > 0, "--lr", self.lr, "above 0")
        require_at_least(2, "time-bins", self.time_bins)
        require(0 < self.train_fraction <= 1, "--train-fraction", self.train_fraction, "above 0, up to 1")
        require(
            not self.shots or self.train_fraction == 1,
            "--shots with --train-fraction",
            f"{self.shots} and {self.train_fraction}",
            "one of them",
        )
        self._require_one_source_of_splits()
        self._require_one_task()

    @property
    def kind(self) -> TaskKind:
        """The task, `auto` resolved."""
        if self.task != "auto":
            return self.task
        return "survival" if self.time_column or self.event_column else "classification"

    @property
    def fold_count(self) -> int | None:
        """Folds that this command makes; None where the splits are given."""
        return None if self.splits or self.fold_column else self.folds or _FOLDS

    def _require_one_source_of_splits(self) -> None:
        given = bool(self.splits) + bool(self.fold_column)
        require(given < 2, "--splits with --fold-column", "both", "one of them")
        for name in ("repeats", "by_site"):
            changed = getattr(self, name) != type(self).__dataclass_fields__[name].default
            require(
                not (given and changed),
                flag(name),
                getattr(self, name),
                "only where this command divides the patients itself, without --splits and --fold-column",
            )

    def _require_one_task(self) -> None:
        survival = self.kind == "survival"
        for name in ("time_column", "event_column"):
            require(
                survival or getattr(self, name) is None, flag(name), getattr(self, name), "only with --task survival"
            )
        require(not (survival and self.classes), "--classes", ", ".join(self.classes), "none with survival")
        require(
            not (survival and "clam-sb" in self.aggregator),
            "--aggregator",
            "clam-sb",
            "another one for survival: CLAM-SB clusters regions by class",
        )
