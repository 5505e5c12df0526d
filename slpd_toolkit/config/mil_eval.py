"""Settings of stage three."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from slpd_toolkit.config.checks import flag, require, require_at_least
from slpd_toolkit.config.choices import chosen_from
from slpd_toolkit.core.precision import Precision
from slpd_toolkit.core.registry import Registry

TASKS = Registry("slpd_toolkit.mil.tasks.kinds", "--task")
SPLIT_KINDS = Registry("slpd_toolkit.mil.cohort.split_kinds", "--split-kind")
AGGREGATORS = Registry("slpd_toolkit.mil.heads.aggregators", "--aggregator")
_FOLDS = 5
_REPEATS_OF_CHEAP_HEADS = 5


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
    task: str = chosen_from(TASKS, default="auto")
    """What the target is. `auto`: survival if --time-column or --event-column is given, else classification."""

    target: str = "label"
    """Manifest column of the classes."""

    classes: tuple[str, ...] = ()
    """The classes; repeat, ordinal ones from low to high. --allow-missing leaves out slides of other classes. Default:
    all that occur."""

    time_column: str | None = None
    """Manifest column of the follow-up times of survival. Default for --task survival: time."""

    event_column: str | None = None
    """Manifest column of survival's events: 1 seen, 0 censored. Default for --task survival: event."""

    time_bins: int = 4
    """Time bins of survival heads, with equally many training events each."""

    allow_missing: bool = False
    """Leave out slides without target or embedding, with a note, instead of stopping. Also for slides of --splits."""

    # -- Splits --
    split_kind: str | None = chosen_from(SPLIT_KINDS, default=None)
    """How the cohort is divided. Default: split-files if --splits is given, fold-column if --fold-column is given, else
    cross-validation."""

    folds: int | None = None
    """Folds of the cross-validation. Fold k is the test set, fold k + 1 the validation set, the rest train.
    Default: 5. Not used with --splits or --fold-column, which define their own."""

    repeats: int | None = None
    """How many times the cohort is divided into folds. Default: 5 for aggregators that fit in seconds (knn, probe,
    prototype-histogram), 1 for networks and with --by-site."""

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
    aggregator: tuple[str, ...] = chosen_from(AGGREGATORS, default=("knn", "probe", "abmil"))
    """How slides are predicted from their regions; repeat."""

    steps: int = 1000
    """Largest number of optimiser steps per head."""

    head_batch: int = 32
    """Batch size of heads, in slides."""

    check_every: int = 20
    """Steps between two checks of the validation loss."""

    patience: int = 8
    """Checks without improvement before training stops."""

    lr: float = 0.001
    """Learning rate of AdamW, constant."""

    weight_decay: float = 0.01
    """Weight decay of AdamW."""

    # -- Region embeddings --
    view: Literal["full", "centre"] = "full"
    """Which tokens of a region a region ViT sees: all, as in HIPT's evaluation, or the central ones, as many as a
    global crop has, as in the published clustering."""

    precision: Precision = "auto"
    """Arithmetic of the region ViT. `auto`: bf16 where the device computes it natively, else fp32."""

    device: str = "auto"
    """Where the region ViT runs: `auto` (GPU when there is one), `cpu`, `cuda`, `cuda:1`, `mps`. Heads run on CPUs."""

    workers: int = 2
    """Threads that read tokens ahead."""

    # -- Statistics --
    unit: Literal["patient", "slide"] = "patient"
    """What metrics count: each patient once, with the mean prediction of its slides, or each slide. Intervals and tests
    are over patients in both cases, or over sites with --by-site."""

    permutations: int = 2000
    """Random swaps of two models' predictions for the permutation test."""

    # -- Running --
    seed: int = 0
    """Seed of splits, weights, dropout, order and resampling."""

    jobs: int = 0
    """Processes that train heads, one fold each. The result does not depend on it. 0: one per core."""

    def __post_init__(self) -> None:
        """Check each value and how they relate, before any work starts."""
        require(bool(self.model), "--model", "none", "one or more, such as runs/a, mean-tokens or a table")
        for name in self.aggregator:
            AGGREGATORS.require(name)
        require(bool(self.aggregator), "--aggregator", "none", ", ".join(AGGREGATORS.names()))
        for name in ("model", "aggregator", "classes", "splits"):
            values = [str(value) for value in getattr(self, name)]
            twice = sorted({value for value in values if values.count(value) > 1})
            require(not twice, flag(name), f"{', '.join(twice)} twice", "each once")
        if self.folds is not None:
            require_at_least(3, "folds", self.folds)
        if self.repeats is not None:
            require_at_least(1, "repeats", self.repeats)
        for name in ("steps", "head_batch", "check_every", "patience", "workers"):
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
        require(not (self.splits and self.fold_column), "--splits with --fold-column", "both", "one of them")
        self._require_used(TASKS, "TASK", self.kind)
        self._require_used(SPLIT_KINDS, "SPLIT_KIND", self.kind_of_split)

    @property
    def kind(self) -> str:
        """The task, `auto` resolved."""
        if self.task != "auto":
            return self.task
        return "survival" if self.time_column or self.event_column else "classification"

    @property
    def kind_of_split(self) -> str:
        """The split kind, its default resolved."""
        if self.split_kind is not None:
            return self.split_kind
        return "split-files" if self.splits else "fold-column" if self.fold_column else "cross-validation"

    @property
    def fold_count(self) -> int | None:
        """Folds that this command makes; None where the split kind does not use --folds."""
        makes_folds: bool = SPLIT_KINDS.load(self.kind_of_split).SPLIT_KIND.makes_folds
        return self.folds or _FOLDS if makes_folds else None

    def repeats_of(self, aggregator: str) -> int:
        """Repeats of one aggregator, the default resolved."""
        if self.repeats is not None:
            return self.repeats
        trained_in_steps: bool = AGGREGATORS.load(aggregator).HEAD.in_workers
        return 1 if trained_in_steps or self.by_site else _REPEATS_OF_CHEAP_HEADS

    def _require_used(self, registry: Registry, entry: str, chosen: str) -> None:
        """Refuse settings that only other entries of the registry use."""
        registry.require(chosen)
        users = {name: frozenset[str](getattr(registry.load(name), entry).settings) for name in registry.names()}
        for name in sorted(frozenset().union(*users.values()) - users[chosen]):
            value = getattr(self, name)
            once = name == "repeats" and value == 1  # as all split kinds do
            if value != type(self).__dataclass_fields__[name].default and not once:
                got = ", ".join(map(str, value)) if isinstance(value, tuple) else value
                of = [user for user, settings in users.items() if name in settings]
                require(False, flag(name), got, f"only with {registry.flag} {' or '.join(of)}")
