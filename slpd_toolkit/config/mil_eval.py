"""Settings of stage three."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from slpd_toolkit.config.checks import flag, require, require_at_least, require_cluster, require_manifest
from slpd_toolkit.config.choices import chosen_from
from slpd_toolkit.core.precision import Precision
from slpd_toolkit.core.registry import Registry

TASKS = Registry("slpd_toolkit.mil.tasks.kinds", "--task")
SPLIT_KINDS = Registry("slpd_toolkit.mil.cohort.split_kinds", "--split-kind")
AGGREGATORS = Registry("slpd_toolkit.mil.heads.aggregators", "--aggregator")
DESCRIPTORS = Registry("slpd_toolkit.mil.descriptors.kinds", "descriptor")
MOST_CLUSTERS = 1024
"""Largest number of prototypes of a descriptor."""
_FOLDS = 5
_REPEATS_OF_CHEAP_HEADS = 5


@dataclass(frozen=True, kw_only=True)
class MilEvalConfig:
    """Stage three: evaluate representations with cross-validated MIL heads, a leakage audit and paired tests.

    slpd mil-eval cache/ --manifest cohort.csv --model runs/nsclc --model mean-tokens --out eval/nsclc
    """

    cache: Path | None = None
    """Token cache of `slpd embed` or `slpd import`. Not needed if all models are tables of slide vectors."""

    manifest: Path
    """Cohort CSV with the targets. The slides themselves are used only for thumbnails and may be missing."""

    model: tuple[str, ...]
    """Representation to evaluate, `[name=]source`; repeat the option to compare several. Source: a run folder of `slpd
    pretrain`, a region_vit.pt or HIPT checkpoint, slide or patient vectors (.csv, .npz, .parquet, .h5ad, or the
    files of TRIDENT, STAMP, COBRA, EAGLE, slide2vec, MOOZY or CHIEF), `mean-tokens`, or `untrained`.
    `source#descriptor` evaluates a descriptor of each slide instead of its regions, such as runs/slpd#prototypes or
    runs/slpd#histogram:32 (32 prototypes); `+mean-token` appends the slide's mean token: runs/slpd#mean+mean-token.
    Descriptors with parameters are fitted in each fold."""

    out: Path
    """Folder for report.html, metrics.json, predictions.csv, folds.csv, scores.h5, recipe.toml, figures/ and model/:
    the trained heads, for `slpd predict`."""

    slides_root: Path | None = None
    """Base folder of relative slide paths. Default: the manifest's folder."""

    where: tuple[str, ...] = ()
    """Use only manifest rows that meet this condition: `split=train`, `site=A2,BH` (any of these) or
    `split!=test`. Repeat the option to require several conditions."""

    # -- Target --
    task: str = chosen_from(TASKS, default="auto")
    """Kind of target. `auto`: survival if --time-column or --event-column is given, else classification."""

    target: tuple[str, ...] = ("label",)
    """Manifest column of the classes, or of the numbers for `--task regression`. Repeat the option for several targets:
    each is evaluated on the same folds, in a sub-folder of --out, with one table and p-values adjusted over all of
    them; slides may lack some. With `--task multilabel`, one head predicts all of them."""

    classes: tuple[str, ...] = ()
    """Class names; repeat the option, for ordinal classes from low to high. With --allow-missing, slides of other
    classes are skipped. Default: all classes in the manifest."""

    time_column: str | None = None
    """Manifest column of survival follow-up times. Default with --task survival: time."""

    event_column: str | None = None
    """Manifest column of survival events: 1 event, 0 censored. Default with --task survival: event."""

    time_bins: int = 4
    """Number of time bins of survival heads, with equal numbers of training events."""

    allow_missing: bool = False
    """Skip slides without a target or embedding, with a note, instead of stopping. Also applies to slides of
    --splits."""

    # -- Covariates --
    covariates: tuple[str, ...] = ()
    """Manifest columns, such as `age,stage`, to compare with the slides: covariates alone, slides alone, and both,
    on the same folds. Numeric columns are used as numbers, other columns as classes. Empty cells are allowed."""

    # -- Splits --
    split_kind: str | None = chosen_from(SPLIT_KINDS, default=None)
    """How the cohort is split. Default: split-files with --splits, fold-column with --fold-column, otherwise
    cross-validation."""

    folds: int | None = None
    """Number of cross-validation folds. Fold k is the test set, fold k + 1 the validation set, the rest train.
    Default: 5. Not used with --splits or --fold-column, which define their own."""

    repeats: int | None = None
    """Number of times the cross-validation is repeated with different folds. Default: 5 for aggregators that fit in
    seconds (knn, probe, prototype-histogram, set-knn, set-probe), 1 for networks and with --by-site."""

    by_site: bool = False
    """Keep all patients of a site in the same fold, so that test sites are not used for training."""

    site_column: str = "site"
    """Manifest column of the site, for --by-site and for site effects in the report. Without the column, site effects
    use the tissue source site of TCGA barcodes."""

    fold_column: str | None = None
    """Manifest column of predefined folds: fold names, or train, val and test."""

    splits: tuple[Path, ...] = ()
    """splits_*.csv of CLAM or HIPT: a file (repeat the option for several), or a folder of them."""

    train_fraction: float = 1.0
    """Fraction of the training patients of each class to use. Validation and test sets stay complete."""

    shots: int = 0
    """Number of training patients per class to use. 0: all."""

    # -- Heads --
    aggregator: tuple[str, ...] = chosen_from(AGGREGATORS, default=("knn", "probe", "abmil"))
    """Aggregator that predicts slides from their regions; repeat the option to compare several."""

    steps: int = 1000
    """Maximum number of optimizer steps per head."""

    head_batch: int = 32
    """Batch size of heads, in slides."""

    check_every: int = 20
    """Number of steps between evaluations of the validation loss."""

    patience: int = 8
    """Number of evaluations without improvement before training stops early."""

    lr: float = 0.001
    """Learning rate of AdamW, constant."""

    weight_decay: float = 0.01
    """Weight decay of AdamW."""

    final: bool = False
    """Train one more head per model and aggregator on all patients, with hyperparameters typical of the folds, and
    add it to the bundle. Its performance is not measured."""

    # -- Region embeddings --
    view: Literal["full", "centre"] = "full"
    """Tokens that the region ViT uses: `full`, all tokens of a region, as in HIPT's evaluation; `centre`, a central
    crop of the size of a global crop, as in the published clustering."""

    precision: Precision = "auto"
    """Precision of the region ViT. `auto`: bf16 if the device supports it natively, otherwise fp32."""

    device: str = "auto"
    """Device of the region ViT: `auto` (GPU if available), `cpu`, `cuda`, `cuda:1`, `mps`. Heads run on the CPU."""

    workers: int = 2
    """Number of threads that read tokens ahead."""

    # -- External cohort --
    external: tuple[str, ...] = ()
    """Token cache of another cohort, to which every head is applied. For models that are tables of slide vectors: the
    table of the other cohort, `[name=]table`; repeat the option for several."""

    external_manifest: Path | None = None
    """CSV of the other cohort, with the same target columns. Metrics by site need --site-column in it."""

    # -- Statistics --
    unit: Literal["patient", "slide"] = "patient"
    """Unit of metrics: patients, each with the mean prediction of its slides, or slides. Intervals and tests are over
    patients in both cases, or over sites with --by-site."""

    sensitivity: float | None = None
    """Sensitivity for the second of two classes, such as .95: thresholds are chosen for it on validation parts, and in
    bundles. Default: thresholds of Youden's index."""

    permutations: int = 2000
    """Number of random permutations for the permutation test of two models."""

    # -- Running --
    seed: int = 0
    """Random seed of splits, weights, dropout, batch order and resampling."""

    cluster: str = ""
    """Ray cluster that runs the folds instead of local processes (--jobs): `auto` (the cluster that this machine
    belongs to) or `ray://HOST:10001` (requires the ray extra)."""

    jobs: int = 0
    """Number of processes that train heads, one fold each. Does not affect the result. 0: one per core."""

    def __post_init__(self) -> None:
        """Check the values and their combinations before any work starts."""
        require(bool(self.model), "--model", "none", "one or more, such as runs/a, mean-tokens or a table")
        require_manifest(self.where, self.manifest)
        for name in self.aggregator:
            AGGREGATORS.require(name)
        require(bool(self.aggregator), "--aggregator", "none", ", ".join(AGGREGATORS.names()))
        require(bool(self.target), "--target", "none", "one or more columns of the manifest")
        for name in ("model", "aggregator", "classes", "splits", "external", "target"):
            values = [str(value) for value in getattr(self, name)]
            twice = sorted({value for value in values if values.count(value) > 1})
            require(not twice, flag(name), f"{', '.join(twice)} more than once", "each value once")
        if self.folds is not None:
            require_at_least(3, "folds", self.folds)
        if self.repeats is not None:
            require_at_least(1, "repeats", self.repeats)
        for name in ("steps", "head_batch", "check_every", "patience", "workers"):
            require_at_least(1, name, getattr(self, name))
        for name in ("shots", "permutations", "weight_decay", "jobs"):
            require_at_least(0, name, getattr(self, name))
        require_cluster(self.cluster)
        require(0 <= self.seed < 2**32, "--seed", self.seed, "0 to 4294967295")
        require(self.lr > 0, "--lr", self.lr, "above 0")
        require_at_least(2, "time-bins", self.time_bins)
        require(
            self.sensitivity is None or 0 < self.sensitivity <= 1, "--sensitivity", self.sensitivity, "above 0, up to 1"
        )
        require(0 < self.train_fraction <= 1, "--train-fraction", self.train_fraction, "above 0, up to 1")
        require(
            not self.shots or self.train_fraction == 1,
            "--shots with --train-fraction",
            f"{self.shots} and {self.train_fraction}",
            "only one of them",
        )
        require(
            bool(self.external) == (self.external_manifest is not None),
            "--external with --external-manifest",
            "only one of them",
            "both or none",
        )
        require(not (self.splits and self.fold_column), "--splits with --fold-column", "both", "only one of them")
        self._require_used(TASKS, "TASK", self.kind)
        use = TASKS.load(self.kind).TASK.targets_are
        fine = {"separate": True, "joint": len(self.target) > 1, "unused": len(self.target) < 2}[use]
        allowed = "several columns" if use == "joint" else "--time-column and --event-column"
        require(fine, f"--target with --task {self.kind}", ", ".join(self.target), allowed)
        columns = self.covariate_columns
        require(
            bool(columns) == bool(self.covariates)
            and len(set(columns)) == len(columns)
            and not set(columns) & set(self.target),
            "--covariates",
            ", ".join(self.covariates),
            "columns other than the targets, each once",
        )
        self._require_used(SPLIT_KINDS, "SPLIT_KIND", self.kind_of_split)

    @property
    def kind(self) -> str:
        """The kind of target, with `auto` resolved."""
        if self.task != "auto":
            return self.task
        return "survival" if self.time_column or self.event_column else "classification"

    @property
    def covariate_columns(self) -> tuple[str, ...]:
        """The columns of --covariates, whose values may list several."""
        return tuple(name.strip() for value in self.covariates for name in value.split(",") if name.strip())

    @property
    def kind_of_split(self) -> str:
        """The split kind, with the default resolved."""
        if self.split_kind is not None:
            return self.split_kind
        return "split-files" if self.splits else "fold-column" if self.fold_column else "cross-validation"

    @property
    def fold_count(self) -> int | None:
        """Number of folds to create; None if the split kind does not use --folds."""
        makes_folds: bool = SPLIT_KINDS.load(self.kind_of_split).SPLIT_KIND.makes_folds
        return self.folds or _FOLDS if makes_folds else None

    def repeats_of(self, aggregator: str) -> int:
        """Repeats of one aggregator, the default resolved."""
        if self.repeats is not None:
            return self.repeats
        trained_in_steps: bool = AGGREGATORS.load(aggregator).HEAD.in_workers
        return 1 if trained_in_steps or self.by_site else _REPEATS_OF_CHEAP_HEADS

    def _require_used(self, registry: Registry, entry: str, chosen: str) -> None:
        """Reject settings that only other entries of the registry use."""
        registry.require(chosen)
        users = {name: frozenset[str](getattr(registry.load(name), entry).settings) for name in registry.names()}
        for name in sorted(frozenset().union(*users.values()) - users[chosen]):
            value = getattr(self, name)
            once = name == "repeats" and value == 1  # as all split kinds do
            if value != type(self).__dataclass_fields__[name].default and not once:
                got = ", ".join(map(str, value)) if isinstance(value, tuple) else value
                of = [user for user, settings in users.items() if name in settings]
                require(False, flag(name), got, f"only with {registry.flag} {' or '.join(of)}")
