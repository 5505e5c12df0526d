"""Settings of stage two."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from slpd_toolkit.config.checks import flag, require, require_at_least
from slpd_toolkit.core.precision import Precision


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Stage two: train the region ViT on a token cache with the SLPD objectives.

    slpd pretrain cache/ --out runs/nsclc --recipe stages/pretrain/nsclc.toml
    """

    cache: Path
    """Token cache that `slpd embed` or `slpd import` wrote."""

    out: Path
    """Run folder: region_vit.pt, last.pt, metrics.csv, prototypes.h5, recipe.toml, curves.svg. Resumed if there."""

    init: Path | None = None
    """Start from these weights: HIPT's vit4k_xs_dino.pth, a published SLPD checkpoint, or a region_vit.pt."""

    # -- Length and batches --
    epochs: int = 100
    """Passes over all regions."""

    batch_size: int = 128
    """Regions a step and process. The learning rate scales with the regions a step over all processes."""

    accumulate: int = 1
    """Parts that a step is computed in, one after another, to save memory; divides the batch size."""

    # -- Objectives --
    dino_weight: float = 1.0
    """Weight of the self-distillation loss. 0 switches it off."""

    intra_weight: float = 1.0
    """Weight of the intra-slide loss: regions to the prototype of their own cluster. 0 switches it off."""

    inter_weight: float = 1.0
    """Weight of the inter-slide loss: regions to the corresponding prototype of similar slides. 0 switches it off."""

    correspondence: Literal["matched", "nearest"] = "matched"
    """Which prototype of a similar slide corresponds: the optimally matched (paper) or nearest one (published code)."""

    view_rule: Literal["paper", "published"] = "paper"
    """Which student views meet prototypes: all (paper), or all but view j for target j (published code)."""

    # -- Prototypes --
    cluster_features: Literal["bottleneck", "backbone"] = "bottleneck"
    """What is clustered into prototypes: the head's 256-d bottleneck (paper), or the backbone's region embedding."""

    clusters: int = 4
    """Prototypes a slide, K."""

    min_regions: int = 32
    """Slides with fewer regions get no prototypes and are nobody's neighbour: self-distillation only."""

    neighbours: int = 1
    """Similar slides a slide learns from, r."""

    prototype_epoch: int = 21
    """First epoch, counted from 0, that has prototypes; they are made anew at its start and at each later epoch's."""

    # -- Views --
    global_crops: int = 2
    """Large views, seen by student and teacher."""

    global_side: int = 14
    """Side of the large views, in tokens."""

    local_crops: int = 8
    """Small views, seen by the student."""

    local_side: int = 6
    """Side of the small views, in tokens."""

    flip_left_right: float = 0.5
    """Probability that a view is mirrored left to right."""

    flip_up_down: float = 0.0
    """Probability that a view is mirrored top to bottom."""

    quarter_turns: float = 0.0
    """Probability that a view is turned by a random multiple of 90 degrees; slides have no up. SLPD: 0."""

    token_noise: float = 0.0
    """Gaussian noise on each token of each view, in standard deviations of each feature over the cohort. SLPD: 0."""

    token_offset: float = 0.0
    """Gaussian offset shared by all tokens of a view, as by another stain; in the unit of --token-noise. SLPD: 0."""

    region_offset: float = 0.0
    """Times the difference of two random regions' mean tokens that is added to all tokens of a view. SLPD: 0."""

    token_dropout: float = 0.0
    """Share of the tokens that is hidden from the student, drawn in each view; the teacher sees all. SLPD: 0."""

    block_mask: float = 0.0
    """Share of the area of large views that is hidden from the student, as one rectangle. SLPD: 0."""

    # -- Region ViT --
    embed_dim: int = 192
    """Width of the region embedding."""

    depth: int = 6
    """Transformer blocks of the region ViT."""

    heads: int = 6
    """Attention heads a block."""

    mlp_ratio: float = 4.0
    """Hidden width of the MLPs over `embed_dim`."""

    weight_init: Literal["published", "fan-in"] = "published"
    """Deviation of new weights: 0.02 (HIPT's), or 1/sqrt(inputs) with position embeddings of 1, for small networks."""

    drop_path: float = 0.1
    """Stochastic depth of the student."""

    # -- DINO head --
    hidden_dim: int = 2048
    """Hidden width of the DINO head."""

    bottleneck_dim: int = 256
    """Width of the DINO head's bottleneck."""

    out_dim: int = 65536
    """Outputs of the DINO head's last layer."""

    student_temp: float = 0.1
    """Temperature of the student's softmax."""

    teacher_temp: float = 0.04
    """Temperature of the teacher's softmax."""

    centre_momentum: float = 0.9
    """Momentum of the centres of the teacher's logits."""

    # -- Optimisation --
    optimiser: Literal["adamw", "sgd", "lars"] = "adamw"
    """Optimiser of the student."""

    lr: float = 0.0005
    """Peak learning rate for 256 regions a step; scaled in proportion."""

    min_lr: float = 1e-6
    """Learning rate that the cosine ends at."""

    warmup_epochs: int = 10
    """Epochs in which the learning rate rises from 0."""

    weight_decay: float = 0.04
    """Weight decay at the start; none on biases and 1-d parameters."""

    weight_decay_end: float = 0.4
    """Weight decay that the cosine ends at."""

    teacher_momentum: float = 0.996
    """Momentum of the teacher's moving average at the start; a cosine takes it to 1."""

    clip_grad: float = 3.0
    """Largest norm of each parameter tensor's own gradient. 0: no clipping."""

    freeze_last_layer: int = 1
    """Epochs in which the head's last layer stays as it is."""

    # -- Running --
    precision: Precision = "auto"
    """Arithmetic. `auto`: bf16 where the device computes it natively, else fp32; fp16 (with loss scaling) on GPUs."""

    device: str = "auto"
    """`auto` (GPU when there is one), `cpu`, `cuda`, `mps`. Under torchrun each process takes its own GPU."""

    workers: int = 2
    """Threads that read batches ahead of training."""

    seed: int = 0
    """Seed of weights, order, views, stochastic depth and k-means."""

    log_every: int = 20
    """Steps between rows of metrics.csv."""

    save_every_min: float = 10.0
    """Minutes between writes of last.pt inside an epoch; it is written at each epoch's end in any case."""

    tensorboard: bool = False
    """Write TensorBoard event files as well (needs the tensorboard extra)."""

    def __post_init__(self) -> None:
        """Check each value and how they relate, before any work starts."""
        for name in ("epochs", "batch_size", "accumulate", "clusters", "min_regions", "neighbours", "global_crops"):
            require_at_least(1, name, getattr(self, name))
        for name in ("global_side", "local_side", "embed_dim", "depth", "heads", "hidden_dim", "bottleneck_dim"):
            require_at_least(1, name, getattr(self, name))
        for name in ("out_dim", "workers", "log_every"):
            require_at_least(1, name, getattr(self, name))
        for name in ("dino_weight", "intra_weight", "inter_weight", "lr", "min_lr", "clip_grad", "mlp_ratio"):
            require_at_least(0, name, getattr(self, name))
        for name in ("weight_decay", "weight_decay_end", "warmup_epochs", "freeze_last_layer", "prototype_epoch"):
            require_at_least(0, name, getattr(self, name))
        for name in ("local_crops", "save_every_min", "token_noise", "token_offset", "region_offset"):
            require_at_least(0, name, getattr(self, name))
        for name in (
            "flip_left_right",
            "flip_up_down",
            "quarter_turns",
            "drop_path",
            "centre_momentum",
            "teacher_momentum",
        ):
            require(0 <= getattr(self, name) <= 1, flag(name), getattr(self, name), "0 to 1")
        require(0 <= self.seed < 2**31, "--seed", self.seed, "0 to 2147483647")  # faiss takes 31 bits
        for name in ("student_temp", "teacher_temp"):
            require(getattr(self, name) > 0, flag(name), getattr(self, name), "above 0")
        require(
            self.batch_size % self.accumulate == 0,
            "--accumulate",
            self.accumulate,
            f"a divisor of --batch-size ({self.batch_size})",
        )
        require(
            self.embed_dim % self.heads == 0,
            "--heads",
            self.heads,
            f"a divisor of --embed-dim ({self.embed_dim})",
        )
        require(
            self.warmup_epochs <= self.epochs,
            "--warmup-epochs",
            self.warmup_epochs,
            f"at most --epochs ({self.epochs})",
        )
        require(
            self.dino_weight + self.intra_weight + self.inter_weight > 0,
            "--dino-weight, --intra-weight, --inter-weight",
            "0, 0, 0",
            "at least one above 0",
        )
        require(
            self.dino_weight > 0 or (self.uses_prototypes and self.prototype_epoch == 0),
            "--prototype-epoch",
            self.prototype_epoch,
            "0 with --dino-weight 0: until there are prototypes, self-distillation is all there is to learn from",
        )
        self._check_views()

    def _check_views(self) -> None:
        require(
            self.dino_weight == 0 or self.global_crops + self.local_crops > 1,
            "--global-crops + --local-crops",
            self.global_crops + self.local_crops,
            "at least 2 views for self-distillation",
        )
        require(
            self.local_crops == 0 or self.local_side <= self.global_side,
            "--local-side",
            self.local_side,
            f"at most --global-side ({self.global_side})",
        )
        for name in ("token_dropout", "block_mask"):
            require(0 <= getattr(self, name) < 1, flag(name), getattr(self, name), "0 to below 1")

    @property
    def uses_prototypes(self) -> bool:
        """Whether any prototype loss is on at any epoch."""
        return self.intra_weight + self.inter_weight > 0 and self.prototype_epoch < self.epochs
